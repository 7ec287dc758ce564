"""The `events` table and the graph around it: edges, leaves, forward extremities."""

from __future__ import annotations

from dataclasses import dataclass

from p2pserver.errors import Verdict
from p2pserver.events.pdu import Pdu


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event as it is held. `position` is negative for history that came by backfill."""

    pdu: Pdu
    position: int
    depth: int
    verdict: Verdict
    reason: str | None
    outlier: bool
    grounded: bool
    redacted_by: str | None
    state_before: int | None
    state_after: int | None
