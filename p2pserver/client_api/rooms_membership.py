"""Membership: join, invite, leave, forget, kick, ban, unban, and the rooms a user is in.

Source: client-server API, "Room membership".
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.joining import join_room
from p2pserver.client_api.member_events import change_membership, is_resident
from p2pserver.client_api.room_access import require_joined
from p2pserver.client_api.room_aliases import resolve_alias
from p2pserver.errors import Forbidden, InvalidParam, MatrixError, NotFound
from p2pserver.http_api.body_fields import optional_string, required_user_id
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.store.memberships import local_membership
from p2pserver.store.own_rooms import forget_room, joined_rooms_of
from p2pserver.store.pending_joins import drop_pending_join, pending_join
from p2pserver.store.tx import Tx

routes = Routes()


class NotLeft(MatrixError):
    """A room can be forgotten only after it was left."""

    errcode = "M_UNKNOWN"


@routes.route("POST", "/rooms/{room_id}/join")
async def join_by_id(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    return await _join(api, request, request.params["room_id"], [])


@routes.route("POST", "/join/{room_id_or_alias}")
async def join(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    target = request.params["room_id_or_alias"]
    if not target.startswith("#"):
        return await _join(api, request, target, [])
    found = await resolve_alias(api, target)
    return await _join(api, request, found.room_id, found.servers)


async def _join(api: ClientApi, request: ApiRequest, room_id: str, servers: list[str]) -> dict[str, Any]:
    via = [*request.query_lists.get("via", ()), *request.query_lists.get("server_name", ()), *servers]
    if "third_party_signed" in request.body:
        raise InvalidParam("third-party invites are not supported by this server")
    joined = await join_room(
        api,
        user_id=request.requester.user_id,
        room_id=room_id,
        via=via,
        reason=optional_string(request.body, "reason"),
    )
    return {"room_id": joined}


@routes.route("POST", "/rooms/{room_id}/invite")
async def invite(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    if "user_id" not in request.body and "medium" in request.body:
        raise InvalidParam("third-party invites are not supported by this server")
    return await _change(api, request, "invite")


@routes.route("POST", "/rooms/{room_id}/kick")
async def kick(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    return await _change(api, request, "leave", only_from=("join", "invite", "knock"))


@routes.route("POST", "/rooms/{room_id}/ban")
async def ban(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    return await _change(api, request, "ban")


@routes.route("POST", "/rooms/{room_id}/unban")
async def unban(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    return await _change(api, request, "leave", only_from=("ban",))


async def _change(
    api: ClientApi, request: ApiRequest, membership: str, *, only_from: tuple[str | None, ...] | None = None
) -> dict[str, Any]:
    target = required_user_id(request.body, "user_id")
    reason = optional_string(request.body, "reason")
    room_id, sender = request.params["room_id"], request.requester.user_id

    def unit(tx: Tx) -> None:
        require_joined(tx, sender, room_id)
        change_membership(
            api,
            tx,
            room_id=room_id,
            sender=sender,
            target=target,
            membership=membership,
            reason=reason,
            only_from=only_from,
        )

    await api.database.write(unit)
    return {}


@routes.route("POST", "/rooms/{room_id}/leave")
async def leave(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """Leaves a room, refuses an invite, or gives up a join that no server has answered yet; needs no other server."""
    room_id, user_id = request.params["room_id"], request.requester.user_id
    reason = optional_string(request.body, "reason")

    def unit(tx: Tx) -> None:
        given_up = pending_join(tx, user_id, room_id) is not None
        drop_pending_join(tx, user_id, room_id)
        own = local_membership(tx, user_id, room_id)
        membership = None if own is None else own.membership
        if membership in ("join", "invite", "knock"):
            if membership != "join" and not is_resident(api, tx, room_id):
                api.rooms.decline_invite(tx, user_id=user_id, room_id=room_id, reason=reason)
                return
            change_membership(
                api, tx, room_id=room_id, sender=user_id, target=user_id, membership="leave", reason=reason
            )
        elif membership == "ban":
            raise Forbidden("you are banned from this room")
        elif membership is None and not given_up:
            raise NotFound("you are not in this room")

    await api.database.write(unit)
    return {}


@routes.route("POST", "/rooms/{room_id}/forget")
async def forget(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    room_id, user_id = request.params["room_id"], request.requester.user_id

    def unit(tx: Tx) -> None:
        own = local_membership(tx, user_id, room_id)
        if own is None:
            raise Forbidden("you were never in this room")
        if own.membership not in ("leave", "ban"):
            raise NotLeft("leave the room before you forget it")
        forget_room(tx, user_id, room_id)

    await api.database.write(unit)
    return {}


@routes.route("GET", "/joined_rooms")
async def joined_rooms(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    user_id = request.requester.user_id
    return {"joined_rooms": await api.database.read(lambda tx: joined_rooms_of(tx, user_id))}
