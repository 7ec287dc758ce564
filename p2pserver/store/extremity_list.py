"""The forward extremities of a room, for operators."""

from __future__ import annotations

from typing import Any

from p2pserver.store.tx import Tx


def extremity_list(tx: Tx, room_id: str) -> list[dict[str, Any]]:
    """One object for each: event_id, state_group after it, depth, and received_ts: what the event claims (ms)."""
    rows = tx.all(
        "SELECT f.event_id, e.state_after, e.depth, e.origin_server_ts FROM forward_extremities AS f"
        " JOIN events AS e ON e.event_id = f.event_id WHERE f.room_id = ? ORDER BY e.depth DESC, f.event_id",
        (room_id,),
    )
    names = ("event_id", "state_group", "depth", "received_ts")
    return [dict(zip(names, row, strict=True)) for row in rows]
