"""Peers that lie, flood and send nonsense: bounded work, bounded memory, and everybody else is served."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from p2pserver.federation.limits import PeeringLimits
from p2pserver.federation.peering import Peering, PeeringState
from p2pserver.wire import messages as m
from tests.federation.servers import WALL_MS, FakeServer, World, event_id_of, room_named
from tests.wire.test_messages import mutated

ROOM = room_named("one")


class Liar:
    """Speaks for a key of its own, with whatever `answer` makes up."""

    def __init__(self, victim: FakeServer, now: float) -> None:
        self.server = FakeServer(99)
        self.victim = victim
        self.now = now
        self.salt = b"liarliar"
        victim.rooms[ROOM].members.add(self.server.name)
        self.peering = victim.peering_with(self.server, now)
        self.peering.contact(now, clock_ms=WALL_MS)
        self.heard: list[m.Message] = []
        self.say(m.Hello(server_name=self.server.name, agent="liar", salt=self.salt, clock_ms=0))

    def say(self, *messages: m.Message) -> None:
        for message in messages:
            if self.peering.may_receive(self.now):
                self.peering.receive(m.encode_message(message), self.now)
        self.work()

    def work(self) -> None:
        for _ in range(100):
            effects = self.peering.effects()
            for effect in effects:
                self.victim.do(self.server.name, effect, self.now)
            sent = self.peering.messages_to_send(self.now, 1_000_000)
            self.heard += [m.decode_message(data) for data, _ in sent]
            if not effects and not sent:
                return
        raise AssertionError("the victim never comes to rest")

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            deadline = self.peering.next_deadline()
            if deadline is None or deadline >= until:
                self.now = until
                return
            self.now = max(self.now + 0.001, deadline)
            self.peering.handle_timeout(self.now)
            self.work()

    def take(self, kind: type) -> list[Any]:
        found = [message for message in self.heard if isinstance(message, kind)]
        self.heard = [message for message in self.heard if not isinstance(message, kind)]
        return found


def victim_of() -> tuple[FakeServer, Liar]:
    world = World(1)
    victim = world.servers[0]
    victim.join(ROOM, [])
    for n in range(5):
        victim.post(ROOM, n, owe=False)
    return victim, Liar(victim, world.now)


def test_an_endless_chain_of_missing_parents_ends() -> None:
    """Each answer names another parent that is not held; nothing can ever be judged."""
    _victim, liar = victim_of()
    rng = random.Random(1)
    wants = served = 0
    parent = event_id_of({"n": "0", "origin": "liar", "prev_events": []})
    liar.say(m.Offer(ROOM, (parent,)))
    for _ in range(2_000):
        asked = liar.take(m.Want)
        if not asked:
            break
        wants += len(asked)
        pdus = []
        for _ in range(40):
            pdu = {"n": str(rng.random()), "origin": "liar", "prev_events": [_random_id(rng)]}
            pdus.append(pdu)
        served += len(pdus)
        liar.say(m.Pdus(ROOM, tuple(pdus), more=rng.random() < 0.5, in_answer=True))
    else:
        pytest.fail("the victim asks for ever")
    assert served <= PeeringLimits().parked_max + 200
    liar.wait(600)
    assert len(liar.take(m.Want)) == 0


def _random_id(rng: random.Random) -> str:
    return event_id_of({"n": str(rng.random()), "origin": "liar", "prev_events": []})


def test_a_beacon_that_always_differs_costs_little() -> None:
    """The liar's leaves are never to be had, and its digest is never ours."""
    _victim, liar = victim_of()
    liar.wait(0.1)
    beacons = liar.take(m.Beacons)
    assert beacons
    tag = beacons[0].rooms[0].tag
    rng = random.Random(2)
    counts: Counter[str] = Counter()
    octets = 0
    for _ in range(60):
        liar.wait(60)
        liar.say(m.Beacons((m.Beacon(tag, rng.randbytes(8)),)))
        for message in liar.heard:
            counts[type(message).__name__] += 1
            octets += len(m.encode_message(message))
        liar.heard.clear()
        for _ in range(3):
            liar.say(m.Leaves(ROOM, tuple(_random_id(rng) for _ in range(5)), answer=True))
        for want in liar.take(m.Want):
            liar.say(m.Lacking(ROOM, want.want))
    assert octets / 60 < 2_000, counts  # a minute


def test_a_flood_is_slowed_down_not_obeyed() -> None:
    _victim, liar = victim_of()
    held = liar.victim.rooms[ROOM].leaves()[0]
    taken = 0
    for _ in range(5_000):
        if liar.peering.may_receive(liar.now):
            taken += 1
            liar.say(m.Want(ROOM, (held,), (), 200_000))
    assert taken < 200
    assert liar.peering.next_deadline() is not None
    liar.wait(10)
    assert liar.peering.may_receive(liar.now)


def test_a_peer_that_asks_and_does_not_listen_costs_bounded_memory() -> None:
    world = World(1)
    victim = world.servers[0]
    victim.join(ROOM, [])
    for n in range(50):
        victim.post(ROOM, "x" * 4_000 + str(n), owe=False)
    liar = Liar(victim, world.now)
    leaf = victim.rooms[ROOM].leaves()[0]
    for _ in range(2_000):
        liar.now += 0.5
        if liar.peering.may_receive(liar.now):
            liar.peering.receive(m.encode_message(m.Want(ROOM, (leaf,), (), 10_000_000)), liar.now)
        for effect in liar.peering.effects():
            victim.do(liar.server.name, effect, liar.now)
        liar.peering.handle_timeout(liar.now)
    assert liar.peering._channel.outgoing_octets < 2 * PeeringLimits().queue_octets
    assert len(liar.peering._wants) <= PeeringLimits().wants_waiting


def test_messages_before_a_hello_are_bounded() -> None:
    victim, _ = victim_of()
    stranger = FakeServer(77)
    peering = victim.peering_with(stranger, 0.0)
    peering.contact(0.0, clock_ms=WALL_MS)
    for n in range(10_000):
        peering.receive(m.encode_message(m.Item(n, "edu", b"{}" + b" " * 1000, more=False)), 0.0)
    assert peering.state is PeeringState.LEFT
    assert sum(map(len, peering._early)) == 0


def test_an_item_without_end_ends_the_conversation() -> None:
    _victim, liar = victim_of()
    for _ in range(100):
        liar.now += 1
        liar.say(m.Item(1, "edu", b"x" * m.PART_OCTETS_MAX, more=True))
    assert liar.peering.state is PeeringState.LEFT
    assert len(liar.peering._item_parts) < 2 * m.ITEM_OCTETS_MAX


SAMPLES: list[Callable[[random.Random, FakeServer], m.Message]] = [
    lambda rng, victim: m.Beacons((m.Beacon(rng.randbytes(4), rng.randbytes(8)),) * rng.randrange(5)),
    lambda rng, victim: m.Leaves(ROOM, (_random_id(rng), *victim.rooms[ROOM].leaves()), rng.random() < 0.5),
    lambda rng, victim: m.Want(ROOM, (_random_id(rng), *victim.rooms[ROOM].leaves()), (), rng.randrange(10**6)),
    lambda rng, victim: m.Pdus(
        ROOM,
        tuple({"n": str(rng.random()), "origin": "liar", "prev_events": [_random_id(rng)]} for _ in range(3)),
        rng.random() < 0.5,
        rng.random() < 0.5,
    ),
    lambda rng, victim: m.Lacking(ROOM, (_random_id(rng),)),
    lambda rng, victim: m.Offer(ROOM, (_random_id(rng),)),
    lambda rng, victim: m.Stored(ROOM, (_random_id(rng), *victim.rooms[ROOM].leaves())),
    lambda rng, victim: m.Item(rng.randrange(3), "edu", b'{"edu_type":"m.test","content":{}}', rng.random() < 0.3),
    lambda rng, victim: m.ItemsStored((rng.randrange(5), rng.randrange(1000))),
    lambda rng, victim: m.Ephemera(b'{"edus":[{"edu_type":"m.typing","content":{}}]}'),
    lambda rng, victim: m.Request(rng.randrange(50), "profile", b'{"user_id":"@a:b"}'),
    lambda rng, victim: m.Response(rng.randrange(5), rng.random() < 0.5, b"{}", rng.randrange(2)),
]


def test_mutated_messages_change_nothing_and_cost_bounded_memory() -> None:
    """6,000 mutations of valid messages to a peering that talks; a fifth at least is understood."""
    rng = random.Random(6)
    victim, liar = victim_of()
    before = dict(victim.rooms[ROOM].events)
    understood = refused = 0
    for n in range(6_000):
        if liar.peering.state is PeeringState.LEFT:
            liar = Liar(victim, liar.now)
        data = m.encode_message(rng.choice(SAMPLES)(rng, victim))
        if rng.random() < 0.8:
            data = mutated(rng, data)
        liar.now += 0.02
        if liar.peering.may_receive(liar.now):
            liar.peering.receive(data, liar.now)
            if liar.peering.state is PeeringState.LEFT:
                refused += 1
            else:
                understood += 1
        if n % 20 == 0:
            liar.wait(0.5)
        liar.work()
        for peer, question in victim.questions:
            if peer == liar.server.name:
                liar.peering.served(question.number, ok=True, body=b"{}")
        victim.questions.clear()
        assert size_of(liar.peering) < 3_000_000
    assert understood > 1_200
    assert refused > 1_200
    assert victim.rooms[ROOM].events == before
    honest(victim)


def honest(victim: FakeServer) -> None:
    """An honest peer is served as if nothing had been."""
    world = World(1)
    other = world.servers[0]
    other.rng.seed("another")
    world.servers.append(victim)
    victim.peerings.clear()
    other.name, other.key = FakeServer(5).name, FakeServer(5).key
    world.by_name = {other.name: other, victim.name: victim}
    victim.rooms[ROOM].members.add(other.name)
    other.join(ROOM, [victim])
    world.connect(other, victim)
    world.run(30)
    assert other.rooms[ROOM].events.keys() == victim.rooms[ROOM].events.keys()


def size_of(peering: Peering) -> int:
    """Octets that a peering keeps, about."""
    channel, rooms, outbox = peering._channel, peering._rooms, peering._outbox
    counted = len(channel.known) * 120 + channel.outgoing_octets + sum(map(len, peering._early))
    counted += sum(len(text) for _, _, text in peering._items) + len(peering._item_parts) + sys.getsizeof(rooms._early)
    counted += sum(len(exchange.waiting) * 120 + len(exchange.vain) * 120 for exchange in rooms._rooms.values())
    counted += len(outbox._done_events) * 120 + len(outbox._sent) * 200
    counted += sum(len(ids) * 120 for ids in peering._offers.values())
    counted += sum(len(collected) for collected in peering._questions._open.values())
    return counted + sys.getsizeof(peering._wants)


def test_an_effect_is_asked_for_only_so_often() -> None:
    """What a peer makes us read per second is bounded by its credits."""
    victim, liar = victim_of()
    before = victim.reads
    rng = random.Random(3)
    for _ in range(20_000):
        liar.now += 0.0005
        liar.say(m.Leaves(ROOM, (_random_id(rng),), answer=False))
    seconds = 20_000 * 0.0005
    assert victim.reads - before < 5 * (seconds * PeeringLimits().credits_per_s + PeeringLimits().credits) / 0.5
