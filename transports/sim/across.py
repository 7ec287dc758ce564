"""Links between hosts that two processes simulate: a network beside the `SimNetwork` of each, with the same faults.

Both halves know from the plan of the simulation who reaches whom when, and say so by `set_link` at the same time. The
host whose name comes first dials. All that crosses are datagrams, and the words that a link opens or closes.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field

from transports.contract import (
    DiscoveredService,
    LinkDown,
    LinkProfile,
    ServiceState,
    TransportStatus,
    check_datagram,
)
from transports.sim.network import LinkConditions, SimCounts
from transports.sim.seam import Seam

_DISCOVERY_S = (0.02, 0.5)
_REDIAL_S = 30.0


class LinkAcross:
    """This half's end of a link; implements `transports.contract.Link`."""

    def __init__(self, pair: _PairAcross, number: int, *, initiator: bool) -> None:
        conditions = pair.network.conditions
        self.profile: LinkProfile = conditions.profile(pair.network.kind)
        self.initiator = initiator
        self.remote = f"{pair.network.kind} {pair.far}"
        self.peer_hint: bytes | None = None
        self.number = number
        self._pair = pair
        self._inbox: deque[bytes] = deque()
        self._under_way_octets = 0
        self._free_at_s = 0.0
        self._down_because: str | None = None
        self._drained = asyncio.Event()
        self._arrived = asyncio.Event()
        self._turn_to_send = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        return self._down_because is None

    async def send(self, datagram: bytes) -> None:
        check_datagram(datagram, self.profile)
        room = self._pair.network.conditions.send_buffer_octets()
        async with self._turn_to_send:
            self._check_open()
            while self._under_way_octets and self._under_way_octets + len(datagram) > room:
                self._drained.clear()
                await self._drained.wait()
                self._check_open()
            self._carry(bytes(datagram))

    def _carry(self, datagram: bytes) -> None:
        network, rng = self._pair.network, self._pair.rng
        conditions, counts = network.conditions, network.counts
        loop = asyncio.get_running_loop()
        counts.sent += 1
        counts.sent_octets += len(datagram)
        now_s = loop.time()
        self._free_at_s = max(now_s, self._free_at_s) + conditions.airtime_s(len(datagram))
        self._under_way_octets += len(datagram)
        copies = 2 if rng.random() < conditions.duplication else 1
        counts.duplicated += copies - 1
        fates = [(rng.random() >= conditions.loss, conditions.delay_s(rng)) for _ in range(copies)]
        arrives_s = self._free_at_s + min(delay_s for _, delay_s in fates)
        loop.call_at(arrives_s, self._release, len(datagram))
        for survives, delay_s in fates:
            if not survives:
                counts.lost += 1
            elif not self._pair.up:
                counts.vanished += 1
            else:
                self._pair.tell("datagram", self.number, datagram, after_s=self._free_at_s - now_s + delay_s)

    async def receive(self) -> bytes:
        while not self._inbox:
            self._check_open()
            self._arrived.clear()
            await self._arrived.wait()
        return self._inbox.popleft()

    async def close(self) -> None:
        if self.is_open:
            self._inbox.clear()
            self.end("closed here")
            self._pair.say_goodbye(self.number)

    def deliver(self, datagram: bytes) -> None:
        self._inbox.append(datagram)
        self._arrived.set()

    def end(self, reason: str) -> None:
        """It is over on this side; what has arrived stays readable."""
        if self._down_because is None:
            self._down_because = reason
            self._drained.set()
            self._arrived.set()
            self._pair.ended(self)

    def _release(self, octets: int) -> None:
        self._under_way_octets -= octets
        self._drained.set()

    def _check_open(self) -> None:
        if self._down_because is not None:
            raise LinkDown(self._down_because)


class _PairAcross:
    """A host of this half, one of the other, and their link, if there is one."""

    def __init__(self, network: NetworkAcross, near: str, far: str) -> None:
        self.network, self.near, self.far = network, near, far
        self.rng = random.Random(f"{network.seed}/{near}/{far}/across")
        self.up = False
        self.link: LinkAcross | None = None
        self._dials = near < far
        self._number = 0
        self._dial: asyncio.TimerHandle | None = None
        self._down: asyncio.TimerHandle | None = None
        network.seam.register(f"{far}>{near}", self._arrives)

    def tell(self, kind: str, number: int, octets: bytes = b"", *, after_s: float) -> None:
        self.network.seam.send(f"{self.near}>{self.far}", kind, number, octets, after_s=after_s)

    def set_up(self, up: bool) -> None:
        self.up = up
        loop = asyncio.get_running_loop()
        if up:
            if self._down is not None:
                self._down.cancel()
                self._down = None
            self._look(self.rng.uniform(*_DISCOVERY_S))
        elif self._down is None:
            self._down = loop.call_later(self.network.down_after_s, self._out_of_reach)

    def _look(self, after_s: float) -> None:
        if self._dials and self.up and self.link is None and self._dial is None:
            self._dial = asyncio.get_running_loop().call_later(after_s, self._connect)

    def _connect(self) -> None:
        self._dial = None
        transport = self.network.running.get(self.near)
        if self.up and self.link is None and transport is not None:
            self._number += 1
            self.link = LinkAcross(self, self._number, initiator=True)
            self.network.counts.dials += 1
            self.tell("open", self._number, after_s=self._reliable_s)
            transport.offer(self.link)

    def _arrives(self, kind: str, number: int, octets: bytes) -> None:
        if not self.up:
            self.network.counts.vanished += kind == "datagram"
        elif kind == "open":
            self._opened(number)
        elif self.link is None or self.link.number != number:
            if kind == "datagram":
                self.network.counts.vanished += 1
                if number == self._number:
                    self.say_goodbye(number)
        elif kind == "datagram":
            self.network.counts.delivered += 1
            self.link.deliver(octets)
        else:
            self.link.end("closed by the other side")

    def _opened(self, number: int) -> None:
        if self.link is not None:
            self.link.end("the other side opened another link")
        self._number = number
        transport = self.network.running.get(self.near)
        if transport is not None:
            self.link = LinkAcross(self, number, initiator=False)
            transport.offer(self.link)

    def say_goodbye(self, number: int) -> None:
        if self.up:
            self.tell("close", number, after_s=self._reliable_s)

    def ended(self, link: LinkAcross) -> None:
        if self.link is link:
            self.link = None
            self._look(self.rng.uniform(_REDIAL_S / 2, _REDIAL_S))

    def _out_of_reach(self) -> None:
        self._down = None
        if self.link is not None:
            self.link.end("out of reach")

    @property
    def _reliable_s(self) -> float:
        """What opens and closes a link is not overtaken by what is sent on it before."""
        conditions = self.network.conditions
        return (conditions.delay_ms_mean + conditions.jitter_ms) / 1000


class TransportAcross:
    """A host's door to the other half; implements `transports.contract.Transport`."""

    def __init__(self, network: NetworkAcross, host: str) -> None:
        self.kind = network.kind
        self.host = host
        self.closed = False
        self._network = network
        self._offered: deque[LinkAcross] = deque()
        self._news = asyncio.Event()

    async def start(self, instance_id: bytes) -> None:
        self._network.running[self.host] = self

    async def next_link(self) -> LinkAcross:
        while not self._offered:
            if self.closed:
                raise LinkDown("the transport is closed")
            self._news.clear()
            await self._news.wait()
        return self._offered.popleft()

    def offer(self, link: LinkAcross) -> None:
        self._offered.append(link)
        self._news.set()

    def status(self) -> TransportStatus:
        services = tuple(
            DiscoveredService(
                address=f"{self.kind} {pair.far}",
                hint=None,
                state=ServiceState.WAITING if pair.link is None else ServiceState.LINKED,
            )
            for pair in self._network.pairs_of(self.host)
            if pair.up
        )
        return TransportStatus(kind=self.kind, listening=(f"{self.kind} {self.host}",), services=services)

    async def close(self) -> None:
        self._network.running.pop(self.host, None)
        for pair in self._network.pairs_of(self.host):
            if pair.link is not None:
                await pair.link.close()
        self.closed = True
        self._news.set()


@dataclass(slots=True)
class NetworkAcross:
    """This half's hosts and the others', who reach each other under `conditions`, when `set_link` says so.

    The least delay must be the seam's lookahead or more. `down_after_s`: when the ends of a link out of reach are told.
    """

    seam: Seam
    seed: int
    conditions: LinkConditions
    down_after_s: float
    kind: str = "across"
    counts: SimCounts = field(default_factory=SimCounts)
    running: dict[str, TransportAcross] = field(default_factory=dict)
    _pairs: dict[tuple[str, str], _PairAcross] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.conditions.delay_ms_mean - self.conditions.jitter_ms < 1000 * self.seam.lookahead_s:
            raise ValueError("a datagram could arrive within the lookahead")

    def transport(self, host: str) -> TransportAcross:
        return TransportAcross(self, host)

    def set_link(self, near: str, far: str, up: bool) -> None:
        """`near` is simulated here. The other half says the same at the same time, the other way round."""
        if (near, far) not in self._pairs:
            self._pairs[near, far] = _PairAcross(self, near, far)
        self._pairs[near, far].set_up(up)

    def pairs_of(self, host: str) -> list[_PairAcross]:
        return [pair for (near, _), pair in self._pairs.items() if near == host]
