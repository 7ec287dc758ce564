"""The room in which the node tells a user what its operator has to say."""

from __future__ import annotations

from p2pserver.store.tx import Tx


def notice_room(tx: Tx, user_id: str) -> str | None:
    row = tx.one("SELECT room_id FROM notice_rooms WHERE user_id = ?", (user_id,))
    return None if row is None else str(row[0])


def set_notice_room(tx: Tx, user_id: str, room_id: str) -> None:
    tx.execute("INSERT OR REPLACE INTO notice_rooms (user_id, room_id) VALUES (?, ?)", (user_id, room_id))
