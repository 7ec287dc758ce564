"""Servers reduced to what peering sees of them: graphs of IDs, an outbox, a clock that the test moves.

What travels between them is kept in order within a priority class and overtakes at random between classes, as on the
real link.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from p2pserver.errors import Verdict
from p2pserver.events.signing import Signer
from p2pserver.federation import effects as fx
from p2pserver.federation.held_filter import EVENTS_MAX, filter_of
from p2pserver.federation.limits import PeeringLimits, PeeringTimers
from p2pserver.federation.peering import Peering
from p2pserver.identifiers import KEY_ID, server_name_of
from p2pserver.link.limits import Priority

WALL_MS = 1_790_000_000_000


def event_id_of(pdu: Any) -> str:
    text = repr(sorted((key, pdu[key]) for key in ("n", "origin", "prev_events")))
    return "$" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def room_named(name: str) -> str:
    return "!" + base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).decode().rstrip("=")


@dataclass
class Graph:
    """A room: events by ID, and events that wait for a parent."""

    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    parked: dict[str, dict[str, Any]] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)
    opinion: tuple[bytes, bytes] | None = None
    """What the server makes of the room (SEC, current state); None while it does not hold all of it."""

    def leaves(self) -> list[str]:
        cited = {parent for pdu in self.events.values() for parent in pdu["prev_events"]}
        return sorted(set(self.events) - cited)

    def ancestors(self, event_ids: Iterable[str]) -> set[str]:
        found: set[str] = set()
        waiting = [event_id for event_id in event_ids if event_id in self.events]
        while waiting:
            event_id = waiting.pop()
            if event_id not in found and event_id in self.events:
                found.add(event_id)
                waiting += self.events[event_id]["prev_events"]
        return found

    def take(self, pdu: dict[str, Any]) -> tuple[fx.PduResult, list[fx.PduResult]]:
        event_id = event_id_of(pdu)
        if event_id in self.events:
            return fx.PduResult(event_id, Verdict.ACCEPTED, new=False), []
        if any(parent not in self.events for parent in pdu["prev_events"]):
            new = event_id not in self.parked
            self.parked[event_id] = pdu
            while len(self.parked) > 400:
                del self.parked[next(iter(self.parked))]
            return fx.PduResult(event_id, None, new), []
        self.events[event_id] = pdu
        self.parked.pop(event_id, None)
        released: list[fx.PduResult] = []
        ready = True
        while ready:
            ready = [
                (waiting, parked)
                for waiting, parked in self.parked.items()
                if all(parent in self.events for parent in parked["prev_events"])
            ]
            for waiting, _ in ready:
                self.events[waiting] = self.parked.pop(waiting)
                released.append(fx.PduResult(waiting, Verdict.ACCEPTED, new=True))
        return fx.PduResult(event_id, Verdict.ACCEPTED, new=True), released

    def missing(self) -> list[str]:
        cited = (parent for pdu in self.parked.values() for parent in pdu["prev_events"])
        missing = [parent for parent in dict.fromkeys(cited) if parent not in self.events and parent not in self.parked]
        return missing[:200]


class FakeServer:
    """A node without disk and network. It has one peering per peer."""

    def __init__(
        self, number: int, *, timers: PeeringTimers | None = None, limits: PeeringLimits | None = None
    ) -> None:
        self.rng = random.Random(f"server {number}")
        seed = self.rng.randbytes(32)
        self.key = Signer("", KEY_ID, seed).verify_key
        self.name = server_name_of(self.key)
        self.rooms: dict[str, Graph] = {}
        self.outbox: dict[int, fx.OwedItem] = {}
        self.destination: dict[int, str] = {}
        self.next_number = 1
        self.peerings: dict[str, Peering] = {}
        self.items: list[bytes] = []
        self.answers: list[fx.Effect] = []
        self.left: list[str] = []
        self.in_vain: list[str] = []
        self.differences: list[fx.Diverged | fx.StatesDiffer] = []
        self.timers, self.limits = timers, limits
        self.reads = 0
        self.questions: list[tuple[str, fx.Serve]] = []

    def join(self, room_id: str, members: Iterable[FakeServer]) -> Graph:
        graph = self.rooms.setdefault(room_id, Graph())
        graph.members |= {server.name for server in members} | {self.name}
        return graph

    def post(self, room_id: str, n: object, *, owe: bool = True) -> str:
        """Makes an event on the leaves and owes it to all members."""
        graph = self.rooms[room_id]
        pdu = {"n": str(n), "origin": self.name, "prev_events": graph.leaves()[:20]}
        event_id = event_id_of(pdu)
        graph.events[event_id] = pdu
        for member in sorted(graph.members - {self.name}) if owe else ():
            self.owe(member, kind="pdu", room_id=room_id, event_id=event_id, payload=pdu)
        return event_id

    def owe(self, member: str, *, kind: str, payload: Any, room_id: Any = None, event_id: Any = None) -> None:
        number = self.next_number
        self.next_number += 1
        self.outbox[number] = fx.OwedItem(number=number, kind=kind, room_id=room_id, event_id=event_id, payload=payload)
        self.destination[number] = member
        if member in self.peerings:
            self.peerings[member].outbox_grew()

    def owed_to(self, member: str) -> list[fx.OwedItem]:
        return [item for number, item in self.outbox.items() if self.destination[number] == member]

    def peering_with(self, other: FakeServer, now: float) -> Peering:
        self.peerings[other.name] = Peering(
            our_name=self.name,
            their_key=other.key,
            known_name=None,
            agent="test",
            salt=self.rng.randbytes(8),
            rng=self.rng,
            now=now,
            limits=self.limits,
            timers=self.timers,
        )
        return self.peerings[other.name]

    def view(self, room_id: str, peer: str) -> fx.RoomView:
        graph = self.rooms[room_id]
        return fx.RoomView(
            room_id=room_id,
            leaves=tuple(graph.leaves()),
            shared=peer in graph.members,
            may_see=peer in graph.members,
            owed=any(item.room_id == room_id and item.kind == "pdu" for item in self.owed_to(peer)),
            wanted=tuple(graph.missing()),
            complete=graph.opinion is not None,
        )

    def standings(self, room_ids: Iterable[str]) -> list[fx.RoomStanding]:
        found = []
        for room_id in room_ids:
            graph = self.rooms[room_id]
            if graph.opinion is not None:
                sec, current = graph.opinion
                leaves = tuple(graph.leaves())
                found.append(fx.RoomStanding(room_id=room_id, leaves=leaves, sec=sec, current=current))
        return found

    def do(self, peer: str, effect: fx.Effect, now: float) -> None:
        """What node/exchange.py does, on this server."""
        peering = self.peerings[peer]
        self.reads += 1
        match effect:
            case fx.ReadRooms():
                peering.rooms_read([self.view(room_id, peer) for room_id in self.rooms], now)
            case fx.ReadLeaves():
                views = [self.view(room_id, peer) for room_id in effect.digests if room_id in self.rooms]
                peering.leaves_read(effect, views, now)
            case fx.ReadStandings():
                peering.standings_read(effect, self.standings(effect.told))
            case fx.Diverged() | fx.StatesDiffer():
                self.differences.append(effect)
            case fx.FindUnknown():
                graph = self.rooms.get(effect.room_id)
                unknown = [] if graph is None else [each for each in effect.event_ids if each not in graph.events]
                view = None if graph is None else self.view(effect.room_id, peer)
                peering.unknown_found(effect, unknown, view, now)
            case fx.ReadHave():
                graph = self.rooms[effect.room_id]
                unknown = [each for each in effect.event_ids if each not in graph.events]
                holds = filter_of(list(graph.events)[-EVENTS_MAX:], effect.salt)
                peering.have_read(effect, unknown, graph.leaves()[:64], now, holds=holds)
            case fx.ReadMissing():
                self.answer_want(peering, effect, peer, now)
            case fx.Receive():
                self.receive(peer, effect, now)
            case fx.Forward() | fx.Changed():
                for other, other_peering in self.peerings.items():
                    if other != peer and other in self.rooms[effect.room_id].members:
                        if isinstance(effect, fx.Forward):
                            other_peering.offer(effect.room_id, effect.event_ids, now)
                        else:
                            other_peering.compare_soon(effect.room_id, now)
            case fx.NobodyHas():
                self.in_vain += effect.event_ids
            case fx.ReadOutbox():
                page, octets, more = [], 0, False
                for item in sorted(self.owed_to(peer), key=lambda item: item.number):
                    if item.number > effect.after:
                        octets += len(repr(item.payload))
                        if page and (octets > effect.octets_max or len(page) >= 50):
                            more = True
                            break
                        page.append(item)
                peering.outbox_read(page, now, more=more)
            case fx.ForgetOwed():
                gone = [
                    item.number
                    for item in self.owed_to(peer)
                    if item.number in effect.numbers or item.event_id in effect.event_ids
                ]
                for number in gone:
                    del self.outbox[number]
            case fx.ForgetRoom():
                if tuple(self.rooms[effect.room_id].leaves()) == effect.leaves:
                    for item in self.owed_to(peer):
                        if item.room_id == effect.room_id and item.kind == "pdu":
                            del self.outbox[item.number]
                peering.room_forgotten(effect)
            case fx.StoreItems():
                self.items += [text for _, _, text in effect.items]
                peering.items_stored([number for number, _, _ in effect.items])
            case fx.Serve():
                self.questions.append((peer, effect))
            case fx.Answered() | fx.Unanswered():
                self.answers.append(effect)
            case fx.Leave():
                self.left.append(effect.reason)
            case fx.Greeted():
                pass

    def answer_want(self, peering: Peering, effect: fx.ReadMissing, peer: str, now: float) -> None:
        graph = self.rooms.get(effect.room_id)
        if graph is None or peer not in graph.members:
            peering.missing_read(effect, [], False, list(effect.want), now)
            return
        lacking = [each for each in effect.want if each not in graph.events]
        needed = graph.ancestors(effect.want) - graph.ancestors(effect.have) | {*effect.want} & {*graph.events}
        needed -= {event_id for event_id in needed if event_id in effect.known and event_id not in effect.want}
        ordered = [event_id for event_id in topological(graph) if event_id in needed]
        pdus: list[dict[str, Any]] = []
        octets = 0
        for event_id in ordered:
            octets += len(repr(graph.events[event_id]))
            if pdus and octets > effect.octets_max:
                break
            pdus.append(graph.events[event_id])
        peering.missing_read(effect, pdus, len(pdus) < len(ordered), lacking, now)

    def receive(self, peer: str, effect: fx.Receive, now: float) -> None:
        graph = self.rooms.get(effect.room_id)
        results: list[fx.PduResult] = []
        released: list[fx.PduResult] = []
        for pdu in effect.pdus:
            if graph is None or set(pdu) != {"n", "origin", "prev_events"}:
                results.append(fx.PduResult(None, Verdict.DROPPED, new=False))
                continue
            result, freed = graph.take(dict(pdu))
            results.append(result)
            released += freed
        missing = [] if graph is None else graph.missing()
        held = set() if graph is None else {*graph.events, *graph.parked}
        lacking = [event_id for event_id in effect.asked if event_id not in held]
        self.peerings[peer].received(effect, results + released, missing, lacking, now)


def topological(graph: Graph) -> list[str]:
    done: dict[str, None] = {}
    waiting = sorted(graph.events)
    while waiting:
        rest = []
        for event_id in waiting:
            if all(parent in done or parent not in graph.events for parent in graph.events[event_id]["prev_events"]):
                done[event_id] = None
            else:
                rest.append(event_id)
        waiting = rest
    return list(done)


@dataclass
class Wire:
    """What is under way from one server to another."""

    queues: dict[Priority, list[bytes]] = field(default_factory=lambda: {priority: [] for priority in Priority})

    def take(self, rng: random.Random) -> bytes | None:
        full = [priority for priority in Priority if self.queues[priority]]
        return self.queues[rng.choice(full)].pop(0) if full else None

    def __len__(self) -> int:
        return sum(len(queue) for queue in self.queues.values())


class World:
    """Some servers, who is connected to whom, and the time."""

    def __init__(self, count: int, *, seed: int = 0, **options: Any) -> None:
        self.rng = random.Random(seed)
        self.now = 100.0
        self.servers = [FakeServer(number, **options) for number in range(count)]
        self.by_name = {server.name: server for server in self.servers}
        self.wires: dict[tuple[str, str], Wire] = {}
        self.octets = 0
        self.messages = 0
        self.executing = True

    def connect(self, a: FakeServer, b: FakeServer) -> None:
        for one, other in ((a, b), (b, a)):
            if other.name not in one.peerings:
                one.peering_with(other, self.now)
            self.wires.setdefault((one.name, other.name), Wire())
            one.peerings[other.name].contact(self.now, clock_ms=WALL_MS)

    def cut(self, a: FakeServer, b: FakeServer) -> None:
        """What is under way stays under way: the conversation survives the pipe."""
        a.peerings[b.name].lost()
        b.peerings[a.name].lost()

    def restart(self, a: FakeServer) -> None:
        """A process dies: its peerings, and what was under way to and from it, are gone; what it stored is not."""
        for name in list(a.peerings):
            other = self.by_name[name]
            del a.peerings[name]
            other.peerings[a.name].lost()
            del other.peerings[a.name]
            del self.wires[(a.name, name)], self.wires[(name, a.name)]

    def step(self) -> bool:
        """One round of work without moving the clock; whether anything happened."""
        busy = False
        for server in self.servers:
            for peer, peering in list(server.peerings.items()):
                deadline = peering.next_deadline()
                if deadline is not None and deadline <= self.now:
                    peering.handle_timeout(self.now)
                wire = self.wires[(server.name, peer)]
                for data, priority in peering.messages_to_send(self.now, 100_000):
                    wire.queues[priority].append(data)
                    self.octets += len(data)
                    self.messages += 1
                    busy = True
                for effect in peering.effects():
                    server.do(peer, effect, self.now)
                    busy = True
                back = self.wires[(peer, server.name)]
                connected = peering._channel.connected
                while connected and len(back) and peering.may_receive(self.now) and self.rng.random() < 0.7:
                    data = back.take(self.rng)
                    assert data is not None
                    peering.receive(data, self.now)
                    busy = True
                busy = busy or bool(connected and len(back) and peering.may_receive(self.now))
        return busy

    def run(self, seconds: float, *, steps_max: int = 20_000) -> None:
        """Lets time pass."""
        until = self.now + seconds
        for _ in range(steps_max):
            if self.step():
                continue
            deadlines = [
                deadline
                for server in self.servers
                for peering in server.peerings.values()
                if (deadline := peering.next_deadline()) is not None
            ]
            following = min(deadlines, default=until)
            if following >= until:
                self.now = until
                return
            self.now = max(following, self.now + 0.001)
        raise AssertionError("the servers never come to rest")

    def held(self, room_id: str) -> list[set[str]]:
        return [set(server.rooms[room_id].events) for server in self.servers if room_id in server.rooms]
