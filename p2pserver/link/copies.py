"""What is sent twice on a link that loses: the end of what there is to say, where a copy costs less than the wait.

A datagram that is lost is noticed when one behind it is acknowledged; behind the last ones there is none, so they are
waited for in vain and then sent again. A copy costs its airtime each time, and spares that wait in the share of cases
that is lost (docs/link.md, "Copies").
"""

from __future__ import annotations

from typing import Final

from p2pserver.link.limits import LinkTimers
from p2pserver.link.pacing import Pacer
from p2pserver.link.recovery import Recovery, SentDatagram

COPIED: Final = 3
"""At most so many datagrams at the end have a copy; in turns the last one, whose answer tells of the others."""
LOSS_MIN: Final = 0.04
"""Less than this may be chance, or a queue that was full once."""
SHORT_OCTETS: Final = 60
OVERHEAD_OCTETS: Final = 12
"""About what a datagram has beyond its fragments."""


class Copies:
    """Of one pipe."""

    __slots__ = ("_due", "_pacer", "_recovery", "_turns")

    def __init__(self, recovery: Recovery, pacer: Pacer, timers: LinkTimers) -> None:
        self._recovery = recovery
        self._pacer = pacer
        self._turns = timers.burst_datagrams > 0
        self._due: list[SentDatagram] = []

    def pay(self, octets: int, now: float) -> bool:
        """Whether a copy of a datagram with so many octets of fragments, the last that there are, is worth its airtime.

        Airtime that the law rations never is, nor that of a channel that several share: there what is lost was hit by
        somebody else, and a copy hits the next. In turns the end of a long transfer is asked for, not waited for.
        """
        if self._turns and self._recovery.datagrams >= COPIED:
            return False
        return self._worth(self._recovery.loss.share(now), octets)

    def late_s(self, now: float) -> float:
        """How much later than without loss a short message is there, on the average."""
        loss = self._recovery.loss.share(now)
        waited_for = loss * loss if self._worth(loss, SHORT_OCTETS) else loss
        return waited_for / (1 - loss) * self._recovery.patience_s

    def _worth(self, loss: float, octets: int) -> bool:
        if loss < LOSS_MIN or self._pacer.is_metered or self._pacer.is_shared:
            return False
        return loss * self._recovery.patience_s > self._pacer.airtime_s(octets + OVERHEAD_OCTETS)

    def begin(self) -> None:
        """The last that was sent goes once more."""
        self._due = self._recovery.last_data(1 if self._turns else COPIED)

    @property
    def next(self) -> SentDatagram | None:
        """That of which a copy is due; of one that was answered, or is sent anew, none is."""
        while self._due and not self._recovery.is_in_flight(self._due[0]):
            del self._due[0]
        return self._due[0] if self._due else None

    def sent(self) -> None:
        """Its copy is made."""
        del self._due[0]

    def forget(self) -> None:
        self._due.clear()
