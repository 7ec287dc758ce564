"""When what a claim stood in for has arrived: everything that was judged by the claim is judged again.

A claim is replaced, not merged: new states, verdicts and depths for every event whose ancestry was not held, in the
order of the graph, then the extremities and the current state from the whole graph. The same happens to what follows an
event of which a better copy has come, if the auth rules read what the first one lacked.
"""

from __future__ import annotations

from collections.abc import Collection

from p2pserver.errors import Verdict
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.current import update_current_state
from p2pserver.rooms.judging import allowed_now, ancestors_of, judge
from p2pserver.rooms.redacting import note_redactions, undo_redaction
from p2pserver.rooms.secs import sec_of
from p2pserver.rooms.state import forget_resolutions
from p2pserver.store import auth_index, events, graph_ends, graph_walks, parked, rooms
from p2pserver.store.events import StoredEvent
from p2pserver.store.graph_walks import cited_first
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx


def judge_descendants_again(context: RoomContext, tx: Tx, room: RoomRow, event_ids: Collection[str]) -> None:
    """A better copy of these events came: judges them and all that cites them, directly or not, by it.

    The work is that of the room: each event is read once. It is done once for an event, since copies only get better.
    """
    events.unground(tx, affected_by(tx, room.room_id, event_ids))
    rebuild(context, tx, room)


def affected_by(tx: Tx, room_id: str, event_ids: Collection[str]) -> list[str]:
    """The events of the graph that cite some of these as parents or auth events, or cite such, and these."""
    cited_by: dict[str, list[str]] = {}
    for event_id, cited in _citations(tx, room_id).items():
        for each in cited:
            cited_by.setdefault(each, []).append(event_id)
    found, waiting = dict.fromkeys(event_ids), list(event_ids)
    while waiting:
        for child in cited_by.get(waiting.pop(), ()):
            if child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)


def _citations(tx: Tx, room_id: str, *, ungrounded: bool = False) -> dict[str, tuple[str, ...]]:
    """The parents and auth events of each event of the graph, in the order of arrival."""
    rows = tx.all(
        "SELECT event_id FROM events WHERE room_id = ? AND outlier = 0"
        + (" AND grounded = 0" if ungrounded else "")
        + " ORDER BY position",
        (room_id,),
    )
    found = ((event_id, events.pdu(tx, event_id)) for (event_id,) in rows)
    return {event_id: (*event.prev_events, *event.auth_events) for event_id, event in found if event is not None}


def rebuild(context: RoomContext, tx: Tx, room: RoomRow) -> None:
    """Judges the events that are not grounded again, and notices when the room has become complete."""
    forget_resolutions(tx)
    for event_id in cited_first(_citations(tx, room.room_id, ungrounded=True)):
        _judge_again(tx, room, event_id, context)
    joining = parked.has_history_gap(tx, room.room_id)
    beside = [] if joining else _beside_the_join(tx, room)
    for each in beside:
        events.set_verdict(tx, each.pdu.event_id, Verdict.SOFT_FAILED, each.reason)
    not_rejected = (Verdict.ACCEPTED, Verdict.SOFT_FAILED)
    graph_ends.set_accepted_leaves(tx, room.room_id, graph_ends.uncovered_events(tx, room.room_id, of=not_rejected))
    graph_ends.set_extremities(tx, room.room_id, graph_ends.uncovered_events(tx, room.room_id, on_claim_only=joining))
    update_current_state(context, tx, room, position=tx.next_position(), only_grew=False)
    for each in beside:
        _show_beside(context, tx, room.room_id, each)
    if not parked.gaps(tx, room.room_id) and not graph_walks.has_ungrounded(tx, room.room_id):
        rooms.set_complete(tx, room.room_id, True)
        auth_index.forget_outliers(tx, room.room_id)
        events.drop_outliers(tx, room.room_id)
    tx.notify(f"room:{room.room_id}")


def give_up_claims(context: RoomContext, tx: Tx, room: RoomRow) -> None:
    """We have left and join again, and the history of the last join never came: nothing stands on its claim any more.

    What was built on it takes no part in the graph. If the history is there after all, and somebody else holds what we
    built on it, it comes again with the rest.
    """
    for gap in parked.gaps(tx, room.room_id).values():
        if gap.history:
            parked.close_gap(tx, room.room_id, gap.missing_event_id)
    forget_resolutions(tx)
    graph_ends.take_out(tx, room.room_id, graph_walks.ungrounded(tx, room.room_id))
    not_rejected = (Verdict.ACCEPTED, Verdict.SOFT_FAILED)
    graph_ends.set_accepted_leaves(tx, room.room_id, graph_ends.uncovered_events(tx, room.room_id, of=not_rejected))
    graph_ends.set_extremities(tx, room.room_id, graph_ends.uncovered_events(tx, room.room_id))
    update_current_state(context, tx, room, position=tx.next_position(), only_grew=False)
    if not parked.gaps(tx, room.room_id):
        rooms.set_complete(tx, room.room_id, True)


def _judge_again(tx: Tx, room: RoomRow, event_id: str, context: RoomContext) -> None:
    was = events.stored(tx, event_id)
    event = events.pdu(tx, event_id)
    if was is None or event is None:
        return
    ancestors = ancestors_of(tx, event, parked.gaps(tx, room.room_id), accept_outliers=True)
    if ancestors.missing:
        return
    judgement = judge(tx, room, event, ancestors, against_current=False)
    verdict, reason = judgement.verdict, judgement.reason
    if verdict is Verdict.ACCEPTED and was.verdict is Verdict.SOFT_FAILED:
        verdict, reason = was.verdict, was.reason
    elif verdict is Verdict.ACCEPTED and was.verdict is Verdict.REJECTED:
        reason = allowed_now(tx, room, event)
        verdict = Verdict.ACCEPTED if reason is None else Verdict.SOFT_FAILED
        events.set_position(tx, event_id, tx.next_position())
    events.rejudge(
        tx,
        event_id,
        depth=judgement.depth,
        verdict=verdict,
        reason=reason,
        grounded=judgement.grounded,
        state_before=judgement.state_before,
        state_after=judgement.state_after,
        sec=sec_of(tx, event, judgement),
    )
    for auth_id in ancestors.outlying:
        parked.record_gap(
            tx,
            room.room_id,
            auth_id,
            claimed_group=None,
            claimed_by=None,
            depth=0,
            history=False,
            now_ms=context.wall_ms(),
        )
    if was.verdict is Verdict.ACCEPTED and verdict is not Verdict.ACCEPTED:
        undo_redaction(tx, event)
    note_redactions(tx, room, event)


def _beside_the_join(tx: Tx, room: RoomRow) -> list[StoredEvent]:
    """Accepted events that came among the history of a join but are no ancestors of it: they are news after all."""
    band = (rooms.band_start(room.history_next), room.history_next)
    candidates = events.accepted_between(tx, room.room_id, *band)
    if not candidates:
        return []
    history = graph_walks.ancestors(tx, events.live_events(tx, room.room_id))
    found = [events.stored(tx, event_id) for event_id in candidates if event_id not in history]
    return [each for each in found if each is not None]


def _show_beside(context: RoomContext, tx: Tx, room_id: str, event: StoredEvent) -> None:
    room = rooms.room(tx, room_id)
    if room is None:
        return
    position = tx.next_position()
    events.set_position(tx, event.pdu.event_id, position)
    reason = allowed_now(tx, room, event.pdu)
    if reason is not None:
        events.set_verdict(tx, event.pdu.event_id, Verdict.SOFT_FAILED, reason)
        return
    events.set_verdict(tx, event.pdu.event_id, Verdict.ACCEPTED, None)
    graph_ends.extend_extremities(tx, event.pdu, graph_ends.surroundings(tx, event.pdu))
    update_current_state(context, tx, room, position=position, only_grew=False)
    tx.notify("pdus")
