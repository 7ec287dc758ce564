"""Two conversations over one simulated link, with the driver that nodes use, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from p2pserver.link import Conversation, LinkEndpoint, Priority, datagram_octets, pacer_for, timers_for
from p2pserver.link.node_key import node_key_of
from p2pserver.node.pipes import Pipe
from transports.contract import Link
from transports.sim import LinkConditions, SimNetwork

SEEDS = (b"\x01" * 32, b"\x02" * 32)


@dataclass(slots=True)
class CountedLink:
    """A link that notes what this side hands to it."""

    link: Link
    datagrams: int = 0
    octets: int = 0
    lose: Callable[[bytes], bool] = lambda _: False
    sent: list[tuple[float, int]] = field(default_factory=list)
    """(when, octets) of each datagram."""

    def __getattr__(self, name: str) -> object:
        return getattr(self.link, name)

    async def send(self, datagram: bytes) -> None:
        self.datagrams += 1
        self.octets += len(datagram)
        self.sent.append((asyncio.get_running_loop().time(), len(datagram)))
        if not self.lose(datagram):
            await self.link.send(datagram)


@dataclass(slots=True)
class End:
    """One side: its conversation, and its pipe while there is one."""

    conversation: Conversation
    received: list[bytes] = field(default_factory=list)
    received_at: list[float] = field(default_factory=list)
    link: CountedLink | None = None
    pipe: Pipe | None = None
    authenticated_at: float | None = None
    over: str | None = None

    def pipe_authenticated(self, pipe: Pipe, peer_key: bytes, epoch: int) -> None:
        pipe.attach(self.conversation)
        self.authenticated_at = asyncio.get_running_loop().time()

    def pipe_active(self, pipe: Pipe) -> None:
        if fresh := self.conversation.received():
            self.received += fresh
            self.received_at += [asyncio.get_running_loop().time()] * len(fresh)
            pipe.wake()

    def pipe_standing_changed(self, pipe: Pipe) -> None:
        """There is no other pipe to use instead."""

    def pipe_over(self, pipe: Pipe, reason: str) -> None:
        self.over = reason

    def send(self, message: bytes, priority: Priority) -> int:
        handle = self.conversation.send(message, priority)
        if self.pipe is not None:
            self.pipe.wake()
        return handle


class TwoEnds:
    """`await connect()`, then send."""

    def __init__(self, conditions: LinkConditions, seed: int, *, known: bool = False) -> None:
        """`known`: the side that dials knows the key of the other."""
        self._known = known
        self.network = SimNetwork(seed=seed, conditions=conditions, both_dial=0.0, discovery_ms=(1.0, 2.0))
        self.rng = random.Random(f"two ends {seed}")
        self.ends = (End(Conversation(1)), End(Conversation(2)))
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        transports = [self.network.transport(name) for name in ("a", "b")]
        for transport in transports:
            await transport.start(transport.host.encode() * 8)
        for index, (transport, end) in enumerate(zip(transports, self.ends, strict=True)):
            end.link = CountedLink(await transport.next_link())
            profile = end.link.link.profile
            known_key = node_key_of(SEEDS[1 - index]) if self._known and end.link.link.initiator else None
            endpoint = LinkEndpoint(
                SEEDS[index],
                end.link.link.initiator,
                datagram_octets(profile),
                self.rng.randbytes,
                loop.time(),
                lambda _: True,
                local_epoch=index + 1,
                timers=timers_for(profile),
                pacer=pacer_for(profile),
                known_key=known_key,
            )
            end.pipe = Pipe(cast("Link", end.link), endpoint, end, clock=loop.time)
            self._tasks.append(asyncio.create_task(end.pipe.run(), name=f"pipe {index}"))

    async def until(self, what: Callable[[], bool], *, within_s: float, every_s: float = 0.01) -> bool:
        """Whether `what` became true within so many seconds; looked at every so often."""
        loop = asyncio.get_running_loop()
        stop_at = loop.time() + within_s
        while not what():
            for task in self._tasks:
                if task.done():
                    task.result()
            if loop.time() >= stop_at:
                return False
            await asyncio.sleep(every_s)
        return True

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
