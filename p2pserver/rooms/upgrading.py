"""Upgrading a room: a new room of another version takes its place, in one unit of work.

    old room                                   new room
      │ tombstone ──────── replacement_room ──▶ │ create, with the old room as `predecessor`
      │ aliases, listing ─────────────────────▶ │ settings, power levels, bans; no members but the upgrader
      │ nobody but moderators speaks any more   │

In version 12 the new room's ID is a hash that the predecessor is part of, so there the new room comes first and names
the last event before the tombstone. Source: client-server API, "Room Upgrades"; MSC4289 for creators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from p2pserver.errors import Forbidden
from p2pserver.events.canonical import NotCanonical, check_canonical
from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import RoomVersionRules, rules_of
from p2pserver.meg.power import CREATOR_LEVEL_BEFORE_12, DEFAULTS, as_integers, creators_of
from p2pserver.meg.state import CREATE, POWER_LEVELS, StateSlot
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.sending import append, check_is_local, create_room, new_room_id, room_of
from p2pserver.store import aliases, events, graph_ends, state_groups
from p2pserver.store.tx import Tx

COPIED: Final = (
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
)
"""Settings that the new room takes over, with an empty state key. Source: `POST /rooms/{roomId}/upgrade`."""

CANONICAL_ALIAS: Final[StateSlot] = ("m.room.canonical_alias", "")
MUTED_LEVEL: Final = 50
"""At least what one must have to speak in an upgraded room, or to invite to it."""

State = Mapping[StateSlot, Pdu]


def upgrade_room(
    context: RoomContext,
    tx: Tx,
    *,
    room_id: str,
    user_id: str,
    version: str,
    additional_creators: Sequence[str],
    user_profile: dict[str, Any],
) -> str:
    """The new room's ID. `additional_creators` count in version 12 and later only.

    Raises: UnsupportedRoomVersion; NotFound; Forbidden, if the user may not send a tombstone.
    """
    rules = rules_of(version)
    check_is_local(context, user_id)
    state = _state_of(tx, room_id)
    others = (
        [each for each in dict.fromkeys(additional_creators) if each != user_id] if rules.creators_privileged else []
    )
    levels, banned = copied_levels(state, rules, user_id, others), bans(state)
    first_levels = raised(levels, rules, user_id, [user for (_, user), _ in banned])
    content = creation_content(state[CREATE], others)
    is_hash = rules.room_id_is_create_hash

    new_id = "" if is_hash else new_room_id(context)
    if is_hash:
        content["predecessor"]["event_id"] = graph_ends.extremities(tx, room_id)[0]
    else:
        content["predecessor"]["event_id"] = _bury(context, tx, room_id, user_id, new_id).event_id
    new_id = create_room(
        context,
        tx,
        version=version,
        creator=user_id,
        creation_content=content,
        state=[("m.room.power_levels", "", first_levels), *copied_state(state, rules)],
        creator_profile=user_profile,
        room_id=new_id or None,
    )
    for slot, ban in banned:
        _send(context, tx, new_id, user_id, slot, ban)
    if is_hash:
        _bury(context, tx, room_id, user_id, new_id)
    _move_names(context, tx, room_id, new_id, user_id, state)
    if first_levels != levels:
        _send(context, tx, new_id, user_id, POWER_LEVELS, levels)
    with suppress(Forbidden):
        _mute(context, tx, room_id, user_id, state)
    return new_id


def _state_of(tx: Tx, room_id: str) -> dict[StateSlot, Pdu]:
    """Raises: NotFound."""
    room = room_of(tx, room_id)
    group = room.current_group
    held = {} if group is None else {s: events.pdu(tx, each) for s, each in state_groups.state_map(tx, group).items()}
    state = {slot: event for slot, event in held.items() if event is not None}
    create = events.pdu(tx, room.create_event_id)
    return state if create is None else {**state, CREATE: create}


def _send(context: RoomContext, tx: Tx, room_id: str, user_id: str, slot: StateSlot, content: dict[str, Any]) -> Pdu:
    return append(context, tx, room_id=room_id, sender=user_id, event_type=slot[0], state_key=slot[1], content=content)


def _bury(context: RoomContext, tx: Tx, room_id: str, user_id: str, new_id: str) -> Pdu:
    content = {"body": "This room has been replaced", "replacement_room": new_id}
    return _send(context, tx, room_id, user_id, ("m.room.tombstone", ""), content)


def creation_content(create: Pdu, additional_creators: Sequence[str]) -> dict[str, Any]:
    """What of the old room's create event the new one's takes over."""
    content: dict[str, Any] = {"predecessor": {"room_id": create.room_id}}
    if create.content.get("m.federate") is False:
        content["m.federate"] = False
    if isinstance(create.content.get("type"), str):
        content["type"] = create.content["type"]
    if additional_creators:
        content["additional_creators"] = list(additional_creators)
    return content


def copied_state(state: State, rules: RoomVersionRules) -> list[tuple[str, str, dict[str, Any]]]:
    """The settings, and the rooms of a space; less what the new room's version cannot express."""
    slots: list[StateSlot] = [(event_type, "") for event_type in COPIED]
    slots += sorted(slot for slot in state if slot[0] == "m.space.child" and state[slot].content)
    copied = []
    for slot in slots:
        content = copied_content(state[slot].content, rules) if slot in state else None
        if content is not None:
            copied.append((*slot, join_rule_in(content, rules) if slot[0] == "m.room.join_rules" else content))
    return copied


def copied_content(content: Mapping[str, Any], rules: RoomVersionRules) -> dict[str, Any] | None:
    """The content, or None where it is not JSON by the rules of the new room's version."""
    try:
        check_canonical(dict(content), loose=not rules.strict_json)
    except NotCanonical:
        return None
    return dict(content)


def join_rule_in(content: dict[str, Any], rules: RoomVersionRules) -> dict[str, Any]:
    """The join rule, or the nearest stricter one that the version has."""
    rule = content.get("join_rule")
    if not isinstance(rule, str) or rule in rules.join_rules:
        return content
    if rule == "knock_restricted" and rules.restricted_joins:
        return {**content, "join_rule": "restricted"}
    return {"join_rule": "invite"}


def bans(state: State) -> list[tuple[StateSlot, dict[str, Any]]]:
    banned = []
    for slot in sorted(slot for slot in state if slot[0] == "m.room.member"):
        if state[slot].content.get("membership") == "ban":
            reason = state[slot].content.get("reason")
            banned.append((slot, {"membership": "ban", **({"reason": reason} if isinstance(reason, str) else {})}))
    return banned


def copied_levels(
    state: State, rules: RoomVersionRules, user_id: str, additional_creators: Sequence[str]
) -> dict[str, Any]:
    """The old room's power levels as the new room can have them.

    Creators of a version 12 room are in no list: out of it they come with the highest level that anything needs, into
    it the new ones lose their entries.
    """
    create, event = state[CREATE], state.get(POWER_LEVELS)
    content = {} if event is None else copied_content(as_integers(event.content), rules) or {}
    users = dict(content.get("users", {}))
    if create.rules.creators_privileged or event is None:
        highest = max(CREATOR_LEVEL_BEFORE_12, needed_level(content))
        users.update(dict.fromkeys(sorted(creators_of(create)), highest))
    if rules.creators_privileged:
        for creator in (user_id, *additional_creators):
            users.pop(creator, None)
    return {**content, "users": users}


def needed_level(content: Mapping[str, Any]) -> int:
    """The level at which one may send any state event and ban."""
    levels: list[int] = [content.get(name, DEFAULTS[name]) for name in ("state_default", "ban")]
    levels += content.get("events", {}).values()
    return max(levels)


def raised(levels: dict[str, Any], rules: RoomVersionRules, user_id: str, banned: Sequence[str]) -> dict[str, Any]:
    """The levels with which the upgrader can put everything in its place; he takes his old level back at the end."""
    users, default = levels["users"], levels.get("users_default", 0)
    own = users.get(user_id, default)
    needed = max(needed_level(levels), *(users.get(each, default) + 1 for each in banned), 0)
    if rules.creators_privileged or own >= needed:
        return levels
    return {**levels, "users": {**users, user_id: needed}}


def _move_names(context: RoomContext, tx: Tx, room_id: str, new_id: str, user_id: str, state: State) -> None:
    """Aliases of this node, the canonical alias, and the entry in the list of public rooms."""
    aliases.move_aliases(tx, room_id, new_id)
    if aliases.is_published(tx, room_id):
        aliases.set_published(tx, room_id, False)
        aliases.set_published(tx, new_id, True)
    canonical = state.get(CANONICAL_ALIAS)
    if canonical is None or not canonical.content:
        return
    with suppress(Forbidden):
        _send(context, tx, room_id, user_id, CANONICAL_ALIAS, {})
    content = copied_content(canonical.content, room_of(tx, new_id).rules)
    if content is not None:
        _send(context, tx, new_id, user_id, CANONICAL_ALIAS, content)


def _mute(context: RoomContext, tx: Tx, room_id: str, user_id: str, state: State) -> None:
    """Lets only moderators speak in the old room and invite to it."""
    event = state.get(POWER_LEVELS)
    if event is None:
        return
    content = as_integers(event.content)
    level = max(content.get("users_default", 0) + 1, MUTED_LEVEL)
    changed = {name: level for name in ("events_default", "invite") if content.get(name, DEFAULTS[name]) < level}
    if changed:
        _send(context, tx, room_id, user_id, POWER_LEVELS, {**content, **changed})
