"""What is alike in most transports: the ends of links, the queue of new ones, the tasks behind them.

Nobody must use it: `transports.contract` is what is promised. Who does writes only what the medium asks for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from transports.contract import INSTANCE_ID_OCTETS, LinkDown, LinkProfile, TransportStatus, check_datagram
from transports.offered import OfferedLinks
from transports.watched import watched

STOPPING_S = 0.9
"""What does not end when it is told to is not waited for longer: closing takes 1 s at most."""
INBOX_OCTETS_MAX = 65_536
INBOX_ENTRY_OCTETS = 64
"""What a waiting datagram costs besides its octets, so that a flood of tiny ones is bounded too."""


class LinkBase:
    """An end of a link: one sender at a time, an inbox, an end that is final. `transmit` is the transport's own."""

    peer_hint: bytes | None = None

    def __init__(self, profile: LinkProfile, *, initiator: bool, remote: str) -> None:
        self.profile = profile
        self.initiator = initiator
        self.remote = remote
        self.made_at_s = asyncio.get_running_loop().time()
        self.inbox_octets = 0
        self._inbox: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._turn_to_send = asyncio.Lock()
        self._down_because: str | None = None

    # To override

    async def transmit(self, datagram: bytes) -> None:
        """Hands over a datagram of a right size; waits here while the medium takes no more, one call at a time.

        `check_open` is to be called after each wait. A call that is cancelled while it waits must have sent nothing.
        """
        raise NotImplementedError

    def was_read(self) -> None:
        """A datagram was taken out of the inbox: there may be room again."""

    def ended(self, reason: str) -> None:
        """It is over; called once. The place to wake `transmit`, and to tell the other side if it can be told."""

    # For the transport

    @property
    def is_open(self) -> bool:
        return self._down_because is None

    @property
    def down_because(self) -> str:
        return self._down_because or ""

    def check_open(self) -> None:
        """Raises: LinkDown, if the link is over."""
        if self._down_because is not None:
            raise LinkDown(self._down_because)

    @property
    def inbox_datagrams(self) -> int:
        return len(self._inbox)

    @property
    def has_room(self) -> bool:
        """Whether the inbox is under the limit that suits a medium whose sender can be made to wait."""
        return self.inbox_octets < INBOX_OCTETS_MAX

    def arrived(self, datagram: bytes) -> None:
        """Puts it into the inbox, whose limit is the caller's business: see `has_room`."""
        if self.is_open:
            self._inbox.append(datagram)
            self.inbox_octets += len(datagram) + INBOX_ENTRY_OCTETS
            self._arrived.set()

    def end(self, reason: str, *, keep_inbox: bool = True) -> None:
        """It is over. What had arrived can still be read, unless it is this side that wants no more."""
        if self._down_because is None:
            self._down_because = reason
            if not keep_inbox:
                self._inbox.clear()
            self._arrived.set()
            self.ended(reason)

    # transports.contract.Link

    async def send(self, datagram: bytes) -> None:
        check_datagram(datagram, self.profile)
        async with self._turn_to_send:
            self.check_open()
            await self.transmit(datagram)

    async def receive(self) -> bytes:
        while not self._inbox:
            self.check_open()
            self._arrived.clear()
            await self._arrived.wait()
        datagram = self._inbox.popleft()
        self.inbox_octets -= len(datagram) + INBOX_ENTRY_OCTETS
        self.was_read()
        return datagram

    async def close(self) -> None:
        self.end("closed here", keep_inbox=False)


L = TypeVar("L", bound=LinkBase)


class TransportBase(Generic[L]):
    """Started once, closed once; `begin` is the transport's own. It ends the tasks and the links that it was given."""

    kind = ""

    def __init__(self) -> None:
        self.instance_id = b""
        self.closed = False
        self._offered: OfferedLinks[L] = OfferedLinks()
        self._tasks: list[asyncio.Task[None]] = []
        self._made: list[L] = []

    # To override

    async def begin(self) -> None:
        """Begins to listen, to announce, to dial, with `work_on`. Raises: OSError, as in `Transport.start`."""
        raise NotImplementedError

    def status(self) -> TransportStatus:
        return TransportStatus(kind=self.kind)

    # For the transport

    def work_on(
        self, work: Coroutine[Any, Any, None], *, name: str, broken: Callable[[str], None] | None = None
    ) -> None:
        """Runs it until it is done or the transport is closed; see `watched`."""
        self._tasks.append(watched(work, name=f"{self.kind} {name}", broken=broken))

    def offer(self, link: L) -> None:
        """`next_link` gives it."""
        self._made = [other for other in self._made if other.is_open]
        self._made.append(link)
        self._offered.offer(link)

    async def stop_work(self) -> None:
        """The first half of `close`: no link is given any more, no task runs."""
        self.closed = True
        self._offered.close()
        self._offered.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOPPING_S)

    # transports.contract.Transport

    async def start(self, instance_id: bytes) -> None:
        if len(instance_id) != INSTANCE_ID_OCTETS:
            raise ValueError(f"an instance id has {INSTANCE_ID_OCTETS} octets, not {len(instance_id)}")
        if self.instance_id or self.closed:
            raise RuntimeError("a transport is started once")
        self.instance_id = instance_id
        await self.begin()

    async def next_link(self) -> L:
        return await self._offered.next()

    async def close(self) -> None:
        await self.stop_work()
        for link in self._made:
            await link.close()
