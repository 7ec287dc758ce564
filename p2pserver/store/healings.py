"""Healing events in the store: the newest, those in a row, and who of this node could post one."""

from __future__ import annotations

from itertools import takewhile

from p2pserver.store.events import HEALING_TYPE
from p2pserver.store.tx import Tx

_COUNTED = 32


def newest(tx: Tx, room_id: str) -> int:
    """The position of the newest healing event, whatever its verdict; 0, if there is none."""
    row = tx.one(f"SELECT max(position) FROM events WHERE room_id = ? AND type = '{HEALING_TYPE}'", (room_id,))
    return 0 if row is None or row[0] is None else int(row[0])


def senders_in_a_row(tx: Tx, room_id: str) -> list[str]:
    """Who sent the newest events of the graph, as far back as all are healing events, and not over 32."""
    rows = tx.all(
        "SELECT type, sender FROM events WHERE room_id = ? AND outlier = 0 ORDER BY position DESC LIMIT ?",
        (room_id, _COUNTED),
    )
    return [sender for _, sender in takewhile(lambda row: row[0] == HEALING_TYPE, rows)]


def local_members(tx: Tx, room_id: str, *, most: int) -> list[str]:
    """Joined users of this node, in the order of their names."""
    rows = tx.all(
        "SELECT user_id FROM local_memberships WHERE room_id = ? AND membership = 'join' ORDER BY user_id LIMIT ?",
        (room_id, most),
    )
    return [user_id for (user_id,) in rows]
