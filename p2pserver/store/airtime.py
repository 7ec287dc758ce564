"""How much airtime each radio has used of late, so that a restart gives none back. One row for each, written over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from p2pserver.store.tx import Tx


@dataclass(frozen=True, slots=True)
class AirtimeUsed:
    """`used`: (age in seconds of the end of a minute, seconds of airtime in it) when the wall clock read `saved_ms`.

    `is_whole`: nothing was sent afterwards.
    """

    saved_ms: int
    used: tuple[tuple[float, float], ...]
    is_whole: bool


def save_airtime(tx: Tx, radio: str, used: Sequence[tuple[float, float]], *, saved_ms: int, is_whole: bool) -> None:
    text = json.dumps([[round(1000 * age_s), round(1000 * used_s)] for age_s, used_s in used])
    tx.execute(
        "INSERT INTO airtime (radio, saved_ms, is_whole, used) VALUES (?, ?, ?, ?) ON CONFLICT (radio) DO UPDATE"
        " SET saved_ms = excluded.saved_ms, is_whole = excluded.is_whole, used = excluded.used",
        (radio, saved_ms, int(is_whole), text),
    )


def saved_airtime(tx: Tx) -> dict[str, AirtimeUsed]:
    """By radio."""
    return {
        radio: AirtimeUsed(
            saved_ms, tuple((age_ms / 1000, used_ms / 1000) for age_ms, used_ms in json.loads(used)), bool(is_whole)
        )
        for radio, saved_ms, is_whole, used in tx.all("SELECT radio, saved_ms, is_whole, used FROM airtime")
    }
