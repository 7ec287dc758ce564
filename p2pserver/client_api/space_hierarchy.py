"""`GET /rooms/{roomId}/hierarchy`: the rooms of a space and of the spaces in it, depth first, page by page.

A room that this node is in is described from the store, any other by a server that knows it and can be asked now. Where
a walk stands is remembered between two pages, for a while. Source: client-server API, "Spaces".
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.room_summaries import ask_hierarchy
from p2pserver.client_api.space_walks import SpaceWalk
from p2pserver.errors import Forbidden, InvalidParam
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_room_id
from p2pserver.rooms.summaries import described, in_order, user_sees
from p2pserver.store import memberships
from p2pserver.store.tx import Tx

PAGE_MAX = 50
ROOMS_MAX = 2_000
"""Rooms that one walk looks at, whatever it shows."""
PAGE_S = 15.0
"""After so long nobody else is asked for one page."""
ASKED_PER_PAGE_MAX = 10
"""How often other servers are asked for one page: the rest comes with the next."""
TOKEN_OCTETS = 12

routes = Routes()


@routes.route("GET", "/rooms/{room_id}/hierarchy", versions=("v1",))
async def get_hierarchy(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /v1/rooms/{roomId}/hierarchy`."""
    room_id, user_id = request.params["room_id"], request.requester.user_id
    limit = request.query_integer("limit", default=PAGE_MAX, least=1, most=PAGE_MAX)
    depth = request.query_integer("max_depth", default=0) if "max_depth" in request.query else None
    suggested_only = request.query_boolean("suggested_only")
    token = request.query.get("from")
    if token is None:
        if not is_room_id(room_id):
            raise InvalidParam("that is not a room ID")
        walk = SpaceWalk(user_id, room_id, suggested_only, depth, queue=[(room_id, 0, [])])
    else:
        known = api.space_walks.get(token)
        if known is None or (known.user_id, known.room_id) != (user_id, room_id):
            raise InvalidParam("that token is not known, or no more: start again")
        if (known.suggested_only, known.max_depth) != (suggested_only, depth):
            raise InvalidParam("max_depth and suggested_only must be those of the first page")
        walk = replace(known, queue=[*known.queue], seen={*known.seen}, told={**known.told})
    rooms = await _page(api, walk, limit)
    if token is None and not rooms:
        raise Forbidden("you may not see this room, or it does not exist")
    answer: dict[str, Any] = {"rooms": rooms}
    if walk.queue:
        answer["next_batch"] = api.random_bytes(TOKEN_OCTETS).hex()
        api.space_walks.keep(answer["next_batch"], walk)
    return answer


async def _page(api: ClientApi, walk: SpaceWalk, limit: int) -> list[dict[str, Any]]:
    """Goes on with the walk until a page is full."""
    rooms: list[dict[str, Any]] = []
    asked = 0
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PAGE_S
    while walk.queue and len(rooms) < limit and len(walk.seen) < ROOMS_MAX:
        room_id, depth, via = walk.queue.pop()
        if room_id in walk.seen:
            continue
        told = walk.told.pop(room_id, None)
        here = await api.database.read(lambda tx, room_id=room_id: _described_here(api, tx, room_id, walk))  # type: ignore[misc]
        if here is None and told is None:
            if rooms and (asked == ASKED_PER_PAGE_MAX or loop.time() > deadline):
                walk.queue.append((room_id, depth, via))
                return rooms
            asked += 1
            told = await _ask(api, walk, room_id, via)
        walk.seen.add(room_id)
        summary = here or told
        if summary is None or not await api.database.read(
            lambda tx, summary=summary: user_sees(tx, walk.user_id, summary)  # type: ignore[misc]
        ):
            continue
        children = in_order(summary.get("children_state", ()), suggested_only=walk.suggested_only)
        rooms.append({**summary, "children_state": children})
        if summary.get("room_type") == "m.space" and (walk.max_depth is None or depth < walk.max_depth):
            walk.queue += [(child["state_key"], depth + 1, child["content"]["via"]) for child in reversed(children)]
    walk.queue = [entry for entry in walk.queue if entry[0] not in walk.seen]
    if len(walk.seen) >= ROOMS_MAX:
        walk.queue = []
    return rooms


def _described_here(api: ClientApi, tx: Tx, room_id: str, walk: SpaceWalk) -> dict[str, Any] | None:
    if not memberships.is_joined(tx, room_id, api.server_name):
        return None
    return described(tx, room_id, suggested_only=walk.suggested_only)


async def _ask(api: ClientApi, walk: SpaceWalk, room_id: str, via: list[str]) -> dict[str, Any] | None:
    """What another server says of the room. What it says of children in passing is not asked for again."""
    found = await ask_hierarchy(api, room_id, via, suggested_only=walk.suggested_only)
    if found is None:
        return None
    room, children = found
    for child in children:
        if "children_state" in child and child["room_id"] not in walk.seen:
            walk.note(child)
    return room
