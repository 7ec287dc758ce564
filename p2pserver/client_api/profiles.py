"""Profiles. A change goes into the member event of each joined room, one room after the other, beside the requests.

Which rooms are still to follow is kept in the store, so a restart in the middle loses none.
Source: client-server API, "Profiles", "Events on Change of Profile Information".
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.app_service_questions import ask_for_user
from p2pserver.errors import BadJson, Forbidden, InvalidParam, MatrixError, MissingParam, NotFound, TooLarge
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_media_uri, is_user_id, server_of
from p2pserver.rooms.service import Rooms
from p2pserver.store.accounts import drop_profile_spread, next_profile_spread, profile_of, set_profile_field
from p2pserver.store.profiles import (
    cache_profile,
    cached_profile,
    check_size,
    delete_field,
    is_field_name,
    put_field,
    whole_profile,
)
from p2pserver.store.tx import Tx

routes = Routes()

_IN_MEMBER_EVENTS = {"displayname": 256, "avatar_url": 1000}
"""The fields that every member event repeats, with the characters that they may have."""
REMOTE_TIMEOUT_S = 5.0
SPREAD_PAUSE_S = 0.05
"""Between two rooms, so that the requests of other people get their turn."""


@routes.route("GET", "/profile/{user_id}", auth="optional")
@routes.route("GET", "/uk.tcpip.msc4133/profile/{user_id}", versions=("unstable",), auth="optional")
async def get_profile(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /profile/{userId}`."""
    return await _profile(api, request.params["user_id"])


@routes.route("GET", "/profile/{user_id}/{field}", auth="optional")
@routes.route("GET", "/uk.tcpip.msc4133/profile/{user_id}/{field}", versions=("unstable",), auth="optional")
async def get_profile_field(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /profile/{userId}/{keyName}`; `{}` if the user has set no display name or avatar."""
    field = request.params["field"]
    profile = await _profile(api, request.params["user_id"])
    if field not in profile and field not in _IN_MEMBER_EVENTS:
        raise NotFound("this profile has no such field")
    return {field: profile[field]} if field in profile else {}


@routes.route("PUT", "/profile/{user_id}/{field}")
@routes.route("PUT", "/uk.tcpip.msc4133/profile/{user_id}/{field}", versions=("unstable",))
async def put_profile_field(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /profile/{userId}/{keyName}`; an empty, absent or null display name or avatar is removed."""
    field = _own_field(request)
    value = request.body.get(field)
    if field in _IN_MEMBER_EVENTS:
        return await _set(api, request, field, _short_text(field, value))
    if field not in request.body:
        raise MissingParam(f"`{field}` is missing")
    if field == "m.tz" and not isinstance(value, str):
        raise BadJson("`m.tz` is not a string")
    await api.database.write(lambda tx: put_field(tx, request.requester.user_id, field, value))
    return {}


@routes.route("DELETE", "/profile/{user_id}/{field}")
@routes.route("DELETE", "/uk.tcpip.msc4133/profile/{user_id}/{field}", versions=("unstable",))
async def delete_profile_field(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`DELETE /profile/{userId}/{keyName}`."""
    field = _own_field(request)
    if field in _IN_MEMBER_EVENTS:
        return await _set(api, request, field, None)
    await api.database.write(lambda tx: delete_field(tx, request.requester.user_id, field))
    return {}


def _own_field(request: ApiRequest) -> str:
    """Raises: Forbidden, if it is somebody else's profile; InvalidParam, KeyTooLarge."""
    if request.params["user_id"] != request.requester.user_id:
        raise Forbidden("that is another user's profile")
    field = request.params["field"]
    if not is_field_name(field):
        raise InvalidParam("a profile has no field of such a name")
    return field


def _short_text(field: str, value: object) -> str | None:
    """Raises: BadJson, TooLarge, InvalidParam."""
    if value is not None and not isinstance(value, str):
        raise BadJson(f"`{field}` is not a string")
    if value is not None and len(value) > _IN_MEMBER_EVENTS[field]:
        raise TooLarge(f"`{field}` has at most {_IN_MEMBER_EVENTS[field]} characters")
    if value and field == "avatar_url" and not is_media_uri(value):
        raise InvalidParam("`avatar_url` is not an mxc:// address")
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


async def _profile(api: ClientApi, user_id: str) -> dict[str, Any]:
    """The profile of anybody: from the store, from his server, or, while that is away, what was last known of it.

    Raises: InvalidParam, NotFound.
    """
    if not is_user_id(user_id):
        raise InvalidParam("that is not a user ID")
    server = server_of(user_id)
    if server == api.server_name:
        profile = await api.database.read(lambda tx: whole_profile(tx, user_id))
        if profile is None and await ask_for_user(api, user_id):
            profile = await api.database.read(lambda tx: whole_profile(tx, user_id))
        if profile is None:
            raise NotFound("there is no such user")
        return profile
    try:
        answer = await api.remote.ask(server, "profile", {"user_id": user_id}, timeout_s=REMOTE_TIMEOUT_S)
    except MatrixError as error:
        seen = await api.database.read(lambda tx: last_known_profile(tx, user_id))
        if seen is None or error.errcode == "M_NOT_FOUND":
            raise NotFound("this profile is not known here") from error
        return seen
    checked = _checked(answer)
    if checked != await api.database.read(lambda tx: cached_profile(tx, user_id)):
        await api.database.write(lambda tx: cache_profile(tx, user_id, checked))
    return checked


def last_known_profile(tx: Tx, user_id: str) -> dict[str, Any] | None:
    """What his node last answered, with the name and the avatar of the newest of the user's current member events."""
    cached = cached_profile(tx, user_id)
    row = tx.one(
        "SELECT CAST(events.raw AS TEXT) FROM current_state JOIN events USING (event_id)"
        " WHERE current_state.type = 'm.room.member' AND current_state.state_key = ? AND membership = 'join'"
        " ORDER BY events.origin_server_ts DESC LIMIT 1",
        (user_id,),
    )
    if row is None:
        return cached
    content = json.loads(row[0]).get("content", {})
    shown = _checked({name: content[name] for name in _IN_MEMBER_EVENTS if name in content})
    return {**{name: value for name, value in (cached or {}).items() if name not in _IN_MEMBER_EVENTS}, **shown}


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """A profile from fields that somebody else filled: what is none of a profile is left out."""
    profile: dict[str, Any] = {}
    for name, value in answer.items():
        try:
            sane = isinstance(value, str) if name in _IN_MEMBER_EVENTS else is_field_name(name)
            sane = sane and (name != "avatar_url" or is_media_uri(value))
        except MatrixError:
            continue
        if sane:
            profile[name] = value
    try:
        check_size(profile)
    except MatrixError:
        return {name: value for name, value in profile.items() if name in _IN_MEMBER_EVENTS and len(value) <= 1000}
    return profile
