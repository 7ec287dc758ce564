"""What a peer keeps of us, told again when something was told that the last mark does not cover."""

from __future__ import annotations

from collections.abc import Callable

from p2pserver.federation.channel import Channel
from p2pserver.link.limits import Priority
from p2pserver.wire.messages import Keep


class Mark:
    """`make` gives the mark as of now."""

    def __init__(self, channel: Channel, make: Callable[[], bytes]) -> None:
        self._channel = channel
        self._make = make
        self._told = b""
        self._is_old = False
        self._at: float | None = None

    def for_hello(self) -> bytes:
        self._told = self._make()
        return self._told

    def outdated(self) -> None:
        """Something is told that the last mark does not cover."""
        self._is_old = True

    def pump(self, now: float, *, quiet_s: float) -> None:
        """It is told again once for all that is told within `quiet_s`."""
        if self._is_old and self._at is None and self._channel.talking:
            self._at = now + quiet_s

    def next_deadline(self) -> float | None:
        return self._at

    def handle_timeout(self, now: float) -> None:
        """Without a contact it waits for the next one."""
        if self._at is None or now < self._at:
            return
        self._at = None
        if self._channel.talking:
            self._is_old = False
            mark = self._make()
            if mark != self._told:
                self._told = mark
                self._channel.say(Keep(mark), Priority.RECEIPT)
