"""The airtime that a sender may use in an hour: one budget for all that goes out over one radio.

EU868 gives most sub-bands 1 % or 10 % (ETSI EN 300 220-2, annex B; `transports.contract.DUTY_CYCLES`). What was used
is kept by the minute, so within any hour no more is sent than is allowed. The less urgent a class, the earlier it has
to wait: when a file has used up its share, a text still goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from p2pserver.link.limits import Priority

HOUR_S: Final = 3_600.0
BIN_S: Final = 60.0

SHARES: Final = {
    Priority.ALERT: 1.0,
    Priority.TEXT: 0.95,
    Priority.STATE: 0.85,
    Priority.RECEIPT: 0.85,
    Priority.MEDIA: 0.6,
    Priority.PRESENCE: 0.4,
}
"""How much of the budget may be used, by all together, for a datagram of this class still to be sent. What the link
itself needs (handshakes, acknowledgements, PINGs) may use all of it, as an alert may."""


class AirtimeBudget:
    """What was sent within the last hour, in seconds of airtime."""

    __slots__ = ("_bins", "_grown", "_grown_s", "_told_every_s", "_used_s", "limit_s")

    def __init__(self, ms_per_hour: int) -> None:
        self.limit_s = ms_per_hour / 1000
        self._bins: deque[tuple[float, float]] = deque()
        """(end of the minute, airtime in it), oldest first."""
        self._used_s = 0.0
        self._told_every_s = float("inf")
        self._grown: Callable[[], None] = lambda: None
        self._grown_s = 0.0

    def watch(self, every_s: float, grown: Callable[[], None]) -> None:
        """`grown` is called whenever so much more was used than `used_of_late` told last."""
        self._told_every_s, self._grown = every_s, grown

    def used_of_late(self, now: float) -> list[tuple[float, float]]:
        """(age of the end of a minute, airtime in it), oldest first, all in seconds: what `remember` takes."""
        self._forget(now)
        self._grown_s = 0.0
        return [(now - end, used_s) for end, used_s in self._bins]

    def remember(self, used: Iterable[tuple[float, float]], now: float) -> None:
        """What was used before this budget began, as `used_of_late` told it, aged since."""
        self._bins.extendleft(reversed([(now - age_s, used_s) for age_s, used_s in used]))
        self._used_s = sum(used_s for _, used_s in self._bins)
        self._forget(now)

    def spend(self, airtime_s: float, now: float) -> None:
        """So much was sent; of a datagram that leaves later, at the time when it leaves."""
        end = (now // BIN_S + 1) * BIN_S
        if self._bins and self._bins[-1][0] >= end:
            end, before = self._bins.pop()
            self._bins.append((end, before + airtime_s))
        else:
            self._bins.append((end, airtime_s))
        self._used_s += airtime_s
        self._forget(now)
        self._grown_s += airtime_s
        if self._grown_s >= self._told_every_s:
            self._grown()

    def used_s(self, now: float) -> float:
        self._forget(now)
        return self._used_s

    def allowed_at(self, priority: Priority, airtime_s: float, now: float) -> float:
        """When a datagram of this class may be sent, if nothing else is; at the latest in an hour."""
        left_s = self.used_s(now)
        at = now
        for end, used_s in self._bins:
            if left_s + airtime_s <= SHARES[priority] * self.limit_s:
                break
            left_s -= used_s
            at = end + HOUR_S
        return at

    def lowest_class(self, airtime_s: float, now: float) -> Priority | None:
        """The least urgent class that may send now; None: nothing may."""
        used_s = self.used_s(now) + airtime_s
        return max((priority for priority in Priority if used_s <= SHARES[priority] * self.limit_s), default=None)

    def note(self, now: float) -> str | None:
        """For people, while something has to wait; the same words as long as it is the same that waits."""
        lowest = self.lowest_class(0.001, now)
        if lowest is None:
            return f"all {self.limit_s:g} s of airtime of an hour are used up: nothing is sent until some of it is over"
        if lowest is Priority.PRESENCE:
            return None
        waits = ", ".join(priority.name.lower() for priority in Priority if priority > lowest)
        share = SHARES[Priority(lowest + 1)]
        return f"{share:.0%} of the {self.limit_s:g} s of airtime of an hour are used: {waits} wait"

    def _forget(self, now: float) -> None:
        while self._bins and self._bins[0][0] + HOUR_S <= now:
            self._used_s -= self._bins.popleft()[1]
        if not self._bins:
            self._used_s = 0.0
