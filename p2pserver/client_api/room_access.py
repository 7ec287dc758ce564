"""Who may read a room, and the state of a room at a place in the stream.

A member reads the present; who has left reads the room as it was when he left; anybody reads a world-readable room;
everybody else is refused, whether the room exists or not. What of the *history* somebody may see is judged per event
(`Rooms.visible_to`). Source: client-server API, "Room history visibility", "Getting events for a room".
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pserver.errors import Forbidden
from p2pserver.meg.state import StateSlot, member_slot
from p2pserver.rooms.service import Rooms
from p2pserver.store.memberships import local_membership
from p2pserver.store.own_rooms import is_joined
from p2pserver.store.room_stream import FIRST, current_event_id, slot_changes, state_changes
from p2pserver.store.tx import Tx

_HISTORY_VISIBILITY = "m.room.history_visibility"


@dataclass(frozen=True, slots=True)
class RoomView:
    """What somebody who may read a room sees of it."""

    membership: str | None
    """`join`, what ended the membership (`leave`, `ban`), or None for somebody who looks in from outside."""
    position: int | None
    """The state that is shown is of this position; None: the present one."""


def view_of(tx: Tx, rooms: Rooms, user_id: str, room_id: str, *, peek: bool = False) -> RoomView:
    """How `user_id` sees the room. `peek` lets in those who are not members where history is world-readable.

    Raises: Forbidden.
    """
    own = local_membership(tx, user_id, room_id)
    if own is not None and own.membership == "join":
        return RoomView("join", None)
    if own is not None and not own.forgotten:
        left_at = end_of_membership(tx, rooms, user_id, room_id)
        if left_at is not None:
            return RoomView(own.membership, left_at)
    if peek and is_world_readable(tx, rooms, room_id):
        return RoomView(None, None)
    raise Forbidden("you are not in this room")


def require_joined(tx: Tx, user_id: str, room_id: str) -> None:
    """Raises: Forbidden."""
    if not is_joined(tx, user_id, room_id):
        raise Forbidden("you are not in this room")


def is_world_readable(tx: Tx, rooms: Rooms, room_id: str) -> bool:
    """Whether anybody may read the room now."""
    visibility = rooms.current_event(tx, room_id, _HISTORY_VISIBILITY)
    return visibility is not None and visibility.content.get("history_visibility") == "world_readable"


def end_of_membership(tx: Tx, rooms: Rooms, user_id: str, room_id: str) -> int | None:
    """The position at which the user last ceased to be joined; None, if he never was or is."""
    for change in reversed(slot_changes(tx, room_id, member_slot(user_id), above=FIRST)):
        before = change.previous_event_id
        if before is not None and membership_in(tx, rooms, before) == "join":
            return change.position
    return None


def membership_in(tx: Tx, rooms: Rooms, event_id: str) -> str:
    """The membership that a member event sets."""
    membership = rooms.event(tx, event_id).content.get("membership")
    return membership if isinstance(membership, str) else "leave"


def state_at(tx: Tx, rooms: Rooms, room_id: str, position: int | None) -> dict[StateSlot, str]:
    """The current state as it was at `position` (None: as it is), by undoing the changes since then.

    Costs one step per change since `position`.
    """
    state = dict(rooms.current_state(tx, room_id))
    if position is None:
        return state
    for change in reversed(state_changes(tx, room_id, above=position)):
        if change.previous_event_id is None:
            state.pop(change.slot, None)
        else:
            state[change.slot] = change.previous_event_id
    return state


def was_joined_at(tx: Tx, rooms: Rooms, user_id: str, room_id: str, position: int) -> bool:
    """Whether the user was joined at `position`, by the current state as it was then."""
    slot = member_slot(user_id)
    changes = slot_changes(tx, room_id, slot, above=position)
    event_id = changes[0].previous_event_id if changes else current_event_id(tx, room_id, slot)
    return event_id is not None and membership_in(tx, rooms, event_id) == "join"
