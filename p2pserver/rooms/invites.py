"""Invites to rooms that are not held here, and knocks: kept with the room state that came along, never as a room.

Nothing is resolved from what a stranger sends with an invite; each event's own signature is checked, and in version 12
that the create event is the one that the room ID names. Amounts are bounded per server and in total.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from p2pserver.errors import NotFound, Verdict
from p2pserver.events.build import build_event
from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import PduDropped, check_on_receipt, load_pdu
from p2pserver.events.versions import ROOM_VERSIONS, RoomVersionRules, rules_of
from p2pserver.identifiers import server_of
from p2pserver.meg.auth import auth_slots
from p2pserver.meg.power import PowerLevels
from p2pserver.meg.state import CREATE, JOIN_RULES, POWER_LEVELS, StateMap, StateSlot, member_slot
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.judging import DEPTH_MAX
from p2pserver.rooms.reading import STRIPPED_TYPES
from p2pserver.rooms.receipt import Intake
from p2pserver.rooms.sending import room_of
from p2pserver.rooms.server_acl import is_denied
from p2pserver.rooms.values import Receipt
from p2pserver.store import events, memberships, outbox, state_groups
from p2pserver.store.blocked_rooms import blocked_by
from p2pserver.store.events import StoredEvent
from p2pserver.store.memberships import Invite
from p2pserver.store.personal_blocks import blocks_invites
from p2pserver.store.tx import Tx

HOUR_MS = 3_600_000


def invite_payload(tx: Tx, event_id: str) -> dict[str, Any]:
    """What goes with an invite of ours: the event and the room state that somebody outside may know, as PDUs.

    Raises: KeyError.
    """
    found = events.stored(tx, event_id)
    if found is None or found.state_before is None:
        raise KeyError(event_id)
    room = room_of(tx, found.pdu.room_id)
    return {
        "room_version": room.rules.version,
        "event": dict(found.pdu.raw),
        "invite_room_state": outsiders_state(tx, state_groups.state_map(tx, found.state_before), found.pdu.sender),
    }


def outsiders_state(tx: Tx, state: StateMap, *members: str) -> list[dict[str, Any]]:
    """What of a state somebody outside the room may know, as PDUs, with the member events of `members`."""
    slots: list[StateSlot] = [CREATE, JOIN_RULES, POWER_LEVELS, *map(member_slot, members)]
    slots += [(event_type, "") for event_type in STRIPPED_TYPES]
    shown = [events.shown(tx, state[slot]) for slot in dict.fromkeys(slots) if slot in state]
    return [dict(event.raw) for event in shown if event is not None]


def receive_invite(context: RoomContext, tx: Tx, *, origin: str, payload: Mapping[str, Any]) -> Verdict:
    """Takes an invite that a server brought. A `DROPPED` one leaves no trace."""
    version, raws = payload.get("room_version"), payload.get("invite_room_state")
    rules = ROOM_VERSIONS.get(version) if isinstance(version, str) else None
    if rules is None or not isinstance(raws, list) or not _is_small(context, payload):
        return Verdict.DROPPED
    try:
        invite = check_on_receipt(payload.get("event"), rules, context.keys)
    except PduDropped:
        return Verdict.DROPPED
    user_id = invite.state_key
    if invite.type != "m.room.member" or invite.content.get("membership") != "invite" or user_id is None:
        return Verdict.DROPPED
    if not context.is_local(user_id) or not context.user_exists(tx, user_id) or blocks_invites(tx, user_id):
        return Verdict.DROPPED
    if blocked_by(tx, invite.room_id) is not None:
        return Verdict.DROPPED
    if memberships.is_joined(tx, invite.room_id, context.server_name):
        if is_denied(tx, invite.room_id, origin):
            return Verdict.DROPPED
        receipt = Intake(context, tx, invite.room_id).take_all([payload["event"]], origin, backfill=False).results[0]
        return receipt.verdict or Verdict.ACCEPTED
    state = genuine_state(context, rules, invite.room_id, raws)
    if CREATE not in state:
        return Verdict.DROPPED
    known = memberships.invite(tx, user_id, invite.room_id)
    if known is not None and load_pdu(known.raw, rules_of(known.version)).event_id == invite.event_id:
        return Verdict.ACCEPTED
    if memberships.has_ended(tx, user_id, invite.room_id, invite):
        return Verdict.DROPPED
    if events.facts(tx, [invite.event_id]) or not _make_room(context, tx, origin):
        return Verdict.DROPPED
    memberships.keep_invite(
        tx, invite, user_id=user_id, room_state=list(state.values()), via=origin, now_ms=context.wall_ms()
    )
    memberships.set_local_membership(
        tx,
        user_id,
        invite.room_id,
        membership="invite",
        event_id=invite.event_id,
        sender=invite.sender,
        position=tx.next_position(),
    )
    return Verdict.ACCEPTED


def decline_invite(context: RoomContext, tx: Tx, *, user_id: str, room_id: str, reason: str | None = None) -> None:
    """Refuses an invite or takes a knock back at once, asking nobody; the server concerned is told when it can be.

    Raises: NotFound.
    """
    held = memberships.invite(tx, user_id, room_id)
    if held is None:
        raise NotFound("there is no such invite")
    rules = rules_of(held.version)
    invite = load_pdu(held.raw, rules)
    state = {event.state_slot: event for event in (load_pdu(raw, rules) for raw in held.room_state)}
    state[member_slot(user_id)] = invite
    content = {"membership": "leave"} if reason is None else {"membership": "leave", "reason": reason}
    slots = auth_slots(event_type="m.room.member", sender=user_id, state_key=user_id, content=content, rules=rules)
    leave = build_event(
        rules=rules,
        room_id=room_id,
        sender=user_id,
        event_type="m.room.member",
        state_key=user_id,
        content=content,
        prev_events=[invite.event_id],
        auth_events=[state[slot].event_id for slot in slots if slot in state],
        depth=min(DEPTH_MAX, invite.depth + 1),
        origin_server_ts=context.clock.stamp(wall_ms=context.wall_ms(), parents_ts=[invite.origin_server_ts]),
        signer=context.signer,
    )
    _end(tx, held, leave)
    for server in sorted({server_of(held.inviter), held.via} - {context.server_name}):
        outbox.queue_pdu(tx, server, room_id, leave.event_id, raw=leave.raw)


def take_back(context: RoomContext, tx: Tx, room_id: str, raws: Sequence[object]) -> list[Receipt]:
    """All that PDUs can mean for somebody outside a room: the inviter takes the invite back, or a knock is refused."""
    open_invites = {each.user_id: each for each in memberships.invites_to(tx, room_id)}
    return [_take_back(context, tx, room_id, raw, open_invites) for raw in raws]


def _take_back(context: RoomContext, tx: Tx, room_id: str, raw: object, open_invites: Mapping[str, Invite]) -> Receipt:
    unknown = Receipt(event_id=None, verdict=Verdict.DROPPED, reason="the room is not known here")
    user_id = raw.get("state_key") if isinstance(raw, dict) else None
    held = open_invites.get(user_id) if isinstance(user_id, str) else None
    if held is None:
        return unknown
    try:
        event = check_on_receipt(raw, rules_of(held.version), context.keys)
    except PduDropped as drop:
        return Receipt(event_id=None, verdict=Verdict.DROPPED, reason=drop.reason)
    ends_it = event.type == "m.room.member" and event.content.get("membership") in ("leave", "ban")
    if event.room_id != room_id or not ends_it or not _may_end(held, event):
        return unknown
    _end(tx, held, event)
    return Receipt(event_id=event.event_id, verdict=Verdict.ACCEPTED, new=True)


def _may_end(held: Invite, event: Pdu) -> bool:
    """Of an invite: whoever is of the inviter's server. Of a knock: who may kick, by the state that came with it."""
    if held.membership == "invite":
        return event.server == server_of(held.inviter)
    rules = rules_of(held.version)
    state = {known.state_slot: known for known in (load_pdu(raw, rules) for raw in held.room_state)}
    levels = PowerLevels.of(state.get(CREATE), state.get(POWER_LEVELS))
    return levels.of_user(event.sender) >= levels.kick


def stored_end(tx: Tx, event_id: str) -> StoredEvent | None:
    """What ended an invite to a room that is not held, in the form in which held events are read."""
    found = memberships.ended_by(tx, event_id)
    if found is None:
        return None
    return StoredEvent(
        pdu=found,
        position=0,
        depth=0,
        verdict=Verdict.ACCEPTED,
        reason=None,
        outlier=True,
        grounded=False,
        redacted_by=None,
        state_before=None,
        state_after=None,
    )


def _end(tx: Tx, invite: Invite, leave: Pdu) -> None:
    memberships.end_invite(tx, invite.user_id, invite.room_id, leave)
    memberships.set_local_membership(
        tx,
        invite.user_id,
        invite.room_id,
        membership=str(leave.content.get("membership")),
        event_id=leave.event_id,
        sender=leave.sender,
        position=tx.next_position(),
    )


def _is_small(context: RoomContext, payload: Mapping[str, Any]) -> bool:
    try:
        return len(json.dumps(payload.get("invite_room_state"))) <= context.limits.invite_octets
    except (TypeError, ValueError, RecursionError):
        return False


def genuine_state(
    context: RoomContext, rules: RoomVersionRules, room_id: str, raws: Sequence[object]
) -> dict[StateSlot, Pdu]:
    """Those of the PDUs that are genuine and of this room, one for each slot."""
    state: dict[StateSlot, Pdu] = {}
    for raw in raws:
        try:
            event = check_on_receipt(raw, rules, context.keys)
        except PduDropped:
            continue
        if event.room_id == room_id and event.state_slot is not None:
            state.setdefault(event.state_slot, event)
    return state


def _make_room(context: RoomContext, tx: Tx, origin: str) -> bool:
    """Whether one more invite from this server may be kept.

    At the limit for all servers the oldest of the busiest one gives way without a trace, since traces would add up.
    """
    limits = context.limits
    since = context.wall_ms() - HOUR_MS
    if memberships.invites_held(tx, via=origin, since_ms=since) >= limits.invites_per_origin_per_hour:
        return False
    if memberships.invites_held(tx) >= limits.invites_held:
        memberships.evict_invite(tx)
    return True
