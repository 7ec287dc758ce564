"""Healing events: an event that says nothing and joins branches, when nobody has anything to say.

Two nodes with the same events can differ in the current state, because soft failure depends on the order of arrival,
and agree once who has more than one branch has posted on all of them. A wide graph gets narrow the same way. An event
of the type that is used for this elsewhere (`org.matrix.dummy_event`) is not shown to clients here nor there.

    plan()   is there anything to heal? who goes first?         as often as somebody notices something
    heal()   posts, if it is still needed                       after the wait that `HealingPlan` and the node decide
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from enum import Enum

from p2pserver.errors import MatrixError
from p2pserver.identifiers import server_of
from p2pserver.meg.parents import PREV_EVENTS_MAX
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.reading import power_levels
from p2pserver.rooms.sending import append, room_of
from p2pserver.store import events, graph_ends, healings, memberships, rooms
from p2pserver.store.events import HEALING_TYPE
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx

IN_A_ROW_MAX = 8
"""Healing events in a row after which a node that has nothing to merge adds none."""
SENDERS_TRIED = 8
USERS_MAX = 1_000
"""Local users among whom the most powerful are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealingPlan:
    """What a look at a room found. `states`: because a peer's current state is another one, not for the width."""

    states: bool
    position: int
    """Of the stream: a healing event that comes later makes this one needless."""
    leaves: bytes
    """Stands for the event set."""
    is_first: bool
    """Of the member servers, this one has the lowest hash over name and event set: the others leave it the first go."""
    members: int
    in_a_row: int
    """Healing events with nothing else after them."""
    merges: bool
    """There is something here to merge: other nodes, which can only repeat what they believe, leave it the first go."""


def plan(context: RoomContext, tx: Tx, room_id: str, *, differed_at: int | None) -> HealingPlan | None:
    """None, if nothing is to be healed, or not by this node.

    `differed_at`: the stream position at which a peer said that with the same events its current state is another one;
    a healing event since then has changed that.
    """
    room = rooms.room(tx, room_id)
    if room is None or not memberships.is_joined(tx, room_id, context.server_name):
        return None
    is_wide = len(graph_ends.extremities(tx, room_id)) > PREV_EVENTS_MAX
    members = memberships.joined_servers(tx, room_id)
    in_a_row = len(healings.senders_in_a_row(tx, room_id))
    differs = differed_at is not None and healings.newest(tx, room_id) <= differed_at
    merges = is_wide or _has_something_to_merge(tx, room)
    if not is_wide:
        said_enough = _said_last(context, tx, room) or (not merges and in_a_row >= min(IN_A_ROW_MAX, 2 * len(members)))
        if not differs or not room.complete or said_enough:
            return None
    leaves = event_set(tx, room_id)
    return HealingPlan(
        states=not is_wide,
        position=tx.position(),
        leaves=leaves,
        is_first=min(members, key=lambda name: _rank(name, leaves)) == context.server_name,
        members=len(members),
        in_a_row=in_a_row,
        merges=merges,
    )


class Outcome(Enum):
    POSTED = "posted"
    NOT_NEEDED = "not needed"
    """Another healing event came, or there is nothing to heal any more."""
    MOVED = "moved"
    """Events came since: what was planned is not the state of things."""
    NOBODY_MAY = "nobody may"


def heal(context: RoomContext, tx: Tx, room_id: str, planned: HealingPlan, *, patient: bool) -> Outcome:
    """Posts a healing event by a local user who may. `patient`: not while the graph is still getting wider.

    Whoever had no go among the last healing events is asked first, then the most powerful: a user who is in the room
    only in this node's view of it convinces nobody.
    """
    if not is_needed(context, tx, room_id, planned):
        return Outcome.NOT_NEEDED
    if patient and not planned.states and event_set(tx, room_id) != planned.leaves:
        return Outcome.MOVED
    if _post(context, tx, room_id):
        return Outcome.POSTED
    return Outcome.NOBODY_MAY


def merge_all(context: RoomContext, tx: Tx, room_id: str) -> int:
    """Joins all branches of a room at an operator's word; returns how many forward extremities there are fewer.

    No branch is dropped: what was said on it counts as before. Raises: NotFound, if the room is not held.
    """
    room_of(tx, room_id)
    before = len(graph_ends.extremities(tx, room_id))
    width = before
    while width > 1 and _post(context, tx, room_id):
        width = len(graph_ends.extremities(tx, room_id))
    return before - width


def _post(context: RoomContext, tx: Tx, room_id: str) -> bool:
    """Posts a healing event by a local user who may; False, if nobody may."""
    levels = power_levels(tx, room_id)
    tried = Counter(healings.senders_in_a_row(tx, room_id))
    members = healings.local_members(tx, room_id, most=USERS_MAX)
    users = sorted(members, key=lambda user_id: (tried[user_id], -levels.of_user(user_id)))
    for user_id in users[:SENDERS_TRIED]:
        tx.execute("SAVEPOINT healing")
        try:
            append(context, tx, room_id=room_id, sender=user_id, event_type=HEALING_TYPE, state_key=None, content={})
            return True
        except MatrixError:
            tx.execute("ROLLBACK TO healing")
            tx.caches.clear()
        finally:
            tx.execute("RELEASE healing")
    return False


def is_needed(context: RoomContext, tx: Tx, room_id: str, planned: HealingPlan) -> bool:
    """Whether no healing event came since, and what it was planned for is still so."""
    if healings.newest(tx, room_id) > planned.position:
        return False
    return plan(context, tx, room_id, differed_at=planned.position if planned.states else None) is not None


def event_set(tx: Tx, room_id: str) -> bytes:
    """32 octets that stand for the events of a room."""
    return hashlib.sha256("\0".join((room_id, *graph_ends.leaves(tx, room_id))).encode()).digest()


def _has_something_to_merge(tx: Tx, room: RoomRow) -> bool:
    """Whether there is more than one branch, or an accepted leaf that is soft-failed here.

    If no node of a room had, all would have the one state that follows from the event set.
    """
    extremities = graph_ends.extremities(tx, room.room_id)
    return len(extremities) > 1 or extremities != graph_ends.accepted_leaves(tx, room.room_id)


def _said_last(context: RoomContext, tx: Tx, room: RoomRow) -> bool:
    """Whether all that could be cited is a healing event of ours: another one would say the same."""
    extremities = graph_ends.extremities(tx, room.room_id)
    last = events.pdu(tx, extremities[0]) if len(extremities) == 1 else None
    return last is not None and last.type == HEALING_TYPE and server_of(last.sender) == context.server_name


def _rank(server: str, leaves: bytes) -> bytes:
    return hashlib.sha256(server.encode() + b"\0" + leaves).digest()
