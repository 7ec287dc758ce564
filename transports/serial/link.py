"""Datagrams to one neighbor on a serial line: each is the body of one frame."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from transports.base import INBOX_ENTRY_OCTETS, INBOX_OCTETS_MAX, LinkBase
from transports.contract import LinkProfile
from transports.serial.frames import EVERYBODY, Frame

OUTBOX_FRAMES = 2
"""That wait for their turn; then `send` waits. What waits here cannot be overtaken any more."""
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


class SerialLink(LinkBase):
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
        super().__init__(profile, initiator=initiator, remote=remote)
        self.peer_hint = self.instance_id = instance_id
        self.nonce = nonce
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._handles = handles
        self._asked_to_stop = False
        self._stopped_until: float | None = None
        self._goes_on: asyncio.TimerHandle | None = None
        self._outbox: deque[bytes] = deque()
        self._room = asyncio.Event()

    async def transmit(self, datagram: bytes) -> None:
        while len(self._outbox) >= OUTBOX_FRAMES:
            self._room.clear()
            await self._room.wait()
            self.check_open()
        self._outbox.append(datagram)
        self._owner.outbox_filled()

    def was_read(self) -> None:
        if self._asked_to_stop and self.inbox_octets <= _GO_OCTETS and self.is_open:
            self._asked_to_stop = False
            self._owner.inbox_has_room(self)

    async def close(self) -> None:
        if self.is_open:
            unsent = [self.take_frame() for _ in range(len(self._outbox))] if self.has_frame else []
            await super().close()
            self._owner.closed_here(self, unsent)

    # by the transport

    def ended(self, reason: str) -> None:
        self._outbox.clear()
        if self._goes_on is not None:
            self._goes_on.cancel()
        self._room.set()

    def datagram_arrived(self, datagram: bytes) -> None:
        """A neighbor that sends more than is taken is asked to stop; beyond the limit it is sending to nobody."""
        if not self.is_open or not datagram:
            return
        if self.inbox_octets + len(datagram) + INBOX_ENTRY_OCTETS <= INBOX_OCTETS_MAX:
            self.arrived(datagram)
        if self.inbox_octets > _STOP_OCTETS:
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
