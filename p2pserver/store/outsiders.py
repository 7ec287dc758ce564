"""How much of a room's rejected and soft-failed events came from servers that are not in it, by the hour."""

from __future__ import annotations

from dataclasses import dataclass

from p2pserver.store.tx import Tx


@dataclass(frozen=True, slots=True)
class Kept:
    """Events, and their octets as JSON, that were kept in one hour."""

    events: int
    octets: int


def kept(tx: Tx, room_id: str, hour: int) -> Kept:
    """What was kept in that hour since 1970."""
    row = tx.one("SELECT events, octets FROM outsider_events WHERE room_id = ? AND hour = ?", (room_id, hour))
    return Kept(0, 0) if row is None else Kept(*row)


def count(tx: Tx, room_id: str, hour: int, *, octets: int) -> None:
    """Counts one more event; the hour before is forgotten."""
    so_far = kept(tx, room_id, hour)
    tx.execute(
        "INSERT OR REPLACE INTO outsider_events (room_id, hour, events, octets) VALUES (?, ?, ?, ?)",
        (room_id, hour, so_far.events + 1, so_far.octets + octets),
    )
