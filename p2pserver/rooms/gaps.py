"""When nobody has what an event waits for: a claimed state stands in for it, so that one event cannot stop a room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p2pserver.errors import Forbidden, NotFound
from p2pserver.rooms.claims import ClaimRefused, auth_chain_of, take_claim
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.judging import DEPTH_MAX
from p2pserver.rooms.receipt import Intake
from p2pserver.rooms.sending import room_of
from p2pserver.rooms.values import ReceiveReport
from p2pserver.store import events, memberships, parked, rooms, state_groups
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx


def nobody_has(context: RoomContext, tx: Tx, *, room_id: str, event_ids: Sequence[str], source: str) -> list[str]:
    """Notes that a member server was asked for these and has not got them.

    Returns the parked events that wait for what enough servers lack: "state_claim" of one of these is what to ask for.
    """
    if rooms.room(tx, room_id) is None or not memberships.is_joined(tx, room_id, source):
        return []
    held_up: dict[str, None] = {}
    for event_id in event_ids[: context.limits.wanted_at_once]:
        waiting = parked.waiting_for(tx, room_id, event_id)
        if not waiting or parked.is_parked(tx, event_id):
            continue
        parked.note_contact(tx, room_id, event_id, source)
        if _enough_asked(context, tx, room_id, event_id):
            held_up.update(dict.fromkeys(waiting))
    return list(held_up)


def _enough_asked(context: RoomContext, tx: Tx, room_id: str, event_id: str) -> bool:
    """`contacts_before_claim` servers, or all others in the room where there are fewer."""
    others = len(memberships.joined_servers(tx, room_id) - {context.server_name})
    needed = max(1, min(context.limits.contacts_before_claim, others))
    return parked.contacts(tx, room_id, event_id) >= needed


def state_claim(tx: Tx, *, room_id: str, event_id: str, origin: str) -> dict[str, Any]:
    """The state before an event, with its auth chain and that of the event.

    Raises: NotFound, Forbidden.
    """
    room_of(tx, room_id)
    if not memberships.is_joined(tx, room_id, origin):
        raise Forbidden("the server is not in the room")
    found = events.stored(tx, event_id)
    if found is None or found.pdu.room_id != room_id or found.state_before is None:
        raise NotFound("the event is not known here")
    in_state = set(state_groups.state_map(tx, found.state_before).values())
    chain = auth_chain_of(tx, [*sorted(in_state), *found.pdu.auth_events])
    held = {each: events.pdu(tx, each) for each in {*in_state, *chain}}
    raws = {each: dict(event.raw) for each, event in held.items() if event is not None}
    return {
        "room_id": room_id,
        "event_id": event_id,
        "depth": found.depth,
        "state": [raws[each] for each in sorted(in_state)],
        "auth_chain": [raws[each] for each in chain if each not in in_state and each in raws],
    }


def accept_state_claim(
    context: RoomContext, tx: Tx, *, room_id: str, event_id: str, claim: Mapping[str, Any], source: str
) -> ReceiveReport:
    """Records gaps where enough servers lacked a parent of a parked event, and judges what waited for them.

    A claim that was not asked for, or that cannot be true, changes nothing.
    """
    room = rooms.room(tx, room_id)
    if room is None or not parked.is_parked(tx, event_id):
        return ReceiveReport()
    if parked.gaps_claimed(tx, room_id) >= context.limits.gaps_per_room:
        return ReceiveReport()
    lacking = [
        each
        for each in parked.missing_of(tx, event_id)
        if not parked.is_parked(tx, each) and _enough_asked(context, tx, room_id, each)
    ]
    if not lacking or not _record(context, tx, room, event_id, claim, source, lacking):
        return ReceiveReport()
    rooms.set_complete(tx, room_id, False)
    intake = Intake(context, tx, room_id)
    intake.retry(event_id)
    intake.settle(lacking)
    return intake.finish()


def _record(
    context: RoomContext,
    tx: Tx,
    room: RoomRow,
    event_id: str,
    claim: Mapping[str, Any],
    source: str,
    lacking: Sequence[str],
) -> bool:
    """Keeps the claim as the state after each of the missing parents; False, if it is refused."""
    state, auth_chain, depth = claim.get("state"), claim.get("auth_chain"), claim.get("depth")
    if not isinstance(state, list) or not isinstance(auth_chain, list):
        return False
    if type(depth) is not int or not 1 < depth <= DEPTH_MAX:
        return False
    waiting = parked.parked(tx, event_id, room.rules)
    if waiting is None:
        return False
    tx.execute("SAVEPOINT claim")
    try:
        taken = take_claim(context, tx, room, state=state, auth_chain=auth_chain)
    except ClaimRefused:
        tx.execute("ROLLBACK TO claim")
        tx.caches.clear()
        return False
    finally:
        tx.execute("RELEASE claim")
    group_id = state_groups.group_of(
        tx, room.room_id, taken.state, near=[] if room.current_group is None else [room.current_group]
    )
    for parent in waiting.pdu.prev_events:
        if parent in lacking:
            parked.record_gap(
                tx,
                room.room_id,
                parent,
                claimed_group=group_id,
                claimed_by=source,
                depth=depth - 1,
                history=False,
                now_ms=context.wall_ms(),
            )
    return True
