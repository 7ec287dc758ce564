"""What relates to an event, and the threads of a room.

Clients that have read v1.4 in `/versions` show a thread only from here, not from the timeline.
Source: client-server API, "Relationships API", "Querying threads in a room".
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.client_events import client_events
from p2pserver.client_api.room_access import view_of
from p2pserver.client_api.rooms_read import visible_event
from p2pserver.client_api.stream_token import StreamToken
from p2pserver.errors import InvalidParam
from p2pserver.events.pdu import Pdu
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.store.events import StoredEvent
from p2pserver.store.personal_blocks import ignored_users
from p2pserver.store.relations import related_events, thread_roots, thread_summary
from p2pserver.store.room_stream import FIRST
from p2pserver.store.tx import Tx

routes = Routes()

PAGE_MAX = 100
EXAMINED_MAX = 1000
"""How many related events, or threads, one request looks at, whatever it leaves out."""
LEVELS_MAX = 3
"""How deep `recurse` goes. Source: MSC3981."""


@routes.route("GET", "/rooms/{room_id}/relations/{event_id}", versions=("v1",))
@routes.route("GET", "/rooms/{room_id}/relations/{event_id}/{rel_type}", versions=("v1",))
@routes.route("GET", "/rooms/{room_id}/relations/{event_id}/{rel_type}/{event_type}", versions=("v1",))
async def get_relations(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /v1/rooms/{roomId}/relations/{eventId}[/{relType}[/{eventType}]]`, in order of arrival."""
    direction = request.query.get("dir", "b")
    if direction not in ("b", "f"):
        raise InvalidParam("dir is neither b nor f")
    forward = direction == "f"
    limit = max(1, request.query_integer("limit", default=20, most=PAGE_MAX))
    begin, end = _position(request, "from"), _position(request, "to")
    levels = LEVELS_MAX if request.query_boolean("recurse") else 1

    def query(tx: Tx) -> dict[str, Any]:
        parent = visible_event(api, tx, request)
        newest = tx.position()
        start = (FIRST if forward else newest) if begin is None else min(begin, newest)
        above = start if forward else FIRST if end is None else end
        upto = start if not forward else newest if end is None else min(end, newest)
        rows = related_events(
            tx,
            parent.pdu.room_id,
            parent.pdu.event_id,
            levels=levels,
            above=above,
            upto=upto,
            forward=forward,
            limit=EXAMINED_MAX,
        )
        found: list[StoredEvent] = []
        more = len(rows) == EXAMINED_MAX
        for event_id, position in rows:
            if len(found) == limit:
                more = True
                break
            above, upto = (position, upto) if forward else (above, position - 1)
            event = api.rooms.stored(tx, event_id)
            if event is not None and _is_wanted(event.pdu, request) and _is_visible(api, tx, request, event):
                found.append(event)
        answer: dict[str, Any] = {
            "chunk": client_events(tx, api.rooms, found, requester=request.requester, wall_ms=api.wall_ms())
        }
        if more:
            answer["next_batch"] = str(StreamToken(above if forward else upto))
        if begin is not None:
            answer["prev_batch"] = request.query["from"]
        if levels > 1:
            answer["recursion_depth"] = levels
        return answer

    return await api.database.read(query)


@routes.route("GET", "/rooms/{room_id}/threads", versions=("v1",))
async def get_threads(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /v1/rooms/{roomId}/threads`: the events that threads hang on, the thread with the newest reply first."""
    room_id, user_id = request.params["room_id"], request.requester.user_id
    include = request.query.get("include", "all")
    if include not in ("all", "participated"):
        raise InvalidParam("include is neither all nor participated")
    limit = max(1, request.query_integer("limit", default=20, most=PAGE_MAX))
    begin = _position(request, "from")

    def query(tx: Tx) -> dict[str, Any]:
        view_of(tx, api.rooms, user_id, room_id, peek=True)
        newest = tx.position()
        upto = newest if begin is None else min(begin, newest)
        rows = thread_roots(tx, room_id, upto=upto, limit=EXAMINED_MAX)
        found: list[StoredEvent] = []
        more = len(rows) == EXAMINED_MAX
        for event_id, position in rows:
            if len(found) == limit:
                more = True
                break
            upto = position - 1
            event = api.rooms.stored(tx, event_id)
            if event is None or event.pdu.room_id != room_id or not _is_visible(api, tx, request, event):
                continue
            summary = thread_summary(tx, room_id, event_id, user_id)
            if include == "all" or (summary is not None and summary.participated):
                found.append(event)
        answer: dict[str, Any] = {
            "chunk": client_events(tx, api.rooms, found, requester=request.requester, wall_ms=api.wall_ms())
        }
        if more:
            answer["next_batch"] = str(StreamToken(upto))
        return answer

    return await api.database.read(query)


def _position(request: ApiRequest, name: str) -> int | None:
    """Raises: InvalidParam."""
    token = request.query.get(name)
    return None if not token else StreamToken.parse(token).position


def _is_wanted(event: Pdu, request: ApiRequest) -> bool:
    rel_type, event_type = request.params.get("rel_type"), request.params.get("event_type")
    relation = event.content.get("m.relates_to")
    if rel_type is not None and (not isinstance(relation, dict) or relation.get("rel_type") != rel_type):
        return False
    return event_type is None or event.type == event_type


def _is_visible(api: ClientApi, tx: Tx, request: ApiRequest, event: StoredEvent) -> bool:
    if event.pdu.sender in ignored_users(tx, request.requester.user_id):
        return False
    return api.rooms.visible_to(tx, request.requester.user_id, [event])[0]
