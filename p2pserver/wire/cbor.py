"""A reader for the part of CBOR that the wire uses, and nothing else.

Definite lengths, shortest heads, integers of up to 64 bits, finite doubles, byte strings, UTF-8 text, arrays, maps with
distinct text keys, false, true, null. A general decoder obeys tags before a caller can refuse them (a decimal fraction
with an exponent of a billion, a regular expression, shared references); this one has no such code. Writing is `cbor2`'s
work.
Source: RFC 8949, sections 3 and 4.2.1.
"""

from __future__ import annotations

import math
import struct
from typing import Final, TypeAlias

from p2pserver.events.canonical import LOOSE_INTEGER_MAX, NESTING_MAX

Cbor: TypeAlias = "bool | int | float | bytes | str | list[Cbor] | dict[str, Cbor] | None"

DEPTH_MAX: Final = NESTING_MAX + 4
"""A PDU as deep as canonical JSON allows, inside a list of them inside a message."""
ITEMS_MAX: Final = 1 << 18
CONTAINERS_MAX: Final = 1 << 16
"""Per message: an empty list is one octet on the wire and 56 in memory."""

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = range(7)
_DOUBLE: Final = 8
"""Not a major type: the head of a double, whose argument is its 64 bits."""


class CborError(ValueError):
    """The octets are not one value of the part of CBOR that is used here."""


def decode_cbor(data: bytes) -> Cbor:
    """The one value that `data` holds.

    Raises: CborError.
    """
    reader = _Reader(data)
    value = reader.value(0)
    if reader.at != len(data):
        raise CborError("octets after the end")
    return value


class _Reader:
    __slots__ = ("at", "containers", "data", "items")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.items = 0
        self.containers = 0

    def value(self, depth: int) -> Cbor:
        major, argument = self._head()
        if major == _TEXT:
            return self._text(argument)
        if major in (_UNSIGNED, _NEGATIVE):
            if argument + major > LOOSE_INTEGER_MAX:
                raise CborError("integer out of range")
            return -1 - argument if major else argument
        if major == _BYTES:
            return self._octets(argument)
        if major == _TAG:
            raise CborError("a tag")
        if major not in (_ARRAY, _MAP):
            return self._double(argument) if major == _DOUBLE else self._simple(argument)
        self.containers += 1
        if depth >= DEPTH_MAX or self.containers > CONTAINERS_MAX:
            raise CborError("nested too deeply" if depth >= DEPTH_MAX else "too many lists and maps")
        if argument > len(self.data) - self.at:
            raise CborError("more members than octets")
        if major == _ARRAY:
            return [self.value(depth + 1) for _ in range(argument)]
        members: dict[str, Cbor] = {}
        for _ in range(argument):
            kind, octets = self._head()
            if kind != _TEXT:
                raise CborError("a key is not text")
            key = self._text(octets)
            if key in members:
                raise CborError("a key occurs twice")
            members[key] = self.value(depth + 1)
        return members

    def _head(self) -> tuple[int, int]:
        """(major type, argument) of the next item."""
        self.items += 1
        if self.items > ITEMS_MAX:
            raise CborError("too many values")
        at = self.at
        if at >= len(self.data):
            raise CborError("ends too early")
        initial = self.data[at]
        major, low = initial >> 5, initial & 31
        if low < 24:
            self.at = at + 1
            return major, low
        if low > 27:
            raise CborError("an indefinite length or a reserved head")
        if major == 7 and low != 27:
            raise CborError("a float of few bits or an unknown simple value")
        octets = 1 << (low - 24)
        end = at + 1 + octets
        if end > len(self.data):
            raise CborError("ends too early")
        argument = int.from_bytes(self.data[at + 1 : end], "big")
        if major == 7:
            self.at = end
            return _DOUBLE, argument
        if argument < 24 if octets == 1 else argument >> (4 * octets) == 0:
            raise CborError("a head that is not the shortest")
        self.at = end
        return major, argument

    def _octets(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise CborError("ends too early")
        octets = self.data[self.at : end]
        self.at = end
        return octets

    def _text(self, octets: int) -> str:
        try:
            return self._octets(octets).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CborError("text that is not UTF-8") from error

    @staticmethod
    def _double(bits: int) -> float:
        value: float = struct.unpack(">d", bits.to_bytes(8, "big"))[0]
        if not math.isfinite(value):
            raise CborError("a number that is not finite")
        return value

    @staticmethod
    def _simple(argument: int) -> bool | None:
        if argument == 20 or argument == 21:
            return argument == 21
        if argument == 22:
            return None
        raise CborError("an unknown simple value")
