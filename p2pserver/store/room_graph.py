"""A room's event graph as it is stored, for pictures and for the operator."""

from __future__ import annotations

from p2pserver.graph_view.model import GraphEvent, GraphGap, RoomGraph
from p2pserver.store import parked
from p2pserver.store.tx import Tx

_COLUMNS = """
    e.event_id, e.sender, e.type, e.state_key, e.depth, e.position, e.origin_server_ts, e.verdict, e.reason, e.outlier,
    e.redacted_copy, e.redacted_by,
    CASE WHEN e.type = 'm.room.member' THEN json_extract(CAST(e.raw AS TEXT), '$.content.membership') END,
    EXISTS (SELECT 1 FROM forward_extremities AS f WHERE f.room_id = e.room_id AND f.event_id = e.event_id)
"""


def room_graph(tx: Tx, room_id: str, *, last: int | None = None) -> RoomGraph:
    """A room's graph: all of it, or the `last` events by depth with, in any case, the forward extremities.

    Raises: KeyError, if the room is not held.
    """
    room = tx.one("SELECT version, complete FROM rooms WHERE room_id = ?", (room_id,))
    if room is None:
        raise KeyError(room_id)
    some = -1 if last is None else last
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM events AS e WHERE e.room_id = ? AND e.outlier = 0"
        " ORDER BY e.depth DESC, e.position DESC LIMIT ?",
        (room_id, some),
    )
    rows += tx.all(
        f"SELECT {_COLUMNS} FROM forward_extremities AS x JOIN events AS e ON e.event_id = x.event_id"
        " WHERE x.room_id = ? ORDER BY e.depth DESC, e.position DESC LIMIT ?",
        (room_id, some),
    )
    rows += tx.all(
        f"SELECT {_COLUMNS} FROM events AS e WHERE e.room_id = ? AND e.outlier = 1 ORDER BY e.position DESC LIMIT ?",
        (room_id, some),
    )
    events = {row[0]: _event(tx, row) for row in rows}
    count = tx.one("SELECT count(*), sum(outlier) FROM events WHERE room_id = ?", (room_id,)) or (0, 0)
    name = tx.one(
        "SELECT json_extract(CAST(e.raw AS TEXT), '$.content.name') FROM current_state AS s"
        " JOIN events AS e ON e.event_id = s.event_id"
        " WHERE s.room_id = ? AND s.type = 'm.room.name' AND s.state_key = ''",
        (room_id,),
    )
    return RoomGraph(
        room_id=room_id,
        version=room[0],
        name=name[0] if name is not None and isinstance(name[0], str) else None,
        complete=bool(room[1]),
        events_held=count[0] - (count[1] or 0),
        outliers_held=count[1] or 0,
        events=tuple(sorted(events.values(), key=lambda event: (event.depth, event.position))),
        gaps=tuple(
            GraphGap(
                missing_event_id=gap.missing_event_id, depth=gap.depth, claimed_by=gap.claimed_by, history=gap.history
            )
            for gap in parked.gaps(tx, room_id).values()
        ),
    )


def _event(tx: Tx, row: tuple[object, ...]) -> GraphEvent:
    event_id, sender, kind, state_key, depth, position, ts, verdict, reason, outlier, copy, redacted_by, membership = (
        row[:13]
    )
    edges = tx.all("SELECT prev_event_id FROM event_edges WHERE event_id = ? ORDER BY prev_event_id", (event_id,))
    return GraphEvent(
        event_id=str(event_id),
        sender=str(sender),
        type=str(kind),
        state_key=None if state_key is None else str(state_key),
        membership=membership if isinstance(membership, str) else None,
        depth=int(str(depth)),
        position=int(str(position)),
        origin_server_ts=int(str(ts)),
        verdict=str(verdict),
        reason=None if reason is None else str(reason),
        outlier=bool(outlier),
        redacted_copy=bool(copy),
        redacted_by=None if redacted_by is None else str(redacted_by),
        extremity=bool(row[13]),
        prev_events=tuple(parent for (parent,) in edges),
    )
