"""Healing events in the store: the newest, how many in a row, and who of this node could post one."""

from __future__ import annotations

from p2pserver.store.events import HEALING_TYPE
from p2pserver.store.tx import Tx

_COUNTED = 32


def newest(tx: Tx, room_id: str) -> int:
    """The position of the newest healing event, whatever its verdict; 0, if there is none."""
    row = tx.one(f"SELECT max(position) FROM events WHERE room_id = ? AND type = '{HEALING_TYPE}'", (room_id,))
    return 0 if row is None or row[0] is None else int(row[0])


def in_a_row(tx: Tx, room_id: str) -> int:
    """How many of the newest events of the graph are healing events; more than 32 are not counted."""
    rows = tx.all(
        "SELECT type FROM events WHERE room_id = ? AND outlier = 0 ORDER BY position DESC LIMIT ?",
        (room_id, _COUNTED),
    )
    count = 0
    for (event_type,) in rows:
        if event_type != HEALING_TYPE:
            break
        count += 1
    return count


def local_members(tx: Tx, room_id: str, *, most: int) -> list[str]:
    """Joined users of this node, in the order of their names."""
    rows = tx.all(
        "SELECT user_id FROM local_memberships WHERE room_id = ? AND membership = 'join' ORDER BY user_id LIMIT ?",
        (room_id, most),
    )
    return [user_id for (user_id,) in rows]
