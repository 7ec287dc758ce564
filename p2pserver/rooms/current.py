"""The operational current state: the resolution over the forward extremities, and everything that follows from it.

Kept as a state group, as rows for SQL, as deltas for syncing clients, as numbers of members by server, and as the
memberships of this node's own users.
"""

from __future__ import annotations

from p2pserver.identifiers import server_of
from p2pserver.meg.state import StateSlot
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.resets import tell_of_resets
from p2pserver.rooms.state import resolved_group
from p2pserver.store import events, graph_ends, memberships, rooms, state_groups
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx


def update_current_state(context: RoomContext, tx: Tx, room: RoomRow, *, position: int, only_grew: bool = True) -> bool:
    """Resolves the forward extremities again; whether the current state is another one now.

    `position` is where in the stream the change happens: that of the event which caused it. `only_grew`: the graph has
    one more event, and nothing was judged again, so that a state which goes back is worth an alarm.
    """
    groups = graph_ends.extremity_groups(tx, room.room_id)
    if not groups:
        return False
    group_id = resolved_group(tx, room.room_id, room.rules, groups)
    if group_id == room.current_group:
        return False
    changes = state_groups.difference(tx, room.current_group, group_id)
    if only_grew and room.complete:
        after = state_groups.state_map(tx, group_id)
        tell_of_resets(tx, room, changes, after, position=position, now_ms=context.wall_ms())
    rooms.set_current_group(tx, room.room_id, group_id)
    if room.current_group is not None:
        state_groups.drop_unused(tx, room.room_id, room.current_group)
    for slot, (previous, event_id) in changes.items():
        _change_slot(context, tx, room.room_id, slot, previous, event_id, position)
    if changes:
        tx.notify(f"room:{room.room_id}")
    return bool(changes)


def _change_slot(
    context: RoomContext,
    tx: Tx,
    room_id: str,
    slot: StateSlot,
    previous: str | None,
    event_id: str | None,
    position: int,
) -> None:
    memberships.write_delta(tx, position, room_id, slot, event_id=event_id, previous=previous)
    if slot[0] != "m.room.member":
        memberships.write_current_state(tx, room_id, slot, event_id=event_id, membership=None)
        return
    user_id = slot[1]
    event = None if event_id is None else events.pdu(tx, event_id)
    content = {} if event is None else event.content
    membership = content.get("membership") if isinstance(content.get("membership"), str) else "leave"
    was = memberships.current_membership(tx, room_id, user_id)
    memberships.write_current_state(tx, room_id, slot, event_id=event_id, membership=membership)
    joined = int(membership == "join") - int(was == "join")
    invited = int(membership == "invite") - int(was == "invite")
    if joined or invited:
        memberships.count_member(tx, room_id, server_of(user_id), joined=joined, invited=invited)
    known_by = event_id or previous
    if context.is_local(user_id) and known_by is not None:
        memberships.set_local_membership(
            tx,
            user_id,
            room_id,
            membership=str(membership),
            event_id=known_by,
            sender=user_id if event is None else event.sender,
            position=position,
        )
        memberships.forget_invite(tx, user_id, room_id)
