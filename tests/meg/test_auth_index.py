"""The index over auth chains: the same answers as walking them, on any graph, and at a cost of what differs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import V10, V11, V12, RoomVersionRules
from p2pserver.meg import auth_index, resolution
from p2pserver.meg.auth_index import (
    AuthNode,
    NotIndexed,
    Reach,
    difference_by_index,
    on_spine,
    subgraph_by_index,
    where_spines_meet,
)
from p2pserver.meg.chains import AuthGraph, ResolutionNotes, auth_difference, conflicted_subgraph
from p2pserver.meg.resolution import Shared, resolve
from p2pserver.meg.state import CREATE, POWER_LEVELS, StateSlot
from tests.meg import vector_checks
from tests.meg.memory_index import MemoryIndex
from tests.meg.random_rooms import RandomRoom, random_room
from tests.meg.rooms import ALICE, BOB, JudgedRoom, pdu
from tests.meg.test_resolution import Lookups, duel

SHAPES = ("any", "deep", "fan", "ladder", "chains")


class AnyGraph:
    """State events that cite any earlier ones, in a shape that a liar may choose; nothing is rejected."""

    def __init__(self, rng: random.Random, size: int, shape: str, rules: RoomVersionRules = V11) -> None:
        self.rules, self.events = rules, dict[str, Pdu]()
        room_id = "!0" if rules.room_id_is_create_hash else "!room:a.example"
        for number in range(size):
            cited = self.cited_by(number, rng, shape)
            slot = CREATE if number == 0 else self.slot(number, rng, shape)
            event = pdu(
                rules,
                f"${number}",
                slot[0],
                sender=ALICE,
                content={"room_version": rules.version, "creator": ALICE, "membership": "join"},
                state_key=slot[1],
                auth_events=[f"${each}" for each in cited],
                room_id=room_id,
            )
            self.events[event.event_id] = event
        self.index = MemoryIndex.of(self.events)

    def cited_by(self, number: int, rng: random.Random, shape: str) -> list[int]:
        if number == 0:
            return []
        if shape == "deep":
            return sorted({number - 1, rng.randrange(number)})
        if shape == "fan":
            return sorted({rng.randrange(min(number, 4)) for _ in range(2)})
        if shape == "ladder":
            return sorted({max(0, number - 1), max(0, number - 2), max(0, number - rng.randint(1, 5))})
        if shape == "chains":
            return sorted({max(0, number - 12), rng.randrange(min(number, 3))})
        return sorted({rng.randrange(number) for _ in range(rng.randint(1, 4))})

    def slot(self, number: int, rng: random.Random, shape: str) -> StateSlot:
        if shape == "chains":
            return "m.room.member", f"@user{number % 12}:x.example"
        if rng.random() < 0.4:
            return POWER_LEVELS
        return rng.choice(["m.room.member", "m.test"]), f"@user{rng.randrange(4)}:x.example"

    def event(self, event_id: str) -> Pdu:
        return self.events[event_id]

    def is_rejected(self, event_id: str) -> bool:
        return False

    def some_sets(self, rng: random.Random) -> list[dict[StateSlot, str]]:
        """State sets: some slots shared, some not, with any event of the slot, old or new."""
        by_slot: dict[StateSlot, list[str]] = {}
        for event in self.events.values():
            by_slot.setdefault(event.state_slot or ("", ""), []).append(event.event_id)
        sets: list[dict[StateSlot, str]] = [{} for _ in range(rng.randint(2, 5))]
        for slot, event_ids in by_slot.items():
            shared = rng.choice(event_ids)
            conflicted = slot != CREATE and rng.random() < 0.5
            for each in sets:
                chosen = rng.choice([*event_ids, None]) if conflicted else shared
                if chosen is not None:
                    each[slot] = chosen
        return sets


graphs = st.builds(
    lambda seed, size, shape, rules: (AnyGraph(random.Random(seed), size, shape, rules), random.Random(seed + 1)),
    st.integers(0, 2**32),
    st.integers(2, 70),
    st.sampled_from(SHAPES),
    st.sampled_from([V11, V12]),
)


def parts_of(graph: AnyGraph, rng: random.Random) -> tuple[Any, ...]:
    sets = graph.some_sets(rng)
    slots = resolution.differing_slots(sets)
    shared = Shared(sets[0], slots)
    distinct = resolution.distinct(sets, slots)
    return AuthGraph(graph), shared, resolution.holders(distinct, slots), (1 << len(distinct)) - 1


def difference_failures(graph: AnyGraph, rng: random.Random) -> list[str]:
    """What the index says otherwise than walking does, of the auth difference and of the conflicted subgraph."""
    auth, shared, held_by, every_set = parts_of(graph, rng)
    if not held_by:
        return []
    chain = auth.closure(sorted(held_by))
    walked = auth_difference(auth, chain, held_by, set(shared.values()), every_set, complete=True) - held_by.keys()
    failures = []
    reach = Reach(graph.index, shared.get, slot_of=auth.slot_of)
    found = difference_by_index(graph.index, held_by, every_set, reach, auth.auth_ids)
    if found != walked:
        failures.append(f"difference {sorted(found ^ walked)}")
    if subgraph_by_index(graph.index, held_by, auth.auth_ids) != conflicted_subgraph(auth, chain, held_by):
        failures.append("subgraph")
    return failures


@settings(max_examples=200, deadline=None)
@given(made=graphs)
def test_the_index_and_the_walk_agree(made: tuple[AnyGraph, random.Random]) -> None:
    assert difference_failures(*made) == []


@settings(max_examples=50, deadline=None)
@given(made=graphs)
def test_spines_meet_where_they_meet(made: tuple[AnyGraph, random.Random]) -> None:
    graph, rng = made
    index = graph.index

    def spine_of(event_id: str) -> list[str]:
        spine: list[str] = []
        at: str | None = event_id
        while at is not None:
            spine.append(at)
            at = index.node(at).spine
        return spine[::-1]

    for _ in range(10):
        one, other = rng.choice(list(graph.events)), rng.choice(list(graph.events))
        mine, theirs = spine_of(one), spine_of(other)
        assert index.node(one).depth == len(mine) - 1
        assert [on_spine(index, one, depth) for depth in range(len(mine))] == mine
        common = [each for each, same in zip(mine, theirs, strict=False) if each == same]
        assert where_spines_meet(index, one, other) == (common[-1] if common else None)


@settings(max_examples=80, deadline=None)
@given(made=graphs)
def test_any_graph_resolves_alike_with_and_without_the_index(made: tuple[AnyGraph, random.Random]) -> None:
    graph, rng = made
    notes = ResolutionNotes()
    for _ in range(3):
        sets = graph.some_sets(rng)
        assert resolve(sets, graph, graph.rules, index=graph.index, notes=notes) == resolve(sets, graph, graph.rules)


rooms = st.builds(random_room, st.sampled_from([V10, V11, V12]), seed=st.integers(0, 2**32), steps=st.integers(0, 24))


@settings(max_examples=60, deadline=None)
@given(room=rooms)
def test_random_rooms_resolve_alike_with_and_without_the_index(room: RandomRoom) -> None:
    index, notes = MemoryIndex.of(room.judged.events), ResolutionNotes()
    for _ in range(3):
        sets = room.random_states(most=6)
        plain = resolve(sets, room.judged, room.rules)
        assert resolve(sets, room.judged, room.rules, index=index, notes=notes) == plain


@pytest.mark.parametrize("name", vector_checks.STATE_RES)
def test_the_vectors_resolve_alike_with_and_without_the_index(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every resolution that the vector checks ask for is done both ways."""
    done = []

    def both(sets: Any, source: Any, rules: RoomVersionRules, **options: Any) -> Any:
        plain = resolve(sets, source, rules, **options)
        held = source.events if hasattr(source, "events") else None
        if held is not None and "trace" not in options:
            done.append(name)
            assert resolve(sets, source, rules, index=MemoryIndex.of(held)) == plain
        return plain

    monkeypatch.setattr(resolution, "resolve", both)
    monkeypatch.setattr("tests.meg.rooms.resolve", both)
    assert vector_checks.resolution_failures(name) == []
    assert done


def test_an_event_that_is_not_indexed_is_walked() -> None:
    room, sets = duel(V11, 5)
    index = MemoryIndex.of({each: event for each, event in room.events.items() if each != "$levels"})
    with pytest.raises(NotIndexed):
        index.node("$levels")
    assert resolve(sets, room, V11, index=index) == resolve(sets, room, V11)


# Work -----------------------------------------------------------------------------------------------------------------


def crowded_room(
    rules: RoomVersionRules, members: int, levels: int
) -> tuple[JudgedRoom, list[list[dict[StateSlot, str]]]]:
    """A room with members and a history of power levels, and small conflicts of several kinds in it."""
    room, _ = duel(rules, 1)
    state = dict(min(duel(rules, 1)[1], key=len))
    base_users = {} if rules.creators_privileged else {ALICE: 100}

    def add(state: dict[StateSlot, str], event_type: str, sender: str, key: str, **content: Any) -> None:
        draft = pdu(rules, "$", event_type, sender=sender, content=content, state_key=key)
        cited = [state[slot] for slot in resolution.EventFacts.of(replace(draft)).auth_slots if slot in state]
        event_id = f"${len(room.events)}"
        room.events[event_id] = pdu(
            rules,
            event_id,
            event_type,
            sender=sender,
            content=content,
            state_key=key,
            auth_events=cited,
            ts=100 + len(room.events),
            room_id=room.events["$create"].room_id,
        )
        room.verdicts[event_id] = "accepted"
        state[event_type, key] = event_id

    old = dict(state)
    for number in range(max(members, levels)):
        if number < levels:
            add(state, "m.room.power_levels", ALICE, "", users={**base_users, BOB: 100, f"@n:{number}": 1})
        if number < members:
            add(state, "m.room.member", f"@m{number}:x", f"@m{number}:x", membership="join")
    conflicts = []
    for case in ("topics", "levels", "profiles", "ban", "old"):
        one, other = dict(state), dict(state)
        if case == "topics":
            add(one, "m.room.topic", ALICE, "", topic="one")
            add(other, "m.room.topic", ALICE, "", topic="other")
        elif case == "levels":
            for side, sender in ((one, ALICE), (other, BOB)):
                add(side, "m.room.power_levels", sender, "", users={**base_users, BOB: 100, sender: 100})
                add(side, "m.room.topic", sender, "", topic=sender)
        elif case == "profiles":
            for side in (one, other):
                add(side, "m.room.member", BOB, BOB, membership="join", displayname=str(len(room.events)))
        elif case == "ban":
            add(one, "m.room.member", ALICE, "@m1:x", membership="ban")
            add(other, "m.room.topic", ALICE, "", topic="banned")
        else:
            stale = {**old, ("m.room.member", "@late:x"): ""}
            del stale["m.room.member", "@late:x"]
            add(stale, "m.room.member", "@late:x", "@late:x", membership="join")
            one["m.room.member", "@late:x"] = stale["m.room.member", "@late:x"]
            add(other, "m.room.member", "@late:x", "@late:x", membership="join")
        conflicts.append([one, other])
    return room, conflicts


def work_of(rules: RoomVersionRules, members: int, levels: int) -> list[int]:
    """Events looked up and questions to the index, of one resolution of each kind."""
    room, conflicts = crowded_room(rules, members, levels)
    index = MemoryIndex.of(room.events)
    work = []
    for sets in conflicts:
        lookups = Lookups(room)
        index.asked = 0
        result = resolution.resolved_changes(sets, resolution.differing_slots(sets), lookups, rules, index=index)
        work.append(len(lookups.asked) + index.asked)
        plain = resolve(sets, room, rules)
        for slot, event_id in result.items():
            assert plain.get(slot) == event_id
    return work


@pytest.mark.parametrize("rules", [V11, V12], ids=lambda rules: rules.version)
def test_a_small_conflict_costs_the_same_in_a_large_room(rules: RoomVersionRules) -> None:
    """Not more for ten thousand members, nor for a history of thousands of power levels, but for a logarithm."""
    small = work_of(rules, 20, 20)
    for members, levels in ((10_000, 20), (20, 2_000)):
        large = work_of(rules, members, levels)
        assert all(there < 3 * here + 60 for here, there in zip(small, large, strict=True)), (small, large)


# Sabotage -------------------------------------------------------------------------------------------------------------


def failures_over_seeds() -> Iterator[str]:
    for seed in range(30):
        for shape in SHAPES:
            rng = random.Random(seed)
            yield from difference_failures(AnyGraph(rng, 40, shape, (V11, V12)[seed % 2]), rng)


def without_every_third_link(self: MemoryIndex, event_id: str) -> Iterator[tuple[str, StateSlot]]:
    for number, each in enumerate(self.cited_by.get(event_id, ())):
        if number % 3 != 1:
            yield each


def all_on_one_level(self: MemoryIndex, event_id: str) -> AuthNode:
    return replace(self.nodes[event_id], level=1)


def never_reached(_self: Reach, _event_id: str) -> bool:
    return False


def test_nothing_is_noticed_where_nothing_is_broken() -> None:
    assert next(failures_over_seeds(), None) is None


SABOTAGE: list[tuple[Any, str, Callable[..., Any]]] = [
    (MemoryIndex, "citing", without_every_third_link),
    (MemoryIndex, "node", all_on_one_level),
    (Reach, "contains", never_reached),
    (Reach, "_is_before", lambda _self, _event_id, _current: True),
    (Reach, "add", lambda _self, _event_id: None),
    (auth_index, "_leading_to", lambda conflicted, *_rest: set(conflicted)),
    (auth_index, "_reached_from", lambda conflicted, *_rest: set(conflicted)),
]


@pytest.mark.parametrize(("owner", "name", "instead"), SABOTAGE, ids=[name for _, name, _ in SABOTAGE])
def test_a_broken_index_is_noticed(
    owner: Any, name: str, instead: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, instead)
    assert next(failures_over_seeds(), None) is not None
