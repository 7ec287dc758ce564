"""What the way to the peer is like, of late: what pipes are chosen by."""

from __future__ import annotations

from p2pserver.link.copies import LOSS_MIN, Copies
from p2pserver.link.recovery import Recovery


class Path:
    """Of one pipe, as its own datagrams show it."""

    def __init__(self, recovery: Recovery, copies: Copies) -> None:
        self._recovery, self._copies = recovery, copies

    @property
    def round_trip_s(self) -> float:
        """The shortest of late; before any was measured, what the timers assume."""
        trip = self._recovery.trip
        return trip.smoothed if trip.best is None else trip.best

    def loss(self, now: float) -> float:
        """The part of what this side sends that gets lost."""
        return self._recovery.loss.share(now)

    def window_bit_rate(self, now: float) -> float | None:
        """What may be on its way in a round trip, where losses hold that down; None where they do not."""
        return self._recovery.window_bit_rate if self.loss(now) >= LOSS_MIN else None

    def late_s(self, now: float) -> float:
        """How much later a short message is there for that, on the average."""
        return self._copies.late_s(now)
