"""A set of integers kept as sorted half-open ranges: octets of a message, counters of datagrams."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class RangeSet:
    """Non-touching ranges [start, end) in ascending order."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, start: int = 0, end: int = 0) -> None:
        self._starts: list[int] = [start] if start < end else []
        self._ends: list[int] = [end] if start < end else []

    def add(self, start: int, end: int) -> None:
        """Join [start, end) to the set; start < end."""
        starts, ends = self._starts, self._ends
        first = bisect_left(ends, start)
        past = bisect_right(starts, end)
        if first < past:
            start = min(start, starts[first])
            end = max(end, ends[past - 1])
        starts[first:past] = [start]
        ends[first:past] = [end]

    def remove(self, start: int, end: int) -> None:
        """Take [start, end) out of the set; start < end."""
        starts, ends = self._starts, self._ends
        first = bisect_right(ends, start)
        past = bisect_left(starts, end)
        if first >= past:
            return
        kept = []
        if starts[first] < start:
            kept.append((starts[first], start))
        if ends[past - 1] > end:
            kept.append((end, ends[past - 1]))
        starts[first:past] = [low for low, _ in kept]
        ends[first:past] = [high for _, high in kept]

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """What of [start, end) is not in the set, ascending."""
        out = []
        index = bisect_right(self._ends, start)
        while start < end:
            low = self._starts[index] if index < len(self._starts) else end
            if start < low:
                out.append((start, min(low, end)))
            start = self._ends[index] if index < len(self._ends) else end
            index += 1
        return out

    def covers(self, start: int, end: int) -> bool:
        """Whether every number of [start, end) is in the set."""
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and self._ends[at] >= end

    def first(self) -> tuple[int, int]:
        """The lowest range. Raises IndexError, if the set is empty."""
        return self._starts[0], self._ends[0]

    def drop_lowest(self, keep: int) -> None:
        """Forget all but the `keep` highest ranges."""
        excess = len(self._starts) - keep
        if excess > 0:
            del self._starts[:excess]
            del self._ends[:excess]

    def descending(self) -> Iterator[tuple[int, int]]:
        """The ranges, highest first."""
        return zip(reversed(self._starts), reversed(self._ends), strict=True)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(tuple(self._starts), tuple(self._ends), strict=True)

    def __len__(self) -> int:
        """The number of ranges."""
        return len(self._starts)
