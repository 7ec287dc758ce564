"""State resolution: version 2 (room versions 2 to 11) and version 2.1 (room version 12); 1 is in `resolution_v1`.

The result is a pure function of the state sets, as a set, and of the events they name with their auth chains: it does
not depend on the order of the sets, on the order of arrival, or on the iteration order of anything.

Source: room version 2, "State resolution"; room version 12, "State resolution" (MSC4297). Where the text leaves a
choice, this follows what is deployed; docs/event-graph.md lists the choices.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from p2pserver.events.versions import RoomVersionRules, StateRes
from p2pserver.meg.auth_index import (
    AuthIndex,
    NotIndexed,
    Reach,
    difference_by_index,
    subgraph_by_index,
    where_spines_meet,
)
from p2pserver.meg.chains import AuthGraph, EventFacts, ResolutionNotes, auth_difference, conflicted_subgraph
from p2pserver.meg.iterative_checks import Overlay, apply
from p2pserver.meg.power import Level
from p2pserver.meg.resolution_v1 import resolve_v1
from p2pserver.meg.state import CREATE, POWER_LEVELS, EventSource, StateMap, StateSlot

POWER_SLOTS: Final = frozenset((CREATE, POWER_LEVELS, ("m.room.join_rules", "")))


def resolve(
    state_sets: Sequence[StateMap],
    source: EventSource,
    rules: RoomVersionRules,
    *,
    index: AuthIndex | None = None,
    notes: ResolutionNotes | None = None,
    trace: dict[str, Any] | None = None,
) -> dict[StateSlot, str]:
    """One state out of several: the state before an event whose `prev_events` have these states after them.

    `index` and `notes` spare work and change nothing else: with the index, no chain is walked further than the state
    sets differ; what one resolution notes down helps the next.

    `trace`, where given, is filled with the intermediate results: `conflicted_keys`, `conflicted_set`,
    `auth_difference`, `conflicted_subgraph` (2.1), `full_conflicted_set` as sorted lists; `power_order`, `mainline`
    (newest first), `rest_order` in their order; `state_after_power` as a state map. It takes the definitions at their
    word, without the index. In room version 1: as `resolve_v1`.
    Raises: KeyError, if the source does not know an event of a state set.
    """
    if not state_sets:
        return {}
    if rules.state_res is StateRes.V1:
        return resolve_v1(state_sets, source, trace=trace)
    maps = [state if isinstance(state, dict) else dict(state) for state in state_sets]
    state = dict(maps[0])
    differing = differing_slots(maps)
    if differing or trace is not None:
        changes = resolved_changes(maps, differing, source, rules, index=index, notes=notes, trace=trace)
        for slot, event_id in changes.items():
            if event_id is None:
                state.pop(slot, None)
            else:
                state[slot] = event_id
    return state


def resolved_changes(
    state_sets: Sequence[StateMap],
    differing: Collection[StateSlot],
    source: EventSource,
    rules: RoomVersionRules,
    *,
    index: AuthIndex | None = None,
    notes: ResolutionNotes | None = None,
    trace: dict[str, Any] | None = None,
) -> dict[StateSlot, str | None]:
    """`resolve` as changes to the first state set (None empties a slot), at a cost that does not depend on its size.

    `differing` are the slots in which the sets differ; slots in which they do not may be among them.
    Raises: KeyError, if the source does not know an event of a state set.
    """
    if rules.state_res is StateRes.V1:
        resolved = resolve_v1(state_sets, source)
        return {slot: resolved.get(slot) for slot in differing}
    conflicted_slots = conflicted_among(state_sets, differing)
    shared = Shared(state_sets[0], conflicted_slots)
    sets = distinct(state_sets, conflicted_slots)
    graph = AuthGraph(source, notes)
    held_by = holders(sets, conflicted_slots)
    every_set = (1 << len(sets)) - 1
    full: set[str] | None = None
    if index is not None and trace is None:
        with suppress(NotIndexed):
            full = full_conflicted_set_by_index(index, graph, shared, held_by, every_set, rules)
    if full is None:
        full = full_conflicted_set(graph, shared, held_by, every_set, rules, trace)

    state = Overlay(first_state(rules, shared))
    power_order = order_power_events(graph, with_auth_events_inside(graph, power_events(graph, full), full))
    apply(graph, power_order, state)
    if trace is not None:
        trace["state_after_power"] = dict(state)
    rest = full.difference(power_order)
    power_levels = state.get(POWER_LEVELS)
    mainline: list[str] = []
    ages: dict[str, float] | None = None
    if index is not None and trace is None:
        with suppress(NotIndexed):
            ages = ages_by_index(index, graph, rest, power_levels)
    if ages is None:
        mainline = mainline_of(graph, power_levels)
        ages = ages_on(graph, rest, mainline)
    rest_order = order_by_mainline(graph, rest, ages)
    apply(graph, rest_order, state)

    if trace is not None:
        trace["conflicted_keys"] = sorted(conflicted_slots)
        trace["conflicted_set"] = sorted(held_by)
        trace["full_conflicted_set"] = sorted(full)
        trace["power_order"] = power_order
        trace["mainline"] = mainline
        trace["rest_order"] = rest_order
    changes: dict[StateSlot, str | None] = dict.fromkeys(conflicted_slots)
    put = state.put.items()
    changes.update({slot: event_id for slot, event_id in put if slot in conflicted_slots or slot not in shared})
    return changes


def full_conflicted_set(
    graph: AuthGraph,
    shared: StateMap,
    held_by: Mapping[str, int],
    every_set: int,
    rules: RoomVersionRules,
    trace: dict[str, Any] | None,
) -> set[str]:
    """The conflicted events, what is in some but not all auth chains, and (2.1) the conflicted subgraph, by walking."""
    chain = graph.closure(sorted(held_by))
    subgraph = conflicted_subgraph(graph, chain, held_by) if rules.state_res is StateRes.V2_1 else set()
    difference = auth_difference(graph, chain, held_by, set(shared.values()), every_set, complete=trace is not None)
    if trace is not None:
        trace["auth_difference"] = sorted(difference)
        if rules.state_res is StateRes.V2_1:
            trace["conflicted_subgraph"] = sorted(subgraph)
    return difference.union(held_by, subgraph)


def full_conflicted_set_by_index(
    index: AuthIndex,
    graph: AuthGraph,
    shared: StateMap,
    held_by: Mapping[str, int],
    every_set: int,
    rules: RoomVersionRules,
) -> set[str]:
    """The same by the index. Raises: NotIndexed."""
    reach = Reach(index, shared.get, slot_of=graph.slot_of)
    full = difference_by_index(index, held_by, every_set, reach, graph.auth_ids).union(held_by)
    if rules.state_res is StateRes.V2_1 and held_by:
        full |= subgraph_by_index(index, held_by, graph.auth_ids)
    return full


class Shared(Mapping[StateSlot, str]):
    """The unconflicted state: what all sets hold, read from one of them."""

    def __init__(self, state: StateMap, conflicted: Collection[StateSlot]) -> None:
        self._state, self._conflicted = state, frozenset(conflicted)

    def get(self, slot: StateSlot, default: Any = None) -> Any:
        return default if slot in self._conflicted else self._state.get(slot, default)

    def __contains__(self, slot: object) -> bool:
        return slot in self._state and slot not in self._conflicted

    def __getitem__(self, slot: StateSlot) -> str:
        if slot in self._conflicted:
            raise KeyError(slot)
        return self._state[slot]

    def __iter__(self) -> Iterator[StateSlot]:
        return (slot for slot in self._state if slot not in self._conflicted)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def conflicted_among(sets: Sequence[StateMap], slots: Iterable[StateSlot]) -> set[StateSlot]:
    """Those of the slots that are not filled in every set by the same event."""
    if len(sets) == 2:
        one, other = sets[0].get, sets[1].get
        return {slot for slot in slots if one(slot) != other(slot)}
    return {slot for slot in slots if any(one.get(slot) != sets[0].get(slot) for one in sets[1:])}


def distinct(sets: Sequence[StateMap], conflicted: Collection[StateSlot]) -> list[StateMap]:
    """The state sets without repetitions. Two sets with the same events in all `conflicted` slots are the same.

    Linear: a fan of events by one member makes hundreds of large sets, which are never compared in pairs.
    """
    if len(sets) == 2:  # they differ in every conflicted slot, if there is one
        return list(sets) if conflicted else [sets[0]]
    slots = sorted(conflicted)
    kept: dict[tuple[str | None, ...], StateMap] = {}
    for state in sets:
        kept.setdefault(tuple(map(state.get, slots)), state)
    return list(kept.values())


def differing_slots(sets: Sequence[Mapping[StateSlot, str]]) -> set[StateSlot]:
    """The slots that are not filled in every set by the same event."""
    first = sets[0].items()
    return {slot for other in sets[1:] for slot, _ in first ^ other.items()}


def holders(sets: Sequence[Mapping[StateSlot, str]], conflicted_slots: Collection[StateSlot]) -> dict[str, int]:
    """The conflicted state set: each event with the sets that hold it, as bits."""
    held_by: dict[str, int] = {}
    for index, state in enumerate(sets):
        for slot in conflicted_slots:
            event_id = state.get(slot)
            if event_id is not None:
                held_by[event_id] = held_by.get(event_id, 0) | 1 << index
    return held_by


def first_state(rules: RoomVersionRules, unconflicted: StateMap) -> StateMap:
    """What the iterative auth checks start from: the unconflicted state (2), or nothing (2.1)."""
    return {} if rules.state_res is StateRes.V2_1 else unconflicted


def is_power_event(event: EventFacts) -> bool:
    """Whether a state event may take somebody's ability to do something; the create event counts as one."""
    if event.type == "m.room.member":
        return event.membership in ("leave", "ban") and event.slot is not None and event.sender != event.slot[1]
    return event.slot in POWER_SLOTS


def power_events(graph: AuthGraph, events: Iterable[str]) -> list[str]:
    facts = graph.known_facts
    return [event_id for event_id in events if is_power_event(facts.get(event_id) or graph.facts(event_id))]


def with_auth_events_inside(graph: AuthGraph, events: Iterable[str], full: Collection[str]) -> set[str]:
    """The events, and what is reached from them over auth events without leaving the set they are of."""
    reached = set(events)
    waiting = list(reached)
    auth_ids_of = graph.known_auth_ids
    while waiting and len(reached) < len(full):
        event_id = waiting.pop()
        for cited in auth_ids_of.get(event_id) or graph.auth_ids(event_id):
            if cited in full and cited not in reached:
                reached.add(cited)
                waiting.append(cited)
    return reached


def sender_level(graph: AuthGraph, event_id: str) -> Level:
    """The power of an event's sender by the event's own auth events."""
    known = graph.notes.levels.get(event_id)
    if known is None:
        known = level_by_auth_events(graph, event_id)
        if graph.knows_auth_events(event_id):
            graph.notes.levels.put(event_id, known)
    return known


def level_by_auth_events(graph: AuthGraph, event_id: str) -> Level:
    facts = graph.known_facts.get(event_id) or graph.facts(event_id)
    if facts.create_implied:
        create_id = facts.auth_ids[-1] if graph.find_facts(facts.auth_ids[-1]) else None
    elif facts.slot == CREATE and graph.event(event_id).rules.room_id_is_create_hash:
        create_id = event_id
    else:
        create_id = graph.cited(event_id, CREATE)
    cited = graph.cited_power_levels(event_id)
    if create_id is None and cited is None:
        return 0
    return graph.power_levels_of(create_id, cited).of_user(facts.sender)


def power_key(level: Level, origin_server_ts: int, event_id: str) -> tuple[Level, int, str]:
    """Smallest first: the more powerful sender, then the earlier timestamp, then the smaller event ID."""
    return -level, origin_server_ts, event_id


def order_power_events(graph: AuthGraph, events: Collection[str]) -> list[str]:
    """Reverse topological power ordering: auth events first, and the smallest `power_key` among those that are free."""
    facts_of, auth_ids_of = graph.known_facts, graph.known_auth_ids
    waits_for = dict.fromkeys(events, 0)
    cited_by: dict[str, list[str]] = {}
    keys = {}
    for event_id in events:
        for cited in auth_ids_of.get(event_id) or graph.auth_ids(event_id):
            if cited in waits_for:
                waits_for[event_id] += 1
                if cited in cited_by:
                    cited_by[cited].append(event_id)
                else:
                    cited_by[cited] = [event_id]
        facts = facts_of.get(event_id) or graph.facts(event_id)
        keys[event_id] = power_key(sender_level(graph, event_id), facts.origin_server_ts, event_id)
    free = [(keys[event_id], event_id) for event_id, count in waits_for.items() if count == 0]
    heapq.heapify(free)
    order: list[str] = []
    while free:
        _, event_id = heapq.heappop(free)
        order.append(event_id)
        for other in cited_by.get(event_id, ()):
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


def ages_on(graph: AuthGraph, events: Iterable[str], mainline: Sequence[str]) -> dict[str, float]:
    """Of each event the place, counted from the newest, of the first event of the mainline in its ancestry."""
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

    return {event_id: place_of(event_id) for event_id in events}


def ages_by_index(
    index: AuthIndex, graph: AuthGraph, events: Iterable[str], power_levels: str | None
) -> dict[str, float]:
    """The same where the mainline is the spine of `power_levels`. Raises: NotIndexed."""
    found: dict[str | None, float] = {None: float("inf")}
    ages: dict[str, float] = {}
    facts, cited_power_levels = graph.known_facts, graph.cited_power_levels
    for event_id in events:
        is_levels = (facts.get(event_id) or graph.facts(event_id)).slot == POWER_LEVELS
        levels = event_id if is_levels else cited_power_levels(event_id)
        age = found.get(levels)
        if age is None and levels is not None:
            meet = None if power_levels is None else where_spines_meet(index, levels, power_levels)
            if meet is None or power_levels is None:
                age = float("inf")
            else:
                age = float(index.node(power_levels).depth - index.node(meet).depth)
            found[levels] = age
        ages[event_id] = float("inf") if age is None else age
    return ages


def rest_key(age: float, origin_server_ts: int, event_id: str) -> tuple[float, int, str]:
    """Smallest first: the older place in the mainline, then the earlier timestamp, then the smaller event ID."""
    return -age, origin_server_ts, event_id


def order_by_mainline(graph: AuthGraph, events: Iterable[str], ages: Mapping[str, float]) -> list[str]:
    """Mainline ordering: by age, then timestamp, then ID."""
    facts = graph.known_facts
    keys = {
        event_id: rest_key(ages[event_id], (facts.get(event_id) or graph.facts(event_id)).origin_server_ts, event_id)
        for event_id in events
    }
    return sorted(keys, key=keys.__getitem__)
