"""Presence: always offline, as on a server that has it turned off. Source: client-server API, "Presence"."""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.user_data import own_user
from p2pserver.errors import InvalidParam, MissingParam
from p2pserver.http_api.body_fields import optional_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_user_id

routes = Routes()

PRESENCES = ("online", "offline", "unavailable")


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
