"""Finding people: on this node, in shared rooms, and on nodes nearby, without typing 52 characters."""

from __future__ import annotations

import asyncio
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.errors import InvalidParam, MatrixError, MissingParam
from p2pserver.http_api.body_fields import optional_integer, required_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_media_uri, is_user_id, server_of
from p2pserver.store.accounts import FoundUser, search_local_users, search_room_mates
from p2pserver.store.own_rooms import rooms_of_both
from p2pserver.store.tx import Tx

routes = Routes()

LIMIT_DEFAULT = 10
LIMIT_MAX = 50
TERM_CHARACTERS_MAX = 256
PEER_TIMEOUT_S = 2.0
PEERS_ASKED_MAX = 50
MUTUAL_ROOMS_MAX = 100


@routes.route("POST", "/user_directory/search")
async def search(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /user_directory/search`: peers that do not answer within two seconds are left out."""
    term = required_string(request.body, "search_term")[:TERM_CHARACTERS_MAX]
    limit = max(1, optional_integer(request.body, "limit", default=LIMIT_DEFAULT, most=LIMIT_MAX))
    requester = request.requester

    def query(tx: Tx) -> list[FoundUser]:
        mates = search_room_mates(tx, requester.user_id, term, limit + 1)
        return [*search_local_users(tx, term, limit + 1), *mates]

    answers = await asyncio.gather(
        api.database.read(query),
        *(_ask(api, server, term, limit) for server in api.remote.connected()[:PEERS_ASKED_MAX]),
    )
    found: dict[str, FoundUser] = {}
    for answer in answers:
        for user in answer:
            found.setdefault(user.user_id, user)
    found.pop(requester.user_id, None)
    results = [user.to_json() for user in found.values()]
    return {"results": results[:limit], "limited": len(results) > limit}


@routes.route("GET", "/mutual_rooms", versions=("v1",))
@routes.route("GET", "/uk.half-shot.msc2666/user/mutual_rooms", versions=("unstable",))
async def mutual_rooms(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /v1/mutual_rooms`: the rooms in which the requester and another user are joined."""
    requester, user_id, start = request.requester, request.query.get("user_id"), request.query.get("from", "0")
    if user_id is None:
        raise MissingParam("query parameter 'user_id' is missing")
    if not is_user_id(user_id) or user_id == requester.user_id:
        raise InvalidParam("user_id is not the ID of another user")
    if not (start.isascii() and start.isdigit() and len(start) <= 9):
        raise InvalidParam("from is not a token of this server")
    shared = await api.database.read(lambda tx: rooms_of_both(tx, requester.user_id, user_id))
    first = int(start)
    answer: dict[str, Any] = {"joined": shared[first : first + MUTUAL_ROOMS_MAX], "count": len(shared)}
    if first + MUTUAL_ROOMS_MAX < len(shared):
        answer["next_batch"] = str(first + MUTUAL_ROOMS_MAX)
    return answer


async def _ask(api: ClientApi, server: str, term: str, limit: int) -> list[FoundUser]:
    """What one peer finds; it may only name its own users."""
    try:
        answer = await api.remote.ask(server, "users", {"search": term, "limit": limit + 1}, timeout_s=PEER_TIMEOUT_S)
    except MatrixError:
        return []
    results = answer.get("results")
    found = []
    for result in results[: limit + 1] if isinstance(results, list) else ():
        user_id = result.get("user_id") if isinstance(result, dict) else None
        if isinstance(user_id, str) and is_user_id(user_id) and server_of(user_id) == server:
            name, avatar = result.get("display_name"), result.get("avatar_url")
            found.append(
                FoundUser(
                    user_id=user_id,
                    display_name=name if isinstance(name, str) else None,
                    avatar_url=avatar if is_media_uri(avatar) else None,
                )
            )
    return found
