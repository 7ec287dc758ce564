"""A state that another server claims: every event in it is checked, its completeness cannot be.

An event of a claim is what its signature and its auth events say. What the claim leaves out is known only when the
real ancestry arrives, so a claim is kept as the state after a gap and replaced then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from p2pserver.errors import Verdict
from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import PduDropped, check_on_receipt
from p2pserver.meg.chains import AuthGraph
from p2pserver.meg.state import CREATE, StateSlot
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.graph import keep_outlier
from p2pserver.rooms.judging import outlier_reason
from p2pserver.rooms.state import StoredEvents
from p2pserver.store import events
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx


class ClaimRefused(Exception):
    """The claim is not one that could be true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    state: dict[StateSlot, str]
    kept: tuple[str, ...]
    """Events that were not held before."""


def auth_chain_of(tx: Tx, event_ids: Sequence[str]) -> list[str]:
    """The events and their auth chains, each after its own auth events."""
    return AuthGraph(StoredEvents(tx)).closure(event_ids)


def take_claim(
    context: RoomContext, tx: Tx, room: RoomRow, *, state: Sequence[object], auth_chain: Sequence[object]
) -> Claim:
    """Checks the events of a claimed state and its auth chain, and keeps them as outliers.

    Events that their auth events do not allow are not part of the state.
    Raises: ClaimRefused, on an event that fails the checks on receipt, is of another room, or whose auth events are
    not in the claim; on two events for one slot; on a state without this room's create event.
    """
    if len(state) + len(auth_chain) > context.limits.claim_pdus:
        raise ClaimRefused("too many events")
    in_state = [_checked(context, room, raw) for raw in state]
    arrived = {event.event_id: event for event in [*(_checked(context, room, raw) for raw in auth_chain), *in_state]}
    slots = [event.state_slot for event in in_state]
    if None in slots or len(set(slots)) != len(slots):
        raise ClaimRefused("the state names a slot twice, or an event without state_key")
    kept = [event.event_id for event in _in_auth_order(arrived) if _keep(tx, room, event)]
    claimed = {
        slot: event.event_id
        for slot, event in zip(slots, in_state, strict=True)
        if slot is not None and not events.is_rejected(tx, event.event_id)
    }
    if claimed.get(CREATE) != room.create_event_id:
        raise ClaimRefused("the state lacks the room's create event")
    return Claim(state=claimed, kept=tuple(kept))


def _checked(context: RoomContext, room: RoomRow, raw: object) -> Pdu:
    try:
        event = check_on_receipt(raw, room.rules, context.keys, limit_references=False)
    except PduDropped as drop:
        raise ClaimRefused(drop.reason) from None
    if event.room_id != room.room_id:
        raise ClaimRefused("an event is of another room")
    return event


def _in_auth_order(arrived: dict[str, Pdu]) -> list[Pdu]:
    """Each event after its auth events, and after the create event, which nobody cites in version 12."""
    waits_for = {
        event_id: {auth_id for auth_id in event.auth_events if auth_id in arrived}
        for event_id, event in arrived.items()
    }
    cited_by: dict[str, list[str]] = {event_id: [] for event_id in arrived}
    for event_id, auth_ids in waits_for.items():
        for auth_id in auth_ids:
            cited_by[auth_id].append(event_id)
    ready = [event_id for event_id, auth_ids in waits_for.items() if not auth_ids]
    free = deque(sorted(ready, key=lambda event_id: arrived[event_id].type != "m.room.create"))
    order: list[Pdu] = []
    while free:
        event_id = free.popleft()
        order.append(arrived[event_id])
        for child in cited_by[event_id]:
            waits_for[child].discard(event_id)
            if not waits_for[child]:
                free.append(child)
    return order


def _keep(tx: Tx, room: RoomRow, event: Pdu) -> bool:
    """Keeps an event as an outlier, judged by its auth events; False, if it is held already."""
    known = events.facts(tx, (event.event_id, *event.auth_events))
    if event.event_id in known and not _is_better(tx, event, outlier=known[event.event_id].outlier):
        return False
    if any(auth_id not in known for auth_id in event.auth_events):
        raise ClaimRefused("an auth event is missing")
    reason = outlier_reason(tx, room, event, known)
    keep_outlier(tx, event, verdict=Verdict.ACCEPTED if reason is None else Verdict.REJECTED, reason=reason)
    return True


def _is_better(tx: Tx, event: Pdu, *, outlier: bool) -> bool:
    """Whether this is the first genuine copy of an outlier. (Events of the graph are improved on receipt.)"""
    held = events.pdu(tx, event.event_id)
    return outlier and held is not None and held.redacted_copy and not event.redacted_copy
