"""What a look at the machine found: `p2pserver doctor` prints it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Weight(StrEnum):
    """How much a finding matters to somebody who wants to use the transport."""

    GOOD = "ok"
    REMARK = "note"
    """It works, with a limit that is worth knowing."""
    BAD = "fix"
    """It does not work until this is changed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line for people, and what to do about it."""

    weight: Weight
    what: str
    remedy: str = ""
