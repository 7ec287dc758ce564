"""Restricted rooms: a member of a room that opens this one is let in by a member who may invite, and his server signs.

    joiner                      resident                    server of the member who vouches
      │ "join" ───────────────▶  │ in a room that opens it?
      │ ◀── offer, vouching ───  │
      │ join event, signed ─────────────────────────────────▶ │ the same question again
      │ ◀──────────────────────────── the event with its signature

Source: room version 8, "Authorization rules"; server-server API, "Restricted rooms"; MSC3083.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pserver.errors import BadJson, Forbidden, UnableToAuthoriseJoin, UnableToGrantJoin
from p2pserver.events.canonical import NotCanonical
from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import PduDropped, check_on_receipt
from p2pserver.events.signing import sign_event
from p2pserver.identifiers import is_room_id, server_of
from p2pserver.rooms import reading
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.sending import room_of
from p2pserver.store import memberships
from p2pserver.store.own_rooms import local_members
from p2pserver.store.tx import Tx

VOUCHED_BY = "join_authorised_via_users_server"


def opening_rooms(join_rules: Mapping[str, Any]) -> list[str]:
    """The rooms whose members may join, by the content of an `m.room.join_rules` event; none, if not restricted."""
    allow = join_rules.get("allow")
    if join_rules.get("join_rule") not in ("restricted", "knock_restricted") or not isinstance(allow, list):
        return []
    named = [
        entry.get("room_id")
        for entry in allow
        if isinstance(entry, Mapping) and entry.get("type") == "m.room_membership"
    ]
    return list(dict.fromkeys(room_id for room_id in named if isinstance(room_id, str) and is_room_id(room_id)))


def who_vouches(context: RoomContext, tx: Tx, room_id: str, user_id: str) -> str | None:
    """The user of this server who lets somebody into a room; None, if the user needs nobody to.

    Raises: Forbidden, if he is in none of the rooms that open this one; UnableToAuthoriseJoin, if this server is not in
    all of these and so cannot tell; UnableToGrantJoin, if no user of this server may invite.
    """
    rules = reading.current_event(tx, room_id, "m.room.join_rules", "")
    if rules is None or rules.content.get("join_rule") not in ("restricted", "knock_restricted"):
        return None
    if memberships.current_membership(tx, room_id, user_id) in ("join", "invite"):
        return None
    opening = opening_rooms(rules.content)
    seen = [each for each in opening if memberships.is_joined(tx, each, context.server_name)]
    if not any(memberships.current_membership(tx, each, user_id) == "join" for each in seen):
        if len(seen) < len(opening) and not context.is_local(user_id):
            raise UnableToAuthoriseJoin("this server is not in all of the rooms whose members may join this one")
        raise Forbidden("you are in none of the rooms whose members may join this one")
    levels = reading.power_levels(tx, room_id)
    for member in local_members(tx, room_id):
        if levels.of_user(member) >= levels.invite:
            return member
    raise UnableToGrantJoin("no member on this server may invite to the room")


def sign_join(context: RoomContext, tx: Tx, *, origin: str, room_id: str, raw: object) -> dict[str, Any]:
    """A join event of another server's user, with the signature of this one, whose user vouches for him.

    Raises: BadJson, if it is no such event; Forbidden, NotFound, UnableToAuthoriseJoin, UnableToGrantJoin.
    """
    room = room_of(tx, room_id)
    try:
        signed = sign_event(raw, room.rules, context.signer) if isinstance(raw, dict) else raw
        join = check_on_receipt(signed, room.rules, context.keys)
    except (PduDropped, NotCanonical, TypeError, KeyError) as error:
        raise BadJson(f"the event is not valid: {error}") from None
    if not _is_join_of(join, room_id, origin) or not isinstance(signed, dict):
        raise BadJson("the event is not a join of a user of yours")
    vouching = join.content.get(VOUCHED_BY)
    if not isinstance(vouching, str) or not context.is_local(vouching):
        raise BadJson("nobody of this server vouches for the join")
    if who_vouches(context, tx, room_id, join.sender) is None:
        raise Forbidden("the join needs nobody to vouch for it")
    levels = reading.power_levels(tx, room_id)
    if memberships.current_membership(tx, room_id, vouching) != "join" or levels.of_user(vouching) < levels.invite:
        raise UnableToGrantJoin(f"{vouching} may not invite to the room")
    return {"event": signed}


def _is_join_of(event: Pdu, room_id: str, origin: str) -> bool:
    return (
        event.type == "m.room.member"
        and event.room_id == room_id
        and event.content.get("membership") == "join"
        and event.state_key == event.sender
        and server_of(event.sender) == origin
        and not event.redacted_copy
    )
