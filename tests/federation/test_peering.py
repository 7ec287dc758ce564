"""Two or three servers and what they say to each other."""

from __future__ import annotations

import json
import random

import pytest

from p2pserver.federation import effects as fx
from p2pserver.federation.limits import PeeringLimits
from p2pserver.federation.peering import PeeringState
from p2pserver.link.limits import Priority
from p2pserver.wire import messages as m
from tests.federation.servers import WALL_MS, World, room_named

ROOM = room_named("one")


def two(seed: int = 0, **options: object) -> World:
    world = World(2, seed=seed, **options)
    a, b = world.servers
    a.join(ROOM, [b])
    b.join(ROOM, [a])
    return world


def shared_start(world: World, count: int = 3) -> None:
    """All servers hold the same first events."""
    first = world.servers[0]
    for n in range(count):
        first.post(ROOM, f"start {n}", owe=False)
    for server in world.servers[1:]:
        server.rooms[ROOM].events.update(first.rooms[ROOM].events)


def test_equal_rooms_cost_a_hello_and_a_beacon_each() -> None:
    world = two()
    shared_start(world)
    world.connect(*world.servers)
    world.run(30)
    assert world.messages == 4
    assert world.octets < 2 * (110 + 30)


def test_new_events_are_pushed_once_and_acknowledged() -> None:
    world = two()
    a, b = world.servers
    shared_start(world)
    world.connect(a, b)
    world.run(5)
    before = world.messages
    a.post(ROOM, "hello")
    world.run(1.0)
    assert a.rooms[ROOM].events == b.rooms[ROOM].events
    assert world.messages - before == 2  # the event, and that it is stored
    world.run(1.5)
    assert not a.outbox
    world.run(10)
    assert world.messages - before == 3  # and a beacon, once it is quiet


def test_a_burst_arrives_whole_in_few_messages() -> None:
    world = two()
    a, b = world.servers
    world.connect(a, b)
    world.run(5)
    before = world.messages
    ids = [a.post(ROOM, n) for n in range(300)]
    world.run(5)
    assert set(ids) <= set(b.rooms[ROOM].events)
    assert not a.outbox
    assert world.messages - before < 40


@pytest.mark.parametrize("seed", range(6))
def test_both_sides_of_a_partition_merge(seed: int) -> None:
    world = two(seed)
    a, b = world.servers
    shared_start(world)
    rng = random.Random(seed)
    for n in range(rng.choice((1, 40, 900))):
        a.post(ROOM, n)
    for n in range(rng.choice((0, 30, 700))):
        b.post(ROOM, n)
    world.connect(a, b)
    world.run(30)
    assert a.rooms[ROOM].events == b.rooms[ROOM].events
    assert not a.outbox
    assert not b.outbox
    assert not b.rooms[ROOM].parked


def test_what_the_peer_got_elsewhere_is_not_sent_again() -> None:
    world = two()
    a, b = world.servers
    shared_start(world)
    for n in range(500):
        a.post(ROOM, n)
    b.rooms[ROOM].events.update(a.rooms[ROOM].events)
    world.connect(a, b)
    world.run(5)
    assert not a.outbox
    assert world.octets < 1000


@pytest.mark.parametrize("seed", range(40))
def test_contact_lost_at_any_moment(seed: int) -> None:
    """The pipe breaks, or a process dies, every few messages; in the end both hold everything."""
    world = two(seed)
    a, b = world.servers
    rng = random.Random(seed)
    shared_start(world)
    for round_number in range(12):
        for n in range(rng.choice((0, 1, 60))):
            rng.choice((a, b)).post(ROOM, (round_number, n))
        for n in range(rng.choice((0, 0, 5))):
            a.owe(b.name, kind="edu", payload={"edu_type": "m.test", "content": {"n": [round_number, n]}})
        world.connect(a, b)
        for _ in range(rng.randrange(25)):
            world.step()
            world.now += rng.choice((0.0, 0.01, 0.3))
        if rng.random() < 0.5:
            world.cut(a, b)
        else:
            world.restart(rng.choice((a, b)))
        world.now += rng.choice((0.1, 40.0))
    world.connect(a, b)
    world.run(200)
    assert a.rooms[ROOM].events == b.rooms[ROOM].events
    assert not a.outbox
    assert not b.outbox
    seen = [json.dumps(json.loads(text)["content"]) for text in b.items]
    assert list(dict.fromkeys(seen)) == sorted(set(seen), key=lambda text: json.loads(text)["n"])


def test_a_line_of_three_carries_events_both_ways() -> None:
    world = World(3)
    a, b, c = world.servers
    for server in world.servers:
        server.join(ROOM, world.servers)
    shared_start(world)
    world.connect(a, b)
    world.connect(b, c)
    world.run(5)
    for n in range(50):
        a.post(ROOM, n)
        c.post(ROOM, n)
        world.run(0.3)
    world.run(2)
    held = world.held(ROOM)
    assert held[0] == held[1] == held[2]


def test_histories_that_merge_in_the_middle_reach_the_ends() -> None:
    world = World(4)
    for server in world.servers:
        server.join(ROOM, world.servers)
    shared_start(world)
    a, b, c, d = world.servers
    world.connect(a, b)
    world.connect(c, d)
    for n in range(200):
        a.post(ROOM, n)
        d.post(ROOM, n)
    world.run(10)
    world.connect(b, c)
    world.run(10)
    held = world.held(ROOM)
    assert len(held[0]) == 403
    assert held[0] == held[1] == held[2] == held[3]


def test_parents_that_the_carrier_lacks_are_asked_of_others() -> None:
    world = World(3)
    a, b, c = world.servers
    for server in world.servers:
        server.join(ROOM, world.servers)
    shared_start(world)
    a.post(ROOM, "parent", owe=False)
    last = a.post(ROOM, "child", owe=False)
    b.rooms[ROOM].events[last] = a.rooms[ROOM].events[last]  # b has a gap
    world.connect(b, c)
    world.run(5)
    assert c.in_vain
    world.connect(a, c)
    world.run(5)
    assert set(a.rooms[ROOM].events) == set(c.rooms[ROOM].events)


def test_a_room_joined_later_is_compared_when_its_first_event_is_owed() -> None:
    world = World(2)
    a, b = world.servers
    graph = a.join(ROOM, [])
    for n in range(500):
        a.post(ROOM, n)
    world.connect(a, b)
    world.run(5)
    graph.members.add(b.name)  # b joins with an offer of a, and holds only its own join
    theirs = b.join(ROOM, [a])
    join = {"n": "join", "origin": b.name, "prev_events": graph.leaves()}
    theirs.take(join)
    b.owe(a.name, kind="pdu", room_id=ROOM, event_id=next(iter(theirs.parked)), payload=join)
    world.run(5)
    assert set(theirs.events) == set(graph.events)
    assert len(theirs.events) == 501


def test_items_of_any_size_arrive_in_order() -> None:
    world = two()
    a, b = world.servers
    payloads = [{"edu_type": "m.test", "content": {"body": "x" * size}} for size in (1, 65_536, 1_000_000, 5, 200_000)]
    for payload in payloads:
        a.owe(b.name, kind="edu", payload=payload)
    a.owe(b.name, kind="edu", payload={"edu_type": "m.test", "content": {"body": "x" * 2_000_000}})  # cannot travel
    world.connect(a, b)
    world.run(30)
    assert [json.loads(text) for text in b.items] == payloads
    assert not a.outbox


def test_questions_are_answered_in_parts_and_in_any_order() -> None:
    world = two()
    a, b = world.servers
    world.connect(a, b)
    world.run(1)
    peering = a.peerings[b.name]
    numbers = [peering.ask("profile", b"{}") for _ in range(3)]
    world.run(1)
    bodies = {}
    for peer, effect in reversed(b.questions):
        bodies[effect.number] = b"x" * (effect.number * 200_000)
        b.peerings[peer].served(effect.number, ok=effect.number != 1, body=bodies[effect.number])
    world.run(1)
    answers = {effect.number: effect for effect in a.answers if isinstance(effect, fx.Answered)}
    assert sorted(answers) == numbers
    assert all(answers[number].body == bodies[number] for number in answers)
    assert [answers[number].ok for number in sorted(answers)] == [True, False, True]


def test_questions_fail_at_once_when_the_peer_goes_away() -> None:
    world = two()
    a, b = world.servers
    world.connect(a, b)
    world.run(1)
    number = a.peerings[b.name].ask("profile", b"{}")
    world.run(1)
    world.cut(a, b)
    world.run(1)
    assert a.answers == [fx.Unanswered(number)]
    assert a.peerings[b.name].ask("profile", b"{}") is None


def test_too_many_questions_are_refused() -> None:
    world = two()
    a, b = world.servers
    world.connect(a, b)
    world.run(1)
    for _ in range(64):
        assert a.peerings[b.name].ask("join", b"{}") is not None
    assert a.peerings[b.name].ask("join", b"{}") is None
    world.run(5)
    assert len(b.questions) == PeeringLimits().serving
    refused = [effect for effect in a.answers if isinstance(effect, fx.Answered)]
    assert len(refused) == 64 - PeeringLimits().serving
    assert all(b"M_LIMIT_EXCEEDED" in effect.body for effect in refused)


def test_a_second_name_and_a_name_of_another_key_are_refused() -> None:
    world = two()
    a, b = world.servers
    for name in (f"{b.name}.mesh.example.org", a.name):
        peering = a.peering_with(b, world.now)
        peering._known_name = b.name
        peering.contact(world.now, clock_ms=WALL_MS)
        hello = m.Hello(server_name=name, agent="x", salt=b"12345678", clock_ms=0)
        peering.receive(m.encode_message(hello), world.now)
        assert peering.state is PeeringState.LEFT
        assert any(isinstance(effect, fx.Leave) for effect in peering.effects())
        assert not peering.talking


def test_strangers_cannot_compute_tags_and_pairs_differ() -> None:
    from p2pserver.federation.beacons import BeaconKey

    one = BeaconKey(("a", b"1"), ("b", b"2"))
    assert one.beacon(ROOM, ["$x", "$y"]) == BeaconKey(("b", b"2"), ("a", b"1")).beacon(ROOM, ["$y", "$x"])
    assert one.tag(ROOM) != BeaconKey(("a", b"1"), ("c", b"2")).tag(ROOM)
    assert one.tag(ROOM) != BeaconKey(("a", b"1"), ("b", b"3")).tag(ROOM)
    assert one.tag(ROOM) != one.tag(room_named("other"))
    assert one.digest(ROOM, ["$x"]) != one.digest(ROOM, [])
    assert one.digest(ROOM, []) != one.digest(room_named("other"), [])


def test_a_server_that_is_no_member_learns_nothing_of_the_room() -> None:
    world = World(2)
    a, b = world.servers
    a.join(ROOM, [])
    event_id = a.post(ROOM, "secret")
    b.join(ROOM, [a])
    world.connect(a, b)
    world.run(2)
    peering = b.peerings[a.name]
    peering._channel.say(m.Want(ROOM, (event_id,), (), 100_000), Priority.STATE)
    world.run(30)
    assert event_id not in b.rooms[ROOM].events


@pytest.mark.parametrize("seed", [0, 1, 55, 91, 115, 116])
def test_a_question_that_overtakes_a_join_is_asked_again(seed: int) -> None:
    """Who has just joined over a gap asks for its history at once; the other side may know of the join only later."""
    world = World(2, seed=seed)
    a, b = world.servers
    b.join(ROOM, [])
    parent = b.post(ROOM, "before the join", owe=False)
    honest_receive = b.receive

    def receive(peer: str, effect: fx.Receive, now: float) -> None:
        b.rooms[ROOM].members.add(peer)
        honest_receive(peer, effect, now)

    b.receive = receive  # type: ignore[method-assign]
    world.connect(a, b)
    world.run(10)
    held = a.join(ROOM, [b])
    held.missing = lambda: [] if parent in held.events else [parent]  # type: ignore[method-assign]
    held.events[parent] = b.rooms[ROOM].events[parent]
    a.post(ROOM, "join")
    del held.events[parent]
    world.run(20)
    assert a.rooms[ROOM].events.keys() == b.rooms[ROOM].events.keys()
