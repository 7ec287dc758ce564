"""Profiles. A change goes into the member event of each joined room, one room after the other, beside the requests.

Which rooms are still to follow is kept in the store, so a restart in the middle loses none.
Source: client-server API, "Profiles", "Events on Change of Profile Information".
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.errors import BadJson, Forbidden, InvalidParam, MatrixError, NotFound, TooLarge
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_user_id, server_of
from p2pserver.rooms.service import Rooms
from p2pserver.store.accounts import Profile, drop_profile_spread, next_profile_spread, profile_of, set_profile_field
from p2pserver.store.tx import Tx

routes = Routes()

DISPLAYNAME_CHARACTERS_MAX = 256
AVATAR_URL_CHARACTERS_MAX = 1000
REMOTE_TIMEOUT_S = 5.0
SPREAD_PAUSE_S = 0.05
"""Between two rooms, so that the requests of other people get their turn."""


@routes.route("GET", "/profile/{user_id}", auth="optional")
async def get_profile(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /profile/{userId}`."""
    return (await _profile(api, request.params["user_id"])).to_json()


@routes.route("GET", "/profile/{user_id}/{field}", auth="optional")
async def get_profile_field(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /profile/{userId}/displayname` and `…/avatar_url`; `{}` if the user has set none."""
    field = request.params["field"]
    profile = (await _profile(api, request.params["user_id"])).to_json()
    if field not in profile and field not in ("displayname", "avatar_url"):
        raise NotFound("this profile has no such field")
    return {field: profile[field]} if field in profile else {}


@routes.route("PUT", "/profile/{user_id}/displayname")
async def put_displayname(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /profile/{userId}/displayname`; empty, null or absent removes it."""
    value = _own_field(request, "displayname")
    if value is not None and len(value) > DISPLAYNAME_CHARACTERS_MAX:
        raise TooLarge(f"a display name has at most {DISPLAYNAME_CHARACTERS_MAX} characters")
    return await _set(api, request, "displayname", value)


@routes.route("PUT", "/profile/{user_id}/avatar_url")
async def put_avatar_url(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /profile/{userId}/avatar_url`; empty, null or absent removes it."""
    value = _own_field(request, "avatar_url")
    if value is not None and len(value) > AVATAR_URL_CHARACTERS_MAX:
        raise TooLarge(f"an avatar URL has at most {AVATAR_URL_CHARACTERS_MAX} characters")
    return await _set(api, request, "avatar_url", value)


@routes.route("DELETE", "/profile/{user_id}/{field}")
async def delete_profile_field(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`DELETE /profile/{userId}/{keyName}`."""
    field = request.params["field"]
    if request.params["user_id"] != request.requester.user_id:
        raise Forbidden("that is another user's profile")
    if field not in ("displayname", "avatar_url"):
        return {}
    return await _set(api, request, field, None)


def _own_field(request: ApiRequest, field: str) -> str | None:
    if request.params["user_id"] != request.requester.user_id:
        raise Forbidden("that is another user's profile")
    value = request.body.get(field)
    if value is not None and not isinstance(value, str):
        raise BadJson(f"`{field}` is not a string")
    return value or None


async def _set(api: ClientApi, request: ApiRequest, field: str, value: str | None) -> dict[str, Any]:
    user_id = request.requester.user_id
    if await api.database.write(lambda tx: set_profile_field(tx, user_id, field, value)):
        api.spawn(spread_profiles(api), name="spread-profiles")
    return {}


async def spread_profiles(api: ClientApi) -> None:
    """Brings the member events of local users up to their profiles, until none is behind."""
    more = True
    while more:
        more = await api.database.write(lambda tx: spread_one(tx, api.rooms))
        await asyncio.sleep(SPREAD_PAUSE_S)


def spread_one(tx: Tx, rooms: Rooms) -> bool:
    """Updates one member event that is behind; False, if there is none."""
    behind = next_profile_spread(tx)
    if behind is None:
        return False
    user_id, room_id = behind
    drop_profile_spread(tx, user_id, room_id)
    member = rooms.current_event(tx, room_id, "m.room.member", user_id)
    profile = profile_of(tx, user_id)
    if member is None or profile is None or member.content.get("membership") != "join":
        return True
    # A restricted join names the user who vouched for it; a later event needs nobody to.
    dropped = ("displayname", "avatar_url", "join_authorised_via_users_server")
    content = {name: value for name, value in member.content.items() if name not in dropped} | profile.to_json()
    try:
        rooms.send(
            tx,
            room_id=room_id,
            sender=user_id,
            event_type="m.room.member",
            content=content,
            state_key=user_id,
        )
    except MatrixError:
        # The room does not let him speak now: it keeps the old name, the others get the new one.
        return True
    return True


async def _profile(api: ClientApi, user_id: str) -> Profile:
    """The profile of anybody: from the store, from his server, or as it stands in a room that is held here.

    Raises: InvalidParam, NotFound.
    """
    if not is_user_id(user_id):
        raise InvalidParam("that is not a user ID")
    server = server_of(user_id)
    if server == api.server_name:
        profile = await api.database.read(lambda tx: profile_of(tx, user_id))
        if profile is None:
            raise NotFound("there is no such user")
        return profile
    try:
        answer = await api.remote.ask(server, "profile", {"user_id": user_id}, timeout_s=REMOTE_TIMEOUT_S)
    except MatrixError as error:
        seen = await api.database.read(lambda tx: profile_in_rooms(tx, user_id))
        if seen is None:
            raise NotFound("this profile is not known here") from error
        return seen
    return _checked(answer)


def profile_in_rooms(tx: Tx, user_id: str) -> Profile | None:
    """What the newest of a user's current member events says."""
    row = tx.one(
        "SELECT CAST(events.raw AS TEXT) FROM current_state JOIN events USING (event_id)"
        " WHERE current_state.type = 'm.room.member' AND current_state.state_key = ? AND membership = 'join'"
        " ORDER BY events.origin_server_ts DESC LIMIT 1",
        (user_id,),
    )
    return None if row is None else _checked(json.loads(row[0]).get("content", {}))


def _checked(answer: dict[str, Any]) -> Profile:
    """A profile from fields that somebody else filled."""
    name, avatar = answer.get("displayname"), answer.get("avatar_url")
    return Profile(
        displayname=name if isinstance(name, str) else None, avatar_url=avatar if isinstance(avatar, str) else None
    )
