"""When a healing event is posted, by whom, and when not."""

from __future__ import annotations

import random

import pytest

from p2pserver.errors import Verdict
from p2pserver.rooms import healing
from p2pserver.rooms.healing import HealingPlan, Outcome
from p2pserver.store import alarms, rooms
from p2pserver.store.events import HEALING_TYPE
from p2pserver.store.tx import Tx
from tests.rooms.servers import Server, power_levels, reconcile
from tests.rooms.test_convergence import act, healed, lose_and_shuffle, three_in_a_room


class Undone(Exception):
    pass


def siblings(server: Server, room_id: str, count: int) -> list[object]:
    """Messages of one server that all cite the same parents: it forgets each after it is made."""
    made: list[object] = []

    def post_and_forget(tx: Tx) -> None:
        made.append(
            server.rooms.send(
                tx, room_id=room_id, sender=server.user, event_type="m.room.message", content={"body": str(len(made))}
            ).raw
        )
        raise Undone

    for _ in range(count):
        with pytest.raises(Undone):
            server.run(post_and_forget)
    return made


def widened(branches: int, *, servers: int = 1) -> tuple[str, Server, list[Server]]:
    """A room with as many branches, held by alice and others."""
    alice, others = Server("alice"), [Server(f"server {number}") for number in range(servers)]
    room_id = alice.create()
    for other in others:
        other.join(room_id, alice)
    for other in [*others, *others]:
        reconcile(room_id, alice, other)
    raws = siblings(others[0], room_id, branches)
    for server in (alice, *others):
        server.receive(room_id, raws, others[0].name)
        assert width(server, room_id) == branches
    return room_id, alice, others


def differing_room() -> tuple[str, Server, Server]:
    """Two servers with the same events; alice soft-failed the name that bob believes in."""
    alice, bob, carol = Server("alice"), Server("bob"), Server("carol")
    room_id = alice.create()
    for other in (bob, carol):
        other.join(room_id, alice)
    for _ in range(2):
        for other in (bob, carol):
            reconcile(room_id, alice, other)
    levels = power_levels(alice, "12", users={bob.user: 100, carol.user: 100}, users_default=50)
    alice.set_state(room_id, "m.room.power_levels", "", levels)
    for other in (bob, carol):
        reconcile(room_id, alice, other)
    named = carol.set_state(room_id, "m.room.name", "", {"name": "ours"})
    demoted = {**levels, "users": {bob.user: 100, carol.user: 0}, "users_default": 0, "state_default": 50}
    raised = alice.set_state(room_id, "m.room.power_levels", "", demoted)
    for server in (alice, bob, carol):
        server.now_ms += 60_000
    wins = bob.set_state(room_id, "m.room.power_levels", "", {**levels, "kick": 99})
    bob.receive(room_id, [named.raw, raised.raw], carol.name)
    alice.receive(room_id, [named.raw, wins.raw], carol.name)
    return room_id, alice, bob


def plan(server: Server, room_id: str, *, differs: bool = False) -> HealingPlan | None:
    return server.run(lambda tx: server.rooms.plan_healing(tx, room_id, differed_at=tx.position() if differs else None))


def heal(server: Server, room_id: str, planned: HealingPlan | None, *, patient: bool = False) -> Outcome:
    assert planned is not None
    return server.run(lambda tx: server.rooms.heal(tx, room_id, planned, patient=patient))


def width(server: Server, room_id: str) -> int:
    return server.kept_digest(room_id).width


def test_narrow_room_is_left_alone() -> None:
    room_id, alice, _ = widened(20)
    assert plan(alice, room_id) is None
    assert plan(alice, "!nowhere") is None


def test_wide_room_is_healed() -> None:
    room_id, alice, others = widened(30)
    assert heal(alice, room_id, plan(alice, room_id)) is Outcome.POSTED
    assert width(alice, room_id) == 11
    assert plan(alice, room_id) is None
    assert [item.kind for item in alice.owed_to(others[0].name)][-1] == "pdu"


def test_one_server_goes_first() -> None:
    room_id, alice, others = widened(21, servers=4)
    plans = [plan(server, room_id) for server in (alice, *others)]
    assert [each is not None for each in plans] == [True] * 5
    assert sum(each.is_first for each in plans if each is not None) == 1


def test_event_of_another_server_makes_ours_needless() -> None:
    room_id, alice, others = widened(45)
    planned = plan(alice, room_id)
    assert heal(others[0], room_id, plan(others[0], room_id)) is Outcome.POSTED
    reconcile(room_id, alice, others[0])
    assert width(alice, room_id) > 20
    assert heal(alice, room_id, planned) is Outcome.NOT_NEEDED
    assert heal(alice, room_id, plan(alice, room_id)) is Outcome.POSTED


def test_graph_that_is_still_growing_is_waited_for() -> None:
    room_id, alice, others = widened(45)
    planned = plan(alice, room_id)
    alice.receive(room_id, [others[0].send(room_id, "more").raw], others[0].name)
    assert heal(alice, room_id, planned, patient=True) is Outcome.MOVED
    assert heal(alice, room_id, planned) is Outcome.POSTED


def test_who_may_not_speak_posts_nothing() -> None:
    room_id, alice, others = widened(1, servers=2)
    muted = others[0]
    levels = power_levels(alice, "12", users={others[1].user: 50}, events_default=50)
    alice.set_state(room_id, "m.room.power_levels", "", levels)
    for other in others:
        reconcile(room_id, alice, other)
    planned = HealingPlan(states=False, position=10**9, leaves=b"", is_first=True, members=2, in_a_row=0, merges=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(healing, "is_needed", lambda *args: True)
        events = muted.one("SELECT count(*) FROM events")
        assert heal(muted, room_id, planned) is Outcome.NOBODY_MAY
        assert muted.one("SELECT count(*) FROM events") == events
        assert heal(others[1], room_id, planned) is Outcome.POSTED


def test_most_powerful_local_user_posts() -> None:
    alice = Server("alice")
    room_id = alice.create()
    alice.set_state(room_id, "m.room.power_levels", "", power_levels(alice, "12", events_default=50))
    for number in range(12):
        alice.member(room_id, f"@a{number}:{alice.name}", "join", sender=f"@a{number}:{alice.name}")
    planned = HealingPlan(states=False, position=10**9, leaves=b"", is_first=True, members=2, in_a_row=0, merges=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(healing, "is_needed", lambda *args: True)
        assert heal(alice, room_id, planned) is Outcome.POSTED
    assert alice.one("SELECT sender FROM events WHERE type = ?", HEALING_TYPE) == alice.user


def test_partial_room_is_not_healed_for_its_state() -> None:
    room_id, alice, _ = differing_room()
    assert plan(alice, room_id, differs=True) is not None
    alice.run(lambda tx: rooms.set_complete(tx, room_id, False))
    assert plan(alice, room_id, differs=True) is None


def test_difference_is_healed_and_liars_are_answered_once() -> None:
    room_id, alice, bob = differing_room()
    assert alice.digest(room_id) == bob.digest(room_id)
    assert alice.operational(room_id) != bob.operational(room_id)
    for _ in range(4):
        for one in (alice, bob):
            if alice.operational(room_id) != bob.operational(room_id) and plan(one, room_id, differs=True):
                assert heal(one, room_id, plan(one, room_id, differs=True)) is Outcome.POSTED
                reconcile(room_id, alice, bob)
    assert alice.operational(room_id) == bob.operational(room_id)
    assert alice.digest(room_id) == bob.digest(room_id)
    count = alice.one("SELECT count(*) FROM events WHERE type = ?", HEALING_TYPE)
    assert 1 <= count <= 2
    assert alice.column("SELECT verdict FROM events WHERE type = ?", HEALING_TYPE) == ["accepted"] * count
    posted = 0
    for _ in range(20):  # bob says that his state differs, again and again
        planned = plan(alice, room_id, differs=True)
        if planned is not None:
            posted += heal(alice, room_id, planned) is Outcome.POSTED
    assert posted <= 1


def test_difference_told_before_a_healing_event_is_old_news() -> None:
    room_id, alice, bob = differing_room()
    told_at = alice.position()
    assert heal(bob, room_id, plan(bob, room_id, differs=True)) is Outcome.POSTED
    reconcile(room_id, alice, bob)
    assert alice.run(lambda tx: alice.rooms.plan_healing(tx, room_id, differed_at=told_at)) is None


def test_healing_events_in_a_row_are_counted() -> None:
    room_id, alice, bob = differing_room()
    planned = plan(alice, room_id, differs=True)
    assert planned is not None
    assert planned.in_a_row == 0
    assert heal(alice, room_id, planned) is Outcome.POSTED
    reconcile(room_id, alice, bob)
    later = plan(bob, room_id, differs=True)
    assert later is None or later.in_a_row == 1


def test_soft_failed_healing_event_starts_no_loop() -> None:
    """A banned server's healing event counts as seen, and is answered by none."""
    room_id, alice, bob = differing_room()
    alice.member(room_id, bob.user, "ban")
    planned = plan(bob, room_id, differs=True)
    assert heal(bob, room_id, planned) is Outcome.POSTED
    event_id = bob.one("SELECT event_id FROM events WHERE type = ?", HEALING_TYPE)
    told_at = alice.position()
    alice.receive(room_id, list(bob.graph(room_id).values()), bob.name)
    assert alice.verdict(event_id) is Verdict.SOFT_FAILED
    assert alice.run(lambda tx: alice.rooms.plan_healing(tx, room_id, differed_at=told_at)) is None


def healing_events_of_a_random_room(seed: int) -> int | None:
    """Whoever finds that a peer with the same events differs posts, one at a time, until nobody has anything to say.

    How many were posted; None, if all agreed before.
    """
    rng = random.Random(seed)
    version = rng.choice(["10", "11", "12"])
    servers, room_id = three_in_a_room(seed, version)
    for _ in range(60):
        server = rng.choice(servers)
        act(server, room_id, [each for each in servers if each is not server], rng)
        if rng.random() < 0.4:
            lose_and_shuffle(*rng.sample(servers, 2), room_id, rng)
    healed(servers, room_id)
    posted = 0
    differed = operational(servers, room_id) > 1
    while operational(servers, room_id) > 1:
        outcomes = []
        for server in rng.sample(servers, len(servers)):
            planned = plan(server, room_id, differs=True)
            outcomes.append(None if planned is None else heal(server, room_id, planned))
            if outcomes[-1] is Outcome.POSTED:
                break
        if Outcome.POSTED not in outcomes:
            break
        posted += 1
        healed(servers, room_id)
        assert len({server.digest(room_id) for server in servers}) == 1
        assert posted <= 2 * len(servers)
    assert operational(servers, room_id) == 1
    return posted if differed else None


def test_random_rooms_are_healed_and_it_ends() -> None:
    posted = [healing_events_of_a_random_room(seed) for seed in range(16)]
    counts = [count for count in posted if count is not None]
    print(f"{len(counts)} of {len(posted)} rooms differed; healing events: {sorted(counts)}")
    assert counts
    assert max(counts) <= 6


def operational(servers: list[Server], room_id: str) -> int:
    return len({server.operational(room_id) for server in servers})


def test_alarms_are_bounded_and_name_who_says_it() -> None:
    server = Server("alice")

    def say(room_id: str, peer: str) -> bool:
        return server.run(
            lambda tx: alarms.raise_alarm(
                tx, room_id=room_id, kind=alarms.DIVERGED, about=peer, details={"ours": "00"}, now_ms=1
            )
        )

    assert say("!room", "liar")
    assert not any(say("!room", "liar") for _ in range(100))
    found = server.run(lambda tx: alarms.alarms(tx, "!room"))
    assert [(alarm.about, alarm.times) for alarm in found] == [("liar", 101)]
    for number in range(3 * alarms.KEPT_PER_ROOM):
        say("!room", f"liar {number}")
    assert len(server.run(alarms.alarms)) == alarms.KEPT_PER_ROOM
    assert server.run(alarms.counts) == {("!room", alarms.DIVERGED): 101 + 3 * alarms.KEPT_PER_ROOM}
