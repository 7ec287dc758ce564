"""Token buckets: how fast one user, or one address without a user, may ask.

The bounds are for a node that serves a handful of people: generous to a client that starts up or sends a burst, and
enough to keep a loop from eating a phone's battery. Logins and registrations have slow buckets of their own, because
each costs an argon2 hash and because passwords can be guessed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from p2pserver.errors import LimitExceeded
from p2pserver.http_api.routing import Pace

BUCKETS_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`burst` requests at once, then `per_second`."""

    per_second: float
    burst: int


RATES: dict[Pace, Rate] = {
    Pace.ORDINARY: Rate(per_second=50.0, burst=1000),
    Pace.LOGIN: Rate(per_second=1.0, burst=60),
    Pace.REGISTER: Rate(per_second=0.5, burst=60),
}
FAILED_LOGINS = Rate(per_second=1 / 15, burst=5)
"""Wrong passwords for one account, from anywhere."""


class RateLimits:
    """All buckets of the node, of bounded number: the one longest unused is forgotten, which errs on the kind side."""

    def __init__(self, monotonic_s: Callable[[], float], *, enabled: bool) -> None:
        self._monotonic_s = monotonic_s
        self._enabled = enabled
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, pace: Pace, who: str, own: tuple[float, int] | None = None) -> None:
        """Takes one token of the bucket (`pace`, `who`).

        `own`: (a second, at once), where somebody has a rate of his own for ordinary requests; 0 a second: no bound.
        Raises: LimitExceeded, with the milliseconds until there is one.
        """
        rate = RATES.get(pace)
        if own is not None and pace is Pace.ORDINARY:
            rate = Rate(per_second=own[0], burst=max(1, own[1])) if own[0] > 0 else None
        if rate is not None:
            self._take(pace.value, who, rate)

    def check_failed_logins(self, user_id: str) -> None:
        """Raises: LimitExceeded, if too many wrong passwords were tried for this account."""
        if self._enabled:
            self._require(self._level("failed", user_id, FAILED_LOGINS), FAILED_LOGINS)

    def note_failed_login(self, user_id: str) -> None:
        if self._enabled:
            level = self._level("failed", user_id, FAILED_LOGINS)
            self._put("failed", user_id, max(0.0, level - 1.0))

    def _take(self, kind: str, who: str, rate: Rate) -> None:
        if not self._enabled:
            return
        level = self._level(kind, who, rate)
        self._require(level, rate)
        self._put(kind, who, level - 1.0)

    def _level(self, kind: str, who: str, rate: Rate) -> float:
        level, then_s = self._buckets.get((kind, who), (float(rate.burst), self._monotonic_s()))
        return min(float(rate.burst), level + (self._monotonic_s() - then_s) * rate.per_second)

    def _require(self, level: float, rate: Rate) -> None:
        if level < 1.0:
            wait_ms = int((1.0 - level) / rate.per_second * 1000) + 1
            raise LimitExceeded("too many requests", retry_after_ms=wait_ms)

    def _put(self, kind: str, who: str, level: float) -> None:
        self._buckets[kind, who] = (level, self._monotonic_s())
        self._buckets.move_to_end((kind, who))
        while len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
