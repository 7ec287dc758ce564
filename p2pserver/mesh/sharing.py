"""Which of several pipes to one peer sends what. Pure: measurements in, a choice out; see docs/links.md.

Each side chooses for what it sends itself, and takes whatever arrives on any pipe: the two need not agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from p2pserver.link.limits import Priority

OCTETS: Final[Mapping[Priority, int]] = {
    Priority.ALERT: 300,
    Priority.TEXT: 300,
    Priority.STATE: 20_000,
    Priority.RECEIPT: 300,
    Priority.MEDIA: 100_000,
    Priority.PRESENCE: 300,
}
"""What a typical message of the class takes: a short one asks for a short round trip, a long one for bits."""
PATIENCE: Final[Mapping[Priority, int]] = {Priority.ALERT: 1, Priority.TEXT: 1}
"""Timeouts in a row after which a class goes over another pipe. What people wait for goes twice rather than late."""
PATIENCE_ELSE: Final = 3
FAST_BIT_RATE: Final = 50_000_000
"""What a pipe that does not tell its bit rate is taken for."""
WORTH_IT: Final = 0.5
"""A class changes from a pipe that works to another one if that takes at most this part of the time."""
DISTRUST_S: Final = 2.0
DISTRUST_MAX_S: Final = 120.0
LASTED_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of a pipe at this moment."""

    bit_rate: int | None
    metered: bool
    """It has an airtime budget: used only where nothing else works."""
    round_trip_s: float
    timeouts: int = 0
    """In a row, without any answer."""
    distrusted: bool = False
    """It failed of late, and has not proved itself since."""
    since: float = 0.0

    def fails(self, priority: Priority) -> bool:
        return self.distrusted or self.timeouts >= PATIENCE.get(priority, PATIENCE_ELSE)

    def takes_s(self, priority: Priority) -> float:
        """About how long a message of the class takes until it is there."""
        return self.round_trip_s / 2 + 8 * OCTETS[priority] / (self.bit_rate or FAST_BIT_RATE)


def shares(pipes: Mapping[int, Standing], before: Mapping[Priority, int]) -> dict[Priority, int]:
    """The pipe that each class goes over, by its handle; nothing where there is no pipe. `before`: the last answer."""
    return {priority: _choose(pipes, priority, before.get(priority)) for priority in Priority} if pipes else {}


def _choose(pipes: Mapping[int, Standing], priority: Priority, before: int | None) -> int:
    def rank(handle: int) -> tuple[bool, int, bool]:
        pipe = pipes[handle]
        fails = pipe.fails(priority)
        return fails, pipe.timeouts if fails else 0, pipe.metered

    def order(handle: int) -> tuple[tuple[bool, int, bool], float, float, int]:
        pipe = pipes[handle]
        return rank(handle), pipe.takes_s(priority), -pipe.since, -handle

    best = min(pipes, key=order)
    if before is not None and before in pipes and rank(before) == rank(best):
        faster = pipes[best].takes_s(priority) <= WORTH_IT * pipes[before].takes_s(priority)
        return best if faster else before
    return best


class Trust:
    """Whether a pipe that failed may carry again: at once the first time, then after 2, 4, 8, ... s without failing."""

    __slots__ = ("_failed_at", "_failures", "_until")

    def __init__(self) -> None:
        self._failures = 0
        self._failed_at = float("-inf")
        self._until = float("-inf")

    def failed(self, now: float) -> None:
        """It did not answer in time, several times in a row."""
        if now - self._failed_at > LASTED_S:
            self._failures = 0
        self._failed_at = now
        if self._failures:
            self._until = now + min(DISTRUST_S * 2 ** min(self._failures - 1, 10), DISTRUST_MAX_S)
        self._failures += 1

    def distrusted_until(self, now: float) -> float | None:
        """None: it is trusted now."""
        return self._until if self._until > now else None
