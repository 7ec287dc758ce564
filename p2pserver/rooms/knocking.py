"""Knocking on the door of a room that is not held here: two questions to a server that is in it.

    knocker                               resident
      │ "make_knock" room, user, versions ──▶ │ may the user knock? prev_events, auth_events, depth
      │ ◀──────────────────── template ────── │
      │ knock event, signed; "send_knock" ──▶ │ judged, kept, owed to every member server
      │ ◀────────────── knock_room_state ──── │
      │ keeps both; no room is made

An invite answers a knock, a kick or a ban refuses it, the knocker's own leave takes it back (`invites.py`).
Source: client-server API, "Knocking on rooms"; server-server API, "Knocking upon a room".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pserver.errors import BadJson, Forbidden, IncompatibleRoomVersion, NotFound, Verdict
from p2pserver.events.build import build_event
from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import load_pdu
from p2pserver.events.versions import ROOM_VERSIONS, RoomVersionRules, rules_of
from p2pserver.identifiers import is_user_id, server_of
from p2pserver.meg.auth import NotAllowed, authorize
from p2pserver.meg.parents import PREV_EVENTS_MAX
from p2pserver.meg.state import CREATE
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.invites import genuine_state, outsiders_state
from p2pserver.rooms.joining import room_asked_for
from p2pserver.rooms.judging import DEPTH_MAX
from p2pserver.rooms.receipt import Intake
from p2pserver.rooms.sending import auth_events_for, check_is_local, owe_to, parents_for, room_of, state_after_parents
from p2pserver.rooms.state import StateView
from p2pserver.store import events, graph_ends, memberships
from p2pserver.store.tx import Tx
from p2pserver.wire.event_ids import is_canonical_event_id

AUTH_EVENTS_MAX = 10
STATE_PDUS_MAX = 100


def knock_template(
    context: RoomContext, tx: Tx, *, origin: str, room_id: str, user_id: str, versions: list[str]
) -> dict[str, Any]:
    """What a server needs to know to make a knock event for one of its users.

    Raises: Forbidden, NotFound, IncompatibleRoomVersion.
    """
    room = room_asked_for(context, tx, origin=origin, room_id=room_id, user_id=user_id, versions=versions)
    parents = parents_for(context, tx, room_id)
    facts = events.facts(tx, parents)
    state = state_after_parents(tx, room, facts)
    content = {"membership": "knock"}
    knock = Pdu(
        event_id="$" + "A" * 43,
        room_id=room_id,
        rules=room.rules,
        raw={},
        type="m.room.member",
        sender=user_id,
        state_key=user_id,
        content=content,
        depth=0,
        origin_server_ts=0,
        prev_events=tuple(parents),
        auth_events=(),
    )
    if not room.rules.knocking:
        raise Forbidden("nobody can knock in this version of rooms")
    try:
        authorize(knock, StateView(tx, state))
    except NotAllowed as error:
        raise Forbidden(error.reason) from None
    timestamps = [found.origin_server_ts for each in parents if (found := events.pdu(tx, each)) is not None]
    return {
        "room_version": room.rules.version,
        "event": {
            "prev_events": parents,
            "auth_events": auth_events_for(room.rules, state, user_id, "m.room.member", user_id, content),
            "depth": min(DEPTH_MAX, 1 + max(fact.depth for fact in facts.values())),
            "origin_server_ts": max(timestamps, default=0),
        },
    }


def make_knock(
    context: RoomContext, template: Mapping[str, Any], *, room_id: str, user_id: str, content: dict[str, Any]
) -> Pdu:
    """The knock of a local user by the template of a resident server.

    Raises: BadJson, Forbidden, IncompatibleRoomVersion.
    """
    check_is_local(context, user_id)
    rules = _rules_in(template)
    event = template.get("event")
    if not isinstance(event, Mapping):
        raise BadJson("the answer has no event")
    depth, parents_ts = event.get("depth"), event.get("origin_server_ts")
    if type(depth) is not int or not 0 < depth <= DEPTH_MAX or type(parents_ts) is not int:
        raise BadJson("the answer has no valid depth and time")
    return build_event(
        rules=rules,
        room_id=room_id,
        sender=user_id,
        event_type="m.room.member",
        state_key=user_id,
        content={**content, "membership": "knock"},
        prev_events=_event_ids(event.get("prev_events"), PREV_EVENTS_MAX),
        auth_events=_event_ids(event.get("auth_events"), AUTH_EVENTS_MAX),
        depth=depth,
        origin_server_ts=context.clock.stamp(wall_ms=context.wall_ms(), parents_ts=[parents_ts]),
        signer=context.signer,
    )


def take_knock(context: RoomContext, tx: Tx, *, origin: str, room_id: str, raw: object) -> dict[str, Any]:
    """Takes a knock that its own server brings, and passes it on to the other member servers.

    Raises: BadJson, Forbidden, NotFound.
    """
    room_of(tx, room_id)
    if not memberships.is_joined(tx, room_id, context.server_name):
        raise NotFound("this server is not in the room")
    sender = raw.get("sender") if isinstance(raw, dict) else None
    content = raw.get("content") if isinstance(raw, dict) else None
    if (
        not isinstance(raw, dict)
        or not isinstance(sender, str)
        or not is_user_id(sender)
        or server_of(sender) != origin
    ):
        raise BadJson("the event is not of a user of yours")
    if raw.get("type") != "m.room.member" or not isinstance(content, dict) or content.get("membership") != "knock":
        raise BadJson("the event is not a knock")
    receipt = Intake(context, tx, room_id).take_all([raw], origin, backfill=False).results[0]
    if receipt.verdict is not Verdict.ACCEPTED or receipt.event_id is None:
        raise Forbidden(receipt.reason or "the room does not let you knock")
    owe_to(context, tx, room_id, receipt.event_id, memberships.joined_servers(tx, room_id) - {origin})
    found = events.stored(tx, receipt.event_id)
    if found is None or found.state_before is None:
        raise Forbidden("the knock has no place in the room")
    state = state_after_parents(tx, room_of(tx, room_id), events.facts(tx, graph_ends.extremities(tx, room_id)))
    return {"knock_room_state": outsiders_state(tx, state)}


def keep_knock(
    context: RoomContext, tx: Tx, *, knock: Mapping[str, Any], version: str, answer: Mapping[str, Any], via: str
) -> None:
    """Notes that a local user has knocked, with what the resident server shows of the room.

    Raises: BadJson, if that does not hold the room's create event.
    """
    rules = rules_of(version)
    event = load_pdu(knock, rules)
    shown = answer.get("knock_room_state")
    raws = shown[:STATE_PDUS_MAX] if isinstance(shown, list) else []
    state = genuine_state(context, rules, event.room_id, raws)
    if CREATE not in state:
        raise BadJson("the answer does not show the room's create event")
    if memberships.current_membership(tx, event.room_id, event.sender) in ("join", "invite"):
        return
    memberships.keep_invite(
        tx, event, user_id=event.sender, room_state=list(state.values()), via=via, now_ms=context.wall_ms()
    )
    memberships.set_local_membership(
        tx,
        event.sender,
        event.room_id,
        membership="knock",
        event_id=event.event_id,
        sender=event.sender,
        position=tx.next_position(),
    )


def _rules_in(template: Mapping[str, Any]) -> RoomVersionRules:
    version = template.get("room_version")
    rules = ROOM_VERSIONS.get(version) if isinstance(version, str) else None
    if rules is None or not rules.knocking:
        raise IncompatibleRoomVersion("the room has a version in which we cannot knock", room_version=str(version))
    return rules


def _event_ids(value: object, most: int) -> list[str]:
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        raise BadJson("the answer has no valid list of events")
    if not all(isinstance(each, str) and is_canonical_event_id(each) for each in value):
        raise BadJson("the answer names what is no event")
    return list(dict.fromkeys(value))
