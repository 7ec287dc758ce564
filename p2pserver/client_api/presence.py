"""`/presence`: what a user says of himself, and what is known of others. Source: client-server API, "Presence"."""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.user_data import own_user
from p2pserver.errors import Forbidden, InvalidParam
from p2pserver.http_api.body_fields import optional_string, required_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_user_id
from p2pserver.rooms.presence import STATES, STATUS_CHARACTERS_MAX
from p2pserver.store.device_lists import share_a_room

routes = Routes()


@routes.route("GET", "/presence/{user_id}/status")
async def get_presence(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /presence/{userId}/status`: of the user himself and of those who share a room with him."""
    own_id, user_id = request.requester.user_id, request.params["user_id"]
    if not is_user_id(user_id):
        raise InvalidParam("that is not a user ID")
    if user_id != own_id and not await api.database.read(lambda tx: share_a_room(tx, own_id, user_id)):
        raise Forbidden("you share no room with this user")
    return api.presence.of_user(user_id).content(api.wall_ms())


@routes.route("PUT", "/presence/{user_id}/status")
async def put_presence(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /presence/{userId}/status`: for the device that says so; the status message is the user's."""
    user_id = own_user(request)
    state, status = required_string(request.body, "presence"), optional_string(request.body, "status_msg")
    if state not in STATES:
        raise InvalidParam(f"{state!r} is not a presence")
    if status is not None and len(status) > STATUS_CHARACTERS_MAX:
        raise InvalidParam(f"`status_msg` is over {STATUS_CHARACTERS_MAX} characters")
    api.presence.set(user_id, request.requester.device_id, state, status)
    return {}
