"""What clients did before `/sync`, and peeking into rooms: `/events`, `/rooms/{roomId}/initialSync`.

`/initialSync` for all rooms is not served; it was deprecated before there were versions to list.
Source: client-server API, "Room previews", "Syncing" (deprecated parts).
"""

from __future__ import annotations

import asyncio
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.client_events import client_event, client_events
from p2pserver.client_api.event_filter import EventFilter
from p2pserver.client_api.room_access import state_at, view_of
from p2pserver.client_api.stream_token import StreamToken
from p2pserver.client_api.timeline import walk
from p2pserver.errors import InvalidParam, NotFound
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.store.account_data import account_data_since
from p2pserver.store.aliases import is_published
from p2pserver.store.events import StoredEvent
from p2pserver.store.memberships import local_membership
from p2pserver.store.own_rooms import joined_rooms_of
from p2pserver.store.room_stream import FIRST
from p2pserver.store.tx import Tx

MESSAGES_DEFAULT, MESSAGES_MAX = 20, 100
EVENTS_MAX = 100
TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX = 30_000, 600_000

routes = Routes()


@routes.route("GET", "/rooms/{room_id}/initialSync")
async def room_initial_sync(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """The state of a room and its newest messages, for members, former members and, if it is world-readable, others."""
    room_id, requester = request.params["room_id"], request.requester
    limit = request.query_integer("limit", default=MESSAGES_DEFAULT, most=MESSAGES_MAX)

    def query(tx: Tx) -> dict[str, Any]:
        view = view_of(tx, api.rooms, requester.user_id, room_id, peek=True)
        upto = tx.position() if view.position is None else view.position
        found = walk(
            tx,
            api.rooms,
            room_id=room_id,
            user_id=requester.user_id,
            above=FIRST,
            upto=upto,
            forward=False,
            limit=limit,
            event_filter=EventFilter(),
        )
        events = found.events[::-1]
        own = local_membership(tx, requester.user_id, room_id)
        messages: dict[str, Any] = {
            "chunk": client_events(tx, api.rooms, events, requester=requester, wall_ms=api.wall_ms()),
            "end": str(StreamToken(upto)),
        }
        if found.more:
            messages["start"] = str(StreamToken(found.reached))
        state = state_at(tx, api.rooms, room_id, view.position)
        return {
            "room_id": room_id,
            **({} if view.membership is None or own is None else {"membership": own.membership}),
            "messages": messages,
            "state": [
                client_event(api.rooms.event(tx, event_id), wall_ms=api.wall_ms()) for event_id in state.values()
            ],
            "visibility": "public" if is_published(tx, room_id) else "private",
            "account_data": [
                {"type": entry.type, "content": entry.content}
                for entry in account_data_since(tx, requester.user_id, -1, tx.position())
                if entry.room_id == room_id
            ],
        }

    return await api.database.read(query)


@routes.route("GET", "/events")
async def events(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """New events of the user's rooms, or of one that he may look into; waits for them up to `timeout` ms."""
    requester, room_id = request.requester, request.query.get("room_id")
    timeout_ms = request.query_integer("timeout", default=TIMEOUT_MS_DEFAULT, most=TIMEOUT_MS_MAX)
    token = request.query.get("from")
    since = None if not token else StreamToken.parse(token).position

    def query(tx: Tx) -> tuple[list[dict[str, Any]], int, int, list[str]]:
        """(events, after which position, up to which, the rooms looked at)."""
        newest = tx.position()
        start = newest if since is None else since
        if start > newest:
            raise InvalidParam("that token is not of this server")
        if room_id is not None:
            view_of(tx, api.rooms, requester.user_id, room_id, peek=True)
        rooms = joined_rooms_of(tx, requester.user_id) if room_id is None else [room_id]
        new = (event for each in rooms for event in _new(api, tx, requester.user_id, each, above=start))
        found = sorted(new, key=lambda event: event.position)
        shown = found[:EVENTS_MAX]
        end = shown[-1].position if len(found) >= EVENTS_MAX else newest
        return client_events(tx, api.rooms, shown, requester=requester, wall_ms=api.wall_ms()), start, end, rooms

    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_ms / 1000
    chunk, start, end, rooms = await api.database.read(query)
    first = start
    while not chunk and (left_s := deadline - loop.time()) > 0:
        since = first
        topics = frozenset((f"user:{requester.user_id}", *(f"room:{each}" for each in rooms)))
        if not await api.database.wait(topics, after=end, timeout_s=left_s):
            break
        chunk, start, end, rooms = await api.database.read(query)
    return {"chunk": chunk, "start": str(StreamToken(first)), "end": str(StreamToken(end))}


@routes.route("GET", "/events/{event_id}")
async def one_event(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """An event by its ID alone."""

    def query(tx: Tx) -> dict[str, Any]:
        event = api.rooms.stored(tx, request.params["event_id"])
        if event is None or not api.rooms.visible_to(tx, request.requester.user_id, [event])[0]:
            raise NotFound("there is no such event, or you may not see it")
        return client_events(tx, api.rooms, [event], requester=request.requester, wall_ms=api.wall_ms())[0]

    return await api.database.read(query)


def _new(api: ClientApi, tx: Tx, user_id: str, room_id: str, *, above: int) -> list[StoredEvent]:
    found = walk(
        tx,
        api.rooms,
        room_id=room_id,
        user_id=user_id,
        above=above,
        upto=tx.position(),
        forward=True,
        limit=EVENTS_MAX,
        event_filter=EventFilter(),
    )
    return found.events
