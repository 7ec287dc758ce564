"""State resolution on random rooms: against the definitions, in every order, under any hash seed, and at size."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import ROOM_VERSIONS, V10, V11, V12, RoomVersionRules, StateRes
from p2pserver.meg import iterative_checks, resolution
from p2pserver.meg.auth import auth_slots_of
from p2pserver.meg.chains import AuthGraph
from p2pserver.meg.resolution import resolve
from p2pserver.meg.state import JOIN_RULES, POWER_LEVELS, StateSlot, member_slot
from tests.meg.random_rooms import RandomRoom, random_room
from tests.meg.rooms import ALICE, BOB, CAROL, JudgedRoom, pdu

VERSIONS = sorted(ROOM_VERSIONS)
rooms = st.builds(random_room, st.sampled_from([V10, V11, V12]), seed=st.integers(0, 2**32), steps=st.integers(0, 24))


# The definitions of the specification, word by word and slowly ------------------------------------------------------


def chain_of(room: JudgedRoom, event_id: str) -> set[str]:
    """The event and its auth chain."""
    found: set[str] = set()
    waiting = [event_id]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += room.events[current].auth_events
            if room.rules.room_id_is_create_hash:
                waiting.append("$" + room.events[current].room_id[1:])
    return found


def by_definition(sets: list[Any], room: JudgedRoom) -> dict[str, set[Any]]:
    slots = {slot for state in sets for slot in state}
    conflicted_slots = {slot for slot in slots if len({state.get(slot) for state in sets}) > 1}
    conflicted = {state[slot] for state in sets for slot in conflicted_slots if slot in state}
    chains = [set().union(*(chain_of(room, event_id) for event_id in state.values())) for state in sets]
    difference = set().union(*chains) - set.intersection(*chains)
    parts = {"conflicted_keys": conflicted_slots, "conflicted_set": conflicted, "auth_difference": difference}
    subgraph: set[str] = set()
    if room.rules.state_res is StateRes.V2_1:
        for event_id in set().union(*(chain_of(room, each) for each in conflicted)):
            above = any(event_id in chain_of(room, each) for each in conflicted)
            below = bool(chain_of(room, event_id) & conflicted)
            if above and below:
                subgraph.add(event_id)
        parts["conflicted_subgraph"] = subgraph
    parts["full_conflicted_set"] = conflicted | difference | subgraph
    return parts


def smallest_topological_order(room: JudgedRoom, events: Iterable[str]) -> list[str]:
    """At each step the smallest of all events that wait for nothing."""
    graph = AuthGraph(room)
    left = set(events)
    order: list[str] = []
    while left:
        free = [event_id for event_id in left if not left.intersection(graph.auth_ids(event_id))]
        order.append(
            min(
                free,
                key=lambda event_id: (
                    -resolution.sender_level(graph, event_id),
                    room.events[event_id].origin_server_ts,
                    event_id,
                ),
            )
        )
        left.remove(order[-1])
    return order


@settings(max_examples=100, deadline=None)
@given(room=rooms)
def test_intermediate_results_follow_the_definitions(room: RandomRoom) -> None:
    sets = room.random_states()
    trace: dict[str, Any] = {}
    result = resolve(sets, room.judged, room.rules, trace=trace)
    for name, expected in by_definition(sets, room.judged).items():
        assert trace[name] == sorted(expected), name
    assert trace["power_order"] == smallest_topological_order(room.judged, trace["power_order"])
    assert sorted(trace["power_order"] + trace["rest_order"]) == trace["full_conflicted_set"]
    assert result == resolve(sets, room.judged, room.rules), "the trace changes the result"


# What resolution promises -------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(room=rooms, shuffles=st.randoms(use_true_random=False))
def test_the_order_of_the_state_sets_does_not_matter(room: RandomRoom, shuffles: random.Random) -> None:
    sets = room.random_states(most=6)
    expected = resolve(sets, room.judged, room.rules)
    for _ in range(4):
        again = [dict(shuffles.sample(sorted(state.items()), len(state))) for state in sets]
        again += shuffles.choices(again, k=2)
        shuffles.shuffle(again)
        assert resolve(again, room.judged, room.rules) == expected


@settings(max_examples=60, deadline=None)
@given(room=rooms, shuffles=st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_the_order_of_arrival(room: RandomRoom, shuffles: random.Random) -> None:
    arrived = JudgedRoom(room.rules)
    arrived.add_all(shuffles.sample(room.order, len(room.order)))
    assert arrived.digest() == room.judged.digest()


@settings(max_examples=60, deadline=None)
@given(room=rooms, more=st.integers(1, 8))
def test_the_past_is_final(room: RandomRoom, more: int) -> None:
    """Later events, an attacker's too, change no verdict and no state of events that were there before."""
    verdicts, before = dict(room.judged.verdicts), dict(room.judged.before)
    for _ in range(more):
        room.step()
    again = JudgedRoom(room.rules)
    again.add_all(room.order)
    assert {event_id: again.verdicts[event_id] for event_id in verdicts} == verdicts
    assert {event_id: again.before[event_id] for event_id in before} == before


@settings(max_examples=100, deadline=None)
@given(room=rooms)
def test_agreement_is_kept(room: RandomRoom) -> None:
    """What all sets agree on is in the result, and everything in the result is in some set or auth chain."""
    sets = room.random_states()
    result = resolve(sets, room.judged, room.rules)
    for slot, event_id in sets[0].items():
        if all(state.get(slot) == event_id for state in sets):
            assert result[slot] == event_id
    reachable = set().union(*(chain_of(room.judged, event_id) for state in sets for event_id in state.values()))
    assert set(result.values()) <= reachable
    assert all(room.judged.events[event_id].state_slot == slot for slot, event_id in result.items())


def test_random_rooms_are_hostile_enough() -> None:
    """The generator makes what the tests above are about: rejected events, conflicts, both kinds of orders."""
    verdicts, power, rest, difference = set(), 0, 0, 0
    for seed in range(60):
        room = random_room((V10, V11, V12)[seed % 3], seed, 24)
        verdicts |= set(room.judged.verdicts.values())
        trace: dict[str, Any] = {}
        resolve(room.random_states(), room.judged, room.rules, trace=trace)
        power += len(trace["power_order"]) > 1
        rest += len(trace["rest_order"]) > 1
        difference += bool(set(trace["full_conflicted_set"]) - set(trace["conflicted_set"]))
    assert verdicts == {"accepted", "rejected_by_auth_events", "rejected_by_state_before"}
    assert min(power, rest, difference) >= 10, (power, rest, difference)


DIGESTS = """
from p2pserver.events.versions import V10, V11, V12
from tests.meg.random_rooms import random_room
for seed in range(45):
    room = random_room((V10, V11, V12)[seed % 3], seed, 20)
    trace = {}
    state = room.judged.state_after(room.leaves())
    print(room.judged.digest().hex(), sorted(state.items()))
"""


def test_the_hash_seed_of_the_interpreter_does_not_matter() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", DIGESTS],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1", "4242")
    }
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) == 45


# Borders ------------------------------------------------------------------------------------------------------------


def test_nothing_resolves_to_nothing_and_one_state_to_itself() -> None:
    room = random_room(V12, 1, 5).judged
    state = dict(room.after[next(reversed(room.events))])
    assert resolve([], room, V12) == {}
    result = resolve([state], room, V12)
    assert result == state
    assert result is not state
    assert resolve([{}, {}], room, V12) == {}


def test_an_unknown_event_in_a_state_set_is_the_callers_mistake() -> None:
    room = random_room(V12, 1, 5).judged
    with pytest.raises(KeyError):
        resolve([{POWER_LEVELS: "$nowhere"}, {}], room, V12)


class Lookups:
    """Counts the events that a resolution asks for."""

    def __init__(self, room: JudgedRoom) -> None:
        self.room = room
        self.asked: list[str] = []

    def event(self, event_id: str) -> Pdu:
        self.asked.append(event_id)
        return self.room.event(event_id)

    def is_rejected(self, event_id: str) -> bool:
        return self.room.is_rejected(event_id)


@pytest.mark.parametrize("rules", [V11, V12], ids=lambda rules: rules.version)
def test_two_topics_in_a_room_of_hundreds_touch_few_events(rules: RoomVersionRules) -> None:
    """The cost of an ordinary conflict does not grow with the number of members, and no event is asked for twice."""
    room = RandomRoom(rules, random.Random(7), lies=0)
    for number in range(300):
        user = f"@user{number}:u.example"
        room.grow(user, "m.room.member", user, {"membership": "join"}, room.leaves())
    fork = room.leaves()
    for topic in ("one", "two"):
        room.grow(ALICE, "m.room.topic", "", {"topic": topic}, fork)
    lookups = Lookups(room.judged)
    states = [room.judged.after[event_id] for event_id in room.leaves()]
    assert len(states) == 2
    resolve(states, lookups, rules)
    assert len(lookups.asked) == len(set(lookups.asked))
    assert len(lookups.asked) < 12


# Rejected events in a state set that a liar made up -------------------------------------------------------------------


def rejected_events_failures(rules: RoomVersionRules) -> list[str]:
    """Bob's ban of Carol and his topic were rejected; a state set names them all the same."""
    room = RandomRoom(rules, random.Random(3), lies=0)
    for user in (BOB, CAROL):
        room.grow(user, "m.room.member", user, {"membership": "join"}, room.leaves())
    honest = room.judged.state_after(room.leaves())
    levels = honest[POWER_LEVELS]
    forged: dict[StateSlot, str] = {}
    for slot, content in ((member_slot(CAROL), {"membership": "ban"}), (("m.room.topic", ""), {"topic": "mine"})):
        event = pdu(
            rules,
            f"$forged-{slot[0]}",
            slot[0],
            sender=BOB,
            state_key=slot[1],
            content=content,
            room_id=room.room_id,
            auth_events=[levels, honest[member_slot(BOB)]],
        )
        room.judged.events[event.event_id] = event
        room.judged.verdicts[event.event_id] = "rejected_by_state_before"
        forged[slot] = event.event_id
    sets = [honest, {**honest, **forged}]
    failures = []
    for order in (sets, sets[::-1]):
        result = resolve(order, room.judged, rules)
        failures += [f"{slot} is {event_id}" for slot, event_id in forged.items() if result.get(slot) == event_id]
    return failures


@pytest.mark.parametrize("rules", [V10, V11, V12], ids=lambda rules: rules.version)
def test_rejected_events_never_enter_the_state(rules: RoomVersionRules) -> None:
    assert rejected_events_failures(rules) == []


@pytest.mark.parametrize("rules", [V10, V11, V12], ids=lambda rules: rules.version)
def test_rejected_events_that_take_part_are_noticed(rules: RoomVersionRules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JudgedRoom, "is_rejected", lambda _self, _event_id: False)
    assert rejected_events_failures(rules) != []


# Size -----------------------------------------------------------------------------------------------------------------


def duel(rules: RoomVersionRules, rounds: int) -> tuple[JudgedRoom, list[dict[StateSlot, str]]]:
    """Two admins change power levels against each other in two long branches, and a crowd joins and is banned."""
    room = JudgedRoom(rules)
    room_id = "!create" if rules.room_id_is_create_hash else "!room:a.example"
    state: dict[StateSlot, str] = {}

    def add(event_id: str, event_type: str, sender: str, state_key: str, content: dict[str, Any], ts: int) -> None:
        draft = pdu(rules, event_id, event_type, sender=sender, content=content, state_key=state_key)
        cited = [state[slot] for slot in auth_slots_of(draft) if slot in state]
        event = pdu(
            rules,
            event_id,
            event_type,
            sender=sender,
            content=content,
            state_key=state_key,
            auth_events=cited,
            ts=ts,
            room_id=room_id,
        )
        room.events[event_id] = event
        room.verdicts[event_id] = "accepted"
        state[event_type, state_key] = event_id

    creation = {"room_version": rules.version, "creator": ALICE}
    add("$create", "m.room.create", ALICE, "", creation, 0)
    base_users = {} if rules.creators_privileged else {ALICE: 100}
    for user in (ALICE, BOB, CAROL):
        add(f"$join-{user}", "m.room.member", user, user, {"membership": "join"}, 1)
    add("$rules", "m.room.join_rules", ALICE, "", {"join_rule": "public"}, 1)
    add("$levels", "m.room.power_levels", ALICE, "", {"users": {**base_users, BOB: 100, CAROL: 100}}, 1)
    common = dict(state)
    sets = []
    for admin in (BOB, CAROL):
        state.clear()
        state.update(common)
        for turn in range(rounds):
            guest = f"@guest{turn}:g.example"
            users = {**base_users, BOB: 100, CAROL: 100, f"@{admin[1:4]}{turn}:x.example": turn % 50}
            add(f"${admin}-levels{turn}", "m.room.power_levels", admin, "", {"users": users}, 10 + turn)
            add(f"${admin}-join{turn}", "m.room.member", guest, guest, {"membership": "join"}, 10 + turn)
            add(f"${admin}-ban{turn}", "m.room.member", admin, guest, {"membership": "ban"}, 11 + turn)
            if turn % max(1, rounds // 10) == 0:
                sets.append(dict(state))
        sets.append(dict(state))
    return room, sets


def seconds(run: Callable[[], object]) -> float:
    """The best of three runs: the machine has other work."""
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best


@pytest.mark.parametrize("rules", [V11, V12], ids=lambda rules: rules.version)
def test_a_thousand_conflicted_events_in_twenty_sets_take_seconds_and_grow_linearly(rules: RoomVersionRules) -> None:
    taken = {}
    for rounds in (200, 800):
        room, sets = duel(rules, rounds)
        trace: dict[str, Any] = {}
        resolve(sets, room, rules, trace=trace)
        assert len(sets) >= 20
        assert len(trace["full_conflicted_set"]) >= rounds * 5
        taken[rounds] = seconds(lambda: resolve(sets, room, rules))  # noqa: B023  # called at once
    assert taken[200] < 3
    assert taken[800] < 3 * 4 * taken[200], taken


@pytest.mark.parametrize("rules", [V11, V12], ids=lambda rules: rules.version)
def test_long_chains_need_no_stack(rules: RoomVersionRules) -> None:
    room, sets = duel(rules, 3 * sys.getrecursionlimit())
    result = resolve([sets[0], sets[-1]], room, rules)
    assert result[JOIN_RULES] == "$rules"
    assert len(result) == len(sets[-1])


Step = tuple[str, str, str, dict[str, Any]]
"""Event ID, type, state key and content of an event."""


def carols(room: JudgedRoom, state: dict[StateSlot, str], steps: list[Step]) -> None:
    """Events that Carol sends one after the other, each citing what it needs of one and the same state."""
    room_id = room.events[state[POWER_LEVELS]].room_id
    for ts, (event_id, event_type, key, content) in enumerate(steps, 100):
        draft = pdu(room.rules, event_id, event_type, sender=CAROL, content=content, state_key=key)
        cited = [state[slot] for slot in auth_slots_of(draft) if slot in state]
        room.events[event_id] = pdu(
            room.rules,
            event_id,
            event_type,
            sender=CAROL,
            content=content,
            state_key=key,
            auth_events=cited,
            ts=ts,
            room_id=room_id,
        )
        room.verdicts[event_id] = "accepted"


@pytest.mark.parametrize("rules", [V10, V11, V12], ids=lambda rules: rules.version)
def test_a_setting_after_its_sender_has_left_is_refused_although_one_like_it_before_was_not(
    rules: RoomVersionRules,
) -> None:
    """Same sender, same type, same auth events: events of one case are judged together only while nothing changes."""
    room, (common, *_) = duel(rules, 0)
    steps: list[Step] = [
        ("$early", "m.example.setting", "a", {}),
        ("$leave", "m.room.member", CAROL, {"membership": "leave"}),
        ("$late", "m.example.setting", "b", {}),
    ]
    carols(room, common, steps)
    left = {**common, ("m.example.setting", "a"): "$early", member_slot(CAROL): "$leave"}
    stayed = {**common, ("m.example.setting", "b"): "$late"}
    resolved = resolve([left, stayed], room, rules)
    assert resolved == left


def bans_around_a_demotion(rules: RoomVersionRules) -> tuple[dict[StateSlot, str], dict[StateSlot, str]]:
    """What Carol's bans come to, one before and one after she gave up her level, citing the same; and what they should.

    A third is of somebody as powerful as she is.
    """
    room, (common, *_) = duel(rules, 0)
    del common[member_slot(BOB)]
    base_users = {} if rules.creators_privileged else {ALICE: 100}
    steps: list[Step] = [
        ("$early", "m.room.member", "@early:g.example", {"membership": "ban"}),
        ("$equal", "m.room.member", BOB, {"membership": "ban"}),
        ("$demotion", "m.room.power_levels", "", {"users": {**base_users, BOB: 100, CAROL: 10}}),
        ("$late", "m.room.member", "@late:g.example", {"membership": "ban"}),
    ]
    carols(room, common, steps)
    early, equal = member_slot("@early:g.example"), member_slot(BOB)
    one = {**common, early: "$early", equal: "$equal", POWER_LEVELS: "$demotion"}
    other = {**common, member_slot("@late:g.example"): "$late"}
    return resolve([one, other], room, rules), {**common, early: "$early", POWER_LEVELS: "$demotion"}


@pytest.mark.parametrize("rules", [V10, V11, V12], ids=lambda rules: rules.version)
def test_bans_are_judged_by_the_levels_of_both_at_each_moment(rules: RoomVersionRules) -> None:
    found, expected = bans_around_a_demotion(rules)
    assert found == expected


@pytest.mark.parametrize("wrong", [lambda *_: True, lambda *_: False], ids=["all", "none"])
def test_bans_that_are_judged_otherwise_are_noticed(
    wrong: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iterative_checks.Bans, "include", wrong)
    found, expected = bans_around_a_demotion(V12)
    assert found != expected
