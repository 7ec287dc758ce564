"""Which of several pipes to one peer sends what. Pure: measurements in, a choice out; see docs/links.md.

Each side chooses for what it sends itself, and takes whatever arrives on any pipe: the two need not agree.
"""

from __future__ import annotations

import math
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
"""Likewise, of the other classes; more on a pipe that is known to lose much."""
PATIENCE_MAX: Final = 9
BY_CHANCE: Final = 0.02
"""So seldom at most are so many timeouts in a row mere losses."""
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
    loss: float = 0.0
    """The part of what this side sends that gets lost, of late."""
    late_s: float = 0.0
    """How much later a short message is there for that, on the average."""
    window_bit_rate: float | None = None
    """What may be on its way in a round trip, if losses hold that down."""
    timeouts: int = 0
    """In a row, without any answer."""
    distrusted: bool = False
    """It failed of late, and has not proved itself since."""
    since: float = 0.0

    @property
    def patience(self) -> int:
        """Timeouts in a row that say that nobody answers any more; with this loss fewer come about by chance."""
        unanswered = 1 - (1 - self.loss) ** 2  # a question or its answer
        if unanswered <= 0.0:
            return PATIENCE_ELSE
        return min(max(math.ceil(math.log(BY_CHANCE) / math.log(unanswered)), PATIENCE_ELSE), PATIENCE_MAX)

    @property
    def is_dead(self) -> bool:
        """As it seems."""
        return self.distrusted or self.timeouts >= self.patience

    def fails(self, priority: Priority) -> bool:
        return self.distrusted or self.timeouts >= PATIENCE.get(priority, self.patience)

    def takes_s(self, priority: Priority) -> float:
        """About how long a message of the class takes until it is there."""
        bit_rate = min(self.bit_rate or FAST_BIT_RATE, self.window_bit_rate or FAST_BIT_RATE) * (1 - self.loss)
        return self.round_trip_s / 2 + self.late_s + 8 * OCTETS[priority] / bit_rate


def homes(pipes: Mapping[int, Standing], before: Mapping[Priority, int]) -> dict[Priority, int]:
    """The pipe, by its handle, that each class belongs on; none where there is no pipe. `before`: the last answer."""
    return {priority: _home(pipes, priority, before.get(priority)) for priority in Priority} if pipes else {}


def shares(pipes: Mapping[int, Standing], homes: Mapping[Priority, int]) -> dict[Priority, int]:
    """The pipe that each class goes over now: the one that it belongs on, or another one while that does not answer."""
    return {
        priority: min(pipes, key=lambda handle: _order(pipes, handle, priority, pipes[handle].fails(priority)))
        if pipes[home].fails(priority)
        else home
        for priority, home in homes.items()
    }


_Rank = tuple[bool, int, bool]


def _home(pipes: Mapping[int, Standing], priority: Priority, before: int | None) -> int:
    best = min(pipes, key=lambda handle: _order(pipes, handle, priority, pipes[handle].is_dead))
    if before is None or before not in pipes:
        return best
    of_same_rank = _rank(pipes[before], pipes[before].is_dead) == _rank(pipes[best], pipes[best].is_dead)
    if of_same_rank and pipes[best].takes_s(priority) > WORTH_IT * pipes[before].takes_s(priority):
        return before
    return best


def _order(
    pipes: Mapping[int, Standing], handle: int, priority: Priority, fails: bool
) -> tuple[_Rank, float, float, int]:
    pipe = pipes[handle]
    return _rank(pipe, fails), pipe.takes_s(priority), -pipe.since, -handle


def _rank(pipe: Standing, fails: bool) -> _Rank:
    return fails, pipe.timeouts if fails else 0, pipe.metered


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
