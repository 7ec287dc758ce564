"""State resolution: version 2 (room versions 2 to 11) and version 2.1 (room version 12); 1 is in `resolution_v1`.

The result is a pure function of the state sets, as a set, and of the events they name with their auth chains: it does
not depend on the order of the sets, on the order of arrival, or on the iteration order of anything.

Source: room version 2, "State resolution"; room version 12, "State resolution" (MSC4297). Where the text leaves a
choice, this follows what is deployed; docs/event-graph.md lists the choices.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import RoomVersionRules, StateRes
from p2pserver.meg.auth import NotAllowed, auth_slots_of, authorize, create_id_of
from p2pserver.meg.chains import AuthGraph, auth_difference, conflicted_subgraph
from p2pserver.meg.power import Level
from p2pserver.meg.resolution_v1 import resolve_v1
from p2pserver.meg.state import CREATE, POWER_LEVELS, EventSource, StateMap, StateSlot

POWER_SLOTS: Final = frozenset((CREATE, POWER_LEVELS, ("m.room.join_rules", "")))


def resolve(
    state_sets: Sequence[StateMap],
    source: EventSource,
    rules: RoomVersionRules,
    *,
    trace: dict[str, Any] | None = None,
) -> dict[StateSlot, str]:
    """One state out of several: the state before an event whose `prev_events` have these states after them.

    `trace`, where given, is filled with the intermediate results: `conflicted_keys`, `conflicted_set`,
    `auth_difference`, `conflicted_subgraph` (2.1), `full_conflicted_set` as sorted lists; `power_order`, `mainline`
    (newest first), `rest_order` in their order; `state_after_power` as a state map. In room version 1: as `resolve_v1`.
    Raises: KeyError, if the source does not know an event of a state set.
    """
    if not state_sets:
        return {}
    if rules.state_res is StateRes.V1:
        return resolve_v1(state_sets, source, trace=trace)
    maps = [state if isinstance(state, dict) else dict(state) for state in state_sets]
    unconflicted, conflicted_slots = split(maps)
    sets = distinct(maps, conflicted_slots)
    if not conflicted_slots and trace is None:
        return unconflicted

    graph = AuthGraph(source)
    held_by = holders(sets, conflicted_slots)
    chain = graph.closure(sorted(held_by))
    subgraph = conflicted_subgraph(graph, chain, held_by) if rules.state_res is StateRes.V2_1 else set()
    difference = auth_difference(
        graph, chain, held_by, set(unconflicted.values()), (1 << len(sets)) - 1, complete=trace is not None
    )
    full = difference.union(held_by, subgraph)

    power_order = order_power_events(graph, with_auth_events_inside(graph, power_events(graph, full), full))
    state = first_state(rules, unconflicted)
    apply(graph, power_order, state)
    if trace is not None:
        trace["state_after_power"] = dict(state)
    mainline = mainline_of(graph, state.get(POWER_LEVELS))
    rest_order = order_by_mainline(graph, full.difference(power_order), mainline)
    apply(graph, rest_order, state)
    state.update(unconflicted)

    if trace is not None:
        trace["conflicted_keys"] = sorted(conflicted_slots)
        trace["conflicted_set"] = sorted(held_by)
        trace["auth_difference"] = sorted(difference)
        if rules.state_res is StateRes.V2_1:
            trace["conflicted_subgraph"] = sorted(subgraph)
        trace["full_conflicted_set"] = sorted(full)
        trace["power_order"] = power_order
        trace["mainline"] = mainline
        trace["rest_order"] = rest_order
    return state


def distinct(sets: Sequence[dict[StateSlot, str]], conflicted: Collection[StateSlot]) -> list[dict[StateSlot, str]]:
    """The state sets without repetitions. Two sets with the same events in all `conflicted` slots are the same.

    Linear: a fan of events by one member makes hundreds of large sets, which are never compared in pairs.
    """
    slots = sorted(conflicted)
    kept: dict[tuple[str | None, ...], dict[StateSlot, str]] = {}
    for state in sets:
        kept.setdefault(tuple(map(state.get, slots)), state)
    return list(kept.values())


def split(sets: Sequence[Mapping[StateSlot, str]]) -> tuple[dict[StateSlot, str], set[StateSlot]]:
    """The unconflicted state map, and the slots that are not filled in every set by the same event."""
    first = sets[0]
    conflicted = {slot for other in sets[1:] for slot, _ in first.items() ^ other.items()}
    return {slot: event_id for slot, event_id in first.items() if slot not in conflicted}, conflicted


def holders(sets: Sequence[Mapping[StateSlot, str]], conflicted_slots: Collection[StateSlot]) -> dict[str, int]:
    """The conflicted state set: each event with the sets that hold it, as bits."""
    held_by: dict[str, int] = {}
    for index, state in enumerate(sets):
        for slot in conflicted_slots:
            event_id = state.get(slot)
            if event_id is not None:
                held_by[event_id] = held_by.get(event_id, 0) | 1 << index
    return held_by


def first_state(rules: RoomVersionRules, unconflicted: Mapping[StateSlot, str]) -> dict[StateSlot, str]:
    """What the iterative auth checks start from: the unconflicted state (2), or nothing (2.1)."""
    return {} if rules.state_res is StateRes.V2_1 else dict(unconflicted)


def is_power_event(event: Pdu) -> bool:
    """Whether a state event may take somebody's ability to do something; the create event counts as one."""
    if event.type == "m.room.member":
        return event.content.get("membership") in ("leave", "ban") and event.sender != event.state_key
    return event.state_slot in POWER_SLOTS


def power_events(graph: AuthGraph, events: Iterable[str]) -> list[str]:
    return [event_id for event_id in events if is_power_event(graph.event(event_id))]


def with_auth_events_inside(graph: AuthGraph, events: Iterable[str], full: Collection[str]) -> set[str]:
    """The events, and what is reached from them over auth events without leaving the full conflicted set."""
    reached = set(events)
    waiting = list(reached)
    while waiting:
        for cited in graph.auth_ids(waiting.pop()):
            if cited in full and cited not in reached:
                reached.add(cited)
                waiting.append(cited)
    return reached


def sender_level(graph: AuthGraph, event_id: str) -> Level:
    """The power of an event's sender by the event's own auth events."""
    event = graph.event(event_id)
    if event.rules.room_id_is_create_hash:
        create = event if event.type == "m.room.create" else graph.find(create_id_of(event.room_id))
    else:
        create = graph.cited(event_id, CREATE)
    power_levels = graph.cited(event_id, POWER_LEVELS)
    if create is None and power_levels is None:
        return 0
    return graph.power_levels_of(create, power_levels).of_user(event.sender)


def power_key(level: Level, origin_server_ts: int, event_id: str) -> tuple[Level, int, str]:
    """Smallest first: the more powerful sender, then the earlier timestamp, then the smaller event ID."""
    return -level, origin_server_ts, event_id


def order_power_events(graph: AuthGraph, events: Collection[str]) -> list[str]:
    """Reverse topological power ordering: auth events first, and the smallest `power_key` among those that are free."""
    waits_for: dict[str, int] = {}
    cited_by: dict[str, list[str]] = {event_id: [] for event_id in events}
    for event_id in events:
        inside = {cited for cited in graph.auth_ids(event_id) if cited in cited_by}
        waits_for[event_id] = len(inside)
        for cited in inside:
            cited_by[cited].append(event_id)
    keys = {
        event_id: power_key(sender_level(graph, event_id), graph.event(event_id).origin_server_ts, event_id)
        for event_id in events
    }
    free = [(keys[event_id], event_id) for event_id, count in waits_for.items() if count == 0]
    heapq.heapify(free)
    order: list[str] = []
    while free:
        _, event_id = heapq.heappop(free)
        order.append(event_id)
        for other in cited_by[event_id]:
            waits_for[other] -= 1
            if waits_for[other] == 0:
                heapq.heappush(free, (keys[other], other))
    return order


def mainline_of(graph: AuthGraph, power_levels: str | None) -> list[str]:
    """A power levels event and those before it, newest first; nothing where the state has no such event."""
    mainline: list[str] = []
    while power_levels is not None:
        mainline.append(power_levels)
        power_levels = graph.cited_power_levels(power_levels)
    return mainline


def rest_key(age: float, origin_server_ts: int, event_id: str) -> tuple[float, int, str]:
    """Smallest first: the older place in the mainline, then the earlier timestamp, then the smaller event ID."""
    return -age, origin_server_ts, event_id


def order_by_mainline(graph: AuthGraph, events: Iterable[str], mainline: Sequence[str]) -> list[str]:
    """Mainline ordering. An event's place is that of the first power levels event of the mainline in its ancestry."""
    places: dict[str, float] = {event_id: place for place, event_id in enumerate(mainline)}

    def place_of(event_id: str) -> float:
        current: str | None = event_id
        passed: list[str] = []
        while current is not None and current not in places:
            passed.append(current)
            current = graph.cited_power_levels(current)
        place = float("inf") if current is None else places[current]
        places.update((each, place) for each in passed)
        return place

    return sorted(
        events, key=lambda event_id: rest_key(place_of(event_id), graph.event(event_id).origin_server_ts, event_id)
    )


def apply(graph: AuthGraph, order: Iterable[str], state: dict[StateSlot, str]) -> None:
    """Iterative auth checks: put each event into the state if the state lets it, else pass it over.

    What the state lacks for the check is taken from the event's own auth events. Rejected events never take part.
    """
    for event_id in order:
        event = graph.event(event_id)
        slot = event.state_slot
        if slot is None or graph.is_rejected(event_id):
            continue
        try:
            authorize(event, state_for(graph, event, state), power_levels_of=graph.power_levels_of)
        except NotAllowed:
            continue
        state[slot] = event_id


def state_for(graph: AuthGraph, event: Pdu, state: Mapping[StateSlot, str]) -> dict[StateSlot, Pdu]:
    """The events that the auth rules look at for one event: those of the state, else the event's own auth events."""
    found: dict[StateSlot, Pdu] = {}
    for auth_id in graph.auth_ids(event.event_id):
        cited = graph.event(auth_id)
        if cited.state_slot is not None and not graph.is_rejected(auth_id):
            found[cited.state_slot] = cited
    for slot in auth_slots_of(event):
        current = state.get(slot)
        if current is not None and not graph.is_rejected(current):
            found[slot] = graph.event(current)
    return found
