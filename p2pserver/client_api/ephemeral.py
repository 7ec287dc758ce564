"""Typing, receipts, presence: read markers are kept; the rest is checked and then not passed on to anybody yet.

Clients call these with every message and take an error for a broken server, while nothing is lost that they would miss:
unread counts are not served, typing notices live for seconds. Presence is always offline, as on a server that has it
turned off. Source: client-server API, "Typing Notifications", "Receipts", "Read and unread markers", "Presence".
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.user_data import own_user
from p2pserver.errors import BadJson, Forbidden, InvalidParam, MissingParam
from p2pserver.http_api.body_fields import optional_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_event_id, is_user_id
from p2pserver.store.account_data import put_account_data
from p2pserver.store.tx import Tx

routes = Routes()

RECEIPT_TYPES = ("m.read", "m.read.private", "m.fully_read")
PRESENCES = ("online", "offline", "unavailable")


@routes.route("PUT", "/rooms/{room_id}/typing/{user_id}")
async def typing(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /rooms/{roomId}/typing/{userId}`."""
    own_user(request)
    if not isinstance(request.body.get("typing"), bool):
        raise BadJson("`typing` is not a boolean")
    await api.database.read(lambda tx: _require_joined(api, tx, request))
    return {}


@routes.route("POST", "/rooms/{room_id}/receipt/{receipt_type}/{event_id}")
async def receipt(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /rooms/{roomId}/receipt/{receiptType}/{eventId}`."""
    kind, event_id = request.params["receipt_type"], request.params["event_id"]
    if kind not in RECEIPT_TYPES:
        raise InvalidParam(f"{kind!r} is not a type of receipt")
    await _mark(api, request, {kind: event_id})
    return {}


@routes.route("POST", "/rooms/{room_id}/read_markers")
async def read_markers(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /rooms/{roomId}/read_markers`."""
    marks = {kind: optional_string(request.body, kind) for kind in RECEIPT_TYPES}
    await _mark(api, request, {kind: event_id for kind, event_id in marks.items() if event_id is not None})
    return {}


async def _mark(api: ClientApi, request: ApiRequest, marks: dict[str, str]) -> None:
    if not all(is_event_id(event_id) for event_id in marks.values()):
        raise InvalidParam("that is not an event ID")
    user_id, room_id = request.requester.user_id, request.params["room_id"]
    fully_read = marks.get("m.fully_read")

    def unit(tx: Tx) -> None:
        _require_joined(api, tx, request)
        if fully_read is not None:
            put_account_data(tx, user_id, room_id, "m.fully_read", {"event_id": fully_read})

    await (api.database.read(unit) if fully_read is None else api.database.write(unit))


def _require_joined(api: ClientApi, tx: Tx, request: ApiRequest) -> None:
    if api.rooms.membership(tx, request.params["room_id"], request.requester.user_id) != "join":
        raise Forbidden("you are not in this room")


@routes.route("GET", "/presence/{user_id}/status")
async def get_presence(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /presence/{userId}/status`."""
    if not is_user_id(request.params["user_id"]):
        raise InvalidParam("that is not a user ID")
    return {"presence": "offline"}


@routes.route("PUT", "/presence/{user_id}/status")
async def put_presence(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /presence/{userId}/status`."""
    own_user(request)
    presence = optional_string(request.body, "presence")
    if presence is None:
        raise MissingParam("`presence` is missing")
    if presence not in PRESENCES:
        raise InvalidParam(f"{presence!r} is not a presence")
    return {}
