"""State resolution version 1, of room version 1 only.

Like the later ones it is a pure function of the set of states and of the events in them. It knows no auth chains: what
was once taken away can come back (a *state reset*), which is why version 2 replaced it.

Source: room version 1, "State resolution". Where the text leaves a choice, this follows what is deployed;
docs/event-graph.md lists the choices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from p2pserver.events.pdu import Pdu
from p2pserver.meg.auth import NotAllowed, auth_slots_of, authorize
from p2pserver.meg.state import POWER_LEVELS, EventSource, StateMap, StateSlot

CHAINED_TYPES: Final = ("m.room.join_rules", "m.room.member")
"""After power levels, the types of which a conflict is settled by a chain of events that allow each other."""


def resolve_v1(
    state_sets: Sequence[StateMap], source: EventSource, *, trace: dict[str, Any] | None = None
) -> dict[StateSlot, str]:
    """One state out of several: the state before an event whose `prev_events` have these states after them.

    `trace`, where given, is filled with `conflicted_keys` and `conflicted_set` as sorted lists, and `passes`: for each
    conflicted slot, in the order in which they are settled, the slot, its events in the order tried, and the one taken.
    Raises: KeyError, if the source does not know an event of a state set.
    """
    resolved, candidates = split(state_sets, source)
    if not candidates and trace is None:
        return resolved
    tried: list[dict[str, Any]] = []
    settled: dict[StateSlot, Pdu] = {}
    for slots in passes(candidates):
        state = view(resolved, settled)
        for slot in slots:
            chained = is_chained(slot)
            order = sorted(candidates[slot], key=chain_key if chained else pick_key)
            taken = chain(order, state, source) if chained else pick(order, state, source)
            settled[slot] = taken
            tried.append({"slot": slot, "order": [each.event_id for each in order], "taken": taken.event_id})
    result = {**resolved, **{slot: event.event_id for slot, event in settled.items()}}
    if trace is not None:
        trace["conflicted_keys"] = sorted(candidates)
        trace["conflicted_set"] = sorted(event.event_id for events in candidates.values() for event in events)
        trace["passes"] = tried
    return result


def split(
    state_sets: Iterable[StateMap], source: EventSource
) -> tuple[dict[StateSlot, str], dict[StateSlot, list[Pdu]]]:
    """The union of the states where they agree, and the events of each slot where they do not.

    A slot that some sets lack is no conflict. Rejected events are no candidates, whoever claims them as state.
    """
    union: dict[StateSlot, str] = {}
    conflicts: dict[StateSlot, set[str]] = {}
    for state in state_sets:
        for slot, event_id in state.items():
            known = union.setdefault(slot, event_id)
            if known != event_id:
                conflicts.setdefault(slot, {known}).add(event_id)
    candidates: dict[StateSlot, list[Pdu]] = {}
    for slot, event_ids in conflicts.items():
        del union[slot]
        accepted = [event_id for event_id in sorted(event_ids) if not source.is_rejected(event_id)]
        if len(accepted) == 1:
            union[slot] = accepted[0]
        elif accepted:
            candidates[slot] = [source.event(event_id) for event_id in accepted]
    return union, candidates


def is_chained(slot: StateSlot) -> bool:
    return slot == POWER_LEVELS or slot[0] in CHAINED_TYPES


def passes(candidates: Collection[StateSlot]) -> list[list[StateSlot]]:
    """The conflicted slots in the order of the passes; the slots of one pass do not see each other's results."""
    first = [slot for slot in candidates if slot == POWER_LEVELS]
    rest = [slot for slot in candidates if not is_chained(slot)]
    return [first, *(sorted(slot for slot in candidates if slot[0] == kind) for kind in CHAINED_TYPES), sorted(rest)]


def view(resolved: Mapping[StateSlot, str], settled: Mapping[StateSlot, Pdu]) -> dict[StateSlot, str]:
    return {**resolved, **{slot: event.event_id for slot, event in settled.items()}}


def sha1_of(event: Pdu) -> str:
    return hashlib.sha1(event.event_id.encode(), usedforsecurity=False).hexdigest()


def chain_key(event: Pdu) -> tuple[int, int]:
    """First the smallest depth that an event claims, then the greatest SHA-1 of its ID."""
    return event.depth, -int(sha1_of(event), 16)


def pick_key(event: Pdu) -> tuple[int, int]:
    """First the greatest depth that an event claims, then the smallest SHA-1 of its ID."""
    return -event.depth, int(sha1_of(event), 16)


def chain(order: Sequence[Pdu], state: Mapping[StateSlot, str], source: EventSource) -> Pdu:
    """The last event that each one before it allows; the first is taken without a question."""
    taken = order[0]
    for event in order[1:]:
        if not is_allowed(event, state, source, taken):
            break
        taken = event
    return taken


def pick(order: Sequence[Pdu], state: Mapping[StateSlot, str], source: EventSource) -> Pdu:
    """The first event that the state allows; the last one, if it allows none."""
    return next((event for event in order if is_allowed(event, state, source, None)), order[-1])


def is_allowed(event: Pdu, state: Mapping[StateSlot, str], source: EventSource, taken: Pdu | None) -> bool:
    """Whether the state allows the event, with `taken` in its own slot."""
    found: dict[StateSlot, Pdu] = {}
    for slot in auth_slots_of(event):
        if taken is not None and slot == taken.state_slot:
            found[slot] = taken
        elif slot in state:
            found[slot] = source.event(state[slot])
    try:
        authorize(event, found)
    except NotAllowed:
        return False
    return True
