"""The room directory: aliases, and the rooms that are published here and on the nodes nearby.

Source: client-server API, "Room aliases", "Published room directory".
"""

from __future__ import annotations

import asyncio
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.room_access import require_joined, view_of
from p2pserver.client_api.room_aliases import check_alias, check_is_free_alias, put_alias, resolve_alias
from p2pserver.errors import BadJson, Forbidden, InvalidParam, MatrixError, NotFound
from p2pserver.http_api.body_fields import optional_boolean, optional_object, optional_string, required_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_room_id, is_server_name, server_of
from p2pserver.rooms.published_rooms import Network, published_rooms
from p2pserver.rooms.summaries import as_public_entry, sane_summary
from p2pserver.store import aliases
from p2pserver.store.rooms import room
from p2pserver.store.tx import Tx

ASK_NEIGHBORS_S = 2.0
PUBLIC_ROOMS_MAX = 500
NEIGHBORS_MAX = 50

routes = Routes()


@routes.route("GET", "/directory/room/{alias}", auth="none")
async def get_alias(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    found = await resolve_alias(api, request.params["alias"])
    return {"room_id": found.room_id, "servers": found.servers}


@routes.route("PUT", "/directory/room/{alias}")
async def set_alias(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    name, user_id = request.params["alias"], request.requester.user_id
    check_alias(name)
    if server_of(name) != api.server_name:
        raise InvalidParam("the alias is of another server")
    check_is_free_alias(api, name, request.app_service)
    room_id = required_string(request.body, "room_id")
    if not is_room_id(room_id):
        raise InvalidParam("room_id is not a room ID")

    def unit(tx: Tx) -> None:
        require_joined(tx, user_id, room_id)
        put_alias(tx, name, room_id, user_id)

    await api.database.write(unit)
    return {}


@routes.route("DELETE", "/directory/room/{alias}")
async def delete_alias(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """Who made the alias may delete it, and who may set the room's canonical alias; services their own."""
    name, user_id, service = request.params["alias"], request.requester.user_id, request.app_service
    check_alias(name)
    check_is_free_alias(api, name, service)

    def unit(tx: Tx) -> None:
        found = aliases.alias(tx, name)
        if found is None:
            raise NotFound(f"there is no alias {name}")
        if user_id != found.creator and not (service is not None and service.owns_alias(name)):
            _require_directory_power(api, tx, user_id, found.room_id)
        aliases.delete_alias(tx, name)

    await api.database.write(unit)
    return {}


@routes.route("GET", "/rooms/{room_id}/aliases")
async def get_aliases(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """For who may read the room, and for admins of this node."""
    room_id, requester = request.params["room_id"], request.requester

    def query(tx: Tx) -> list[str]:
        if not requester.admin:
            view_of(tx, api.rooms, requester.user_id, room_id, peek=True)
        return aliases.aliases_of(tx, room_id)

    return {"aliases": await api.database.read(query)}


@routes.route("GET", "/directory/list/room/{room_id}", auth="none")
async def get_visibility(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    room_id = request.params["room_id"]

    def query(tx: Tx) -> bool:
        if room(tx, room_id) is None:
            raise NotFound("there is no such room")
        return aliases.is_published(tx, room_id)

    return {"visibility": "public" if await api.database.read(query) else "private"}


@routes.route("PUT", "/directory/list/room/{room_id}")
async def set_visibility(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    room_id, user_id = request.params["room_id"], request.requester.user_id
    visibility = optional_string(request.body, "visibility") or "public"
    if visibility not in ("public", "private"):
        raise InvalidParam("visibility is neither public nor private")

    def unit(tx: Tx) -> None:
        if room(tx, room_id) is None:
            raise NotFound("there is no such room")
        require_joined(tx, user_id, room_id)
        _require_directory_power(api, tx, user_id, room_id)
        aliases.set_published(tx, room_id, visibility == "public")

    await api.database.write(unit)
    return {}


def _require_directory_power(api: ClientApi, tx: Tx, user_id: str, room_id: str) -> None:
    levels = api.rooms.power_levels(tx, room_id)
    if api.rooms.membership(tx, room_id, user_id) != "join" or levels.of_user(user_id) < levels.needed_for(
        "m.room.canonical_alias", True
    ):
        raise Forbidden("you may not change how this room is listed")


@routes.route("GET", "/publicRooms", auth="none")
async def get_public_rooms(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    limit = request.query_integer("limit", default=PUBLIC_ROOMS_MAX, most=PUBLIC_ROOMS_MAX)
    return await _public_rooms(
        api, request, limit=limit, since=request.query.get("since"), search=None, types=None, network=None
    )


@routes.route("POST", "/publicRooms")
async def search_public_rooms(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    limit = request.body.get("limit", PUBLIC_ROOMS_MAX)
    if type(limit) is not int or limit < 0:
        raise BadJson("limit is not a positive integer")
    chosen = optional_object(request.body, "filter")
    types = chosen.get("room_types")
    if types is not None and not (
        isinstance(types, list) and all(entry is None or isinstance(entry, str) for entry in types)
    ):
        raise BadJson("room_types is not a list of strings and null")
    return await _public_rooms(
        api,
        request,
        limit=min(limit, PUBLIC_ROOMS_MAX),
        since=optional_string(request.body, "since"),
        search=optional_string(chosen, "generic_search_term"),
        types=types,
        network=_network_of(api, request.body),
    )


def _network_of(api: ClientApi, body: dict[str, Any]) -> Network | None:
    """Of which networks the list is to be: `include_all_networks`, or one by its `third_party_instance_id`.

    Raises: BadJson, InvalidParam.
    """
    instance = optional_string(body, "third_party_instance_id")
    if optional_boolean(body, "include_all_networks"):
        if instance is not None:
            raise InvalidParam("`include_all_networks` and `third_party_instance_id` do not go together")
        return Network(None)
    if instance is None:
        return None
    service_id, bar, network_id = instance.partition("|")
    if not bar or all(service.service_id != service_id for service in api.app_services.all):
        raise InvalidParam("there is no such network")
    return Network((service_id, network_id))


async def _public_rooms(
    api: ClientApi,
    request: ApiRequest,
    *,
    limit: int,
    since: str | None,
    search: str | None,
    types: list[str | None] | None,
    network: Network | None,
) -> dict[str, Any]:
    """One page of the list, the largest rooms first. Without `server`, of this node and of those connected now.

    Of `network`, which only this node knows, the rooms that its application service lists.

    Raises: InvalidParam; PeerUnreachable, if it is `server` that is asked for and cannot be asked.
    """
    server = request.query.get("server")
    if server is not None and not is_server_name(server):
        raise InvalidParam("server is not a server name")
    if since is not None and not (since.isascii() and since.isdigit() and len(since) <= 9):
        raise InvalidParam("since is not a token of this server")
    question: dict[str, Any] = {"limit": PUBLIC_ROOMS_MAX}
    if search is not None:
        question["search"] = search
    found: dict[str, dict[str, Any]] = {}
    if server is None or server == api.server_name:
        for entry in await api.database.read(
            lambda tx: published_rooms(tx, search=search, limit=PUBLIC_ROOMS_MAX, network=network)
        ):
            found[entry["room_id"]] = entry
    if network is not None and network.instance is not None:
        asked = []
    elif server is None:
        asked = [_ask(api, name, question) for name in api.remote.connected()[:NEIGHBORS_MAX]]
    else:
        asked = [] if server == api.server_name else [_rooms_of(api, server, question)]
    for answer in await asyncio.gather(*asked):
        for entry in answer:
            found.setdefault(entry["room_id"], entry)
    rooms = [entry for entry in found.values() if types is None or entry.get("room_type") in types]
    rooms.sort(key=lambda entry: (-entry["num_joined_members"], entry["room_id"]))
    start = int(since or "0")
    page: dict[str, Any] = {"chunk": rooms[start : start + limit], "total_room_count_estimate": len(rooms)}
    if start + limit < len(rooms) and limit > 0:
        page["next_batch"] = str(start + limit)
    if start > 0:
        page["prev_batch"] = str(max(0, start - limit))
    return page


async def _ask(api: ClientApi, server: str, question: dict[str, Any]) -> list[dict[str, Any]]:
    """A neighbor's public rooms; none, if it cannot be asked or refuses."""
    try:
        return await _rooms_of(api, server, question)
    except MatrixError:
        return []


async def _rooms_of(api: ClientApi, server: str, question: dict[str, Any]) -> list[dict[str, Any]]:
    """Another node's public rooms, as far as they make sense. Raises: MatrixError."""
    answer = await api.remote.ask(server, "public_rooms", question, timeout_s=ASK_NEIGHBORS_S)
    chunk = answer.get("chunk")
    rooms = [sane_summary(entry) for entry in chunk[:PUBLIC_ROOMS_MAX]] if isinstance(chunk, list) else []
    return [as_public_entry(entry) for entry in rooms if entry is not None]
