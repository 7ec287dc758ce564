"""Links that a transport has made and that nobody has taken yet."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, Protocol, TypeVar

from transports.contract import LinkDown


class Openable(Protocol):
    @property
    def is_open(self) -> bool: ...


L = TypeVar("L", bound=Openable)


class OfferedLinks(Generic[L]):
    """The queue behind `Transport.next_link`: each link once, and none that went down while it waited."""

    def __init__(self) -> None:
        self._links: deque[L] = deque()
        self._news = asyncio.Event()
        self._closed = False

    def offer(self, link: L) -> None:
        self._links.append(link)
        self._news.set()

    async def next(self) -> L:
        """Cancelling a call loses none. Raises: LinkDown, when the transport is closed."""
        while True:
            while self._links:
                link = self._links.popleft()
                if link.is_open:
                    return link
            if self._closed:
                raise LinkDown("the transport is closed")
            self._news.clear()
            await self._news.wait()

    def close(self) -> None:
        """No link comes any more; what is open still may be taken."""
        self._closed = True
        self._news.set()

    def clear(self) -> None:
        self._links.clear()
