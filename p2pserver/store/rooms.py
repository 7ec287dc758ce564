"""The `rooms` table: which rooms are held, in which version, and whether with their whole history."""

from __future__ import annotations

from dataclasses import dataclass

from p2pserver.events.versions import RoomVersionRules, rules_of
from p2pserver.store.lru import Lru
from p2pserver.store.tx import Tx

ROOMS_KEPT = 1_000
"""Rows that the writer remembers, about 500 octets each."""
_CACHE = "rooms"
HISTORY_BAND = 2**32
"""Positions set aside for the history of one join, below everything that is held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomRow:
    """A room that is held here. `current_group` is the state group that equals the current state."""

    room_id: str
    rules: RoomVersionRules
    create_event_id: str
    complete: bool
    current_group: int | None
    history_next: int


def room(tx: Tx, room_id: str) -> RoomRow | None:
    cache: Lru[str, RoomRow] | None = tx.caches.get(_CACHE) if tx.told else None
    known = None if cache is None else cache.get(room_id)
    if known is not None:
        return known
    row = tx.one(
        "SELECT version, create_event_id, complete, current_group, history_next FROM rooms WHERE room_id = ?",
        (room_id,),
    )
    if row is None:
        return None
    version, create_event_id, complete, current_group, history_next = row
    found = RoomRow(
        room_id=room_id,
        rules=rules_of(version),
        create_event_id=create_event_id,
        complete=bool(complete),
        current_group=current_group,
        history_next=history_next,
    )
    if tx.told:
        tx.caches.setdefault(_CACHE, Lru(ROOMS_KEPT)).put(room_id, found)
    return found


def _changed(tx: Tx, room_id: str) -> None:
    cache: Lru[str, RoomRow] | None = tx.caches.get(_CACHE)
    if cache is not None:
        cache.drop(room_id)


def insert_room(tx: Tx, room_id: str, *, version: str, create_event_id: str, complete: bool) -> None:
    tx.execute(
        "INSERT INTO rooms (room_id, version, create_event_id, complete) VALUES (?, ?, ?, ?)",
        (room_id, version, create_event_id, int(complete)),
    )


def room_ids(tx: Tx) -> list[str]:
    return [room_id for (room_id,) in tx.all("SELECT room_id FROM rooms ORDER BY room_id")]


def set_current_group(tx: Tx, room_id: str, group_id: int) -> None:
    tx.execute("UPDATE rooms SET current_group = ? WHERE room_id = ?", (group_id, room_id))
    _changed(tx, room_id)


def set_complete(tx: Tx, room_id: str, complete: bool) -> None:
    tx.execute("UPDATE rooms SET complete = ? WHERE room_id = ?", (int(complete), room_id))
    _changed(tx, room_id)


def start_history_band(tx: Tx, room_id: str) -> None:
    """Sets positions aside, below all others of the room, for the history that a join will bring."""
    row = tx.one("SELECT min(position) FROM events WHERE room_id = ?", (room_id,))
    lowest = min(0, row[0] if row is not None and row[0] is not None else 0)
    start = (lowest // HISTORY_BAND - 1) * HISTORY_BAND
    tx.execute("UPDATE rooms SET history_next = ? WHERE room_id = ?", (start, room_id))
    _changed(tx, room_id)


def next_history_position(tx: Tx, room_id: str) -> int:
    """The next position of the band: history comes oldest first, so these grow like all positions."""
    row = tx.one("SELECT history_next FROM rooms WHERE room_id = ?", (room_id,))
    if row is None:
        raise KeyError(room_id)
    tx.execute("UPDATE rooms SET history_next = history_next + 1 WHERE room_id = ?", (room_id,))
    _changed(tx, room_id)
    return int(row[0])


def band_start(history_next: int) -> int:
    """The first position of the band that `history_next` lies in."""
    return history_next // HISTORY_BAND * HISTORY_BAND
