"""What clients keep on their server: account data, the tags of rooms, filters.

Source: client-server API, "Client Config", "Room Tagging", "Filtering".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.event_filter import SyncFilter
from p2pserver.errors import BadJson, Forbidden, InvalidParam, MatrixError, NotFound, TooLarge
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_room_id
from p2pserver.store.account_data import account_data_count, get_account_data, put_account_data
from p2pserver.store.filters import get_filter, put_filter
from p2pserver.store.tx import Tx

routes = Routes()

CONTENT_OCTETS_MAX = 256 * 1024
TYPES_PER_USER_MAX = 5_000
TYPE_OCTETS_MAX = 255
SERVER_MANAGED = ("m.push_rules", "m.fully_read")


class ManagedByServer(MatrixError):
    """This type has an endpoint of its own."""

    errcode, http_status = "M_BAD_JSON", 405


def own_user(request: ApiRequest) -> str:
    """The user in the path, who must be the requester.

    Raises: Forbidden.
    """
    user_id = request.requester.user_id
    if request.params["user_id"] != user_id:
        raise Forbidden("that is another user")
    return user_id


def _room_of(request: ApiRequest) -> str | None:
    """The room in the path, if the path has one. Raises: InvalidParam."""
    room_id = request.params.get("room_id")
    if room_id is not None and not is_room_id(room_id):
        raise InvalidParam("that is not a room ID")
    return room_id


@routes.route("GET", "/user/{user_id}/account_data/{kind}")
@routes.route("GET", "/user/{user_id}/rooms/{room_id}/account_data/{kind}")
async def get_data(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /user/{userId}[/rooms/{roomId}]/account_data/{type}`."""
    user_id, room_id, kind = own_user(request), _room_of(request), request.params["kind"]
    content = await api.database.read(lambda tx: get_account_data(tx, user_id, room_id, kind))
    if content is None:
        raise NotFound("there is no account data of this type")
    return content


@routes.route("PUT", "/user/{user_id}/account_data/{kind}")
@routes.route("PUT", "/user/{user_id}/rooms/{room_id}/account_data/{kind}")
async def put_data(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /user/{userId}[/rooms/{roomId}]/account_data/{type}`."""
    user_id, room_id, kind = own_user(request), _room_of(request), request.params["kind"]
    if kind in SERVER_MANAGED:
        raise ManagedByServer(f"{kind} cannot be set here")
    if len(kind.encode()) > TYPE_OCTETS_MAX:
        raise InvalidParam(f"the type is over {TYPE_OCTETS_MAX} octets")
    await api.database.write(lambda tx: _put_bounded(tx, user_id, room_id, kind, request.body))
    return {}


def _put_bounded(tx: Tx, user_id: str, room_id: str | None, kind: str, content: dict[str, Any]) -> None:
    """Raises: TooLarge."""
    if len(json.dumps(content)) > CONTENT_OCTETS_MAX:
        raise TooLarge(f"account data is over {CONTENT_OCTETS_MAX} octets")
    if account_data_count(tx, user_id) >= TYPES_PER_USER_MAX and get_account_data(tx, user_id, room_id, kind) is None:
        raise TooLarge(f"an account keeps {TYPES_PER_USER_MAX} types of data at most")
    put_account_data(tx, user_id, room_id, kind, content)


@routes.route("GET", "/user/{user_id}/rooms/{room_id}/tags")
async def get_tags(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /user/{userId}/rooms/{roomId}/tags`."""
    user_id, room_id = own_user(request), _room_of(request)
    return {"tags": await api.database.read(lambda tx: _tags(tx, user_id, room_id))}


@routes.route("PUT", "/user/{user_id}/rooms/{room_id}/tags/{tag}")
async def put_tag(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /user/{userId}/rooms/{roomId}/tags/{tag}`."""
    tag, order = request.params["tag"], request.body.get("order")
    if len(tag.encode()) > TYPE_OCTETS_MAX:
        raise InvalidParam(f"the tag is over {TYPE_OCTETS_MAX} octets")
    if order is not None and (isinstance(order, bool) or not isinstance(order, int | float)):
        raise BadJson("`order` is not a number")
    content = {name: value for name, value in request.body.items() if name != "order" or value is not None}
    return await _change_tags(api, request, lambda tags: tags.update({tag: content}))


@routes.route("DELETE", "/user/{user_id}/rooms/{room_id}/tags/{tag}")
async def delete_tag(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`DELETE /user/{userId}/rooms/{roomId}/tags/{tag}`: nothing to do if there is no such tag."""
    return await _change_tags(api, request, lambda tags: tags.pop(request.params["tag"], None))


async def _change_tags(
    api: ClientApi, request: ApiRequest, change: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    user_id, room_id = own_user(request), _room_of(request)

    def unit(tx: Tx) -> None:
        before = _tags(tx, user_id, room_id)
        tags = dict(before)
        change(tags)
        if tags != before:
            _put_bounded(tx, user_id, room_id, "m.tag", {"tags": tags})

    await api.database.write(unit)
    return {}


def _tags(tx: Tx, user_id: str, room_id: str | None) -> dict[str, Any]:
    """The room's tags in its account data `m.tag`; none where a client has stored something else there."""
    tags = (get_account_data(tx, user_id, room_id, "m.tag") or {}).get("tags")
    return tags if isinstance(tags, dict) else {}


@routes.route("POST", "/user/{user_id}/filter")
async def post_filter(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /user/{userId}/filter`: kept as it came, once it has been checked."""
    user_id = own_user(request)
    SyncFilter.of(request.body)
    return {"filter_id": await api.database.write(lambda tx: put_filter(tx, user_id, request.body))}


@routes.route("GET", "/user/{user_id}/filter/{filter_id}")
async def read_filter(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /user/{userId}/filter/{filterId}`."""
    user_id = own_user(request)
    definition = await api.database.read(lambda tx: get_filter(tx, user_id, request.params["filter_id"]))
    if definition is None:
        raise NotFound("there is no such filter")
    return definition
