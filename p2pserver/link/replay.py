"""Which datagrams of the peer arrived: so that none counts twice, and so that they can be acknowledged."""

from __future__ import annotations

from p2pserver.link.limits import ACK_RANGES_MAX, REPLAY_WINDOW, LinkTimers
from p2pserver.link.ranges import RangeSet


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

    __slots__ = ("_arrived", "_forget_s", "_highest_at", "_pending", "due_at", "highest")

    def __init__(self, forget_s: float = float("inf")) -> None:
        """What came before a silence of `forget_s` is not told again: whoever did not hear of it has asked since."""
        self._forget_s = forget_s
        self._arrived = RangeSet()
        self._pending = 0
        self._highest_at = 0.0
        self.highest = -1
        self.due_at: float | None = None

    def arrived(
        self, counter: int, now: float, timers: LinkTimers, *, asks: bool, at_once: bool, more_follow: bool
    ) -> None:
        """Note an authentic datagram; `asks`: it wants an acknowledgement, after a delay or a number of such at most.

        In turns the acknowledgement waits until nothing has come for a while, a longer one if `more_follow`. Otherwise
        a datagram out of order is acknowledged at once, since it may tell of a loss; where the peer asks for what it
        needs, the delay begins anew with each datagram.
        """
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
        if counter > self.highest and now - self._highest_at > self._forget_s:
            self._arrived = RangeSet()
        self._arrived.add(counter, counter + 1)
        self._arrived.drop_lowest(ACK_RANGES_MAX)
        if counter > self.highest:
            self.highest = counter
            self._highest_at = now

    def report(self, now: float, back: int | None = None) -> tuple[list[tuple[int, int]], int]:
        """(ranges, highest first; milliseconds since the highest arrived). Clears `due_at`.

        `back`: leave out ranges of counters that lie so far behind the highest; each was reported several times.
        """
        self._pending = 0
        self.due_at = None
        ranges = list(self._arrived.descending())
        if back is not None:
            ranges = [(start, end) for start, end in ranges if end > self.highest - back]
        return ranges, max(0, min(int((now - self._highest_at) * 1000), 16_383))

    def reported(self, floor: int) -> None:
        """The peer knows of all our reports up to this counter of its own."""
        if floor >= 0 and len(self._arrived):
            self._arrived.remove(0, floor + 1)
