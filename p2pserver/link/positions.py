"""Positions on one pipe, cut to their lowest bits where the reader knows the rest.

Now and then a position is told whole: an anchor, known by the counter of its datagram; at first there is one at octet
0, before all counters. A position that is cut is the nearest to the newest anchor from before its own datagram that the
receiver has. What came since is not asked: so a late datagram means what it meant, and what other pipes carry does not
matter. The sender cuts a position only if each anchor that the receiver may be left with leads to it (docs/link.md,
"Positions").
"""

from __future__ import annotations

from bisect import bisect_left

from p2pserver.link.frames import LONG_BITS, SHORT_BITS, WHOLE_BITS, Fragment, nearest
from p2pserver.link.limits import REPLAY_WINDOW, Priority
from p2pserver.link.sealing import Sealer

_START = (-1, 0)


class PositionsSent:
    """The anchors of each class that the receiver may go by: the newest that it acknowledged, and all since."""

    __slots__ = ("_anchors", "_bounds", "counter", "short")

    def __init__(self) -> None:
        self._anchors: list[list[tuple[int, int]]] = [[_START] for _ in Priority]
        """(counter, position), ascending by counter."""
        self._bounds = [(0, 0) for _ in Priority]
        """The least and the greatest position of them."""
        self.counter = 0
        """Of the datagram that is being made."""
        self.short = False
        """Whether it is one of those that tell positions in an octet less."""

    def begun(self, sealer: Sealer, acknowledged: int) -> PositionsSent:
        """These, for the next datagram; `acknowledged`: the highest counter that was."""
        self.counter, self.short = sealer.counter, sealer.is_short(acknowledged)
        return self

    def bits(self, priority: Priority, position: int) -> int:
        """How many bits of a position to tell. All of them now and then, so that there is an anchor near."""
        narrow, wide = SHORT_BITS if self.short else LONG_BITS
        low, high = self._bounds[priority]
        far = max(position - low, high - position)
        if position - self._anchors[priority][-1][1] < 1 << (narrow - 2):
            if far < 1 << (narrow - 1):
                return narrow
            if far < 1 << (wide - 1):
                return wide
        return WHOLE_BITS

    def told_whole(self, priority: Priority, position: int) -> None:
        """The datagram that is being made has an anchor."""
        self._anchors[priority].append((self.counter, position))
        low, high = self._bounds[priority]
        self._bounds[priority] = min(low, position), max(high, position)

    def acknowledged(self, counter: int) -> None:
        """The receiver has the datagram, with the anchors in it."""
        for priority in Priority:
            anchors = self._anchors[priority]
            if len(anchors) == 1 or counter <= anchors[0][0]:
                continue
            at = bisect_left(anchors, (counter, 0))
            if at < len(anchors) and anchors[at][0] == counter:
                del anchors[:at]
                positions = [position for _, position in anchors]
                self._bounds[priority] = min(positions), max(positions)


class PositionsReceived:
    """The anchors of each class that a datagram which is still to come may go by."""

    __slots__ = ("_anchors",)

    def __init__(self) -> None:
        self._anchors: list[list[tuple[int, int]]] = [[_START] for _ in Priority]

    def placed(self, fragment: Fragment, counter: int) -> Fragment:
        """A fragment of the datagram with this counter, its position whole; negative, if the peer makes no sense."""
        if fragment.bits == WHOLE_BITS:
            return fragment
        anchors = self._anchors[fragment.priority]
        _, anchor = anchors[-1] if anchors[-1][0] < counter else anchors[bisect_left(anchors, (counter, 0)) - 1]
        position = nearest(fragment.position, fragment.bits, anchor)
        return Fragment(fragment.priority, position, WHOLE_BITS, fragment.data)

    def anchored(self, fragment: Fragment, counter: int, highest: int) -> None:
        """A whole position came. `highest`: of all counters so far; nothing counts a replay window behind it."""
        anchors = self._anchors[fragment.priority]
        at = bisect_left(anchors, (counter, 0))
        if at < len(anchors) and anchors[at][0] == counter:
            anchors[at] = counter, fragment.position
        else:
            anchors.insert(at, (counter, fragment.position))
        old = bisect_left(anchors, (highest - REPLAY_WINDOW + 1, 0)) - 1
        if old > 0:
            del anchors[:old]
