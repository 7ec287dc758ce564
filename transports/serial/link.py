"""Datagrams to one neighbor on a serial line: each is the body of one frame."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from transports.contract import LinkDown, LinkProfile, check_datagram
from transports.serial.frames import EVERYBODY, Frame

OUTBOX_FRAMES = 2
"""That wait for their turn; then `send` waits. What waits here cannot be overtaken any more."""
INBOX_OCTETS_MAX = 65_536
INBOX_ENTRY_OCTETS = 64
_STOP_OCTETS = INBOX_OCTETS_MAX // 2
_GO_OCTETS = INBOX_OCTETS_MAX // 8
STOPPED_S_MAX = 10.0
"""Who was told to stop and hears nothing more goes on after a while: the word to go on may have been lost."""


class LinkOwner(Protocol):
    def outbox_filled(self) -> None: ...

    def inbox_full(self, link: SerialLink) -> None:
        """The other side should stop; told at each datagram that arrives nevertheless."""
        ...

    def inbox_has_room(self, link: SerialLink) -> None: ...

    def closed_here(self, link: SerialLink, unsent: list[Frame]) -> None:
        """By who uses it; the other side should get what was taken, and be told."""
        ...


class SerialLink:
    """Implements `transports.contract.Link`, and is a source of frames for the channel."""

    def __init__(
        self,
        owner: LinkOwner,
        profile: LinkProfile,
        *,
        initiator: bool,
        instance_id: bytes,
        nonce: int,
        remote: str,
        handles: Callable[[], tuple[int, int]],
    ) -> None:
        """`instance_id` is the other side's; `handles()` are its (or 0: unknown) and ours, which may change."""
        self.profile = profile
        self.initiator = initiator
        self.peer_hint: bytes | None = instance_id
        self.instance_id = instance_id
        self.nonce = nonce
        self.remote = remote
        loop = asyncio.get_running_loop()
        self.made_at_s = loop.time()
        self._loop = loop
        self._owner = owner
        self._handles = handles
        self._inbox: deque[bytes] = deque()
        self._inbox_octets = 0
        self._asked_to_stop = False
        self._stopped_until: float | None = None
        self._goes_on: asyncio.TimerHandle | None = None
        self._outbox: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._turn_to_send = asyncio.Lock()
        self._down_because: str | None = None

    @property
    def is_open(self) -> bool:
        return self._down_because is None

    async def send(self, datagram: bytes) -> None:
        check_datagram(datagram, self.profile)
        async with self._turn_to_send:
            while self.is_open and len(self._outbox) >= OUTBOX_FRAMES:
                self._room.clear()
                await self._room.wait()
            if self._down_because is not None:
                raise LinkDown(self._down_because)
            self._outbox.append(datagram)
        self._owner.outbox_filled()

    async def receive(self) -> bytes:
        while not self._inbox:
            if self._down_because is not None:
                raise LinkDown(self._down_because)
            self._arrived.clear()
            await self._arrived.wait()
        datagram = self._inbox.popleft()
        self._inbox_octets -= len(datagram) + INBOX_ENTRY_OCTETS
        if self._asked_to_stop and self._inbox_octets <= _GO_OCTETS and self.is_open:
            self._asked_to_stop = False
            self._owner.inbox_has_room(self)
        return datagram

    async def close(self) -> None:
        if self.is_open:
            unsent = [self.take_frame() for _ in range(len(self._outbox))] if self.has_frame else []
            self.end("closed here")
            self._owner.closed_here(self, unsent)

    # by the transport

    def end(self, reason: str, *, keep_inbox: bool = False) -> None:
        if self._down_because is None:
            self._down_because = reason
            self._outbox.clear()
            if self._goes_on is not None:
                self._goes_on.cancel()
            if not keep_inbox:
                self._inbox.clear()
            self._arrived.set()
            self._room.set()

    def datagram_arrived(self, datagram: bytes) -> None:
        """A neighbor that sends more than is taken is asked to stop; beyond the limit it is sending to nobody."""
        if not self.is_open or not datagram:
            return
        if self._inbox_octets + len(datagram) + INBOX_ENTRY_OCTETS <= INBOX_OCTETS_MAX:
            self._inbox.append(datagram)
            self._inbox_octets += len(datagram) + INBOX_ENTRY_OCTETS
            self._arrived.set()
        if self._inbox_octets > _STOP_OCTETS:
            self._asked_to_stop = True
            self._owner.inbox_full(self)

    def told_to_stop(self) -> None:
        self._stopped_until = self._loop.time() + STOPPED_S_MAX
        if self._goes_on is not None:
            self._goes_on.cancel()  # one timer, however often it is told
        self._goes_on = self._loop.call_later(STOPPED_S_MAX + 0.01, self._owner.outbox_filled)

    def told_to_go(self) -> None:
        self._stopped_until = None
        self._owner.outbox_filled()

    # Source

    @property
    def has_frame(self) -> bool:
        if self._stopped_until is not None and self._loop.time() < self._stopped_until:
            return False
        return bool(self._outbox) and self._handles()[0] != EVERYBODY

    def take_frame(self) -> Frame:
        to, sender = self._handles()
        self._room.set()
        return Frame(to, sender, self._outbox.popleft())
