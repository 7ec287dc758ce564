"""Which datagrams of the peer arrived: so that none counts twice, and so that they can be acknowledged."""

from __future__ import annotations

from p2pserver.link.limits import ACK_RANGES_MAX, REPLAY_WINDOW, LinkTimers
from p2pserver.link.ranges import RangeSet
from p2pserver.link.recovery import BURSTS_IN_FLIGHT


class ReplayWindow:
    """A bit for each of the last 1,024 counters; what is older counts as seen (RFC 4303, section 3.4.3)."""

    __slots__ = ("_bits", "highest")

    def __init__(self) -> None:
        self.highest = -1
        self._bits = 0
        """Bit n: the counter `highest - n` arrived."""

    @classmethod
    def beginning_at(cls, counter: int) -> ReplayWindow:
        """A window to which everything before `counter` is old."""
        window = cls()
        window.highest = counter - 1
        window._bits = (1 << REPLAY_WINDOW) - 1 if counter else 0
        return window

    def is_new(self, counter: int) -> bool:
        if counter > self.highest:
            return True
        back = self.highest - counter
        return back < REPLAY_WINDOW and not self._bits >> back & 1

    def mark(self, counter: int) -> None:
        """To be called only for an authentic datagram."""
        if counter > self.highest:
            ahead = counter - self.highest
            self._bits = (self._bits << ahead & ((1 << REPLAY_WINDOW) - 1) if ahead < REPLAY_WINDOW else 0) | 1
            self.highest = counter
        else:
            self._bits |= 1 << (self.highest - counter)


class Arrivals:
    """What to acknowledge, and when."""

    __slots__ = ("_arrived", "_highest_at", "_pending", "_timers", "due_at", "highest")

    def __init__(self, timers: LinkTimers) -> None:
        """What came before a silence after which a pipe is dead is not told again: who did not hear of it has asked."""
        self._timers = timers
        self._arrived = RangeSet()
        self._pending = 0
        self._highest_at = 0.0
        self.highest = -1
        self.due_at: float | None = None

    def arrived(self, counter: int, now: float, *, asks: bool, at_once: bool, more_follow: bool) -> None:
        """Note an authentic datagram; `asks`: it wants an acknowledgement, after a delay or a number of such at most.

        In turns the acknowledgement waits until nothing has come for a while, a longer one if `more_follow`. Otherwise
        a datagram out of order is acknowledged at once, since it may tell of a loss; where the peer asks for what it
        needs, the delay begins anew with each datagram.
        """
        timers = self._timers
        in_order = counter == self.highest + 1
        self._note(counter, now)
        if not asks:
            return
        self._pending += 1
        every = 1 if at_once else timers.ack_every
        if timers.burst_datagrams:
            quiet_s = timers.ack_quiet_s if more_follow else timers.ack_delay_s
            self.due_at = now if self._pending >= every else now + quiet_s
            return
        due = self._pending >= every or not in_order
        if self.due_at is None or (self.due_at > now and (due or timers.ask_every)):
            self.due_at = now if due else now + timers.ack_delay_s

    def _note(self, counter: int, now: float) -> None:
        if counter > self.highest and now - self._highest_at > self._timers.dead_after_s:
            self._arrived = RangeSet()
        self._arrived.add(counter, counter + 1)
        self._arrived.drop_lowest(ACK_RANGES_MAX)
        if counter > self.highest:
            self.highest = counter
            self._highest_at = now

    def report(self, now: float) -> tuple[list[tuple[int, int]], int]:
        """(ranges, highest first; milliseconds since the highest arrived). Clears `due_at`.

        In turns each burst is reported a few times at most, for an answer costs airtime.
        """
        self._pending = 0
        self.due_at = None
        ranges = list(self._arrived.descending())
        if self._timers.burst_datagrams:
            lowest = self.highest - BURSTS_IN_FLIGHT * self._timers.burst_datagrams
            ranges = [(start, end) for start, end in ranges if end > lowest]
        return ranges, max(0, min(int((now - self._highest_at) * 1000), 16_383))

    def reported(self, floor: int) -> None:
        """The peer knows of all our reports up to this counter of its own."""
        if floor >= 0 and len(self._arrived):
            self._arrived.remove(0, floor + 1)
