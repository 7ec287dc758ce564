"""Rooms that an operator blocked: no user of this node may join them, nor be invited to them."""

from __future__ import annotations

from p2pserver.store.tx import Tx


def block_room(tx: Tx, room_id: str, *, by: str, now_ms: int) -> None:
    tx.execute(
        "INSERT OR IGNORE INTO blocked_rooms (room_id, blocked_by, blocked_ms) VALUES (?, ?, ?)", (room_id, by, now_ms)
    )


def unblock_room(tx: Tx, room_id: str) -> None:
    tx.execute("DELETE FROM blocked_rooms WHERE room_id = ?", (room_id,))


def blocked_by(tx: Tx, room_id: str) -> str | None:
    """Which admin blocked the room; None: it is not blocked."""
    row = tx.one("SELECT blocked_by FROM blocked_rooms WHERE room_id = ?", (room_id,))
    return None if row is None else str(row[0])
