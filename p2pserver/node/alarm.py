"""One timer that is moved often and seldom rings: most deadlines move on before they are reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

GRAIN_S = 0.001


class Alarm:
    """Calls `ring` at the time that was set last, GRAIN_S from now at the earliest. Not before, and once for each.

    A timer of the loop that is early enough is kept: when it fires, it is set again for the rest.
    """

    __slots__ = ("_at", "_clock", "_fires_at", "_ring", "_timer")

    def __init__(self, ring: Callable[[], object], clock: Callable[[], float]) -> None:
        """`clock` goes as fast as the loop's."""
        self._ring = ring
        self._clock = clock
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = 0.0

    def set(self, at: float | None) -> None:
        """None: it does not ring."""
        self._at = at
        if at is None or (self._timer is not None and self._fires_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._start(at)

    def cancel(self) -> None:
        self._at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self, at: float) -> None:
        now = self._clock()
        self._fires_at = max(at, now + GRAIN_S)
        self._timer = asyncio.get_running_loop().call_later(self._fires_at - now, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._at is None:
            return
        if self._at > self._fires_at:
            self._start(self._at)
        else:
            self._at = None
            self._ring()
