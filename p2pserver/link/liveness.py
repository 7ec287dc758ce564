"""Whether the peer of a pipe is still there: when to ask, and when to give it up."""

from __future__ import annotations

from p2pserver.link.limits import LinkTimers
from p2pserver.link.recovery import Recovery


class Liveness:
    """Of one pipe, since `now`."""

    def __init__(self, timers: LinkTimers, recovery: Recovery, now: float) -> None:
        self._timers, self._recovery = timers, recovery
        self.heard_at = now
        self.ping_due = False
        """The next datagram asks for an answer, and goes even with nothing else in it."""

    def ping_at(self) -> float | None:
        """When a silent peer is asked; None while it is."""
        idle_ping_s = self._timers.idle_ping_s
        if idle_ping_s is None or self.ping_due or self._recovery.unanswered_since is not None:
            return None
        return self.heard_at + idle_ping_s

    def dead_at(self, silent_until: float) -> float | None:
        """When a peer that owes an answer is given up; not while we had no airtime to ask (`silent_until`)."""
        since = self._recovery.unanswered_since
        if since is None:
            return None
        answer_s = self._timers.answer_s
        return max(self.heard_at + self._timers.dead_after_s, since + answer_s, silent_until + answer_s)
