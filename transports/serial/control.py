"""The transport's own frames: who is here, and which links there are. Their bodies, after the kind in one octet:

    HELLO  1  instance id 8               I am here, under the handle that sends this
    ASK    2  instance id 8               the same, and I want a HELLO of whom this is to
    BYE    3  instance id 8               I go, or have lost all my links
    CLASH  4  handle 1, instance id 8     that handle is this instance's; whoever else has it draws another
    OPEN   5  nonce 2, instance id 8,     a link, please, if your instance id begins like this:
              addressee 2                 your handle may be another's as well
    ACCEPT 6  nonce 2, instance id 8      there is one, with the sender (of this id)
    CLOSE  7  nonce 2, instance id 8      the sender (of this id) has no link of this nonce; 0: none at all
    STOP   8                              my inbox is full
    GO     9                              there is room again

A body may be longer than that: what follows is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from transports.contract import INSTANCE_ID_OCTETS

NONCE_OCTETS = 2
ADDRESSEE_OCTETS = 2
ANY_LINK = 0


class Kind(IntEnum):
    HELLO = 1
    ASK = 2
    BYE = 3
    CLASH = 4
    OPEN = 5
    ACCEPT = 6
    CLOSE = 7
    STOP = 8
    GO = 9


_HAS_NONCE = frozenset({Kind.OPEN, Kind.ACCEPT, Kind.CLOSE})
_HAS_ID = frozenset({Kind.HELLO, Kind.ASK, Kind.BYE, Kind.CLASH, Kind.OPEN, Kind.ACCEPT, Kind.CLOSE})


@dataclass(frozen=True, slots=True)
class Control:
    """A frame of the transport itself, without sender and addressee."""

    kind: Kind
    instance_id: bytes = b""
    nonce: int = 0
    handle: int = 0
    addressee: bytes = b""

    def encode(self) -> bytes:
        body = bytes((self.kind,))
        if self.kind is Kind.CLASH:
            body += bytes((self.handle,))
        if self.kind in _HAS_NONCE:
            body += self.nonce.to_bytes(NONCE_OCTETS, "big")
        body += self.instance_id if self.kind in _HAS_ID else b""
        return body + (self.addressee[:ADDRESSEE_OCTETS] if self.kind is Kind.OPEN else b"")


CONTROL_OCTETS_MAX = 1 + NONCE_OCTETS + INSTANCE_ID_OCTETS + ADDRESSEE_OCTETS


def decode_control(body: bytes) -> Control | None:
    """None for a kind that is not known, or one that lacks something."""
    try:
        kind = Kind(body[0])
    except (ValueError, IndexError):
        return None
    at, handle, nonce, instance_id, addressee = 1, 0, 0, b"", b""
    if kind is Kind.CLASH:
        handle = int.from_bytes(body[at : at + 1], "big")
        at += 1
    if kind in _HAS_NONCE:
        nonce = int.from_bytes(body[at : at + NONCE_OCTETS], "big")
        at += NONCE_OCTETS
    if kind in _HAS_ID:
        instance_id = body[at : at + INSTANCE_ID_OCTETS]
        at += INSTANCE_ID_OCTETS
    if kind is Kind.OPEN:
        addressee = body[at : at + ADDRESSEE_OCTETS]
        at += ADDRESSEE_OCTETS
    if len(body) < at:
        return None
    return Control(kind, instance_id, nonce, handle, addressee)
