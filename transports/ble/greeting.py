"""What the two sides say before datagrams flow: INFO is read by the central, HELLO and RENAME are written by it to CTL.

All are fixed layouts, fit an ATT MTU of 23, and may be longer in a later version: what follows is ignored.

    INFO     version 1 | abilities 1 | short id 6 | largest datagram 2
    HELLO    0x01 | tag 1 | version 1 | abilities 1 | short id 6 | largest datagram 2
    RENAME   0x02 | short id 6

Where notifications go to all centrals at once (`Ability.TAGS`), each begins with the tag of the one it is for. The
central draws its tag at random; a peripheral refuses one that is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Final, Self

from transports.ble.uuids import ATT_MTU_MIN, DATAGRAM_OCTETS_MAX, SHORT_ID_OCTETS

VERSION: Final = 1
_HELLO: Final = 1
_RENAME: Final = 2
_OCTETS: Final = 4 + SHORT_ID_OCTETS


class NotUnderstood(ValueError):
    """What the other side said makes no sense. The message is for people."""


class Ability(IntFlag):
    """What a node can do; unknown bits are ignored."""

    DIALS = 1
    ACCEPTS = 2
    TAGS = 4
    """Its notifications begin with a tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What either side says of itself."""

    short_id: bytes
    abilities: Ability
    datagram_octets_max: int

    def info(self) -> bytes:
        return bytes([VERSION, self.abilities]) + self.short_id + self.datagram_octets_max.to_bytes(2, "big")

    def hello(self, tag: int) -> bytes:
        return bytes([_HELLO, tag]) + self.info()

    @classmethod
    def from_info(cls, octets: bytes) -> Self:
        """Raises: NotUnderstood."""
        if len(octets) < _OCTETS:
            raise NotUnderstood(f"INFO has {len(octets)} octets")
        if octets[0] != VERSION:
            raise NotUnderstood(
                f"it speaks version {octets[0]} of the Bluetooth service, and this node version {VERSION}"
            )
        largest = int.from_bytes(octets[2 + SHORT_ID_OCTETS : _OCTETS], "big")
        if largest < ATT_MTU_MIN - 3:
            raise NotUnderstood(f"it takes datagrams of {largest} octets only")
        return cls(
            short_id=octets[2 : 2 + SHORT_ID_OCTETS],
            abilities=Ability(octets[1] & (Ability.DIALS | Ability.ACCEPTS | Ability.TAGS)),
            datagram_octets_max=min(largest, DATAGRAM_OCTETS_MAX),
        )


def rename(short_id: bytes) -> bytes:
    return bytes([_RENAME]) + short_id


def read_control(octets: bytes) -> tuple[Greeting, int] | bytes:
    """A HELLO with its tag, or the new short id of a RENAME. Raises: NotUnderstood."""
    if octets[:1] == bytes([_HELLO]) and len(octets) > 1:
        return Greeting.from_info(octets[2:]), octets[1]
    if octets[:1] == bytes([_RENAME]) and len(octets) > SHORT_ID_OCTETS:
        return octets[1 : 1 + SHORT_ID_OCTETS]
    raise NotUnderstood("CTL has no such operation")
