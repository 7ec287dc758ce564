"""What a simulated host broadcasts and hears on the channel that all share."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from transports.contract import LinkDown, LinkProfile, check_broadcast
from transports.sim.channel import SimChannel, Understood

_UNHEARD_MAX = 256
_QUEUED_MAX = 4


class Owner(Protocol):
    """The host's transport."""

    host: str
    instance_id: bytes
    closed: bool

    def hearers(self) -> Iterable[tuple[str, SimMedium]]:
        """All other hosts that run, in reach or not."""
        ...


class SimMedium:
    """One host's ear and voice on the channel; implements `transports.contract.Medium`."""

    def __init__(self, channel: SimChannel, owner: Owner) -> None:
        self._channel = channel
        self._owner = owner
        self._inbox: deque[bytes] = deque(maxlen=_UNHEARD_MAX)
        self._arrived = asyncio.Event()
        self._queued = 0
        self._sent = asyncio.Event()
        self._turn_to_send = asyncio.Lock()

    @property
    def profile(self) -> LinkProfile:
        return self._channel.conditions.profile()

    async def broadcast(self, datagram: bytes) -> None:
        check_broadcast(datagram, self.profile)
        async with self._turn_to_send:
            self._check_runs()
            while self._queued >= _QUEUED_MAX:
                self._sent.clear()
                await self._sent.wait()
                self._check_runs()
            self._queued += 1
            carried = bytes(datagram)
            self._channel.send(self._owner.host, len(carried), lambda got: self._on_air(carried, got))

    async def heard(self) -> bytes:
        while not self._inbox:
            if self._owner.closed:
                raise LinkDown("the transport is closed")
            self._arrived.clear()
            await self._arrived.wait()
        return self._inbox.popleft()

    def _check_runs(self) -> None:
        if self._owner.closed or not self._owner.instance_id:
            raise LinkDown("the transport does not run")

    def _on_air(self, datagram: bytes, got: Understood) -> None:
        self._queued -= 1
        self._sent.set()
        for host, medium in self._owner.hearers():
            if got(host):
                medium.deliver(datagram)

    def deliver(self, datagram: bytes) -> None:
        self._inbox.append(datagram)
        self._arrived.set()

    def over(self) -> None:
        self._inbox.clear()
        self._arrived.set()
        self._sent.set()
