"""Octets of files, both ways: a want names a range, a part answers it. Parts wait until nothing else wants to go.

How much is asked for at a time is what the link carries in some seconds: a part is under way as a whole, and what is
more urgent overtakes it between its datagrams.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from p2pserver.federation.channel import Channel
from p2pserver.federation.effects import MediaArrived, MediaUnanswered, ReadMedia
from p2pserver.federation.limits import FAST_BIT_RATE
from p2pserver.link.limits import Priority
from p2pserver.wire.messages import PART_OCTETS_MAX, MediaPart, MediaWant

SERVING_MAX: Final = 4
"""Wants of the peer that are being answered; what is beyond is refused."""
ASKING_MAX: Final = 16
PART_OCTETS_LEAST: Final = 512
SLOW_PART_S: Final = 8.0
FAST_PART_S: Final = 2.0


def part_octets_on(bit_rate: int | None) -> int:
    """How many octets are asked for at a time on a link of so many bits per second (None: fast)."""
    if bit_rate is None:
        return PART_OCTETS_MAX
    seconds = FAST_PART_S if bit_rate >= FAST_BIT_RATE else SLOW_PART_S
    return max(PART_OCTETS_LEAST, min(PART_OCTETS_MAX, int(bit_rate / 8 * seconds)))


class MediaParts:
    """Open wants of either side, bounded."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._next = 0
        self._open: dict[int, int] = {}
        self._serving: set[int] = set()
        self._parts: deque[MediaPart] = deque()

    def ask(self, ticket: bytes, start: int, octets: int) -> int | None:
        """Asks for octets of the file that the peer gave the ticket for; the number, or None: not now."""
        if not self._channel.talking or len(self._open) >= ASKING_MAX:
            return None
        number = self._next
        self._next += 1
        self._open[number] = octets
        self._channel.say(MediaWant(number, ticket, start, octets), Priority.RECEIPT)
        return number

    def cancel(self, number: int) -> None:
        """Nobody waits for this part any more."""
        self._open.pop(number, None)

    def part(self, message: MediaPart) -> None:
        octets = self._open.pop(message.number, None)
        if octets is not None:
            self._channel.emit(MediaArrived(message.number, message.octets[:octets]))

    def lost(self) -> None:
        """The peer is gone: nothing that is open will be waited for."""
        for number in self._open:
            self._channel.emit(MediaUnanswered(number))
        self._open.clear()

    def want(self, message: MediaWant) -> None:
        if message.number in self._serving or len(self._serving) + len(self._parts) >= SERVING_MAX:
            self._channel.say(MediaPart(message.number, b""), Priority.MEDIA)
            return
        self._serving.add(message.number)
        self._channel.emit(ReadMedia(message.number, message.ticket, message.start, message.octets))

    def read(self, number: int, octets: bytes) -> None:
        """What there is of a want of the peer; b"": nothing for it."""
        self._serving.discard(number)
        self._parts.append(MediaPart(number, octets))

    def pump(self) -> None:
        """Sends a part when nothing else waits to be sent."""
        if self._parts and self._channel.talking and not self._channel.outgoing:
            self._channel.say(self._parts.popleft(), Priority.MEDIA)
