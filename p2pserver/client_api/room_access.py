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
    row = tx.one(
        "SELECT membership, forgotten FROM local_memberships WHERE user_id = ? AND room_id = ?", (user_id, room_id)
    )
    if row is not None and row[0] == "join":
        return RoomView("join", None)
    if row is not None and not row[1]:
        left_at = end_of_membership(tx, rooms, user_id, room_id)
        if left_at is not None:
            return RoomView(row[0], left_at)
    if peek and is_world_readable(tx, rooms, room_id):
        return RoomView(None, None)
    raise Forbidden("you are not in this room")


def require_joined(tx: Tx, user_id: str, room_id: str) -> None:
    """Raises: Forbidden."""
    row = tx.one(
        "SELECT 1 FROM local_memberships WHERE user_id = ? AND room_id = ? AND membership = 'join'", (user_id, room_id)
    )
    if row is None:
        raise Forbidden("you are not in this room")


def is_world_readable(tx: Tx, rooms: Rooms, room_id: str) -> bool:
    """Whether anybody may read the room now."""
    visibility = rooms.current_event(tx, room_id, _HISTORY_VISIBILITY)
    return visibility is not None and visibility.content.get("history_visibility") == "world_readable"


def end_of_membership(tx: Tx, rooms: Rooms, user_id: str, room_id: str) -> int | None:
    """The position at which the user last ceased to be joined; None, if he never was or is."""
    rows = tx.all(
        "SELECT position, previous_event_id FROM current_state_deltas WHERE room_id = ? AND type = 'm.room.member' "
        "AND state_key = ? ORDER BY position DESC, rowid DESC",
        (room_id, user_id),
    )
    for position, previous_event_id in rows:
        if previous_event_id is not None and membership_in(tx, rooms, previous_event_id) == "join":
            return int(position)
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
    rows = tx.all(
        "SELECT type, state_key, previous_event_id FROM current_state_deltas WHERE room_id = ? AND position > ? "
        "ORDER BY position DESC, rowid DESC",
        (room_id, position),
    )
    for event_type, state_key, previous_event_id in rows:
        if previous_event_id is None:
            state.pop((event_type, state_key), None)
        else:
            state[event_type, state_key] = previous_event_id
    return state


def was_joined_at(tx: Tx, rooms: Rooms, user_id: str, room_id: str, position: int) -> bool:
    """Whether the user was joined at `position`, by the current state as it was then."""
    slot = member_slot(user_id)
    row = tx.one(
        "SELECT previous_event_id FROM current_state_deltas WHERE room_id = ? AND position > ? AND type = ? "
        "AND state_key = ? ORDER BY position, rowid LIMIT 1",
        (room_id, position, *slot),
    )
    event_id = rooms.current_state(tx, room_id).get(slot) if row is None else row[0]
    return event_id is not None and membership_in(tx, rooms, event_id) == "join"
