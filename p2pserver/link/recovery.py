"""What is on its way over one pipe: round-trip time, losses, and how much may be on its way at once.

After RFC 9002 (QUIC loss detection and congestion control), with two changes for radio: a loss shrinks the window
strongly only when the round trip has grown as well, since at 20 % loss most losses say nothing about a full queue; and
a datagram that was given up too early makes the pipe more patient, since some links reorder by dozens of places.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from p2pserver.link.errors import RemoteLinkError
from p2pserver.link.limits import CREDIT_OCTETS, IN_FLIGHT_MAX, LinkTimers, Priority
from p2pserver.link.loss import LossEstimate
from p2pserver.link.outgoing import FragmentSent

BURSTS_IN_FLIGHT = 4
"""On a half-duplex line: so many bursts may wait for an acknowledgement, for acknowledgements are lost too."""
ASK_LAST = 2
"""Datagrams before the last one; fewer are a message that has an answer, with which they are acknowledged."""
TAIL_MARGIN_S = 0.05
GRANULARITY_S = 0.02
"""How late the peer's timer for an acknowledgement may be. RFC 9002 has 1 ms; radios and small computers are slower."""
_GIVEN_UP_MAX = 1_024
_REORDER_MAX = 256
_BEST_RTT_VALID_S = 30.0


@dataclass(slots=True)
class SentDatagram:
    """A datagram that asks for an acknowledgement."""

    counter: int
    sent_at: float
    """When it has left, as far as the bit rate of the line tells."""
    octets: int
    """As they count for the window; 0 of a copy."""
    fragments: list[FragmentSent]
    credit: bool
    """Whether it told the peer our credit."""
    ack_floor: int
    """The counter up to which it acknowledged the peer's datagrams."""
    asks: bool = False
    """Whether it asks for an answer at once."""
    held: tuple[Priority, ...] = ()
    """The classes of which it told what is held."""
    given_back: frozenset[int] = frozenset()
    """Classes whose fragments went again over another pipe already, while this datagram was on its way."""
    timed_out: bool = False
    """Whether it was given up since nothing at all was answered."""
    is_copy: bool = False
    """Whether its fragments went in a datagram before, which is the one to be sent again if it is lost."""


class RoundTrip:
    """Smoothed round-trip time and its variation, in seconds (RFC 9002, section 5)."""

    __slots__ = ("_best_at", "best", "smoothed", "variation")

    def __init__(self, initial_s: float) -> None:
        self.smoothed = initial_s
        self.variation = initial_s / 2
        self.best: float | None = None
        self._best_at = 0.0

    def sample(self, rtt: float, ack_delay: float, now: float) -> None:
        if self.best is None:
            self.best, self._best_at = rtt, now
            self.smoothed, self.variation = rtt, rtt / 2
            return
        if rtt <= self.best or now - self._best_at > _BEST_RTT_VALID_S:
            self.best, self._best_at = rtt, now
        rtt = max(rtt - ack_delay, self.best)
        self.variation += (abs(self.smoothed - rtt) - self.variation) / 4
        self.smoothed += (rtt - self.smoothed) / 8

    @property
    def timeout(self) -> float:
        return self.smoothed + 4 * self.variation

    @property
    def queueing(self) -> bool:
        """Whether datagrams seem to wait in a queue on the way."""
        return self.best is not None and self.smoothed > 1.5 * self.best + 0.01


class Window:
    """How many octets may be on their way: slow start, then one datagram more a round trip, less after a loss."""

    __slots__ = ("_datagram_octets", "_floor", "_recovery_since", "_slow_start", "octets")

    def __init__(self, datagram_octets_max: int, octets_min: int = 0) -> None:
        """`octets_min`: what a line of known speed may always have on its way."""
        self._datagram_octets = datagram_octets_max
        self._floor = max(4 * datagram_octets_max, min(16 * datagram_octets_max, 8_192), octets_min)
        self.octets = float(max(self._floor, min(10 * datagram_octets_max, 14_720)))
        self._slow_start = True
        self._recovery_since = float("-inf")

    @property
    def is_growing(self) -> bool:
        """Whether it doubles each round trip, as it does until something is lost or late."""
        return self._slow_start

    def acknowledged(self, octets: int, in_flight_octets: int, trip: RoundTrip) -> None:
        """`octets` of `in_flight_octets` arrived; a window that was not half used says nothing of the link."""
        if 2 * in_flight_octets < self.octets:
            return
        best = trip.best or 0.0
        if self._slow_start and trip.smoothed > 2 * best + 0.02:
            self._slow_start = False
        if self._slow_start:
            self.octets += octets
        else:
            step = self._datagram_octets * octets / self.octets
            self.octets += step if trip.smoothed < 3 * best + 0.05 else -step
        self.octets = min(max(self.octets, self._floor), CREDIT_OCTETS)

    def lost(self, sent_at: float, trip: RoundTrip, now: float) -> None:
        """At most one reduction a round trip."""
        if sent_at <= self._recovery_since:
            return
        self._recovery_since = now
        self._slow_start = False
        self.octets = max(self.octets * (0.5 if trip.queueing else 0.85), self._floor)


class Recovery:
    """The sent datagrams of one pipe that ask for an acknowledgement."""

    __slots__ = (
        "_ask_first_octets",
        "_asked",
        "_given_up",
        "_heard_of_until",
        "_last_sent_at",
        "_late_s",
        "_lost_due_at",
        "_reorder",
        "_sent",
        "_timers",
        "_unasked_octets",
        "highest_acknowledged",
        "in_flight_octets",
        "loss",
        "probes",
        "timeouts",
        "trip",
        "unanswered_since",
        "window",
    )

    def __init__(self, datagram_octets_max: int, timers: LinkTimers) -> None:
        self._timers = timers
        self._ask_first_octets = datagram_octets_max
        self.trip = RoundTrip(timers.initial_rtt_s)
        self.loss = LossEstimate()
        bursts = BURSTS_IN_FLIGHT * timers.burst_datagrams
        self.window = Window(datagram_octets_max, (bursts or 2 * timers.ask_every) * datagram_octets_max)
        self._sent: dict[int, SentDatagram] = {}
        self._given_up: dict[int, SentDatagram] = {}
        self._reorder = timers.reorder_datagrams
        self._late_s = 0.0
        """How late a datagram came that was given up before."""
        self.timeouts = 0
        """In a row, since something was acknowledged."""
        self._last_sent_at = 0.0
        self._asked = False
        self._unasked_octets = 0
        """Sent since the last datagram that asks for an answer at once."""
        self._lost_due_at: float | None = None
        self._heard_of_until = 0.0
        self.in_flight_octets = 0
        self.highest_acknowledged = -1
        self.probes = 0
        """Datagrams that may be sent though the window is full, because nothing was answered for a while."""
        self.unanswered_since: float | None = None

    @property
    def may_send(self) -> bool:
        return (self.probes > 0 or not self.window_is_full) and len(self._sent) < IN_FLIGHT_MAX

    @property
    def window_is_full(self) -> bool:
        return self.in_flight_octets >= self.window.octets

    @property
    def window_bit_rate(self) -> float | None:
        """In bit/s; None before a loss has shown how large the window may be."""
        return None if self.window.is_growing else 8 * self.window.octets / max(self.trip.smoothed, 0.001)

    @property
    def asks_next(self) -> bool:
        """Full duplex: whether the next datagram shall ask for an answer at once, lest the window fill up."""
        if not self._timers.ask_every:
            return False
        octets = self._unasked_octets + self._ask_first_octets
        return octets >= min(self.window.octets / 2, self._timers.ask_every * self._ask_first_octets)

    @property
    def asks_last(self) -> bool:
        """Full duplex: whether the last datagram of many shall ask, for nothing behind it will tell that it is lost."""
        return self._timers.ask_every > 0 and self._unasked_octets >= ASK_LAST * self._ask_first_octets

    def sent(self, datagram: SentDatagram) -> None:
        self._sent[datagram.counter] = datagram
        self.in_flight_octets += datagram.octets
        self._last_sent_at = datagram.sent_at
        self._asked = datagram.asks
        self._unasked_octets = 0 if datagram.asks else self._unasked_octets + datagram.octets
        self.probes = max(0, self.probes - 1)
        if self.unanswered_since is None:
            self.unanswered_since = datagram.sent_at

    def acknowledged(
        self, ranges: Iterable[tuple[int, int]], ack_delay_s: float, next_counter: int, now: float
    ) -> list[SentDatagram]:
        """The datagrams that these ranges of counters acknowledge for the first time, those given up included.

        Raises: RemoteLinkError, if a range names a datagram that was never sent.
        """
        fresh: list[SentDatagram] = []
        octets = 0
        highest = -1
        for start, end in ranges:
            if end > next_counter:
                raise RemoteLinkError("an acknowledgement of what was never sent")
            highest = max(highest, end - 1)
            for counter in self._known(start, end):
                datagram = self._sent.pop(counter, None)
                if datagram is not None:
                    self.in_flight_octets -= datagram.octets
                    octets += datagram.octets
                else:
                    datagram = self._given_up.pop(counter)
                    if not datagram.timed_out:
                        self._reorder = min(max(self._reorder, highest - counter + 1), _REORDER_MAX)
                        self._late_s = max(self._late_s, min(now - datagram.sent_at, self._timers.timeout_max_s))
                fresh.append(datagram)
                self.loss.arrived(counter, now)
                at_once = ack_delay_s < TAIL_MARGIN_S or not self._timers.burst_datagrams
                if counter == highest and counter > self.highest_acknowledged and at_once:
                    self.trip.sample(max(now - datagram.sent_at, 0.0), ack_delay_s, now)
                if counter == highest:
                    self._heard_of_until = datagram.sent_at + ack_delay_s - TAIL_MARGIN_S
        self.highest_acknowledged = max(self.highest_acknowledged, highest)
        if fresh:
            self.timeouts = 0
            self.probes = 0
            self.unanswered_since = now if self._sent else None
            self.window.acknowledged(octets, self.in_flight_octets + octets, self.trip)
        return fresh

    def lost(self, now: float) -> list[SentDatagram]:
        """Datagrams given up since later ones were acknowledged."""
        gone: list[SentDatagram] = []
        self._lost_due_at = None
        for datagram in self._sent.values():
            due_at = self._lost_at(datagram)
            if due_at is None:
                break
            if due_at > now:
                self._lost_due_at = due_at
                break
            gone.append(datagram)
        for datagram in gone:
            self._give_up(datagram, now)
        if gone:
            self.window.lost(gone[-1].sent_at, self.trip, now)
        return gone

    def timed_out(self, now: float) -> list[SentDatagram] | None:
        """If nothing was acknowledged for too long: the two oldest, to be sent again at once; otherwise None.

        A half-duplex line is first asked with a PING what has arrived, unless they are short.
        """
        timeout_at = self._timeout_at()
        if timeout_at is None or now < timeout_at:
            return None
        oldest = list(self._sent.values())[:2]
        if self._timers.burst_datagrams:
            oldest = oldest if self.in_flight_octets <= self._ask_first_octets else []
        for datagram in oldest:
            datagram.timed_out = True
            self._give_up(datagram, now)
        if oldest:
            self.window.lost(oldest[-1].sent_at, self.trip, now)
        self.timeouts += 1
        self._last_sent_at = now
        self.probes = 2
        return oldest

    def next_deadline(self, *, may_time_out: bool = True) -> float | None:
        timeout_at = self._timeout_at() if may_time_out else None
        if self._lost_due_at is not None and (timeout_at is None or self._lost_due_at < timeout_at):
            return self._lost_due_at
        return timeout_at

    @property
    def in_flight(self) -> list[SentDatagram]:
        return list(self._sent.values())

    def last_data(self, count: int) -> list[SentDatagram]:
        """The last datagrams with fragments that are on their way, the oldest first, but for those with a copy."""
        found: list[SentDatagram] = []
        for datagram in reversed(self._sent.values()):
            if datagram.is_copy or len(found) == count:
                break
            if datagram.fragments:
                found.append(datagram)
        return found[::-1]

    @property
    def datagrams(self) -> int:
        """How many are on their way."""
        return len(self._sent)

    def is_in_flight(self, datagram: SentDatagram) -> bool:
        """Whether nothing is known of it yet."""
        return datagram.counter in self._sent

    @property
    def patience_s(self) -> float:
        """How long the last datagram that was sent is waited for, the first time."""
        wait_s = 0.0 if self._asked else self._timers.ack_delay_s + GRANULARITY_S
        return max(self.trip.timeout + wait_s, self._timers.timeout_min_s)

    def forget(self) -> None:
        """Nothing that was sent so far matters any more."""
        self._sent.clear()
        self._given_up.clear()
        self._lost_due_at = None
        self.in_flight_octets = 0
        self.unanswered_since = None

    def _lost_at(self, datagram: SentDatagram) -> float | None:
        """When a datagram is lost, as far as later ones tell that were acknowledged; None, if they do not."""
        if datagram.counter <= self.highest_acknowledged - self._reorder or self._missed(datagram):
            return datagram.sent_at + self._timers.reorder_wait_s
        if datagram.counter > self.highest_acknowledged or self._timers.burst_datagrams:
            return None
        return datagram.sent_at + max(self.trip.timeout, self._late_s, self._timers.reorder_wait_s)

    def _missed(self, datagram: SentDatagram) -> bool:
        """Half duplex: the peer waited for it after the last one that arrived, and it did not come."""
        return self._timers.burst_datagrams > 0 and datagram.sent_at <= self._heard_of_until

    def _timeout_at(self) -> float | None:
        if not self._sent:
            return None
        timers = self._timers
        patience = self.patience_s
        doublings = min(max(self.timeouts - timers.timeouts_alike, 0), 16)
        backed_off: float = min(patience * 2**doublings, max(timers.timeout_max_s, patience))
        return self._last_sent_at + backed_off

    def _known(self, start: int, end: int) -> list[int]:
        if end - start <= len(self._sent) + len(self._given_up):
            counters: Iterable[int] = range(start, end)
        else:
            counters = sorted(counter for counter in (*self._sent, *self._given_up) if start <= counter < end)
        return [counter for counter in counters if counter in self._sent or counter in self._given_up]

    def _give_up(self, datagram: SentDatagram, now: float) -> None:
        self.loss.missed(datagram.counter, now)
        del self._sent[datagram.counter]
        self.in_flight_octets -= datagram.octets
        self._given_up[datagram.counter] = datagram
        if len(self._given_up) > _GIVEN_UP_MAX:
            del self._given_up[next(iter(self._given_up))]
