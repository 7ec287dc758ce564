"""Joining a room of another server in one round trip (two, where somebody has to vouch: `restricted.py`).

    joiner                               resident
      │ "join" room, user, versions  ───▶  │ may the user join? state before the join, its auth chain,
      │ ◀───────────────── offer ────────  │ prev_events, depth
      │ checks every event of it, builds and signs the join event, holds the room partially
      │ join event (outbox) ────────────▶  │ and every other member server

The offer is a claim. The history behind it is asked for by peering, and replaces the claim when it has arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pserver.errors import BadJson, Forbidden, IncompatibleRoomVersion, NotFound, Verdict
from p2pserver.events.build import build_event
from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import PduDropped, check_on_receipt
from p2pserver.events.versions import ROOM_VERSIONS, RoomVersionRules
from p2pserver.identifiers import is_room_id, is_user_id, server_of
from p2pserver.meg.auth import NotAllowed, auth_slots, authorize
from p2pserver.meg.parents import PREV_EVENTS_MAX
from p2pserver.meg.state import StateMap, StateSlot
from p2pserver.rooms.claims import ClaimRefused, auth_chain_of, take_claim
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.graph import place
from p2pserver.rooms.judging import DEPTH_MAX, Ancestors, judge
from p2pserver.rooms.rebuilding import give_up_claims
from p2pserver.rooms.receipt import Intake
from p2pserver.rooms.restricted import VOUCHED_BY, who_vouches
from p2pserver.rooms.sending import (
    append,
    auth_events_for,
    build_on_extremities,
    check_is_local,
    check_is_not_blocked,
    keep_own,
    owe_to,
    parents_for,
    reference_hashes,
    room_of,
    state_after_parents,
)
from p2pserver.rooms.state import StateView
from p2pserver.store import events, graph_ends, memberships, parked, rooms, state_groups
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx
from p2pserver.wire.event_ids import is_canonical_event_id


def room_asked_for(
    context: RoomContext, tx: Tx, *, origin: str, room_id: str, user_id: str, versions: list[str]
) -> RoomRow:
    """The room that another server would bring one of its users into, as a member or to its door.

    Raises: Forbidden, NotFound, IncompatibleRoomVersion.
    """
    if not is_user_id(user_id) or server_of(user_id) != origin:
        raise Forbidden("a server asks for its own users only")
    room = room_of(tx, room_id)
    if not memberships.is_joined(tx, room_id, context.server_name):
        raise NotFound("this server is not in the room")
    if room.rules.version not in versions:
        raise IncompatibleRoomVersion("the room has another version", room_version=room.rules.version)
    return room


def join_offer(
    context: RoomContext, tx: Tx, *, origin: str, room_id: str, user_id: str, versions: list[str]
) -> dict[str, Any]:
    """`vouching` names who lets the user into a restricted room; his server then signs the join event.

    Raises: Forbidden, NotFound, IncompatibleRoomVersion, UnableToAuthoriseJoin, UnableToGrantJoin.
    """
    room = room_asked_for(context, tx, origin=origin, room_id=room_id, user_id=user_id, versions=versions)
    parents = parents_for(context, tx, room_id)
    facts = events.facts(tx, parents)
    state = state_after_parents(tx, room, facts)
    depth = min(DEPTH_MAX, 1 + max(fact.depth for fact in facts.values()))
    vouching = who_vouches(context, tx, room_id, user_id)
    _check_may_join(tx, room, user_id, parents, state, vouching)
    chain = auth_chain_of(tx, sorted(state.values()))
    in_state = set(state.values())
    held = {event_id: events.pdu(tx, event_id) for event_id in {*chain, *in_state, *parents}}
    raws = {event_id: dict(event.raw) for event_id, event in held.items() if event is not None}
    timestamps = [event.origin_server_ts for parent in parents if (event := held[parent]) is not None]
    return {
        "room_id": room_id,
        "room_version": room.rules.version,
        **({} if vouching is None else {"vouching": vouching}),
        "state": [raws[event_id] for event_id in sorted(in_state)],
        "auth_chain": [raws[event_id] for event_id in chain if event_id not in in_state],
        "prev_events": parents,
        "depth": depth,
        "newest_ts": max(timestamps, default=0),
    }


def _check_may_join(
    tx: Tx, room: RoomRow, user_id: str, parents: list[str], before: StateMap, vouching: str | None
) -> None:
    """Raises: Forbidden."""
    content = {"membership": "join"} if vouching is None else {"membership": "join", VOUCHED_BY: vouching}
    join = Pdu(
        event_id="$" + "A" * 43,
        room_id=room.room_id,
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
    try:
        authorize(join, StateView(tx, before))
        if room.current_group is not None:
            authorize(join, StateView(tx, state_groups.state_map(tx, room.current_group)))
    except NotAllowed as error:
        raise Forbidden(error.reason) from None


class _Offer:
    """The fields of an offer. Raises: BadJson, IncompatibleRoomVersion."""

    def __init__(self, offer: Mapping[str, Any]) -> None:
        version, room_id = offer.get("room_version"), offer.get("room_id")
        rules = ROOM_VERSIONS.get(version) if isinstance(version, str) else None
        if rules is None:
            raise IncompatibleRoomVersion("the room has a version that is not known here", room_version=str(version))
        prev_events, depth = offer.get("prev_events"), offer.get("depth")
        state, auth_chain, newest_ts = offer.get("state"), offer.get("auth_chain"), offer.get("newest_ts")
        if not isinstance(room_id, str) or not is_room_id(room_id):
            raise BadJson("the offer has no room ID")
        if (
            not isinstance(prev_events, list)
            or not 1 <= len(prev_events) <= PREV_EVENTS_MAX
            or not all(isinstance(each, str) and is_canonical_event_id(each) for each in prev_events)
        ):
            raise BadJson("the offer has no valid prev_events")
        if not isinstance(state, list) or not isinstance(auth_chain, list):
            raise BadJson("the offer has no state and auth chain")
        if type(depth) is not int or not 1 < depth <= DEPTH_MAX or type(newest_ts) is not int:
            raise BadJson("the offer has no valid depth and time")
        self.rules: RoomVersionRules = rules
        self.room_id: str = room_id
        self.prev_events: list[str] = sorted(set(prev_events))
        self.depth: int = depth
        self.newest_ts: int = newest_ts
        self.state: list[object] = state
        self.auth_chain: list[object] = auth_chain


def draft_join(
    context: RoomContext, tx: Tx, *, user_id: str, offer: Mapping[str, Any], content: dict[str, Any]
) -> tuple[str, Pdu] | None:
    """For a restricted room: the server of the user who vouches, and the join event that it is to sign.

    None, if nobody needs to. Nothing is kept. Raises: BadJson, Forbidden, IncompatibleRoomVersion.
    """
    vouching = offer.get("vouching")
    if vouching is None:
        return None
    if not isinstance(vouching, str) or not is_user_id(vouching):
        raise BadJson("the offer names nobody who could vouch for the join")
    check_is_local(context, user_id)
    parsed = _Offer(offer)
    check_is_not_blocked(tx, parsed.room_id, user_id)
    join_content = {**content, "membership": "join", VOUCHED_BY: vouching}
    if memberships.is_joined(tx, parsed.room_id, context.server_name):
        join = build_on_extremities(
            context,
            tx,
            room=room_of(tx, parsed.room_id),
            sender=user_id,
            event_type="m.room.member",
            state_key=user_id,
            content=join_content,
        )
    else:
        join = _build_on_offer(
            context, tx, parsed, user_id, join_content, _slots_in(context, parsed, user_id, join_content)
        )
    return server_of(vouching), join


def _slots_in(context: RoomContext, offer: _Offer, user_id: str, content: dict[str, Any]) -> StateMap:
    """Of the offered state, what the auth events of the join are chosen from."""
    slots = auth_slots(
        event_type="m.room.member", sender=user_id, state_key=user_id, content=content, rules=offer.rules
    )
    found: dict[StateSlot, str] = {}
    for raw in offer.state:
        slot = (raw.get("type"), raw.get("state_key")) if isinstance(raw, dict) else None
        if slot in slots and isinstance(raw, dict):
            try:
                event = check_on_receipt(raw, offer.rules, context.keys, limit_references=False)
            except PduDropped as drop:
                raise BadJson(f"the offer's state: {drop.reason}") from None
            found[slot] = event.event_id
    return found


def join_with(
    context: RoomContext,
    tx: Tx,
    *,
    user_id: str,
    offer: Mapping[str, Any],
    resident: str,
    content: dict[str, Any],
    signed: Mapping[str, Any] | None = None,
) -> Pdu:
    """Joins a local user by an offer. Whoever asked for it checks that `offer["room_id"]` is the room he meant.

    `signed` is the event of `draft_join` with the signature of the server of who vouches.
    Raises: BadJson, Forbidden, IncompatibleRoomVersion; nothing is kept then, as the unit is undone.
    """
    check_is_local(context, user_id)
    parsed = _Offer(offer)
    check_is_not_blocked(tx, parsed.room_id, user_id)
    join_content = {**content, "membership": "join"}
    room = _held_room(context, tx, parsed)
    vouched = None if signed is None else _signed_join(context, room, signed, user_id)
    is_in = memberships.is_joined(tx, room.room_id, context.server_name)
    if not is_in and parked.has_history_gap(tx, room.room_id):
        give_up_claims(context, tx, room)
        room = room_of(tx, room.room_id)
    held = events.facts(tx, parsed.prev_events)
    missing = [each for each in parsed.prev_events if each not in held or held[each].outlier]
    if not is_in and missing:
        join = _join_over_gap(context, tx, room, parsed, user_id, vouched or join_content, missing, resident)
    elif vouched is not None:
        join = keep_own(context, tx, room, vouched)
    else:
        join = append(
            context,
            tx,
            room_id=room.room_id,
            sender=user_id,
            event_type="m.room.member",
            state_key=user_id,
            content=join_content,
        )
    owe_to(context, tx, room.room_id, join.event_id, {resident, *memberships.joined_servers(tx, room.room_id)})
    Intake(context, tx, room.room_id).settle(missing)
    return join


def _signed_join(context: RoomContext, room: RoomRow, signed: Mapping[str, Any], user_id: str) -> Pdu:
    """Raises: Forbidden, unless it is a join event of the user that all servers concerned have signed."""
    try:
        join = check_on_receipt(signed, room.rules, context.keys)
    except PduDropped as drop:
        raise Forbidden(f"the join that came back: {drop.reason}") from None
    if (
        join.redacted_copy
        or join.room_id != room.room_id
        or join.state_slot != ("m.room.member", user_id)
        or join.sender != user_id
        or join.content.get("membership") != "join"
    ):
        raise Forbidden("what came back is not the join")
    return join


def _held_room(context: RoomContext, tx: Tx, offer: _Offer) -> RoomRow:
    """The room's row; made from the create event in the offer, if the room is not held yet."""
    room = rooms.room(tx, offer.room_id)
    if room is not None:
        if room.rules.version != offer.rules.version:
            raise Forbidden("the offer is for another version of the room")
        return room
    creates = [
        raw
        for raw in offer.state
        if isinstance(raw, dict) and raw.get("type") == "m.room.create" and raw.get("state_key") == ""
    ]
    if len(creates) != 1:
        raise Forbidden("the offer has no create event")
    try:
        create = check_on_receipt(creates[0], offer.rules, context.keys)
    except PduDropped as drop:
        raise Forbidden(f"the offer's create event: {drop.reason}") from None
    if create.room_id != offer.room_id:
        raise Forbidden("the offer's create event is of another room")
    rooms.insert_room(tx, offer.room_id, version=offer.rules.version, create_event_id=create.event_id, complete=False)
    return room_of(tx, offer.room_id)


def _join_over_gap(
    context: RoomContext,
    tx: Tx,
    room: RoomRow,
    offer: _Offer,
    user_id: str,
    vouched: Pdu | dict[str, Any],
    missing: list[str],
    resident: str,
) -> Pdu:
    """`vouched` is the join event, or the content of one that needs nobody to vouch for it."""
    try:
        claim = take_claim(context, tx, room, state=offer.state, auth_chain=offer.auth_chain)
    except ClaimRefused as refusal:
        raise Forbidden(f"the offer: {refusal}") from None
    claimed = state_groups.group_of(
        tx, room.room_id, claim.state, near=[] if room.current_group is None else [room.current_group]
    )
    rooms.start_history_band(tx, room.room_id)
    rooms.set_complete(tx, room.room_id, False)
    for event_id in missing:
        parked.record_gap(
            tx,
            room.room_id,
            event_id,
            claimed_group=claimed,
            claimed_by=resident,
            depth=offer.depth - 1,
            history=True,
            now_ms=context.wall_ms(),
        )
    if isinstance(vouched, Pdu):
        join = vouched
    else:
        join = _build_on_offer(context, tx, offer, user_id, vouched, claim.state)
    ancestors = Ancestors(groups=(claimed,), depth=offer.depth, grounded=False)
    judgement = judge(tx, room, join, ancestors, against_current=False)
    if judgement.verdict is not Verdict.ACCEPTED:
        raise Forbidden((judgement.reason or "the join is not allowed").partition(": ")[2] or "not allowed")
    graph_ends.set_extremities(tx, room.room_id, [])
    place(context, tx, room, join, judgement, history=False)
    return join


def _build_on_offer(
    context: RoomContext, tx: Tx, offer: _Offer, user_id: str, content: dict[str, Any], state: StateMap
) -> Pdu:
    auth_events = auth_events_for(offer.rules, state, user_id, "m.room.member", user_id, content)
    return build_event(
        rules=offer.rules,
        room_id=offer.room_id,
        sender=user_id,
        event_type="m.room.member",
        state_key=user_id,
        content=content,
        prev_events=offer.prev_events,
        auth_events=auth_events,
        depth=offer.depth,
        origin_server_ts=context.clock.stamp(wall_ms=context.wall_ms(), parents_ts=[offer.newest_ts]),
        signer=context.signer,
        reference_hashes=reference_hashes(tx, offer.rules, [*offer.prev_events, *auth_events]),
    )
