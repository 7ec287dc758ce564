"""Walking through the events of a room, in order of arrival, as one user may see them.

Order of arrival is the one order of `/sync`, `/messages` and `/context` (docs/sync.md says why): a position never
changes, so nothing is lost or repeated between two tokens, however histories merge in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from p2pserver.client_api.event_filter import EventFilter
from p2pserver.rooms.service import Rooms
from p2pserver.store.events import StoredEvent
from p2pserver.store.tx import Tx

FIRST = -(2**62)
"""Below every position."""

EXAMINED_MAX = 5000
"""How many events one request looks at, whatever its filter leaves out."""

_BATCH = 50


@dataclass(frozen=True, slots=True)
class Walk:
    """What a walk found."""

    events: list[StoredEvent]
    """In the direction of the walk."""
    reached: int
    """The cut at which the walk stopped: everything between where it began and here has been looked at."""
    more: bool
    """Whether there is anything beyond `reached`, within the bounds of the walk."""


def walk(
    tx: Tx,
    rooms: Rooms,
    *,
    room_id: str,
    user_id: str,
    above: int,
    upto: int,
    forward: bool,
    limit: int,
    event_filter: EventFilter,
) -> Walk:
    """The next `limit` events with `above` < position <= `upto` that the user may see and the filter lets through."""
    found: list[StoredEvent] = []
    examined = 0
    reached = above if forward else upto
    for batch in _batches(tx, room_id, above, upto, forward=forward):
        events = [event for event_id in batch if (event := rooms.stored(tx, event_id)) is not None]
        for event, visible in zip(events, rooms.visible_to(tx, user_id, events), strict=True):
            if len(found) == limit or examined == EXAMINED_MAX:
                return Walk(found, reached, more=True)
            examined += 1
            reached = event.position if forward else event.position - 1
            pdu = event.pdu
            if visible and is_shown(tx, rooms, event) and event_filter.wants(pdu.type, pdu.sender, pdu.content):
                found.append(event)
    return Walk(found, upto if forward else above, more=False)


def is_shown(tx: Tx, rooms: Rooms, event: StoredEvent) -> bool:
    """Whether clients are told of an event at all: not of a redaction that has had no effect (yet).

    Source: room version 3, "Handling redactions".
    """
    target_id = event.pdu.redacts
    if event.pdu.type != "m.room.redaction":
        return True
    target = None if target_id is None else rooms.stored(tx, target_id)
    return target is not None and target.redacted_by is not None


def _batches(tx: Tx, room_id: str, above: int, upto: int, *, forward: bool) -> Iterator[list[str]]:
    order = "ASC" if forward else "DESC"
    while above < upto:
        rows = tx.all(
            "SELECT event_id, position FROM events WHERE room_id = ? AND position > ? AND position <= ? "
            f"AND outlier = 0 AND verdict = 'accepted' ORDER BY position {order} LIMIT {_BATCH}",
            (room_id, above, upto),
        )
        if not rows:
            return
        yield [event_id for event_id, _ in rows]
        last = rows[-1][1]
        above, upto = (last, upto) if forward else (above, last - 1)
