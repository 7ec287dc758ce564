"""Giving a judged event its place: the event, its edges, leaves, extremities, current state, effects, in one unit."""

from __future__ import annotations

from p2pserver.errors import Verdict
from p2pserver.events.pdu import Pdu
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.current import update_current_state
from p2pserver.rooms.judging import Judgement
from p2pserver.rooms.redacting import note_redactions
from p2pserver.rooms.secs import sec_of
from p2pserver.store import events, graph_ends, rooms
from p2pserver.store.auth_index import StoredAuthIndex
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx


def place(
    context: RoomContext,
    tx: Tx,
    room: RoomRow,
    event: Pdu,
    judgement: Judgement,
    *,
    history: bool,
    resolve: bool = True,
    just_built: bool = False,
) -> int:
    """Keeps an event that is judged; its position in the stream.

    `resolve=False` leaves it to the caller to update the current state before the unit of work is over.
    `history` is for what happened before a join of ours and comes by backfill: it gets a place before everything else
    in the stream, and says nothing about the current state. `just_built` is for an accepted event that was built on the
    forward extremities in this unit of work: nothing that is held can name it.
    """
    position = rooms.next_history_position(tx, room.room_id) if history else tx.next_position()
    events.insert(
        tx,
        event,
        position=position,
        depth=judgement.depth,
        verdict=judgement.verdict,
        reason=judgement.reason,
        outlier=False,
        grounded=judgement.grounded,
        state_before=judgement.state_before,
        state_after=judgement.state_after,
        sec=sec_of(tx, event, judgement),
    )
    StoredAuthIndex(tx).add(event)
    events.insert_edges(tx, event)
    around = graph_ends.JUST_BUILT if just_built else graph_ends.surroundings(tx, event)
    graph_ends.extend_leaves(tx, event, around)
    if judgement.verdict is not Verdict.REJECTED:
        graph_ends.extend_accepted_leaves(tx, event, around)
    if judgement.verdict is Verdict.ACCEPTED and not history:
        graph_ends.extend_extremities(tx, event, around)
        if resolve:
            update_current_state(context, tx, room, position=position)
        tx.notify(f"room:{room.room_id}")
        tx.notify("pdus")
    note_redactions(tx, room, event, may_be_target=not just_built)
    return position


def keep_outlier(tx: Tx, event: Pdu, *, verdict: Verdict, reason: str | None) -> None:
    """Keeps an event that is known only as an auth event or as claimed state."""
    events.insert(
        tx,
        event,
        position=tx.next_position(),
        depth=0,
        verdict=verdict,
        reason=reason,
        outlier=True,
        grounded=False,
        state_before=None,
        state_after=None,
    )
    StoredAuthIndex(tx).add(event)
