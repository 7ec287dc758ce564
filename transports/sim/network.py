"""A network of hosts in one process, with everything that goes wrong on a real one, repeated exactly by its seed.

Hosts within reach of each other discover one another after a random short delay and dial; sometimes both dial at once,
as on a real LAN. Datagrams between them are lost, late, overtaken, doubled and paced as the pair's `LinkConditions`
say. In a partition they vanish without a word. All times are read from the running loop, so that the network works on
virtual time (`run_virtual`) and on real time alike.

    network = SimNetwork(seed=7, conditions=LinkConditions(loss=0.2, delay_ms_mean=40, jitter_ms=30))
    a, b = network.transport("a"), network.transport("b")
    ...                                              # start both; a link appears in next_link() of both
    network.partition([{"a"}, {"b"}])
    network.heal()
    network.crash("b")
    b = network.restart("b")                         # a new transport, to be started again
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from transports.contract import (
    INSTANCE_ID_OCTETS,
    DiscoveredService,
    LinkDown,
    LinkProfile,
    ServiceState,
    TransportStatus,
    check_datagram,
)
from transports.sim.channel import ChannelConditions, SimChannel
from transports.sim.medium import SimMedium

_REDIAL_MS_FIRST = 1_000
_REDIAL_MS_MAX = 30_000
_LASTED_S = 60.0
"""A link that lived this long clears the back-off of its pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConditions:
    """How a pair of hosts hears each other; both directions alike, drawn independently.

    `loss` and `duplication` are probabilities from 0 to 1. A datagram is under way for `delay_ms_mean` plus or minus
    up to `jitter_ms`, drawn uniformly and never below 0: datagrams overtake each other when the jitter is larger than
    the gap between them. `bit_rate` (bits per second) serializes what is sent, and each datagram takes
    `datagram_overhead_ms` more; `airtime_ms_per_hour` is only told to those above. At most `buffer_octets` of one
    direction are queued, under way or unread (None: 1 MiB, or what the bit rate moves in 2 s); `send` waits for room
    beyond that.
    """

    loss: float = 0.0
    delay_ms_mean: float = 5.0
    jitter_ms: float = 0.0
    duplication: float = 0.0
    bit_rate: int | None = None
    buffer_octets: int | None = None
    datagram_octets_max: int = 65_535
    half_duplex: bool = False
    datagram_overhead_ms: float = 0.0
    airtime_ms_per_hour: int | None = None

    def airtime_s(self, octets: int) -> float:
        """How long a datagram of so many octets keeps the wire busy."""
        return 0.0 if self.bit_rate is None else self.datagram_overhead_ms / 1000 + octets * 8 / self.bit_rate

    def send_buffer_octets(self) -> int:
        if self.buffer_octets is not None:
            return self.buffer_octets
        return 1_048_576 if self.bit_rate is None else self.bit_rate // 4

    def delay_s(self, rng: random.Random) -> float:
        """How long one datagram is under way, once it is on the wire."""
        return max(0.0, self.delay_ms_mean + rng.uniform(-self.jitter_ms, self.jitter_ms)) / 1000

    def profile(self, kind: str = "sim") -> LinkProfile:
        return LinkProfile(
            kind=kind,
            addressed_octets_max=self.datagram_octets_max,
            broadcast_octets_max=None,
            bit_rate=self.bit_rate,
            airtime_ms_per_hour=self.airtime_ms_per_hour,
            shared_medium=False,
            half_duplex=self.half_duplex,
            datagram_overhead_ms=self.datagram_overhead_ms,
            ordered=not self.jitter_ms,
        )


@dataclass(slots=True)
class SimCounts:
    """What happened to the datagrams of the whole network so far."""

    sent: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    vanished: int = 0
    """Gone for another reason than chance: a partition, a crash, a closed link."""
    sent_octets: int = 0
    dials: int = 0


class SimLink:
    """One end of a simulated link; implements `transports.contract.Link`."""

    def __init__(self, wire: _Wire, owner: SimTransport, remote_host: str, *, initiator: bool, hint: bytes) -> None:
        self.profile = wire.pair.profile()
        self.initiator = initiator
        self.remote = f"{self.profile.kind} {remote_host}"
        self.peer_hint: bytes | None = hint
        self._wire = wire
        self.owner = owner
        self.other: SimLink = self
        self._inbox: deque[bytes] = deque()
        self._under_way_octets = 0
        self._down_because: str | None = None
        self._drained = asyncio.Event()
        self._arrived = asyncio.Event()
        self._turn_to_send = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        return self._down_because is None

    async def send(self, datagram: bytes) -> None:
        check_datagram(datagram, self.profile)
        async with self._turn_to_send:
            self._check_open()
            while self._under_way_octets and (
                self._under_way_octets + len(datagram) > self._wire.pair.conditions.send_buffer_octets()
            ):
                self._drained.clear()
                await self._drained.wait()
                self._check_open()
            self._wire.carry(self, self.other, bytes(datagram))

    async def receive(self) -> bytes:
        while not self._inbox:
            self._check_open()
            self._arrived.clear()
            await self._arrived.wait()
        datagram = self._inbox.popleft()
        self.other.release(len(datagram))
        return datagram

    async def close(self) -> None:
        if self.is_open:
            self.end("closed here")
            self._wire.say_goodbye(self.other)

    def _check_open(self) -> None:
        if self._down_because is not None:
            raise LinkDown(self._down_because)

    def hold(self, octets: int) -> None:
        """The buffer of this end holds so much more, until it is lost or read on the other side."""
        self._under_way_octets += octets

    def release(self, octets: int) -> None:
        self._under_way_octets -= octets
        self._drained.set()

    def deliver(self, datagram: bytes) -> None:
        self._inbox.append(datagram)
        self._arrived.set()

    def end(self, reason: str, *, keep_inbox: bool = False) -> None:
        """This end is over; what has arrived stays readable only when the other side ended it."""
        if self._down_because is None:
            self._down_because = reason
            if not keep_inbox:
                for datagram in self._inbox:
                    self.other.release(len(datagram))
                self._inbox.clear()
            self._drained.set()
            self._arrived.set()
            self._wire.pair.end_is_over(self._wire)


class _Wire:
    """What lies between the two ends of one link."""

    def __init__(self, pair: _Pair, initiator: SimTransport, acceptor: SimTransport) -> None:
        self.pair = pair
        self.made_at_s = asyncio.get_running_loop().time()
        self.near = SimLink(self, initiator, acceptor.host, initiator=True, hint=acceptor.instance_id)
        self.far = SimLink(self, acceptor, initiator.host, initiator=False, hint=initiator.instance_id)
        self.near.other, self.far.other = self.far, self.near
        self._free_at_s = {True: 0.0, False: 0.0}
        self._last_arrival_s = {True: 0.0, False: 0.0}

    def carry(self, sender: SimLink, receiver: SimLink, datagram: bytes) -> None:
        """Decides the fate of one datagram and schedules it; the sender's buffer holds it until then."""
        network, conditions, rng = self.pair.network, self.pair.conditions, self.pair.rng
        loop = asyncio.get_running_loop()
        network.counts.sent += 1
        network.counts.sent_octets += len(datagram)
        sent_at_s = loop.time()
        if conditions.bit_rate is not None and network.channel is None:
            direction = sender.initiator or conditions.half_duplex
            start_s = max(sent_at_s, self._free_at_s[direction])
            sent_at_s = start_s + conditions.airtime_s(len(datagram))
            self._free_at_s[direction] = sent_at_s
        sender.hold(len(datagram))
        if network.channel is not None:
            network.channel.send(
                sender.owner.host,
                len(datagram),
                lambda got: self._arrive(sender, receiver, datagram, got(receiver.owner.host), True),
            )
            return
        copies = 2 if rng.random() < conditions.duplication else 1
        network.counts.duplicated += copies - 1
        fates = [(rng.random() >= conditions.loss, sent_at_s + conditions.delay_s(rng)) for _ in range(copies)]
        fates.sort(key=lambda fate: fate[1])
        for index, (survives, drawn_s) in enumerate(fates):
            # timers of one instant fire in any order; without jitter nothing may overtake
            after_last_s = math.nextafter(self._last_arrival_s[sender.initiator], math.inf)
            at_s = drawn_s if conditions.jitter_ms else max(drawn_s, after_last_s)
            self._last_arrival_s[sender.initiator] = at_s
            loop.call_at(at_s, self._arrive, sender, receiver, datagram, survives, index == 0)

    def _arrive(self, sender: SimLink, receiver: SimLink, datagram: bytes, survives: bool, counted: bool) -> None:
        """`counted`: this copy is the one that the sender's buffer accounts for."""
        network = self.pair.network
        octets = len(datagram) if counted else 0
        if not survives:
            network.counts.lost += 1
            sender.release(octets)
        elif not self.pair.carries(receiver.owner):
            network.counts.vanished += 1
            sender.release(octets)
        elif not receiver.is_open:
            network.counts.vanished += 1
            sender.release(octets)
            self.say_goodbye(sender)
        else:
            if not counted:
                sender.hold(len(datagram))
            network.counts.delivered += 1
            receiver.deliver(datagram)

    def say_goodbye(self, receiver: SimLink) -> None:
        """Tells the other end that this one is closed, if it can be told."""
        conditions = self.pair.conditions
        delay_s = (conditions.delay_ms_mean + conditions.jitter_ms) / 1000
        asyncio.get_running_loop().call_later(delay_s, self._goodbye_arrives, receiver)

    def _goodbye_arrives(self, receiver: SimLink) -> None:
        if self.pair.carries(receiver.owner):
            receiver.end("closed by the other side", keep_inbox=True)

    def down(self, reason: str) -> None:
        for end in (self.near, self.far):
            end.end(reason, keep_inbox=True)


class _Pair:
    """Two hosts: whether they reach each other, their links, and who dials when."""

    def __init__(self, network: SimNetwork, first: str, second: str) -> None:
        self.network = network
        self.hosts = (first, second)
        self.conditions = network.conditions
        self.rng = random.Random(f"{network.seed}/{first}/{second}")
        self.up = network.connected
        self.wires: list[_Wire] = []
        self._dials: dict[str, asyncio.TimerHandle] = {}
        self._connecting = 0
        self._failures = 0
        self._had_link = False
        self._cut_notice: asyncio.TimerHandle | None = None

    def transports(self) -> tuple[SimTransport, SimTransport] | None:
        """Both hosts' running transports, or None when one is not up."""
        first, second = (self.network.running.get(host) for host in self.hosts)
        return None if first is None or second is None else (first, second)

    def profile(self) -> LinkProfile:
        channel = self.network.channel
        return self.conditions.profile(self.network.kind) if channel is None else channel.conditions.profile()

    def in_reach(self) -> bool:
        return self.up and self.network.same_group(*self.hosts)

    def carries(self, receiver: SimTransport) -> bool:
        """Whether a datagram that is due now arrives: the hosts are in reach, and the receiver's has not crashed."""
        return self.in_reach() and receiver.host not in self.network.crashed

    def wants_link(self, host: str) -> bool:
        """Whether `host`, as far as it can know, has no link to the other's running transport."""
        transports = self.transports()
        if transports is None or not self.in_reach():
            return False
        return not any(
            end.is_open and end.owner.host == host and end.owner in transports and end.other.owner in transports
            for wire in self.wires
            for end in (wire.near, wire.far)
        )

    def consider(self) -> None:
        """Called after whatever changes who is up, who reaches whom and which links exist."""
        self._watch_cut()
        dialers = [host for host in self.hosts if self.wants_link(host)]
        if not dialers:
            for timer in self._dials.values():
                timer.cancel()
            self._dials.clear()
            return
        if self._dials or self._connecting:
            return
        loop = asyncio.get_running_loop()
        low_ms, high_ms = self.network.discovery_ms
        delay_s = self.rng.uniform(low_ms, high_ms) / 1000
        if self._had_link or self._failures:
            back_off_ms = min(_REDIAL_MS_MAX, _REDIAL_MS_FIRST * 2 ** min(self._failures, 10))
            delay_s += back_off_ms * self.rng.uniform(0.5, 1.0) / 1000
        self.rng.shuffle(dialers)
        first, *others = dialers
        self._dials[first] = loop.call_later(delay_s, self._dial, first)
        if others and self.rng.random() < self.network.both_dial:
            together_s = delay_s + self.rng.uniform(0.0, self.conditions.delay_ms_mean) / 1000
            self._dials[others[0]] = loop.call_later(together_s, self._dial, others[0])

    def forget_back_off(self) -> None:
        """A neighbor that appears, or appears again, is dialed at once."""
        self._failures = 0
        self._had_link = False

    def _dial(self, host: str) -> None:
        del self._dials[host]
        if self.wants_link(host):
            self.network.counts.dials += 1
            self._connecting += 1
            asyncio.get_running_loop().call_later(self.conditions.delay_ms_mean / 1000, self._connect, host)

    def _connect(self, host: str) -> None:
        self._connecting -= 1
        transports = self.transports()
        if transports is None or not self.in_reach():
            self._failures += 1
            self.consider()
            return
        initiator, acceptor = transports if transports[0].host == host else (transports[1], transports[0])
        wire = _Wire(self, initiator, acceptor)
        self.wires.append(wire)
        self._had_link = True
        initiator.offer(wire.near)
        acceptor.offer(wire.far)

    def end_is_over(self, wire: _Wire) -> None:
        if asyncio.get_running_loop().time() - wire.made_at_s >= _LASTED_S:
            self._failures = 0
        elif wire.near.is_open or wire.far.is_open:  # count each link once
            self._failures += 1
        if not wire.near.is_open and not wire.far.is_open and wire in self.wires:
            self.wires.remove(wire)
        self.consider()

    def _watch_cut(self) -> None:
        """Reports links that are out of reach as down after a while, where the network is told to."""
        if self.in_reach() or not self.wires:
            if self._cut_notice is not None:
                self._cut_notice.cancel()
                self._cut_notice = None
        elif self._cut_notice is None and self.network.down_after_s is not None:
            loop = asyncio.get_running_loop()
            self._cut_notice = loop.call_later(self.network.down_after_s, self._report_cut)

    def _report_cut(self) -> None:
        self._cut_notice = None
        for wire in tuple(self.wires):
            wire.down("out of reach")


class SimTransport:
    """A host's transport; implements `transports.contract.Transport`. Made by `SimNetwork.transport`."""

    def __init__(self, network: SimNetwork, host: str) -> None:
        self.kind = network.kind
        self.host = host
        self.instance_id = b""
        self.closed = False
        self._network = network
        self._offered: deque[SimLink] = deque()
        self._news = asyncio.Event()
        self.medium = None if network.channel is None else SimMedium(network.channel, self)

    async def start(self, instance_id: bytes) -> None:
        if len(instance_id) != INSTANCE_ID_OCTETS:
            raise ValueError(f"an instance id has {INSTANCE_ID_OCTETS} octets, not {len(instance_id)}")
        if self.closed or self.instance_id:
            raise RuntimeError("a transport is started once")
        if self.host in self._network.running or self.host in self._network.crashed:
            raise OSError(f"host {self.host} is crashed or already has a running transport")
        self.instance_id = instance_id
        self._network.started(self)

    async def next_link(self) -> SimLink:
        while not self._offered:
            if self.closed:
                raise LinkDown("the transport is closed")
            self._news.clear()
            await self._news.wait()
        return self._offered.popleft()

    def status(self) -> TransportStatus:
        return TransportStatus(
            kind=self.kind, listening=(f"{self.kind} {self.host}",), services=self._network.services_seen_by(self)
        )

    async def close(self) -> None:
        for link in self._network.stopped(self):
            await link.close()
        self.over()

    def offer(self, link: SimLink) -> None:
        self._offered.append(link)
        self._news.set()

    def over(self) -> None:
        self.closed = True
        self._offered.clear()
        self._news.set()
        if self.medium is not None:
            self.medium.over()

    def hearers(self) -> list[tuple[str, SimMedium]]:
        """Every other host that runs, in reach or not, and its ear."""
        others = [other for other in self._network.running.values() if other is not self]
        return [(other.host, other.medium) for other in others if other.medium is not None]


@dataclass(slots=True)
class SimNetwork:
    """The hosts, who reaches whom, and what happens in between.

    conditions      of every pair that `set_conditions` says nothing else about
    connected       False: no two hosts reach each other until `set_link` says so
    discovery_ms    how long it takes until one of two hosts in reach dials the other: from, to
    both_dial       how often both dial at once: a probability from 0 to 1
    down_after_s    when the ends of a link out of reach are told that it is down; None: never, they must notice
    kind            what its transports and links call themselves: a node may be on several networks
    shared          all hosts are on one half-duplex channel: its conditions stand in place of those of the pairs
    """

    seed: int
    conditions: LinkConditions = field(default_factory=LinkConditions)
    connected: bool = True
    discovery_ms: tuple[float, float] = (20.0, 500.0)
    both_dial: float = 0.25
    down_after_s: float | None = None
    kind: str = "sim"
    shared: ChannelConditions | None = None
    counts: SimCounts = field(default_factory=SimCounts)
    running: dict[str, SimTransport] = field(default_factory=dict)
    crashed: set[str] = field(default_factory=set)
    _group_of: dict[str, int] = field(default_factory=dict)
    _pairs: dict[tuple[str, str], _Pair] = field(default_factory=dict)
    _pairs_of: dict[str, list[_Pair]] = field(default_factory=lambda: defaultdict(list))
    _hosts: dict[str, None] = field(default_factory=dict)
    channel: SimChannel | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.shared is not None:
            self.channel = SimChannel(self.shared, seed=self.seed, hears=self._hears)
            self.conditions = LinkConditions(
                bit_rate=self.shared.bit_rate,
                datagram_octets_max=self.shared.addressed_octets_max,
                half_duplex=True,
            )

    def _hears(self, first: str, second: str) -> bool:
        runs = first in self.running and second in self.running
        return runs and first != second and self._pair(first, second).in_reach()

    def transport(self, host: str) -> SimTransport:
        """A new transport of `host`, to be started; one per host runs at a time."""
        if self.connected:
            for other in self._hosts:
                if other != host:
                    self._pair(host, other)
        self._hosts[host] = None
        return SimTransport(self, host)

    def partition(self, groups: Iterable[Collection[str]]) -> None:
        """Hosts of different groups stop hearing each other, without a word; those not named are one more group."""
        were_in_reach = {key for key, pair in self._pairs.items() if pair.in_reach()}
        self._group_of = {host: number for number, group in enumerate(groups, start=1) for host in group}
        for key, pair in self._pairs.items():
            if pair.in_reach() and key not in were_in_reach:
                pair.forget_back_off()
            pair.consider()

    def heal(self) -> None:
        """Ends the partition. What `set_link` took down stays down."""
        self.partition([])

    def set_link(self, first: str, second: str, up: bool) -> None:
        """Brings two hosts into reach of each other, or takes them out of it."""
        pair = self._pair(first, second)
        pair.up = up
        if up:
            pair.forget_back_off()
        pair.consider()

    def set_conditions(self, first: str, second: str, conditions: LinkConditions) -> None:
        """From now on for this pair; the profile of links that exist already stays what it was."""
        self._pair(first, second).conditions = conditions

    def crash(self, host: str, *, silent: bool = True) -> None:
        """The host's transport is gone in the middle of whatever it did. Its own links are down.

        silent: the other ends learn nothing; they must notice, or are told when they send after a `restart`. Otherwise
        they go down at once, as when an operating system cleans up after a killed process.
        """
        transport = self.running.get(host)
        self.crashed.add(host)
        if transport is None:
            return
        for link in self.stopped(transport):
            link.end("this host crashed")
            if not silent:
                link.other.end("the other side crashed", keep_inbox=True)
        transport.over()

    def restart(self, host: str) -> SimTransport:
        """A new transport for a host that crashed, to be started."""
        self.crashed.discard(host)
        return self.transport(host)

    def same_group(self, first: str, second: str) -> bool:
        return self._group_of.get(first, 0) == self._group_of.get(second, 0)

    def in_reach(self, first: str, second: str) -> bool:
        """Whether datagrams between the two can arrive, as far as the network is concerned."""
        return self._pair(first, second).in_reach()

    def started(self, transport: SimTransport) -> None:
        self.running[transport.host] = transport
        for pair in self._pairs_of[transport.host]:
            pair.forget_back_off()
            pair.consider()

    def stopped(self, transport: SimTransport) -> list[SimLink]:
        """Forgets a transport; returns the ends that it still owns open."""
        if self.running.get(transport.host) is transport:
            del self.running[transport.host]
            if self.channel is not None:
                self.channel.silence(transport.host)
        ends = [
            end
            for pair in self._pairs_of[transport.host]
            for wire in pair.wires
            for end in (wire.near, wire.far)
            if end.owner is transport and end.is_open
        ]
        for pair in self._pairs_of[transport.host]:
            pair.consider()
        return ends

    def services_seen_by(self, transport: SimTransport) -> tuple[DiscoveredService, ...]:
        services = []
        for pair in self._pairs_of[transport.host]:
            other = next(host for host in pair.hosts if host != transport.host)
            if pair.transports() is not None and pair.in_reach():
                state = ServiceState.WAITING if pair.wants_link(transport.host) else ServiceState.LINKED
                hint = self.running[other].instance_id
                services.append(DiscoveredService(address=f"{transport.kind} {other}", hint=hint, state=state))
        return tuple(services)

    def _pair(self, first: str, second: str) -> _Pair:
        if first == second:
            raise ValueError(f"{first} is one host, not two")
        key = (min(first, second), max(first, second))
        if key not in self._pairs:
            pair = self._pairs[key] = _Pair(self, *key)
            self._pairs_of[first].append(pair)
            self._pairs_of[second].append(pair)
        return self._pairs[key]
