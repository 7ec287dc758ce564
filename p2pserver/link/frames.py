"""Frames: what an encrypted datagram carries. The layout is specified in docs/link.md, "Frames".

Variable-length integers are those of QUIC (RFC 9000, section 16): the two highest bits of the first octet say whether
1, 2, 4 or 8 octets are meant.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from p2pserver.link.errors import RemoteLinkError
from p2pserver.link.limits import ACK_RANGES_MAX, MESSAGE_OCTETS_MAX, Priority

PADDING = 0x00
ACK = 0x01
PING = 0x02
CREDIT = 0x03
GOODBYE = 0x04
FRAGMENT = 0x40
FRAGMENT_HAS_LENGTH = 0x20
FRAGMENT_HAS_OFFSET = 0x10
FRAGMENT_LAST = 0x08
FRAGMENT_CLASS = 0x07
SKIPPABLE = 0x80
"""Frames from here on carry their length and are skipped by who does not know them."""

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


class Fragment(NamedTuple):
    """A part of a message."""

    priority: int
    number: int
    """Counts the messages of this class since the epoch began."""
    offset: int
    last: bool
    data: bytes


Frame = Ack | Ping | Credit | Goodbye | Fragment


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


def encode_ack(ranges: Iterable[tuple[int, int]], delay_ms: int, octets_max: int) -> bytes:
    """As many of the ranges [start, end), given highest first, as fit; at least one must be given."""
    out = bytearray()
    count = 0
    lowest = 0
    head = b""
    for start, end in ranges:
        if count == 0:
            head = encode_varint(end - 1) + encode_varint(delay_ms)
            part = encode_varint(end - 1 - start)
        else:
            part = encode_varint(lowest - end - 1) + encode_varint(end - 1 - start)
        if count == ACK_RANGES_MAX or (count and 3 + len(head) + len(out) + len(part) > octets_max):
            break
        out += part
        lowest = start
        count += 1
    return bytes((ACK,)) + head + encode_varint(count - 1) + bytes(out)


def encode_credit(limit_octets: int) -> bytes:
    return bytes((CREDIT,)) + encode_varint(limit_octets)


def encode_goodbye(reason: str) -> bytes:
    text = reason.encode("ascii", "replace")[:REASON_OCTETS_MAX]
    return bytes((GOODBYE, len(text))) + text


def encode_fragment(priority: int, number: int, offset: int, data: bytes, *, last: bool, with_length: bool) -> bytes:
    """A fragment without its length must be the last frame of its datagram."""
    kind = FRAGMENT | priority
    out = encode_varint(number)
    if last:
        kind |= FRAGMENT_LAST
    if offset:
        kind |= FRAGMENT_HAS_OFFSET
        out += encode_varint(offset)
    if with_length:
        kind |= FRAGMENT_HAS_LENGTH
        out += encode_varint(len(data))
    return bytes((kind,)) + out + data


def decode_frames(payload: bytes) -> list[Frame]:
    """All frames of a datagram. Raises: RemoteLinkError, if one of them is malformed."""
    frames: list[Frame] = []
    at = 0
    while at < len(payload):
        kind = payload[at]
        at += 1
        if FRAGMENT <= kind < SKIPPABLE:
            fragment, at = _decode_fragment(kind, payload, at)
            frames.append(fragment)
        elif kind == ACK:
            ack, at = _decode_ack(payload, at)
            frames.append(ack)
        elif kind == PING:
            frames.append(Ping())
        elif kind == CREDIT:
            limit, at = decode_varint(payload, at)
            frames.append(Credit(limit))
        elif kind == GOODBYE:
            text, at = _decode_octets(payload, at)
            frames.append(Goodbye(printable(text[:REASON_OCTETS_MAX])))
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


def _decode_fragment(kind: int, payload: bytes, at: int) -> tuple[Fragment, int]:
    priority = kind & FRAGMENT_CLASS
    if priority > Priority.PRESENCE:
        raise RemoteLinkError(f"no class {priority}")
    number, at = decode_varint(payload, at)
    offset = 0
    if kind & FRAGMENT_HAS_OFFSET:
        offset, at = decode_varint(payload, at)
    if kind & FRAGMENT_HAS_LENGTH:
        data, at = _decode_octets(payload, at)
    else:
        data, at = payload[at:], len(payload)
    if not data:
        raise RemoteLinkError("an empty fragment")
    if offset + len(data) > MESSAGE_OCTETS_MAX:
        raise RemoteLinkError("a message over its limit")
    return Fragment(priority, number, offset, bool(kind & FRAGMENT_LAST), data), at


def _decode_ack(payload: bytes, at: int) -> tuple[Ack, int]:
    highest, at = decode_varint(payload, at)
    delay_ms, at = decode_varint(payload, at)
    more, at = decode_varint(payload, at)
    if more >= ACK_RANGES_MAX:
        raise RemoteLinkError("too many ranges")
    ranges: list[tuple[int, int]] = []
    end = highest + 1
    for index in range(more + 1):
        if index:
            gap, at = decode_varint(payload, at)
            end = ranges[-1][0] - gap - 1
        length, at = decode_varint(payload, at)
        start = end - 1 - length
        if start < 0:
            raise RemoteLinkError("a range below zero")
        ranges.append((start, end))
    return Ack(tuple(ranges), delay_ms), at
