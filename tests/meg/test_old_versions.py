"""Rooms of versions 1 to 9 as Synapse judged and resolved them; state resolution 1, sentence by sentence."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pserver.events.versions import ROOM_VERSIONS, V1, V3, EventIds, StateRes
from p2pserver.meg import resolution_v1
from p2pserver.meg.resolution import resolve
from p2pserver.meg.state import CREATE, JOIN_RULES, POWER_LEVELS, StateSlot, member_slot
from tests.meg import old_version_checks as checks
from tests.meg.rooms import ALICE, BOB, CAROL, JudgedRoom, pdu

TOPIC: StateSlot = ("m.room.topic", "")


def test_there_are_a_few_dozen_rooms_for_each_algorithm() -> None:
    assert len(checks.of_version("1")) == 24
    assert all(len(checks.of_version(str(version))) == 3 for version in range(2, 10))
    assert all(len(room["resolutions"]) == 4 for room in checks.rooms())
    merges = sum(len(entry["pdu"]["prev_events"]) > 1 for room in checks.rooms() for entry in room["events"])
    assert merges > 150


@pytest.mark.parametrize("name", checks.names())
def test_a_room_is_as_synapse_has_it(name: str) -> None:
    assert checks.failures(name) == []


@pytest.mark.parametrize("name", checks.names())
def test_a_room_is_the_same_in_another_order_of_arrival(name: str) -> None:
    assert checks.failures(name, seed=1) == []


# The checks can fail.


def failing(version: str) -> bool:
    return any(checks.failures(name) for name in checks.of_version(version))


BROKEN: list[tuple[str, Callable[..., object]]] = [
    ("chain_key", lambda event: (event.depth, int(resolution_v1.sha1_of(event), 16))),
    ("chain_key", lambda event: (-event.depth, 0)),
    ("pick_key", lambda event: (event.depth, int(resolution_v1.sha1_of(event), 16))),
    ("is_allowed", lambda *_: True),
    ("is_chained", lambda slot: False),
    ("chain", lambda order, state, source: order[0]),
    ("pick", lambda order, state, source: order[0]),
    ("passes", lambda candidates: [sorted(candidates)]),
]


@pytest.mark.parametrize(("name", "broken"), BROKEN, ids=[f"{index}-{name}" for index, (name, _) in enumerate(BROKEN)])
def test_a_step_of_version_1_done_otherwise_is_noticed(
    name: str, broken: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolution_v1, name, broken)
    assert failing("1")


@pytest.mark.parametrize(
    ("version", "wrong"),
    [
        ("1", {"state_res": StateRes.V2}),
        ("2", {"state_res": StateRes.V1}),
        ("1", {"redactions_authorized": False}),
        ("3", {"event_ids": EventIds.HASH_URL_SAFE}),
        ("4", {"event_ids": EventIds.HASH}),
        ("5", {"aliases_authorized": False}),
        ("6", {"aliases_authorized": True}),
        ("7", {"join_rules": V3.join_rules}),
        ("9", {"integer_levels": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_rule_of_another_version_is_noticed(
    version: str, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ROOM_VERSIONS, version, replace(ROOM_VERSIONS[version], **wrong))
    assert failing(version)


# State resolution 1, sentence by sentence.


class Room:
    """Made-up events of one room: alice made it, bob is a moderator, carol a member."""

    def __init__(self) -> None:
        self.judged = JudgedRoom(V1)
        self.base = {
            CREATE: self.event("$create:a", "m.room.create", {"creator": ALICE}),
            POWER_LEVELS: self.event("$levels:a", "m.room.power_levels", {"users": {ALICE: 100, BOB: 50}}, depth=2),
            JOIN_RULES: self.event("$rules:a", "m.room.join_rules", {"join_rule": "public"}, depth=3),
            **{
                member_slot(user): self.event(f"$join{user}", "m.room.member", {"membership": "join"}, user, user)
                for user in (ALICE, BOB, CAROL)
            },
        }

    def event(
        self,
        event_id: str,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str = "",
        sender: str = ALICE,
        depth: int = 1,
        *,
        rejected: bool = False,
    ) -> str:
        made = pdu(V1, event_id, event_type, sender=sender, content=content, state_key=state_key, depth=depth)
        self.judged.events[event_id] = made
        self.judged.verdicts[event_id] = "rejected_by_auth_events" if rejected else "accepted"
        return event_id

    def resolve(self, *changes: Mapping[StateSlot, str | None]) -> dict[StateSlot, str]:
        sets = [{slot: each for slot, each in {**self.base, **some}.items() if each is not None} for some in changes]
        results = [resolve(order, self.judged, V1) for order in (sets, sets[::-1], [*sets, *sets])]
        assert results[0] == results[1] == results[2]
        return results[0]


def sha1(event_id: str) -> str:
    return hashlib.sha1(event_id.encode(), usedforsecurity=False).hexdigest()


def test_a_slot_that_a_state_lacks_is_no_conflict() -> None:
    room = Room()
    topic = room.event("$t:a", "m.room.topic", {}, sender=CAROL)  # carol may not, but nobody asks
    assert room.resolve({TOPIC: topic}, {TOPIC: None}) == {**room.base, TOPIC: topic}


def test_the_deepest_topic_wins_and_of_equals_the_smaller_sha1() -> None:
    room = Room()
    low, high = (room.event(f"$t{n}:a", "m.room.topic", {"topic": str(n)}, depth=n) for n in (5, 6))
    assert room.resolve({TOPIC: low}, {TOPIC: high})[TOPIC] == high
    same = [room.event(f"$same{n}:a", "m.room.topic", {}, depth=6) for n in range(4)]
    assert room.resolve(*({TOPIC: each} for each in (*same, high)))[TOPIC] == min((*same, high), key=sha1)


def test_a_flipped_tie_break_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution_v1, "pick_key", lambda event: (-event.depth, -int(resolution_v1.sha1_of(event), 16)))
    with pytest.raises(AssertionError):
        test_the_deepest_topic_wins_and_of_equals_the_smaller_sha1()


def test_a_deeper_topic_that_is_not_allowed_does_not_count_and_if_none_is_the_shallowest_stays() -> None:
    room = Room()
    allowed = room.event("$bob:b", "m.room.topic", {}, sender=BOB, depth=5)
    by_carol = [room.event(f"$carol{n}:c", "m.room.topic", {}, sender=CAROL, depth=n) for n in (6, 7, 8)]
    assert room.resolve({TOPIC: allowed}, *({TOPIC: each} for each in by_carol))[TOPIC] == allowed
    assert room.resolve(*({TOPIC: each} for each in by_carol))[TOPIC] == by_carol[0]


def test_power_levels_follow_the_chain_of_what_each_allows() -> None:
    room = Room()
    first = room.event("$1:a", "m.room.power_levels", {"users": {ALICE: 100, BOB: 100}}, depth=5)
    second = room.event(
        "$2:b", "m.room.power_levels", {"users": {ALICE: 100, BOB: 100, CAROL: 50}}, sender=BOB, depth=6
    )
    by_carol = room.event("$3:c", "m.room.power_levels", {"users": {CAROL: 100}}, sender=CAROL, depth=7)
    last = room.event("$4:a", "m.room.power_levels", {"users": {ALICE: 100}}, depth=8)
    assert room.resolve({POWER_LEVELS: first}, {POWER_LEVELS: second})[POWER_LEVELS] == second
    # The chain breaks at carol's: what comes after it is not looked at.
    sets = ({POWER_LEVELS: each} for each in (first, second, by_carol, last))
    assert room.resolve(*sets)[POWER_LEVELS] == second


def test_power_levels_are_settled_before_join_rules_members_and_the_rest() -> None:
    room = Room()
    weak = room.event("$weak:a", "m.room.power_levels", {"users": {ALICE: 100, BOB: 50}}, depth=5)
    none = room.event("$none:a", "m.room.power_levels", {"users": {ALICE: 100}}, depth=6)
    rules = room.event("$r:b", "m.room.join_rules", {"join_rule": "invite"}, sender=BOB, depth=7)
    topic, old_topic = (room.event(f"${n}:b", "m.room.topic", {}, sender=s, depth=n) for n, s in ((9, BOB), (2, ALICE)))
    kick = room.event("$kick:b", "m.room.member", {"membership": "leave"}, CAROL, BOB, 8)
    left = {POWER_LEVELS: weak, JOIN_RULES: rules, TOPIC: topic, member_slot(CAROL): kick}
    right = {POWER_LEVELS: none, TOPIC: old_topic}
    assert room.resolve(left, right) == {**room.base, POWER_LEVELS: none, TOPIC: old_topic}


def test_members_are_settled_by_the_settled_join_rules() -> None:
    room = Room()
    closed = room.event("$closed:a", "m.room.join_rules", {"join_rule": "invite"}, depth=7)
    gone = room.event("$gone:c", "m.room.member", {"membership": "leave"}, CAROL, CAROL, 8)
    back = room.event("$back:c", "m.room.member", {"membership": "join"}, CAROL, CAROL, 9)
    member = member_slot(CAROL)
    assert room.resolve({member: gone}, {member: back})[member] == back
    assert room.resolve({member: gone, JOIN_RULES: closed}, {member: back})[member] == gone


def test_rejected_events_are_no_candidates() -> None:
    room = Room()
    good = room.event("$good:a", "m.room.topic", {}, depth=5)
    bad = room.event("$bad:a", "m.room.topic", {}, depth=6, rejected=True)
    assert room.resolve({TOPIC: good}, {TOPIC: bad})[TOPIC] == good
    other = room.event("$other:a", "m.room.topic", {}, depth=7, rejected=True)
    assert TOPIC not in room.resolve({TOPIC: other}, {TOPIC: bad})


def test_the_trace_tells_each_choice() -> None:
    room = Room()
    low, high = (room.event(f"$t{n}:a", "m.room.topic", {}, depth=n) for n in (5, 6))
    trace: dict[str, Any] = {}
    result = resolve([{**room.base, TOPIC: low}, {**room.base, TOPIC: high}], room.judged, V1, trace=trace)
    assert trace["conflicted_keys"] == [TOPIC]
    assert trace["conflicted_set"] == sorted((low, high))
    assert trace["passes"] == [{"slot": TOPIC, "order": [high, low], "taken": high}]
    assert result[TOPIC] == high


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(checks.of_version("1")), shuffles=st.randoms(use_true_random=False))
def test_the_order_of_the_state_sets_does_not_matter(name: str, shuffles: random.Random) -> None:
    room = checks.room_named(name)
    events = checks.received(room)
    judged = JudgedRoom(V1)
    judged.add_all(events)
    states = checks.states_of(room, events)
    sets = shuffles.choices(states, k=shuffles.randint(1, 6))
    expected = resolve(sets, judged, V1)
    for _ in range(3):
        again = [dict(shuffles.sample(sorted(state.items()), len(state))) for state in (*sets, shuffles.choice(sets))]
        shuffles.shuffle(again)
        assert resolve(again, judged, V1) == expected
    assert expected.keys() == set().union(*sets)
    for slot, event_id in expected.items():
        assert event_id in {state.get(slot) for state in sets}
    assert resolve([expected, expected], judged, V1) == expected
