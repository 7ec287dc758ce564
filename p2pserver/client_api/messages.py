"""`GET /messages`: paging through a room's history.

Events come in order of arrival, which is the order of `/sync`; docs/sync.md says why. Source: client-server API,
"Getting events for a room"; "Lazy-loading room members".
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.client_events import client_event, client_events
from p2pserver.client_api.event_filter import EventFilter, filter_text
from p2pserver.client_api.room_access import view_of
from p2pserver.client_api.stream_token import StreamToken
from p2pserver.client_api.timeline import walk
from p2pserver.errors import InvalidParam
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.store.events import StoredEvent
from p2pserver.store.parked import has_history_gap
from p2pserver.store.room_stream import FIRST
from p2pserver.store.tx import Tx

MESSAGES_MAX = 1000

routes = Routes()


@routes.route("GET", "/rooms/{room_id}/messages")
async def get_messages(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    room_id, requester = request.params["room_id"], request.requester
    direction = request.query.get("dir", "f" if "from" in request.query else "b")
    if direction not in ("b", "f"):
        raise InvalidParam("dir is neither b nor f")
    forward = direction == "f"
    limit = max(1, request.query_integer("limit", default=10, most=MESSAGES_MAX))
    begin = _position(request.query.get("from"))
    end = _position(request.query.get("to"))
    text = request.query.get("filter")
    event_filter = EventFilter() if text is None else EventFilter.of(filter_text(text))

    def query(tx: Tx) -> dict[str, Any]:
        view_of(tx, api.rooms, requester.user_id, room_id, peek=True)
        newest = tx.position()
        start = (FIRST if forward else newest) if begin is None else min(begin, newest)
        above = start if forward else FIRST if end is None else end
        upto = start if not forward else newest if end is None else min(end, newest)
        found = walk(
            tx,
            api.rooms,
            room_id=room_id,
            user_id=requester.user_id,
            above=above,
            upto=upto,
            forward=forward,
            limit=limit,
            event_filter=event_filter if event_filter.wants_room(room_id) else _NOTHING,
        )
        answer: dict[str, Any] = {
            "chunk": client_events(tx, api.rooms, found.events, requester=requester, wall_ms=api.wall_ms()),
            "start": request.query.get("from") or str(StreamToken(start)),
        }
        if found.more:
            answer["end"] = str(StreamToken(found.reached))
        elif forward and found.events:
            answer["end"] = str(StreamToken(found.events[-1].position))
        elif not forward and has_history_gap(tx, room_id):
            answer["end"] = str(StreamToken(found.events[-1].position - 1 if found.events else start))
        if event_filter.lazy_load_members and found.events:
            answer["state"] = _senders(api, tx, found.events)
        return answer

    return await api.database.read(query)


_NOTHING = EventFilter(types=())


def _position(token: str | None) -> int | None:
    return None if not token else StreamToken.parse(token).position


def _senders(api: ClientApi, tx: Tx, events: list[StoredEvent]) -> list[dict[str, Any]]:
    """The member events of who sent these events, as they were at the last one of each."""
    found: dict[str, str] = {}
    for event in events:
        sender = event.pdu.sender
        if sender not in found:
            event_id = api.rooms.state_after(tx, event.pdu.event_id).get(("m.room.member", sender))
            if event_id is not None:
                found[sender] = event_id
    return [client_event(api.rooms.event(tx, event_id), wall_ms=api.wall_ms()) for event_id in found.values()]
