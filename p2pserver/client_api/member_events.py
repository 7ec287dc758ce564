"""Member events of our users: what goes into them, and who is told besides the members.

Source: client-server API, "Room membership"; room version 8, "restricted" (`join_authorised_via_users_server`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from p2pserver.errors import Forbidden, InvalidParam, InviteBlocked
from p2pserver.events.pdu import Pdu
from p2pserver.identifiers import is_user_id, server_of
from p2pserver.rooms.restricted import VOUCHED_BY
from p2pserver.store.accounts import profile_of
from p2pserver.store.outbox import queue_invite
from p2pserver.store.own_rooms import local_members
from p2pserver.store.personal_blocks import blocks_invites
from p2pserver.store.rooms import room
from p2pserver.store.tx import Tx

if TYPE_CHECKING:
    from p2pserver.client_api.app import ClientApi

MEMBERSHIPS = ("join", "invite", "knock", "leave", "ban")


def send_member_event(
    api: ClientApi,
    tx: Tx,
    *,
    room_id: str,
    sender: str,
    target: str,
    content: Mapping[str, Any],
    ts_ms: int | None = None,
) -> Pdu:
    """Sends a member event of a room that this node is in. An invite goes to the invited server as well.

    Raises: InvalidParam, if `target` or the membership is none; Forbidden, InviteBlocked; TooLarge, BadJson.
    """
    if not is_user_id(target):
        raise InvalidParam("the state key of a member event is a user ID")
    membership = content.get("membership")
    if membership not in MEMBERSHIPS:
        raise InvalidParam("membership is none of join, invite, knock, leave, ban")
    require_resident(api, tx, room_id)
    if membership == "invite" and blocks_invites(tx, target):
        raise InviteBlocked(f"{target} does not take invites")
    if target == sender and membership == "join":
        content = _with_authorizing_user(api, tx, room_id, sender, content)
    event = api.rooms.send(
        tx,
        room_id=room_id,
        sender=sender,
        event_type="m.room.member",
        state_key=target,
        content=dict(content),
        ts_ms=ts_ms,
    )
    if membership == "invite" and server_of(target) != api.server_name:
        queue_invite(tx, server_of(target), room_id, api.rooms.invite_payload(tx, event.event_id))
    return event


def require_resident(api: ClientApi, tx: Tx, room_id: str) -> None:
    """Knowing a room is not being in it: only while a local user is joined is our view of it kept up.

    Raises: Forbidden.
    """
    if not is_resident(api, tx, room_id):
        raise Forbidden("you are not in this room")


def is_resident(api: ClientApi, tx: Tx, room_id: str) -> bool:
    """Whether the node is in the room, or nobody else is, so that what it holds is all there is."""
    if local_members(tx, room_id):
        return True
    held = room(tx, room_id)
    return held is not None and held.complete and not api.rooms.member_servers(tx, room_id) - {api.server_name}


def change_membership(
    api: ClientApi,
    tx: Tx,
    *,
    room_id: str,
    sender: str,
    target: str,
    membership: str,
    reason: str | None,
    only_from: tuple[str | None, ...] | None = None,
) -> Pdu:
    """An invite, kick, ban or unban by `sender`.

    `only_from` are the memberships of `target` on which it makes sense: a kick must not lift a ban.

    Raises: Forbidden, also if `target` has another membership.
    """
    require_resident(api, tx, room_id)
    present = api.rooms.membership(tx, room_id, target)
    if only_from is not None and present not in only_from:
        raise Forbidden(f"{target} cannot be given membership {membership} here: it has {present or 'none'}")
    content: dict[str, Any] = {"membership": membership}
    if reason is not None:
        content["reason"] = reason
    if membership == "invite":
        content.update(profile_content(api, tx, target))
    return send_member_event(api, tx, room_id=room_id, sender=sender, target=target, content=content)


def profile_content(api: ClientApi, tx: Tx, user_id: str) -> dict[str, str]:
    """`displayname` and `avatar_url` of a local user; `{}` for others."""
    profile = profile_of(tx, user_id) if server_of(user_id) == api.server_name else None
    return {} if profile is None else profile.to_json()


def _with_authorizing_user(
    api: ClientApi, tx: Tx, room_id: str, user_id: str, content: Mapping[str, Any]
) -> Mapping[str, Any]:
    """For a restricted room that the user was not invited to: names a local member who may invite him.

    Raises: Forbidden, if the user is in none of the rooms that open this one; UnableToGrantJoin, if no local member may
    invite.
    """
    vouching = api.rooms.who_vouches(tx, room_id, user_id)
    others = {key: value for key, value in content.items() if key != VOUCHED_BY}
    return others if vouching is None else {**others, VOUCHED_BY: vouching}
