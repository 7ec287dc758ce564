"""Walking through the events of a room, in order of arrival, as one user may see them.

Order of arrival is the one order of `/sync`, `/messages` and `/context` (docs/sync.md says why): a position never
changes, so nothing is lost or repeated between two tokens, however histories merge in between.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

from p2pserver.client_api.event_filter import EventFilter
from p2pserver.events.pdu import Pdu
from p2pserver.rooms.service import Rooms
from p2pserver.store.events import StoredEvent
from p2pserver.store.parked import has_history_gap
from p2pserver.store.personal_blocks import ignored_users
from p2pserver.store.relations import is_related_to
from p2pserver.store.room_stream import FIRST, events_in, newest_gap
from p2pserver.store.rooms import HISTORY_BAND, band_start, room
from p2pserver.store.tx import Tx

EXAMINED_MAX = 5000
"""How many events one request looks at, whatever its filter leaves out."""

_BATCH_LEAST, _BATCH_MOST = 20, 100


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
    """The next `limit` events with `above` < position <= `upto` that the user may see and the filter lets through.

    Messages of users whom he ignores are left out.
    """
    ignored = ignored_users(tx, user_id)
    found: list[StoredEvent] = []
    examined = 0
    reached = above if forward else upto
    size = max(_BATCH_LEAST, min(limit + 1, _BATCH_MOST))
    for batch in _batches(tx, room_id, above, upto, forward=forward, size=size):
        events = [event for event_id in batch if (event := rooms.stored(tx, event_id)) is not None]
        for event, visible in zip(events, rooms.visible_to(tx, user_id, events), strict=True):
            if len(found) == limit or examined == EXAMINED_MAX:
                return Walk(found, reached, more=True)
            examined += 1
            reached = event.position if forward else event.position - 1
            pdu = event.pdu
            if pdu.state_key is None and pdu.sender in ignored:
                continue
            if visible and event_filter.wants(pdu.type, pdu.sender, pdu.content) and _is_related(tx, pdu, event_filter):
                found.append(event)
    return Walk(found, upto if forward else above, more=False)


@dataclass(frozen=True, slots=True)
class Timeline:
    """The newest events of a range, for one answer of a sync."""

    events: list[StoredEvent]
    """Oldest first."""
    start: int
    """The position just before the first event; the end of the range where there is none."""
    limited: bool


def newest_events(
    tx: Tx,
    rooms: Rooms,
    *,
    room_id: str,
    user_id: str,
    above: int,
    upto: int,
    limit: int,
    event_filter: EventFilter,
    ignored: Container[str],
) -> Timeline:
    """At most `limit` of what the user may see, none from before a gap in this node's own knowledge, and no messages of
    `ignored` users."""
    found = walk(
        tx,
        rooms,
        room_id=room_id,
        user_id=user_id,
        above=above,
        upto=upto,
        forward=False,
        limit=limit + 1,
        event_filter=event_filter,
    )
    newest_first = found.events[:limit]
    limited = len(found.events) > limit or found.more
    gap = newest_gap(tx, room_id, above=above, upto=upto)
    if gap is not None:
        newest_first = [event for event in newest_first if event.position >= gap]
        limited = True
    events = [event for event in reversed(newest_first) if event.pdu.is_state or event.pdu.sender not in ignored]
    return Timeline(events, newest_first[-1].position - 1 if newest_first else upto, limited)


def _is_related(tx: Tx, pdu: Pdu, event_filter: EventFilter) -> bool:
    return not event_filter.asks_for_relations or is_related_to(
        tx,
        pdu.room_id,
        pdu.event_id,
        senders=event_filter.related_by_senders,
        rel_types=event_filter.related_by_rel_types,
    )


def history_floor(tx: Tx, room_id: str) -> int:
    """The position above which history is in order and without holes.

    What a join brings comes oldest first, so until its last part is here the newest event of it does not lie before
    the join. Clients that page are held above it till then; what they are not shown, they cannot miss.
    """
    if not has_history_gap(tx, room_id):
        return FIRST
    held = room(tx, room_id)
    return FIRST if held is None else band_start(held.history_next) + HISTORY_BAND - 1


def _batches(tx: Tx, room_id: str, above: int, upto: int, *, forward: bool, size: int) -> Iterator[list[str]]:
    above = max(above, history_floor(tx, room_id))
    while above < upto:
        rows = events_in(tx, room_id, above=above, upto=upto, forward=forward, limit=size)
        if not rows:
            return
        yield [event_id for event_id, _ in rows]
        last = rows[-1][1]
        above, upto = (last, upto) if forward else (above, last - 1)
