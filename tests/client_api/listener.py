"""A server of the tests, of which one waits until it was told something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE_S = 60


class Listener:
    """It sets `news` when it was asked something."""

    def __init__(self) -> None:
        self.port = 0
        self.news = asyncio.Event()

    async def until(self, is_true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_true():
                self.news.clear()
                await self.news.wait()
