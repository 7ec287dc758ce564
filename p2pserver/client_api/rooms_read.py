"""Reading a room: state, members, single events, the surroundings of an event.

Source: client-server API, "Getting events for a room", "Event context".
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.client_events import client_event, client_events
from p2pserver.client_api.event_filter import EventFilter, filter_text
from p2pserver.client_api.member_events import MEMBERSHIPS
from p2pserver.client_api.room_access import require_joined, state_at, view_of
from p2pserver.client_api.stream_token import StreamToken
from p2pserver.client_api.timeline import Walk, walk
from p2pserver.errors import InvalidParam, NotFound, Verdict
from p2pserver.events.pdu import Pdu
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_media_uri
from p2pserver.meg.state import StateSlot
from p2pserver.rooms.service import Rooms
from p2pserver.store.events import StoredEvent
from p2pserver.store.room_stream import FIRST, joined_members
from p2pserver.store.tx import Tx

CONTEXT_MAX = 100

routes = Routes()


@routes.route("GET", "/rooms/{room_id}/state")
async def get_state(api: ClientApi, request: ApiRequest) -> list[dict[str, Any]]:
    room_id, user_id = request.params["room_id"], request.requester.user_id

    def query(tx: Tx) -> list[dict[str, Any]]:
        view = view_of(tx, api.rooms, user_id, room_id, peek=True)
        state = state_at(tx, api.rooms, room_id, view.position)
        return [client_event(api.rooms.event(tx, event_id), wall_ms=api.wall_ms()) for event_id in state.values()]

    return await api.database.read(query)


@routes.route("GET", "/rooms/{room_id}/state/{event_type}")
@routes.route("GET", "/rooms/{room_id}/state/{event_type}/{state_key}")
async def get_state_event(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    room_id, user_id = request.params["room_id"], request.requester.user_id
    slot = (request.params["event_type"], request.params.get("state_key", ""))
    form = request.query.get("format", "content")
    if form not in ("content", "event"):
        raise InvalidParam("format is neither content nor event")

    def query(tx: Tx) -> Pdu | None:
        view = view_of(tx, api.rooms, user_id, room_id, peek=True)
        if view.position is None:
            return api.rooms.current_event(tx, room_id, *slot)
        event_id = state_at(tx, api.rooms, room_id, view.position).get(slot)
        return None if event_id is None else api.rooms.event(tx, event_id)

    event = await api.database.read(query)
    if event is None:
        raise NotFound("the room has no such state event")
    return client_event(event, wall_ms=api.wall_ms()) if form == "event" else dict(event.content)


@routes.route("GET", "/rooms/{room_id}/members")
async def get_members(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    room_id, user_id = request.params["room_id"], request.requester.user_id
    at = request.query.get("at")
    at_position = None if at is None else StreamToken.parse(at).position
    wanted, unwanted = request.query.get("membership"), request.query.get("not_membership")
    for name in (wanted, unwanted):
        if name is not None and name not in MEMBERSHIPS:
            raise InvalidParam(f"{name} is not a membership")

    def query(tx: Tx) -> list[dict[str, Any]]:
        view = view_of(tx, api.rooms, user_id, room_id)
        position = view.position
        if at_position is not None and (position is None or at_position < position):
            position = at_position
        state = state_at(tx, api.rooms, room_id, position)
        members = [api.rooms.event(tx, event_id) for slot, event_id in state.items() if slot[0] == "m.room.member"]
        return [
            client_event(member, wall_ms=api.wall_ms())
            for member in members
            if _is_wanted(member.content.get("membership"), wanted, unwanted)
        ]

    return {"chunk": await api.database.read(query)}


def _is_wanted(membership: object, wanted: str | None, unwanted: str | None) -> bool:
    """Two conditions are joined by "or", as the specification has it."""
    if wanted is None and unwanted is None:
        return True
    return (wanted is not None and membership == wanted) or (unwanted is not None and membership != unwanted)


@routes.route("GET", "/rooms/{room_id}/joined_members")
async def get_joined_members(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    room_id, requester = request.params["room_id"], request.requester

    def query(tx: Tx) -> dict[str, dict[str, Any]]:
        require_joined(tx, requester.user_id, room_id)
        return {
            member: _shown_profile(api.rooms.event(tx, event_id))
            for member, event_id in joined_members(tx, room_id).items()
        }

    return {"joined": await api.database.read(query)}


def _shown_profile(member: Pdu) -> dict[str, Any]:
    name, picture = member.content.get("displayname"), member.content.get("avatar_url")
    return {
        **({"display_name": name} if isinstance(name, str) else {}),
        **({"avatar_url": picture} if is_media_uri(picture) else {}),
    }


@routes.route("GET", "/rooms/{room_id}/event/{event_id}")
async def get_event(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    def query(tx: Tx) -> dict[str, Any]:
        event = visible_event(api, tx, request)
        return client_events(tx, api.rooms, [event], requester=request.requester, wall_ms=api.wall_ms())[0]

    return await api.database.read(query)


@routes.route("GET", "/rooms/{room_id}/context/{event_id}")
async def get_context(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """Half of `limit` on each side; the tokens go on in `/messages`, and the state is that after the last event."""
    user_id = request.requester.user_id
    limit = request.query_integer("limit", default=10, most=CONTEXT_MAX)
    text = request.query.get("filter")
    event_filter = EventFilter() if text is None else EventFilter.of(filter_text(text))

    def query(tx: Tx) -> dict[str, Any]:
        event = visible_event(api, tx, request)
        if event.outlier:
            raise NotFound("there is no such event")
        before, after = surroundings(
            tx, api.rooms, event, user_id, limits=(limit // 2, limit - limit // 2), event_filter=event_filter
        )
        shown = client_events(
            tx, api.rooms, [event, *before.events, *after.events], requester=request.requester, wall_ms=api.wall_ms()
        )
        last = after.events[-1] if after.events else event
        state = api.rooms.state_after(tx, last.pdu.event_id)
        senders = {each["sender"] for each in shown}
        return {
            **tokens_around(event, before, after),
            "event": shown[0],
            "events_before": shown[1 : 1 + len(before.events)],
            "events_after": shown[1 + len(before.events) :],
            "state": [
                client_event(pdu, wall_ms=api.wall_ms())
                for slot, event_id in state.items()
                if _is_needed(slot, senders, event_filter)
                and event_filter.wants((pdu := api.rooms.event(tx, event_id)).type, pdu.sender, pdu.content)
            ],
        }

    return await api.database.read(query)


def surroundings(
    tx: Tx, rooms: Rooms, event: StoredEvent, user_id: str, *, limits: tuple[int, int], event_filter: EventFilter
) -> tuple[Walk, Walk]:
    """What came before and after an event, as far as the user may see it: no more than `limits` of each."""
    room_id, position = event.pdu.room_id, event.position
    before = walk(
        tx,
        rooms,
        room_id=room_id,
        user_id=user_id,
        above=FIRST,
        upto=position - 1,
        forward=False,
        limit=limits[0],
        event_filter=event_filter,
    )
    after = walk(
        tx,
        rooms,
        room_id=room_id,
        user_id=user_id,
        above=position,
        upto=tx.position(),
        forward=True,
        limit=limits[1],
        event_filter=event_filter,
    )
    return before, after


def tokens_around(event: StoredEvent, before: Walk, after: Walk) -> dict[str, str]:
    """`start` and `end`, with which `/messages` goes on in both directions."""
    return {
        "start": str(StreamToken((before.events[-1] if before.events else event).position - 1)),
        "end": str(StreamToken((after.events[-1] if after.events else event).position)),
    }


def _is_needed(slot: StateSlot, senders: set[str], event_filter: EventFilter) -> bool:
    return not event_filter.lazy_load_members or slot[0] != "m.room.member" or slot[1] in senders


def visible_event(api: ClientApi, tx: Tx, request: ApiRequest) -> StoredEvent:
    """The event that the path names.

    Raises: NotFound, whether it does not exist or the user may not see it.
    """
    event = api.rooms.stored(tx, request.params["event_id"])
    if (
        event is None
        or event.pdu.room_id != request.params["room_id"]
        or event.verdict is not Verdict.ACCEPTED
        or not api.rooms.visible_to(tx, request.requester.user_id, [event])[0]
    ):
        raise NotFound("there is no such event, or you may not see it")
    return event
