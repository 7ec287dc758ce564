"""Events by the time that their senders' clocks showed. Source: server-server API, `timestamp_to_event`; MSC3030."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from p2pserver.errors import BadJson, NotFound
from p2pserver.rooms.server_visibility import may_see_content, sees_room
from p2pserver.store.events import HEALING_TYPE
from p2pserver.store.tx import Tx

LOOKED_AT_MAX = 200
"""Events that are tried, of which the one who asks may perhaps see none."""


@dataclass(frozen=True, slots=True)
class Moment:
    event_id: str
    timestamp: int
    """`origin_server_ts`, ms."""


def moments(tx: Tx, room_id: str, timestamp: int, *, forward: bool) -> Iterator[Moment]:
    """The events at or after a time (`forward`), or at or before it, the nearest first."""
    comparison, order = (">=", "ASC") if forward else ("<=", "DESC")
    rows = tx.all(
        f"SELECT event_id, origin_server_ts FROM events WHERE room_id = ? AND origin_server_ts {comparison} ?"
        f" AND outlier = 0 AND verdict = 'accepted' AND type != '{HEALING_TYPE}'"
        f" ORDER BY origin_server_ts {order}, depth {order} LIMIT ?",
        (room_id, timestamp, LOOKED_AT_MAX),
    )
    return (Moment(*row) for row in rows)


def event_for_server(tx: Tx, origin: str, room_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """What another server is told. Raises: BadJson, NotFound."""
    timestamp, direction = body.get("ts"), body.get("dir")
    if type(timestamp) is not int or direction not in ("b", "f"):
        raise BadJson("ts is not an integer, or dir neither b nor f")
    if sees_room(tx, origin, room_id):
        for moment in moments(tx, room_id, timestamp, forward=direction == "f"):
            if may_see_content(tx, origin, moment.event_id):
                return {"event_id": moment.event_id, "origin_server_ts": moment.timestamp}
    raise NotFound("there is no event on that side of the time")
