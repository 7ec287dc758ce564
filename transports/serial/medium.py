"""What is said to everybody on a shared line: frames to handle 0, beside the links."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from transports.contract import LinkDown, LinkProfile, check_broadcast
from transports.serial.frames import EVERYBODY, Frame

QUEUED_MAX = 2
UNHEARD_MAX = 256


class SerialMedium:
    """Implements `transports.contract.Medium`, and is a source of frames for the channel."""

    def __init__(self, profile: LinkProfile, *, own_handle: Callable[[], int], queued: Callable[[], None]) -> None:
        """`queued()` is called when there is something to send."""
        self.profile = profile
        self._own_handle = own_handle
        self._queued = queued
        self._outbox: deque[bytes] = deque()
        self._inbox: deque[bytes] = deque(maxlen=UNHEARD_MAX)
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._turn_to_send = asyncio.Lock()
        self._runs = False
        self._over = False

    async def broadcast(self, datagram: bytes) -> None:
        check_broadcast(datagram, self.profile)
        async with self._turn_to_send:
            while self._runs and len(self._outbox) >= QUEUED_MAX:
                self._room.clear()
                await self._room.wait()
            if not self._runs:
                raise LinkDown("the transport does not run")
            self._outbox.append(bytes(datagram))
        self._queued()

    async def heard(self) -> bytes:
        while not self._inbox:
            if self._over:
                raise LinkDown("the transport is closed")
            self._arrived.clear()
            await self._arrived.wait()
        return self._inbox.popleft()

    # by the transport

    def begin(self) -> None:
        self._runs = True

    def end(self) -> None:
        self._runs, self._over = False, True
        self._outbox.clear()
        self._inbox.clear()
        self._arrived.set()
        self._room.set()

    def datagram_arrived(self, datagram: bytes) -> None:
        """The oldest is forgotten where nobody listens."""
        self._inbox.append(datagram)
        self._arrived.set()

    # Source

    @property
    def has_frame(self) -> bool:
        return bool(self._outbox)

    def take_frame(self) -> Frame:
        self._room.set()
        return Frame(EVERYBODY, self._own_handle(), self._outbox.popleft())
