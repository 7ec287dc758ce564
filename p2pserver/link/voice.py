"""What a pipe may send: the classes that its owner gives it, as far as there is airtime for them."""

from __future__ import annotations

from collections.abc import Sequence

from p2pserver.link.limits import ALL_CLASSES, Priority
from p2pserver.link.pacing import Pacer


class Voice:
    """Of one pipe. `pacer` knows the airtime that the law gives, and what is left of it."""

    def __init__(self, pacer: Pacer, datagram_octets_max: int) -> None:
        self._pacer, self._octets_max = pacer, datagram_octets_max
        self.classes: Sequence[Priority] = ALL_CLASSES
        """What the owner wants to go over this pipe."""
        self._affordable: Sequence[Priority] = ALL_CLASSES
        self.sendable: Sequence[Priority] = ALL_CLASSES
        """Those of them for which there is airtime."""
        self.grows_at: float | None = None
        """When there is airtime for more; None: there is for all."""
        self.silent_until = float("-inf")
        """Until then all airtime is used up."""

    def carry(self, classes: Sequence[Priority]) -> frozenset[Priority]:
        """Send these from now on, in this order; returns those that are not among them any more."""
        gone = frozenset(self.classes) - frozenset(classes)
        self.classes = tuple(classes)
        self._narrow()
        return gone

    def may_speak(self, now: float) -> bool:
        """Whether anything at all may be sent."""
        affordable, self.grows_at = self._pacer.classes(self._octets_max, now)
        if not affordable:
            assert self.grows_at is not None
            self.silent_until = self.grows_at
        if affordable != self._affordable:
            self._affordable = affordable
            self._narrow()
        return bool(affordable)

    def _narrow(self) -> None:
        self.sendable = tuple(priority for priority in self.classes if priority in self._affordable)
