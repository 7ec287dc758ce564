"""What clients are told of a room's state."""

from __future__ import annotations

from typing import Any

from p2pserver.events.pdu import Pdu
from p2pserver.meg.power import PowerLevels
from p2pserver.meg.state import StateSlot
from p2pserver.rooms.sending import room_of
from p2pserver.rooms.state import power_levels_in
from p2pserver.store import events, rooms, state_groups
from p2pserver.store.tx import Tx

STRIPPED_TYPES = (
    "m.room.create",
    "m.room.join_rules",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.canonical_alias",
    "m.room.encryption",
)
"""The state that somebody outside the room is shown with an invite. Source: "Stripped state"."""


def current_state(tx: Tx, room_id: str) -> dict[StateSlot, str]:
    """Raises: NotFound."""
    room = room_of(tx, room_id)
    return {} if room.current_group is None else dict(state_groups.state_map(tx, room.current_group))


def current_event(tx: Tx, room_id: str, event_type: str, state_key: str) -> Pdu | None:
    room = rooms.room(tx, room_id)
    if room is None or room.current_group is None:
        return None
    event_id = state_groups.state_map(tx, room.current_group).get((event_type, state_key))
    return None if event_id is None else events.shown(tx, event_id)


def state_before(tx: Tx, event_id: str) -> dict[StateSlot, str]:
    """Raises: KeyError, if the event is not held or has no place in the graph."""
    found = events.stored(tx, event_id)
    if found is None or found.state_before is None:
        raise KeyError(event_id)
    return dict(state_groups.state_map(tx, found.state_before))


def state_after(tx: Tx, event_id: str) -> dict[StateSlot, str]:
    """Raises: KeyError, if the event is not held or has no place in the graph."""
    found = events.stored(tx, event_id)
    if found is None or found.state_after is None:
        raise KeyError(event_id)
    return dict(state_groups.state_map(tx, found.state_after))


def power_levels(tx: Tx, room_id: str) -> PowerLevels:
    """Raises: NotFound."""
    room = room_of(tx, room_id)
    return power_levels_in(tx, room, current_state(tx, room_id))


def stripped_state(tx: Tx, room_id: str) -> list[dict[str, Any]]:
    """`type`, `state_key`, `sender`, `content` of what outsiders may know."""
    found = (current_event(tx, room_id, event_type, "") for event_type in STRIPPED_TYPES)
    return [strip(event) for event in found if event is not None]


def strip(event: Pdu) -> dict[str, Any]:
    return {
        "type": event.type,
        "state_key": event.state_key,
        "sender": event.sender,
        "content": dict(event.content),
    }
