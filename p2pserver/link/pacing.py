"""When a pipe may hand the next datagram to its transport: no faster than the line carries it, and by turns.

On a half-duplex line who sends does not hear. So a burst of datagrams ends with a PING, which is answered at once, and
the line is left to the other side until its acknowledgement comes or should have come.
"""

from __future__ import annotations

from typing import Final

from p2pserver.link.airtime import AirtimeBudget
from p2pserver.link.limits import ALL_CLASSES, Priority

LEAD_S: Final = 0.01
"""How much earlier than the line is free the next datagram is handed over: timers and event loops are late."""
ACK_OCTETS: Final = 40
TURN_S: Final = 0.05
"""For an acknowledgement on a half-duplex line, and for the change of turns."""


class Line:
    """What all pipes over one radio share: when it is free, and how much it may send in an hour."""

    __slots__ = ("budget", "free_at", "is_shared")

    def __init__(self, budget: AirtimeBudget | None = None, *, is_shared: bool = False) -> None:
        """`is_shared`: all neighbors hear what one sends, so that two who send at once lose both."""
        self.budget = budget
        self.is_shared = is_shared
        self.free_at = 0.0


class Pacer:
    """The line of one pipe, as far as this side knows."""

    __slots__ = ("_burst", "_in_burst", "_line", "_listen_until", "_octet_s", "_overhead_s")

    def __init__(
        self,
        bit_rate: int | None = None,
        overhead_s: float = 0.0,
        burst_datagrams: int = 0,
        line: Line | None = None,
    ) -> None:
        """`bit_rate` None: not paced. `burst_datagrams` 0: no turns. `line`: None, if no other pipe shares it."""
        self._octet_s = 8 / bit_rate if bit_rate else 0.0
        self._overhead_s = overhead_s if bit_rate else 0.0
        self._burst = burst_datagrams
        self._line = line or Line()
        self._in_burst = 0
        self._listen_until = 0.0

    @property
    def free_at(self) -> float:
        return self._line.free_at

    def airtime_s(self, octets: int) -> float:
        return self._overhead_s + octets * self._octet_s

    @property
    def paces(self) -> bool:
        return self._octet_s > 0

    @property
    def is_shared(self) -> bool:
        """Whether others than the two of this pipe send on the line."""
        return self._line.is_shared

    @property
    def is_metered(self) -> bool:
        return self._line.budget is not None

    @property
    def send_at(self) -> float:
        """When the next datagram may be handed over."""
        return max(self.free_at - LEAD_S, self._listen_until)

    @property
    def ends_burst(self) -> bool:
        """Whether the next datagram is the last one before the other side's turn."""
        return 0 < self._burst <= self._in_burst + 1

    def sent(self, octets: int, now: float) -> float:
        """When the datagram that is handed over now will have left."""
        airtime_s = self.airtime_s(octets)
        leaves_at = self._line.free_at = max(self._line.free_at, now) + airtime_s
        if self._line.budget is not None:
            self._line.budget.spend(airtime_s, leaves_at)
        self._in_burst += 1
        return leaves_at

    def listen(self, answer_at: float) -> None:
        """The burst is over: leave the line to the other side for an answer that begins then, or until it has come."""
        self._in_burst = 0
        self._listen_until = answer_at + self.airtime_s(ACK_OCTETS) + TURN_S

    def heard(self, octets: int, now: float) -> None:
        """On a line that both sides share, what we wait to send was held up by what came."""
        if self._burst and self.free_at > now:
            self._line.free_at += self.airtime_s(octets)

    def answered(self) -> None:
        """The other side has acknowledged: it is our turn."""
        self._listen_until = 0.0

    def classes(self, octets: int, now: float) -> tuple[tuple[Priority, ...], float | None]:
        """(the classes that the airtime budget lets send a datagram of so many octets now; when it will let the next
        one). No class at all: nothing may be sent, not even an acknowledgement."""
        budget = self._line.budget
        if budget is None:
            return ALL_CLASSES, None
        airtime_s = self.airtime_s(octets)
        lowest = budget.lowest_class(airtime_s, now)
        if lowest is Priority.PRESENCE:
            return ALL_CLASSES, None
        allowed = ALL_CLASSES[: 0 if lowest is None else lowest + 1]
        return allowed, budget.allowed_at(ALL_CLASSES[len(allowed)], airtime_s, now)
