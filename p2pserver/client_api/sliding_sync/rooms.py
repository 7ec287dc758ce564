"""One room in a sliding sync answer. Source: MSC4186, "Room results"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pserver.client_api.client_events import client_event, client_events
from p2pserver.client_api.event_filter import EventFilter
from p2pserver.client_api.room_access import end_of_membership, state_at
from p2pserver.client_api.sliding_sync.connections import MEMBERS_MAX, Members, RoomTold
from p2pserver.client_api.sliding_sync.request import MEMBER, RoomConfig
from p2pserver.client_api.sliding_sync.scope import SlidingScope
from p2pserver.client_api.stream_token import StreamToken
from p2pserver.client_api.sync_rooms import heroes_of, outside_state
from p2pserver.client_api.timeline import Timeline, newest_events
from p2pserver.meg.state import StateSlot, member_slot
from p2pserver.store.memberships import LocalMembership
from p2pserver.store.room_stream import (
    FIRST,
    current_event_id,
    member_counts,
    newest_of_types,
    slots_of_type,
    state_changes,
)

BUMP_TYPES = (
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "m.beacon_info",
)
NAME, AVATAR = ("m.room.name", ""), ("m.room.avatar", "")

_EVERYTHING = EventFilter()


@dataclass(slots=True, kw_only=True)
class RoomResult:
    """What is told of one room; how each part is called is the dialect's business."""

    membership: str
    fields: dict[str, Any] = field(default_factory=dict)
    """What has the same name in both dialects."""
    lists: Sequence[str] = ()
    timeline: list[dict[str, Any]] | None = None
    required_state: list[dict[str, Any]] = field(default_factory=list)
    deleted_state: list[StateSlot] = field(default_factory=list)
    stripped_state: list[dict[str, Any]] | None = None
    expanded_timeline: bool = False
    counts: tuple[int, int] | None = None


def room_result(
    scope: SlidingScope,
    own: LocalMembership,
    config: RoomConfig,
    *,
    told: RoomTold | None,
    known_upto: int | None,
) -> tuple[RoomResult | None, RoomTold]:
    """What is to be told of a room now, None if nothing is, and what its client knows then.

    `told`: what the client knows of it beside the events; `known_upto`: the position up to which it knows the events;
    None, if it knows nothing.
    """
    if own.membership in ("invite", "knock"):
        return _outside(scope, own, config, is_new=known_upto is None or own.position > known_upto)
    end = _end(scope, own)
    if end is None:
        return _never_in(scope, own, config, is_new=known_upto is None or own.position > known_upto)
    if known_upto is None or told is None or _rejoined(scope, own, known_upto):
        return _whole(scope, own, config, end=end)
    return _changes(scope, own, config, told=told, since=known_upto, end=end)


def _end(scope: SlidingScope, own: LocalMembership) -> int | None:
    """Up to where the user sees the room; None, if he never was in it."""
    if own.membership == "join":
        return scope.upto
    ended = end_of_membership(scope.tx, scope.rooms, scope.user_id, own.room_id)
    if ended is None:
        return None
    leave = scope.rooms.stored(scope.tx, own.event_id)
    return max(own.position, leave.position) if leave is not None and not leave.outlier else own.position


def _rejoined(scope: SlidingScope, own: LocalMembership, since: int) -> bool:
    """Whether the user came (again) into the room since then: its client may know it as an invite, or up to a leave."""
    if own.membership != "join" or own.position <= since:
        return False
    slot = member_slot(scope.user_id)
    for change in state_changes(scope.tx, own.room_id, above=since, upto=scope.upto):
        if change.slot == slot:
            before = change.previous_event_id
            event = None if before is None else scope.rooms.stored(scope.tx, before)
            return event is None or event.pdu.content.get("membership") != "join"
    return False


def _outside(
    scope: SlidingScope, own: LocalMembership, config: RoomConfig, *, is_new: bool
) -> tuple[RoomResult | None, RoomTold]:
    told = RoomTold(config, is_dm=own.room_id in scope.dms)
    if not is_new:
        return None, told
    state = outside_state(scope.tx, scope.rooms, scope.user_id, own.room_id, event_id=own.event_id)
    result = RoomResult(membership=own.membership, stripped_state=state)
    result.fields = {"initial": True, "bump_stamp": own.position}
    if told.is_dm:
        result.fields["is_dm"] = True
    return result, told


def _never_in(
    scope: SlidingScope, own: LocalMembership, config: RoomConfig, *, is_new: bool
) -> tuple[RoomResult | None, RoomTold]:
    """An invite or a knock that came to nothing: the member event that says so."""
    told = RoomTold(config, is_dm=own.room_id in scope.dms)
    leave = scope.rooms.stored(scope.tx, own.event_id)
    if not is_new or leave is None:
        return None, told
    event = client_event(leave.pdu, wall_ms=scope.wall_ms)
    result = RoomResult(membership=own.membership, timeline=[event], required_state=[event])
    result.fields = {"bump_stamp": own.position, "num_live": 1}
    return result, told


def _whole(scope: SlidingScope, own: LocalMembership, config: RoomConfig, *, end: int) -> tuple[RoomResult, RoomTold]:
    """Everything, for a client that knows nothing of the room."""
    timeline = _timeline(scope, own.room_id, config, above=FIRST, upto=end)
    state = _matching_state(scope, own, config)
    members = {slot[1]: event_id for slot, event_id in state.items() if slot[0] == MEMBER}
    if config.lazy_members:
        _add_members(scope, own, state, members, _named_in(timeline), known={})
    result = RoomResult(membership=own.membership)
    live = 0 if scope.since is None else sum(event.position > scope.since for event in timeline.events)
    result.fields = {"initial": True, **_timeline_fields(timeline, live)}
    _add_timeline(scope, result, timeline)
    result.required_state = _state_events(scope, state.values())
    names = {slot: _named(scope, own, slot) for slot in (NAME, AVATAR)}
    if names[NAME] is not None:
        result.fields["name"] = names[NAME]
    if names[AVATAR] is not None:
        result.fields["avatar"] = names[AVATAR]
    _add_summary(scope, own, result, has_name=names[NAME] is not None)
    is_dm = own.room_id in scope.dms
    if is_dm:
        result.fields["is_dm"] = True
    result.fields["bump_stamp"] = _bump_stamp(scope, own)
    return result, RoomTold(config, is_dm, _bounded(members))


def _changes(
    scope: SlidingScope, own: LocalMembership, config: RoomConfig, *, told: RoomTold, since: int, end: int
) -> tuple[RoomResult | None, RoomTold]:
    """What is new after `since`, and what the client asks for beyond what it asked for before."""
    room_id = own.room_id
    expanded = config.timeline_limit > told.config.timeline_limit
    timeline = _timeline(scope, room_id, config, above=FIRST if expanded else since, upto=end)
    expanded = expanded and any(event.position <= since for event in timeline.events)
    latest: dict[StateSlot, str | None] = {}
    for change in state_changes(scope.tx, room_id, above=since, upto=end):
        latest[change.slot] = change.event_id
    state = {slot: event_id for slot, event_id in latest.items() if event_id is not None and config.wants(slot)}
    deleted = [slot for slot, event_id in latest.items() if event_id is None and config.wants(slot)]
    if config.rules != told.config.rules:
        matching = _matching_state(scope, own, config)
        state.update({slot: event_id for slot, event_id in matching.items() if not told.config.wants(slot)})
    members = {slot[1]: event_id for slot, event_id in state.items() if slot[0] == MEMBER}
    if config.lazy_members:
        named = _named_in(timeline)
        if not timeline.limited or expanded:
            named = dict.fromkeys((*named, *(key for kind, key in latest if kind == MEMBER)))
        _add_members(scope, own, state, members, named, known=told.members)
    is_dm = room_id in scope.dms
    now_told = RoomTold(config, is_dm, _bounded({**told.members, **members}) if members else told.members)
    result = RoomResult(membership=own.membership, deleted_state=deleted, expanded_timeline=expanded)
    result.required_state = _state_events(scope, state.values())
    if timeline.events or timeline.limited:
        result.fields = _timeline_fields(timeline, sum(event.position > since for event in timeline.events))
        _add_timeline(scope, result, timeline)
        result.fields["bump_stamp"] = _bump_stamp(scope, own)
    for slot, name in ((NAME, "name"), (AVATAR, "avatar")):
        if slot in latest:
            result.fields[name] = _named(scope, own, slot)
    if any(slot[0] == MEMBER for slot in latest) or NAME in latest:
        _add_summary(scope, own, result, has_name=_named(scope, own, NAME) is not None)
    if is_dm != told.is_dm:
        result.fields["is_dm"] = is_dm
    if not (result.fields or result.required_state or deleted):
        return None, now_told
    return result, now_told


def _timeline(scope: SlidingScope, room_id: str, config: RoomConfig, *, above: int, upto: int) -> Timeline:
    return newest_events(
        scope.tx,
        scope.rooms,
        room_id=room_id,
        user_id=scope.user_id,
        above=above,
        upto=upto,
        limit=config.timeline_limit,
        event_filter=_EVERYTHING,
        ignored=scope.ignored,
    )


def _timeline_fields(timeline: Timeline, live: int) -> dict[str, Any]:
    return {"prev_batch": str(StreamToken(timeline.start)), "limited": timeline.limited, "num_live": live}


def _add_timeline(scope: SlidingScope, result: RoomResult, timeline: Timeline) -> None:
    result.timeline = client_events(
        scope.tx,
        scope.rooms,
        timeline.events,
        requester=scope.requester,
        wall_ms=scope.wall_ms,
        aggregate=timeline.limited,
    )


def _matching_state(scope: SlidingScope, own: LocalMembership, config: RoomConfig) -> dict[StateSlot, str]:
    """The state that the client wants, without what lazy loading adds: of the present, or as it was at the leave."""
    if own.membership != "join":
        state = _state_at_leave(scope, own)
        return {slot: event_id for slot, event_id in state.items() if config.wants(slot)}
    found: dict[StateSlot, str] = {}
    for pattern in config.patterns():
        if pattern.type is not None and pattern.state_key is not None:
            slot = (pattern.type, pattern.state_key)
            event_id = current_event_id(scope.tx, own.room_id, slot)
            if event_id is not None:
                found[slot] = event_id
        else:
            found.update(slots_of_type(scope.tx, own.room_id, pattern.type))
    return {slot: event_id for slot, event_id in found.items() if config.wants(slot)}


def _state_at_leave(scope: SlidingScope, own: LocalMembership) -> Mapping[StateSlot, str]:
    state = state_at(scope.tx, scope.rooms, own.room_id, own.position)
    state[member_slot(scope.user_id)] = own.event_id
    return state


def _named_in(timeline: Timeline) -> dict[str, None]:
    """Whose member events a client needs to show the timeline: senders, and whom member events are about."""
    users: dict[str, None] = {}
    for event in timeline.events:
        users[event.pdu.sender] = None
        if event.pdu.type == MEMBER and event.pdu.state_key is not None:
            users[event.pdu.state_key] = None
    return users


def _add_members(
    scope: SlidingScope,
    own: LocalMembership,
    state: dict[StateSlot, str],
    members: dict[str, str],
    users: Mapping[str, None],
    *,
    known: Members,
) -> None:
    """Adds the member events of `users`, without those that the client has been sent."""
    at_leave = None if own.membership == "join" else _state_at_leave(scope, own)
    for user_id in users:
        slot = member_slot(user_id)
        if slot in state:
            continue
        event_id = current_event_id(scope.tx, own.room_id, slot) if at_leave is None else at_leave.get(slot)
        if event_id is not None and known.get(user_id) != event_id:
            state[slot] = members[user_id] = event_id


def _bounded(members: dict[str, str]) -> Members:
    """The newest of what was sent; of more, only that they are sent again."""
    surplus = len(members) - MEMBERS_MAX
    return members if surplus <= 0 else dict(list(members.items())[surplus:])


def _state_events(scope: SlidingScope, event_ids: Any) -> list[dict[str, Any]]:
    events = [event for event_id in event_ids if (event := scope.rooms.stored(scope.tx, event_id)) is not None]
    events.sort(key=lambda event: (event.pdu.type != "m.room.create", event.position))
    return [client_event(event.pdu, wall_ms=scope.wall_ms) for event in events]


def _named(scope: SlidingScope, own: LocalMembership, slot: StateSlot) -> str | None:
    """The room's name or avatar, as far as the user sees it."""
    if own.membership == "join":
        event_id = current_event_id(scope.tx, own.room_id, slot)
    else:
        event_id = _state_at_leave(scope, own).get(slot)
    event = None if event_id is None else scope.rooms.stored(scope.tx, event_id)
    value = None if event is None else event.pdu.content.get("name" if slot == NAME else "url")
    return value if isinstance(value, str) and value else None


def _add_summary(scope: SlidingScope, own: LocalMembership, result: RoomResult, *, has_name: bool) -> None:
    if own.membership != "join":
        return
    counts = member_counts(scope.tx, own.room_id)
    result.fields["joined_count"] = counts.get("join", 0)
    result.fields["invited_count"] = counts.get("invite", 0)
    if not has_name:
        heroes = heroes_of(scope.tx, own.room_id, scope.user_id)
        result.fields["heroes"] = [_hero(scope, own.room_id, user_id) for user_id in heroes]


def _hero(scope: SlidingScope, room_id: str, user_id: str) -> dict[str, str]:
    event_id = current_event_id(scope.tx, room_id, member_slot(user_id))
    event = None if event_id is None else scope.rooms.stored(scope.tx, event_id)
    content = {} if event is None else event.pdu.content
    hero = {"user_id": user_id}
    for key in ("displayname", "avatar_url"):
        if isinstance(content.get(key), str):
            hero[key] = content[key]
    return hero


def _bump_stamp(scope: SlidingScope, own: LocalMembership) -> int:
    """When something was last said; for a room that the user is not in, when that began."""
    if own.membership != "join":
        return own.position
    bumped = newest_of_types(scope.tx, own.room_id, BUMP_TYPES)
    return own.position if bumped is None or bumped < 0 else bumped
