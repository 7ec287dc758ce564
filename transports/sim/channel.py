"""A half-duplex channel that all hosts of a simulated network share: one radio frequency, one bus.

Every datagram, on a link or broadcast, takes the air for as long as its bit rate says, and all in reach of the sender
hear it. A host sends nothing while it hears somebody, and waits a random moment after that; who begins within the time
that it takes to notice a carrier, or cannot hear the other at all, collides. Whoever hears two at once, or sends
itself, understands neither.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from transports.contract import LinkProfile

Understood = Callable[[str], bool]
"""Whether a host got the datagram that was just on the air."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConditions:
    """`loss` is drawn for each hearer of each datagram. Every transmission takes `preamble_ms` and its octets at
    `bit_rate` (bits per second); others notice it after `turnaround_ms`. A host that had to wait, or has just sent,
    waits up to `backoff_ms` more. With `turnaround_ms=0` nobody in reach of each other ever collides.
    """

    bit_rate: int = 1_200
    loss: float = 0.0
    addressed_octets_max: int = 255
    broadcast_octets_max: int = 255
    preamble_ms: float = 10.0
    turnaround_ms: float = 5.0
    backoff_ms: float = 150.0

    def airtime_s(self, octets: int) -> float:
        return self.preamble_ms / 1000 + octets * 8 / self.bit_rate

    def profile(self) -> LinkProfile:
        return LinkProfile(
            kind="sim",
            addressed_octets_max=self.addressed_octets_max,
            broadcast_octets_max=self.broadcast_octets_max,
            bit_rate=self.bit_rate,
            airtime_ms_per_hour=None,
            shared_medium=True,
            half_duplex=True,
            ordered=True,
        )


@dataclass(slots=True)
class ChannelCounts:
    transmissions: int = 0
    octets: int = 0
    airtime_s: float = 0.0
    collisions: int = 0
    """Hearers that understood nothing because two sent at once."""


@dataclass(slots=True, eq=False)
class _Transmission:
    host: str
    octets: int
    over: Callable[[Understood], None]
    begins_s: float = 0.0
    ends_s: float = 0.0
    is_over: bool = False


@dataclass(slots=True, eq=False)
class _Station:
    queue: deque[_Transmission] = field(default_factory=deque)
    sending: _Transmission | None = None
    waits: asyncio.TimerHandle | None = None


class SimChannel:
    """Who is on the air when, and who understood what. `hears(a, b)`: whether two hosts are in reach and run."""

    def __init__(self, conditions: ChannelConditions, *, seed: int, hears: Callable[[str, str], bool]) -> None:
        self.conditions = conditions
        """May be replaced at any time; what is on the air goes on as it began."""
        self.counts = ChannelCounts()
        self._hears = hears
        self._rng = random.Random(f"{seed}/channel")
        self._stations: dict[str, _Station] = {}
        self._lately: list[_Transmission] = []
        """On the air, or over but overlapping one that is."""

    def send(self, host: str, octets: int, over: Callable[[Understood], None]) -> None:
        """Queues a datagram behind those that the host still has to send; `over` is called when it was on the air."""
        station = self._stations.setdefault(host, _Station())
        station.queue.append(_Transmission(host, octets, over))
        if station.sending is None and station.waits is None:
            self._try(station)

    def silence(self, host: str) -> None:
        """The host crashed or stopped: what it had queued is never sent, what is on the air breaks off."""
        station = self._stations.pop(host, None)
        if station is None:
            return
        if station.waits is not None:
            station.waits.cancel()
        if station.sending is not None:
            station.sending.over = lambda understood: None

    def _try(self, station: _Station) -> None:
        station.waits = None
        if not station.queue:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        host = station.queue[0].host
        noticed_s = now - self.conditions.turnaround_ms / 1000
        heard = [
            each.ends_s
            for each in self._lately
            if each.begins_s <= noticed_s and each.ends_s > now and self._hears(host, each.host)
        ]
        if heard:
            self._wait(station, max(heard) - now)
            return
        sending = station.sending = station.queue.popleft()
        airtime_s = self.conditions.airtime_s(sending.octets)
        sending.begins_s, sending.ends_s = now, now + airtime_s
        self.counts.transmissions += 1
        self.counts.octets += sending.octets
        self.counts.airtime_s += airtime_s
        self._lately.append(sending)
        loop.call_at(sending.ends_s, self._over, station, sending)

    def _wait(self, station: _Station, at_least_s: float) -> None:
        wait_s = at_least_s + self._rng.uniform(0.0, self.conditions.backoff_ms) / 1000
        station.waits = asyncio.get_running_loop().call_later(wait_s, self._try, station)

    def _over(self, station: _Station, sent: _Transmission) -> None:
        station.sending = None
        overlapping = [
            each
            for each in self._lately
            if each is not sent and each.begins_s < sent.ends_s and each.ends_s > sent.begins_s
        ]
        sent.over(lambda host: self._understood(sent, host, overlapping))
        sent.is_over = True
        began_s = min((each.begins_s for each in self._lately if not each.is_over), default=math.inf)
        self._lately = [each for each in self._lately if each.ends_s > began_s]
        if self._stations.get(sent.host) is station:
            self._wait(station, 0.0)

    def _understood(self, sent: _Transmission, host: str, overlapping: list[_Transmission]) -> bool:
        if not self._hears(host, sent.host):
            return False
        if any(each.host == host or self._hears(host, each.host) for each in overlapping):
            self.counts.collisions += 1
            return False
        return self._rng.random() >= self.conditions.loss
