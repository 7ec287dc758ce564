"""Which events a server holds, in two octets each: a Bloom filter that goes along with a `Want`.

In a wide graph no sample of what is held names it all, and an answer would bring again what a third server has brought
before. The filter says "held" of everything that was put into it, and of one in a thousand others: that one is left out
of the answer, noticed as a missing parent, and asked for by name. Source: Bloom, "Space/time trade-offs in hash coding
with allowable errors", 1970; of its use between replicas, Kleppmann and Howard, "Byzantine eventual consistency", 2020.
"""

from __future__ import annotations

from collections.abc import Collection, Container
from hashlib import blake2b
from struct import Struct
from typing import Final

from p2pserver.wire.messages import HOLDS_OCTETS_MAX

SALT_OCTETS: Final = 4
BITS_PER_EVENT: Final = 16
HASHES: Final = 6
EVENTS_MAX: Final = (HOLDS_OCTETS_MAX - SALT_OCTETS) * 8 // BITS_PER_EVENT
SECONDS: Final = 0.5
"""Of a slow link, at most, for the filter of one question."""


def events_max(bit_rate: int | None) -> int:
    """How many events a filter may stand for on a link of so many bit/s; None: on one that does not tell."""
    return EVENTS_MAX if bit_rate is None else min(EVENTS_MAX, int(bit_rate * SECONDS) // BITS_PER_EVENT)


def filter_of(event_ids: Collection[str], salt: bytes) -> bytes:
    """The filter in octets; b"" for no events. `salt` (4 octets) makes each one wrong about other events."""
    if not event_ids:
        return b""
    size = len(event_ids) * BITS_PER_EVENT
    digits = bytearray(b"0") * size
    for event_id in event_ids:
        for hashed in _hashes(event_id, salt):
            digits[hashed % size] = _ONE
    digits.reverse()  # place n is bit n of the number: of octet n // 8 the bit n % 8
    return salt + int(digits, 2).to_bytes(size // 8, "little")


class HeldThere(Container[str]):
    """What a peer says that it holds: by name before, or by the filter of its question."""

    def __init__(self, named: Container[str], octets: bytes) -> None:
        self._named = named
        self._salt, self._bits = octets[:SALT_OCTETS], octets[SALT_OCTETS:]

    def __contains__(self, event_id: object) -> bool:
        return event_id in self._named or self.is_in_filter(event_id)

    def is_in_filter(self, event_id: object) -> bool:
        """Whether the question itself says so: who asks for what it holds, holds a poor copy of it."""
        bits = self._bits
        if not bits:
            return False
        size = len(bits) * 8
        for hashed in _hashes(str(event_id), self._salt):
            place = hashed % size
            if not bits[place >> 3] >> (place & 7) & 1:
                return False
        return True


def _hashes(event_id: str, salt: bytes) -> tuple[int, ...]:
    return _NUMBERS.unpack(blake2b(event_id.encode(), digest_size=_NUMBERS.size, key=salt).digest())


_ONE: Final = ord("1")
_NUMBERS: Final = Struct(f">{HASHES}I")
