"""Frames: what an encrypted datagram carries. The layout is specified in docs/link.md, "Frames".

Variable-length integers are those of QUIC (RFC 9000, section 16): the two highest bits of the first octet say whether
1, 2, 4 or 8 octets are meant. Positions and counters are cut to their lowest bits where the reader knows the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from p2pserver.link.errors import RemoteLinkError
from p2pserver.link.limits import ACK_RANGES_MAX, Priority

PADDING = 0x00
ACK = 0x01
PING = 0x02
CREDIT = 0x03
GOODBYE = 0x04
HELD = 0x05
ACK_BITMAP = 0x06
FRAGMENT_WHOLE = 0x10
FRAGMENT_WHOLE_HAS_LENGTH = 0x08
SKIPPABLE = 0x20
"""Frames from here to FRAGMENT carry their length and are skipped by who does not know them."""
FRAGMENT = 0x40
FRAGMENT_HAS_LENGTH = 0x10
FRAGMENT_WIDE = 0x08

SHORT_BITS = (11, 19)
"""Of the position of a fragment, narrow and wide, in a datagram whose counter takes one octet."""
LONG_BITS = (19, 27)
"""And in others."""
WHOLE_BITS = 62
HELD_POSITION_BITS = 40
HELD_OCTETS_MIN = 3 + HELD_POSITION_BITS // 8
ACK_COUNTER_BITS = 16
BITMAP_COUNTERS = 32
HELD_RANGES_MAX = 31
CREDIT_UNIT_OCTETS = 1_024
REASON_OCTETS_MAX = 40


class Ack(NamedTuple):
    """Counters of datagrams that arrived, as ranges [start, end), highest first, and how long the answer waited."""

    ranges: tuple[tuple[int, int], ...]
    delay_ms: int


class Ping(NamedTuple):
    """Asks for an acknowledgement and says nothing else."""


class Credit(NamedTuple):
    """The sum of message octets and charges that the receiver of this frame may have started since the epoch began."""

    limit_octets: int


class Goodbye(NamedTuple):
    """The pipe ends here, politely."""

    reason: str


class Held(NamedTuple):
    """What is held of the octets of the classes, told when a pipe takes over a conversation."""

    mask: int
    """Bit n: something is held of class n. Of the other classes there is nothing."""
    priority: int
    """The class that the rest is about; with an empty mask the rest means nothing."""
    front: int
    """The lowest 40 bits of the number of octets that are held without a gap."""
    ranges: tuple[tuple[int, int], ...]
    """[start, end) of what is held behind, in octets behind `front`, ascending."""


class Fragment(NamedTuple):
    """Consecutive octets of a class."""

    priority: int
    position: int
    """The lowest `bits` bits of the number of octets of this class before these."""
    bits: int
    data: bytes


Frame = Ack | Ping | Credit | Goodbye | Held | Fragment


def varint_octets(value: int) -> int:
    """The length of the encoding."""
    return 1 if value < 0x40 else 2 if value < 0x4000 else 4 if value < 0x4000_0000 else 8


def encode_varint(value: int) -> bytes:
    """0 <= value < 2**62."""
    if value < 0x40:
        return value.to_bytes(1, "big")
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")


def decode_varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, offset behind it). Raises: RemoteLinkError, if the data ends before."""
    if at >= len(data):
        raise RemoteLinkError("a number is missing")
    first = data[at]
    if first < 0x40:
        return first, at + 1
    octets = 1 << (first >> 6)
    if at + octets > len(data):
        raise RemoteLinkError("a number is cut")
    value = int.from_bytes(data[at : at + octets], "big")
    return value & ((1 << (8 * octets - 2)) - 1), at + octets


def nearest(low: int, bits: int, reference: int) -> int:
    """The number with these lowest `bits` bits that is nearest to `reference`; may be negative."""
    span = 1 << bits
    return reference + ((low - reference + span // 2) & (span - 1)) - span // 2


def encode_ack(ranges: Sequence[tuple[int, int]], delay_ms: int, octets_max: int) -> bytes:
    """The ranges [start, end), given highest first and at least one: all of them if they fit.

    If they do not, the last 32 counters as bits, or where not even those fit, as many ranges as do.
    """
    highest = ranges[0][1] - 1
    head = (highest & 0xFFFF).to_bytes(2, "big") + encode_varint(delay_ms)
    out = bytearray(encode_varint(highest - ranges[0][0]))
    count = 1
    for index in range(1, min(len(ranges), ACK_RANGES_MAX)):
        start, end = ranges[index]
        part = encode_varint(ranges[index - 1][0] - end - 1) + encode_varint(end - 1 - start)
        if 2 + len(head) + len(out) + len(part) > octets_max:
            break
        out += part
        count += 1
    if count < len(ranges) and 1 + len(head) + BITMAP_COUNTERS // 8 <= octets_max:
        return bytes((ACK_BITMAP,)) + head + _bitmap(ranges, highest).to_bytes(BITMAP_COUNTERS // 8, "big")
    return bytes((ACK,)) + head + encode_varint(count - 1) + bytes(out)


def _bitmap(ranges: Sequence[tuple[int, int]], highest: int) -> int:
    """Bit n: the counter `highest - 1 - n` arrived."""
    bits = 0
    lowest = highest - BITMAP_COUNTERS
    for start, end in ranges:
        low, high = max(start, lowest), min(end, highest)
        if low < high:
            bits |= ((1 << (high - low)) - 1) << (highest - high)
    return bits


def encode_credit(limit_octets: int) -> bytes:
    """The limit is told in KiB, rounded down."""
    return bytes((CREDIT,)) + encode_varint(limit_octets // CREDIT_UNIT_OCTETS)


def encode_goodbye(reason: str, octets_max: int) -> bytes:
    text = reason.encode("ascii", "replace")[: min(REASON_OCTETS_MAX, octets_max - 2)]
    return bytes((GOODBYE, len(text))) + text


def encode_held(
    mask: int, priority: int, front: int, ranges: Sequence[tuple[int, int]], octets_max: int
) -> bytes | None:
    """What is held of one class, with as many of the ranges [start, end) behind `front` as fit.

    With an empty mask it says that nothing is held at all. None, if there is not even room for `front`.
    """
    if not mask:
        return bytes((HELD, 0)) if octets_max >= 2 else None
    out = bytearray()
    count = 0
    at = front
    for start, end in ranges[:HELD_RANGES_MAX]:
        part = encode_varint(start - at - 1) + encode_varint(end - start - 1)
        if HELD_OCTETS_MIN + len(out) + len(part) > octets_max:
            break
        out += part
        at = end
        count += 1
    if octets_max < HELD_OCTETS_MIN:
        return None
    low = front & ((1 << HELD_POSITION_BITS) - 1)
    return bytes((HELD, mask, priority << 5 | count)) + low.to_bytes(HELD_POSITION_BITS // 8, "big") + bytes(out)


def fragment_header_octets(bits: int, position: int) -> int:
    if bits == WHOLE_BITS:
        return 1 + varint_octets(position)
    return 1 + bits // 8


def encode_fragment(
    priority: int, position: int, bits: int, data: bytes, *, with_length: bool, short: bool = False
) -> bytes:
    """A fragment without its length must be the last frame of its datagram. `bits`: whole, or one of `SHORT_BITS` if
    it is `short`, of `LONG_BITS` otherwise."""
    if bits == WHOLE_BITS:
        return _encode_whole_fragment(priority, position, data, with_length=with_length)
    low = position & ((1 << bits) - 1)
    kind = FRAGMENT + (priority << 5) | low >> (bits - 3)
    if bits == (SHORT_BITS if short else LONG_BITS)[1]:
        kind |= FRAGMENT_WIDE
    octets = bits // 8
    tail = (low & ((1 << 8 * octets) - 1)).to_bytes(octets, "big")
    if with_length:
        return b"".join((bytes((kind | FRAGMENT_HAS_LENGTH,)), tail, encode_varint(len(data)), data))
    return b"".join((bytes((kind,)), tail, data))


def _encode_whole_fragment(priority: int, position: int, data: bytes, *, with_length: bool) -> bytes:
    kind = FRAGMENT_WHOLE | priority | (FRAGMENT_WHOLE_HAS_LENGTH if with_length else 0)
    length = encode_varint(len(data)) if with_length else b""
    return b"".join((bytes((kind,)), encode_varint(position), length, data))


def decode_frames(payload: bytes, next_counter: int = 0, *, short: bool = False) -> list[Frame]:
    """All frames of a datagram. `next_counter`: that of the datagram we send next, which acknowledgements refer to.

    `short`: its own counter took one octet, so positions take one less.
    Raises: RemoteLinkError, if one of them is malformed.
    """
    frames: list[Frame] = []
    at = 0
    while at < len(payload):
        kind = payload[at]
        at += 1
        if kind >= FRAGMENT:
            fragment, at = _decode_fragment(kind, payload, at, short=short)
            frames.append(fragment)
        elif FRAGMENT_WHOLE <= kind < SKIPPABLE:
            fragment, at = _decode_whole_fragment(kind, payload, at)
            frames.append(fragment)
        elif kind in (ACK, ACK_BITMAP):
            ack, at = _decode_ack(kind, payload, at, next_counter)
            frames.append(ack)
        elif kind == PING:
            frames.append(Ping())
        elif kind == CREDIT:
            limit, at = decode_varint(payload, at)
            frames.append(Credit(limit * CREDIT_UNIT_OCTETS))
        elif kind == GOODBYE:
            text, at = _decode_octets(payload, at)
            frames.append(Goodbye(printable(text[:REASON_OCTETS_MAX])))
        elif kind == HELD:
            held, at = _decode_held(payload, at)
            frames.append(held)
        elif kind >= SKIPPABLE:
            _, at = _decode_octets(payload, at)
        elif kind != PADDING:
            raise RemoteLinkError(f"unknown frame {kind:#04x}")
    return frames


def printable(text: bytes) -> str:
    """What a stranger wrote, fit for a log line."""
    return "".join(chr(octet) if 0x20 <= octet < 0x7F else "?" for octet in text)


def _decode_octets(payload: bytes, at: int) -> tuple[bytes, int]:
    length, at = decode_varint(payload, at)
    if at + length > len(payload):
        raise RemoteLinkError("a frame is cut")
    return payload[at : at + length], at + length


def _decode_number(payload: bytes, at: int, octets: int) -> tuple[int, int]:
    if at + octets > len(payload):
        raise RemoteLinkError("a number is cut")
    return int.from_bytes(payload[at : at + octets], "big"), at + octets


def _decode_fragment(kind: int, payload: bytes, at: int, *, short: bool) -> tuple[Fragment, int]:
    bits = (SHORT_BITS if short else LONG_BITS)[bool(kind & FRAGMENT_WIDE)]
    low, at = _decode_number(payload, at, bits // 8)
    if kind & FRAGMENT_HAS_LENGTH:
        data, at = _decode_octets(payload, at)
    else:
        data, at = payload[at:], len(payload)
    if not data:
        raise RemoteLinkError("an empty fragment")
    return Fragment((kind >> 5) - 2, (kind & 0x07) << (bits - 3) | low, bits, data), at


def _decode_held(payload: bytes, at: int) -> tuple[Held, int]:
    mask, at = _decode_number(payload, at, 1)
    if not mask:
        return Held(0, 0, 0, ()), at
    about, at = _decode_number(payload, at, 1)
    priority = about >> 5
    if mask >> len(Priority) or not mask >> priority & 1:
        raise RemoteLinkError("no such class is held")
    front, at = _decode_number(payload, at, HELD_POSITION_BITS // 8)
    ranges: list[tuple[int, int]] = []
    end = 0
    for _ in range(about & 0x1F):
        gap, at = decode_varint(payload, at)
        length, at = decode_varint(payload, at)
        start, end = end + gap + 1, end + gap + 1 + length + 1
        ranges.append((start, end))
    return Held(mask, priority, front, tuple(ranges)), at


def _decode_whole_fragment(kind: int, payload: bytes, at: int) -> tuple[Fragment, int]:
    priority = kind & 0x07
    if priority >= len(Priority):
        raise RemoteLinkError("no such class")
    position, at = decode_varint(payload, at)
    if kind & FRAGMENT_WHOLE_HAS_LENGTH:
        data, at = _decode_octets(payload, at)
    else:
        data, at = payload[at:], len(payload)
    if not data:
        raise RemoteLinkError("an empty fragment")
    return Fragment(priority, position, WHOLE_BITS, data), at


def _decode_ack(kind: int, payload: bytes, at: int, next_counter: int) -> tuple[Ack, int]:
    low, at = _decode_number(payload, at, ACK_COUNTER_BITS // 8)
    highest = next_counter - 1 - ((next_counter - 1 - low) & ((1 << ACK_COUNTER_BITS) - 1))
    delay_ms, at = decode_varint(payload, at)
    ranges: list[tuple[int, int]] = []
    if kind == ACK_BITMAP:
        bits, at = _decode_number(payload, at, BITMAP_COUNTERS // 8)
        ranges = _ranges_of_bitmap(highest, bits)
    else:
        more, at = decode_varint(payload, at)
        if more >= ACK_RANGES_MAX:
            raise RemoteLinkError("too many ranges")
        end = highest + 1
        for index in range(more + 1):
            if index:
                gap, at = decode_varint(payload, at)
                end = ranges[-1][0] - gap - 1
            length, at = decode_varint(payload, at)
            ranges.append((end - 1 - length, end))
    if ranges[-1][0] < 0:
        raise RemoteLinkError("an acknowledgement of what was never sent")
    return Ack(tuple(ranges), delay_ms), at


def _ranges_of_bitmap(highest: int, bits: int) -> list[tuple[int, int]]:
    """The counters of an ACK_BITMAP as ranges [start, end), highest first."""
    ranges: list[tuple[int, int]] = []
    arrived = bits << 1 | 1
    counter = highest
    while arrived:
        length = ((arrived + 1) & ~arrived).bit_length() - 1
        if length:
            ranges.append((counter - length + 1, counter + 1))
        else:
            length = (arrived & -arrived).bit_length() - 1
        arrived >>= length
        counter -= length
    return ranges
