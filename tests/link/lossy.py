"""Two nodes joined by pipes that lose, double, delay and reorder datagrams, on virtual time and by one seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from p2pserver.link import (
    Conversation,
    LinkEndpoint,
    LinkEvent,
    LinkTimers,
    Pacer,
    PeerAuthenticated,
    PipeDead,
    Priority,
)

CAROL, DAVE = b"\x01" * 32, b"\x02" * 32
"""Seeds of two node keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What a pipe does to datagrams; the same both ways."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_s: float = 0.002
    jitter_s: float = 0.0
    bit_rate: int | None = None
    queue_octets: int = 64_000


class Node:
    """A process: its key, its epoch, its conversation, and the endpoint of the newest pipe."""

    def __init__(self, world: World, seed: bytes, epoch: int) -> None:
        self.world = world
        self.seed = seed
        self.epoch = epoch
        self.conversation = Conversation(epoch)
        self.endpoint: LinkEndpoint | None = None
        self.events: list[LinkEvent] = []
        self.received: list[bytes] = []
        self.delivered: list[int] = []
        self.reads = True
        self.allow: Callable[[bytes], bool] = lambda _: True

    def turn(self, endpoint: LinkEndpoint, now: float) -> list[bytes]:
        """What a driver does after each call into an endpoint."""
        for event in endpoint.events():
            self.events.append(event)
            if isinstance(event, PeerAuthenticated) and (endpoint is self.endpoint or not self.conversation.attached):
                endpoint.attach(self.conversation)
        if self.reads:
            self.received += self.conversation.received()
        self.delivered += self.conversation.delivered()
        return endpoint.poll_transmit(now)

    @property
    def dead(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, PipeDead)]

    @property
    def authenticated(self) -> list[bytes]:
        return [event.peer_key for event in self.events if isinstance(event, PeerAuthenticated)]


@dataclass
class Pipe:
    """A transport link between the newest endpoints of both nodes at the time it was laid."""

    ends: tuple[LinkEndpoint, LinkEndpoint]
    faults: Faults
    up: bool = True
    busy_until: list[float] = field(default_factory=lambda: [0.0, 0.0])
    sent: list[int] = field(default_factory=lambda: [0, 0])
    octets: list[int] = field(default_factory=lambda: [0, 0])


class World:
    """Owns the clock and the randomness."""

    def __init__(self, seed: int, *, timers: LinkTimers | None = None) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.timers = timers
        self.nodes = (Node(self, CAROL, 1), Node(self, DAVE, 2))
        self.pipes: list[Pipe] = []
        self.tamper: Callable[[int, bytes], list[bytes]] | None = None
        """What the air makes of a datagram that node 0 or 1 sent: none, one or several."""
        self._queue: list[tuple[float, int, Pipe, int, bytes]] = []
        self._order = count()

    def lay_pipe(
        self,
        octets_max: int,
        faults: Faults,
        *,
        initiator: int = 0,
        paced: bool = False,
        known_key: bytes | None = None,
    ) -> Pipe:
        """`known_key`: the initiator expects the node of that key, and has something to tell it at once."""
        ends = [
            LinkEndpoint(
                node.seed,
                index == initiator,
                octets_max,
                self.rng.randbytes,
                self.now,
                node.allow,
                local_epoch=node.epoch,
                timers=self.timers,
                pacer=Pacer(faults.bit_rate) if paced else None,
                known_key=known_key if index == initiator else None,
                early=node.conversation if known_key and index == initiator else None,
            )
            for index, node in enumerate(self.nodes)
        ]
        pipe = Pipe((ends[0], ends[1]), faults)
        self.pipes.append(pipe)
        for node, end in zip(self.nodes, ends, strict=True):
            node.endpoint = end
        self.kick()
        return pipe

    def kick(self) -> None:
        """Let every endpoint send what it has."""
        for pipe in self.pipes:
            for side in (0, 1):
                self._transmit(pipe, side, self.nodes[side].turn(pipe.ends[side], self.now))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let at most that much time pass; whether `until` became true."""
        stop_at = self.now + seconds
        while not until():
            wake_at = min(
                (
                    (deadline, index, side)
                    for index, pipe in enumerate(self.pipes)
                    for side in (0, 1)
                    if (deadline := pipe.ends[side].next_deadline()) is not None
                ),
                default=None,
            )
            arrives_at = self._queue[0][0] if self._queue else None
            if arrives_at is not None and (wake_at is None or arrives_at <= wake_at[0]):
                if arrives_at > stop_at:
                    break
                self.now, _, pipe, side, datagram = heapq.heappop(self._queue)
                pipe.ends[side].datagram_received(datagram, self.now)
            elif wake_at is not None:
                if wake_at[0] > stop_at:
                    break
                self.now = max(self.now, wake_at[0])
                pipe, side = self.pipes[wake_at[1]], wake_at[2]
                pipe.ends[side].handle_timeout(self.now)
            else:
                break
            self._transmit(pipe, side, self.nodes[side].turn(pipe.ends[side], self.now))
        else:
            return True
        self.now = stop_at
        return False

    def _transmit(self, pipe: Pipe, sender: int, datagrams: list[bytes]) -> None:
        faults = pipe.faults
        for whole in datagrams:
            for datagram in self.tamper(sender, whole) if self.tamper else (whole,):
                pipe.sent[sender] += 1
                pipe.octets[sender] += len(datagram)
                leaves_at = self.now
                if faults.bit_rate is not None:
                    waiting_s = max(0.0, pipe.busy_until[sender] - self.now)
                    if waiting_s * faults.bit_rate / 8 > faults.queue_octets:
                        continue
                    leaves_at = self.now + waiting_s + len(datagram) * 8 / faults.bit_rate
                    pipe.busy_until[sender] = leaves_at
                copies = 1 + (self.rng.random() < faults.duplication)
                for _ in range(copies):
                    if pipe.up and self.rng.random() >= faults.loss:
                        at = leaves_at + faults.delay_s + self.rng.random() * faults.jitter_s
                        heapq.heappush(self._queue, (at, next(self._order), pipe, 1 - sender, datagram))


def random_messages(rng: random.Random, number: int, octets_max: int) -> list[tuple[bytes, Priority]]:
    """Different messages of very different sizes, over all classes."""
    out = []
    for index in range(number):
        octets = int(octets_max ** rng.random())
        out.append((index.to_bytes(4, "big") + rng.randbytes(max(0, octets - 4)), Priority(rng.randrange(6))))
    return out


def transfer_problems(sender: Node, receiver: Node, sent: dict[int, tuple[bytes, Priority]]) -> list[str]:
    """What is wrong after a transfer that should be over: the check that the sabotage tests must not pass."""
    problems = []
    expected = [message for message, _ in sent.values()]
    if sorted(expected) != sorted(receiver.received):
        missing = len(set(expected) - set(receiver.received))
        strange = len(set(receiver.received) - set(expected))
        twice = len(receiver.received) - len(set(receiver.received))
        problems.append(f"{missing} messages missing, {strange} never sent, {twice} twice")
    for priority in Priority:
        of_class = [message for message, its in sent.values() if its is priority]
        known = set(of_class)
        if [message for message in receiver.received if message in known] != of_class:
            problems.append(f"class {priority.name} out of order")
    if sorted(sender.delivered) != sorted(sent):
        problems.append(f"{len(set(sent) - set(sender.delivered))} messages never reported delivered")
    if sender.conversation.queued_octets:
        problems.append("the queue is not empty")
    return problems
