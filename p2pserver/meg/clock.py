"""The hybrid logical clock that `origin_server_ts` of our own events comes from.

Close to wall time, and after what the event answers to, however wrong the clocks of the other nodes are: a timestamp
among the parents moves ours forward, but not beyond a bound. Nothing is valid or invalid by a timestamp; they break
ties in state resolution and are shown on screens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

TIMESTAMP_MAX: Final = 2**53 - 1
"""The largest integer in canonical JSON, where timestamps saturate."""

DRIFT_MAX_MS: Final = 15 * 60 * 1000
ALONE_MAX_MS: Final = 3653 * 24 * 60 * 60 * 1000
"""How long after the build of the software a clock that nothing vouches for is followed: ten years."""

NEIGHBORS_MAX: Final = 64
"""Neighbors whose clocks are kept; the one heard longest ago gives way."""


class HybridClock:
    """Timestamps for one node's events, in milliseconds since 1970.

    `trusted` says whether the wall clock is set by something better than a guess (a battery-backed clock, NTP); it may
    change at any time. `build_ms` is when this software was built.
    """

    def __init__(self, *, build_ms: int, trusted: bool) -> None:
        self.trusted = trusted
        self._build_ms = build_ms
        self._ahead_ms: dict[str, int] = {}

    def neighbor_clock(self, neighbor: str, *, clock_ms: int, wall_ms: int) -> None:
        """An authenticated neighbor's clock reads `clock_ms` while our wall clock reads `wall_ms`."""
        self._ahead_ms.pop(neighbor, None)
        self._ahead_ms[neighbor] = clock_ms - wall_ms
        while len(self._ahead_ms) > NEIGHBORS_MAX:
            del self._ahead_ms[next(iter(self._ahead_ms))]

    def forget_neighbor(self, neighbor: str) -> None:
        self._ahead_ms.pop(neighbor, None)

    def bound_ms(self, wall_ms: int) -> int:
        """How far ahead a clock can read and still be followed.

        15 minutes after the wall clock where it is trusted, else after the median of the neighbors' clocks, else ten
        years after the build.
        """
        if self.trusted:
            bound = wall_ms + DRIFT_MAX_MS
        elif self._ahead_ms:
            bound = wall_ms + _lower_median(self._ahead_ms.values()) + DRIFT_MAX_MS
        else:
            bound = self._build_ms + ALONE_MAX_MS
        return _saturated(bound)

    def stamp(self, *, wall_ms: int, parents_ts: Iterable[int]) -> int:
        """The `origin_server_ts` of an event whose `prev_events` have the timestamps `parents_ts`.

        The wall clock, or 1 ms after the newest parent if that is later; both only up to `bound_ms`. From 0 to 2^53-1.
        """
        bound = self.bound_ms(wall_ms)
        after_parents = min(max(parents_ts, default=-1), bound) + 1
        return _saturated(max(min(wall_ms, bound), after_parents))


def _saturated(timestamp_ms: int) -> int:
    return max(0, min(timestamp_ms, TIMESTAMP_MAX))


def _lower_median(values: Collection[int]) -> int:
    """`statistics.median_low`, without what that module imports: 700 kB that nothing else here needs."""
    return sorted(values)[(len(values) - 1) // 2]
