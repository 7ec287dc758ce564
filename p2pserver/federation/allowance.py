"""How much a peer may say: each message costs credits, which come back with time."""

from __future__ import annotations

from p2pserver.federation.limits import PeeringLimits
from p2pserver.wire.messages import (
    Beacons,
    Digests,
    Ephemera,
    Lacking,
    Leaves,
    MediaWant,
    Message,
    Offer,
    Pdus,
    Request,
    Stored,
    Want,
)


class Allowance:
    """Of one peer. It may go below zero by one message; then nothing is taken until it has recovered."""

    def __init__(self, limits: PeeringLimits, now: float) -> None:
        self._limits = limits
        self._credits = limits.credits
        self._at = now

    @property
    def is_used_up(self) -> bool:
        return self._credits < 0.0

    def earn(self, now: float) -> None:
        earned = (now - self._at) * self._limits.credits_per_s
        self._credits = min(self._limits.credits, self._credits + max(0.0, earned))
        self._at = max(now, self._at)

    def spend(self, message: Message) -> None:
        self._credits -= _cost(message)

    def next_deadline(self) -> float | None:
        """When it has recovered, in seconds; None, if it is not used up."""
        return self._at - self._credits / self._limits.credits_per_s if self.is_used_up else None


def _cost(message: Message) -> float:
    """About the rows that are touched for a message, in tens."""
    match message:
        case Want() | Request() | Ephemera():
            return 4.0
        case Pdus():
            return 1.0 + len(message.pdus) / 16
        case Beacons():
            return 1.0 + len(message.rooms) / 64
        case Digests():
            return 1.0 + len(message.rooms) / 16
        case MediaWant():
            return 1.0
        case Leaves() | Offer() | Lacking() | Stored():
            return 0.5 + len(message.event_ids) / 128
        case _:
            return 0.5
