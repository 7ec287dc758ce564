"""Events of this node's own users: built on the forward extremities, authorized, kept and owed in one unit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from p2pserver.errors import Forbidden, InvalidParam, NotFound, Verdict
from p2pserver.events.build import build_event
from p2pserver.events.hashing import reference_hash
from p2pserver.events.pdu import Pdu
from p2pserver.events.unpadded_base64 import encode_base64
from p2pserver.events.versions import EventIds, RoomVersionRules, rules_of
from p2pserver.identifiers import server_of
from p2pserver.meg.auth import auth_slots
from p2pserver.meg.parents import PREV_EVENTS_MAX, choose_parents
from p2pserver.meg.state import StateMap
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.graph import place
from p2pserver.rooms.judging import DEPTH_MAX, Ancestors, ancestors_of, judge
from p2pserver.rooms.state import power_levels_in, resolved_map
from p2pserver.store import events, graph_ends, memberships, outbox, parked, peers, rooms, state_groups
from p2pserver.store.blocked_rooms import blocked_by
from p2pserver.store.events import EventFacts
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx

ROOM_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def create_room(
    context: RoomContext,
    tx: Tx,
    *,
    version: str,
    creator: str,
    creation_content: dict[str, Any],
    state: Sequence[tuple[str, str, dict[str, Any]]],
    creator_profile: dict[str, Any],
    room_id: str | None = None,
) -> str:
    """`room_id` is that of `new_room_id`, where it had to be known before; in version 12 the create event gives it.

    Raises: UnsupportedRoomVersion, Forbidden, BadJson, TooLarge.
    """
    rules = rules_of(version)
    check_is_local(context, creator)
    content = {**creation_content, "room_version": version}
    content.pop("creator", None)
    if rules.creator_in_content:
        content["creator"] = creator
    create = build_event(
        rules=rules,
        room_id=None if rules.room_id_is_create_hash else room_id or new_room_id(context),
        sender=creator,
        event_type="m.room.create",
        state_key="",
        content=content,
        prev_events=[],
        auth_events=[],
        depth=1,
        origin_server_ts=context.clock.stamp(wall_ms=context.wall_ms(), parents_ts=[]),
        signer=context.signer,
    )
    found_room(context, tx, create)
    profile = {key: value for key, value in creator_profile.items() if value is not None}
    join = {**profile, "membership": "join"}
    for event_type, state_key, each in [("m.room.member", creator, join), *state]:
        append(
            context,
            tx,
            room_id=create.room_id,
            sender=creator,
            event_type=event_type,
            state_key=state_key,
            content=each,
        )
    return create.room_id


def found_room(context: RoomContext, tx: Tx, create: Pdu) -> None:
    """Holds a room of which nothing but the create event exists.

    Raises: Forbidden, if the auth rules refuse the create event.
    """
    rooms.insert_room(tx, create.room_id, version=create.rules.version, create_event_id=create.event_id, complete=True)
    room = room_of(tx, create.room_id)
    judgement = judge(tx, room, create, Ancestors(), against_current=False)
    if judgement.verdict is not Verdict.ACCEPTED:
        raise Forbidden(judgement.reason or "the room cannot be created")
    place(context, tx, room, create, judgement, history=False)


def send_event(
    context: RoomContext,
    tx: Tx,
    *,
    room_id: str,
    sender: str,
    event_type: str,
    content: dict[str, Any],
    state_key: str | None,
    redacts: str | None,
    ts_ms: int | None = None,
) -> Pdu:
    """Raises: NotFound (room), Forbidden, InvalidParam, BadJson, TooLarge."""
    check_is_local(context, sender)
    room = room_of(tx, room_id)
    if state_key is not None:
        if event_type == "m.room.member" and content.get("membership") in ("join", "invite", "knock"):
            check_is_not_blocked(tx, room_id, state_key)
        same = identical_state(tx, room, sender, event_type, state_key, content)
        if same is not None:
            return same
    if event_type == "m.room.redaction":
        redacts, content = redaction_target(room.rules, content, redacts)
        check_may_redact(tx, room, sender, redacts)
    return append(
        context,
        tx,
        room_id=room_id,
        sender=sender,
        event_type=event_type,
        state_key=state_key,
        content=content,
        redacts=redacts,
        ts_ms=ts_ms,
    )


def append(
    context: RoomContext,
    tx: Tx,
    *,
    room_id: str,
    sender: str,
    event_type: str,
    state_key: str | None,
    content: dict[str, Any],
    redacts: str | None = None,
    ts_ms: int | None = None,
) -> Pdu:
    """Builds an event on the forward extremities, judges it as everybody will, keeps it and owes it to the others."""
    room = room_of(tx, room_id)
    event = build_on_extremities(
        context,
        tx,
        room=room,
        sender=sender,
        event_type=event_type,
        state_key=state_key,
        content=content,
        redacts=redacts,
        ts_ms=ts_ms,
    )
    return keep_own(context, tx, room, event, just_built=True)


def build_on_extremities(
    context: RoomContext,
    tx: Tx,
    *,
    room: RoomRow,
    sender: str,
    event_type: str,
    state_key: str | None,
    content: dict[str, Any],
    redacts: str | None = None,
    ts_ms: int | None = None,
) -> Pdu:
    """The event that `append` would keep."""
    parents = parents_for(context, tx, room.room_id)
    facts = events.facts(tx, parents)
    before = state_after_parents(tx, room, facts)
    timestamps = [found.origin_server_ts for found in (events.pdu(tx, each) for each in parents) if found is not None]
    auth_events = auth_events_for(room.rules, before, sender, event_type, state_key, content)
    if ts_ms is None:
        ts_ms = context.clock.stamp(wall_ms=context.wall_ms(), parents_ts=timestamps)
    return build_event(
        rules=room.rules,
        room_id=room.room_id,
        sender=sender,
        event_type=event_type,
        state_key=state_key,
        content=content,
        prev_events=parents,
        auth_events=auth_events,
        depth=min(DEPTH_MAX, 1 + max(fact.depth for fact in facts.values())),
        origin_server_ts=ts_ms,
        signer=context.signer,
        redacts=redacts,
        reference_hashes=reference_hashes(tx, room.rules, [*parents, *auth_events]),
    )


def keep_own(context: RoomContext, tx: Tx, room: RoomRow, event: Pdu, *, just_built: bool = False) -> Pdu:
    """Judges and places an event of ours and owes it to every other member server. `just_built`: see `place`.

    Raises: Forbidden, if it would be rejected, or soft-failed by others who know what we know.
    """
    ancestors = ancestors_of(tx, event, parked.gaps(tx, room.room_id))
    judgement = judge(tx, room, event, ancestors, against_current=True)
    if judgement.verdict is not Verdict.ACCEPTED:
        raise Forbidden((judgement.reason or "the room does not allow it").partition(": ")[2] or "not allowed")
    told = memberships.joined_servers(tx, room.room_id)
    place(context, tx, room, event, judgement, history=False, just_built=just_built)
    if event.is_state:
        told |= memberships.joined_servers(tx, room.room_id)
    if event.type == "m.room.member" and event.content.get("membership") != "invite":
        told.add(server_of(event.state_key or event.sender))
    owe_to(context, tx, room.room_id, event.event_id, told)
    return event


def owe_to(context: RoomContext, tx: Tx, room_id: str, event_id: str, servers: Collection[str]) -> None:
    """Owes an event of ours to other servers.

    In a room of very many servers only to those that were met: a key costs nothing, so a crowd that joins and never
    comes must not multiply what is kept here. Whoever is met for the first time compares the room first, and so misses
    nothing.
    """
    others = set(servers) - {context.server_name}
    if len(others) > context.limits.owed_unmet_max:
        others = peers.met_among(tx, others)
    for server in sorted(others):
        outbox.queue_pdu(tx, server, room_id, event_id)


def room_of(tx: Tx, room_id: str) -> RoomRow:
    """Raises: NotFound."""
    room = rooms.room(tx, room_id)
    if room is None:
        raise NotFound("this room is not known here")
    return room


def check_is_not_blocked(tx: Tx, room_id: str, user_id: str) -> None:
    """Raises: Forbidden, if an operator of this node blocked the room; who is in it may stay."""
    if blocked_by(tx, room_id) is not None and memberships.current_membership(tx, room_id, user_id) != "join":
        raise Forbidden("this room is blocked on this node")


def check_is_local(context: RoomContext, user_id: str) -> None:
    if not context.is_local(user_id):
        raise Forbidden(f"{user_id} is not a user of this server")


def new_room_id(context: RoomContext) -> str:
    """A room ID of versions before 12: opaque, with our name."""
    letters = "".join(context.rng.choice(ROOM_ID_LETTERS) for _ in range(18))
    return f"!{letters}:{context.server_name}"


def parents_for(context: RoomContext, tx: Tx, room_id: str, *, most: int = PREV_EVENTS_MAX) -> list[str]:
    """What the next event of this node cites: at most `most` of the forward extremities."""
    extremities = graph_ends.extremities(tx, room_id)
    own_last = None
    if len(extremities) > most:
        own_last = events.newest_of_server(tx, extremities, context.server_name)
    return choose_parents(extremities, own_last=own_last, rng=context.rng, most=most)


def state_after_parents(tx: Tx, room: RoomRow, parents: Mapping[str, EventFacts]) -> StateMap:
    """The resolution of the states after some of the forward extremities; the current state, if these are all."""
    if room.current_group is not None and len(parents) == len(graph_ends.extremities(tx, room.room_id)):
        return state_groups.state_map(tx, room.current_group)
    groups = [fact.state_after for fact in parents.values() if fact.state_after is not None]
    return resolved_map(tx, room.room_id, room.rules, groups)


def auth_events_for(
    rules: RoomVersionRules,
    state: StateMap,
    sender: str,
    event_type: str,
    state_key: str | None,
    content: dict[str, Any],
) -> list[str]:
    slots = auth_slots(event_type=event_type, sender=sender, state_key=state_key, content=content, rules=rules)
    return [state[slot] for slot in slots if slot in state]


def reference_hashes(tx: Tx, rules: RoomVersionRules, event_ids: Sequence[str]) -> dict[str, str]:
    """What room versions 1 and 2 put beside the IDs of cited events, of those that are held."""
    if rules.event_ids is not EventIds.CHOSEN:
        return {}
    held = {event_id: events.pdu(tx, event_id) for event_id in event_ids}
    return {
        event_id: encode_base64(reference_hash(event.raw, rules))
        for event_id, event in held.items()
        if event is not None
    }


def identical_state(
    tx: Tx, room: RoomRow, sender: str, event_type: str, state_key: str, content: dict[str, Any]
) -> Pdu | None:
    """The current state event that says the same already, by the same sender."""
    if room.current_group is None:
        return None
    event_id = state_groups.state_map(tx, room.current_group).get((event_type, state_key))
    event = None if event_id is None else events.pdu(tx, event_id)
    if event is None or event.sender != sender or dict(event.content) != content:
        return None
    return event


def redaction_target(
    rules: RoomVersionRules, content: dict[str, Any], redacts: str | None
) -> tuple[str, dict[str, Any]]:
    """The target, and the content without it: `build_event` puts it where the room version keeps it."""
    target = redacts if redacts is not None else content.get("redacts")
    if not isinstance(target, str):
        raise InvalidParam("a redaction names the event that it redacts")
    return target, {key: value for key, value in content.items() if key != "redacts"}


def check_may_redact(tx: Tx, room: RoomRow, sender: str, target_id: str) -> None:
    """Raises: NotFound, Forbidden."""
    target = events.pdu(tx, target_id)
    if target is None or target.room_id != room.room_id:
        raise NotFound("the event to redact is not known here")
    if target.sender == sender or room.current_group is None:
        return
    if not power_levels_in(tx, room, state_groups.state_map(tx, room.current_group)).may_redact(sender):
        raise Forbidden(f"{sender} may not redact events of others")
