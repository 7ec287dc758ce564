"""What is broadcast under a network key, as values and as octets: a CBOR array whose first member is its number.

Whoever has the key can say these things in anybody's name. Events prove themselves; all else is a hint. Whoever decodes
gets a valid value or `WireError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import cbor2

from p2pserver.events.canonical import NotCanonical, check_canonical
from p2pserver.identifiers import is_room_id
from p2pserver.wire.cbor import Cbor, CborError, decode_cbor
from p2pserver.wire.fields import WireError
from p2pserver.wire.messages import DIGEST_OCTETS, TAG_OCTETS, Beacon

BROADCAST_BEACONS_MAX: Final = 16
_EVENT = 1
_BEACONS = 2


@dataclass(frozen=True, slots=True)
class BroadcastEvent:
    """An event in federation form, of the room that it names itself."""

    pdu: Mapping[str, Any]

    @property
    def room_id(self) -> str:
        return str(self.pdu["room_id"])


@dataclass(frozen=True, slots=True)
class BroadcastBeacons:
    """Where the sender may stand in some rooms: a hint to compare with it, under tags keyed by the network."""

    rooms: tuple[Beacon, ...]


BroadcastMessage: TypeAlias = BroadcastEvent | BroadcastBeacons


def encode_broadcast(message: BroadcastMessage) -> bytes:
    """What `decode_broadcast` turns into an equal value.

    Raises: WireError, if it holds what the wire cannot express.
    """
    if isinstance(message, BroadcastBeacons):
        return cbor2.dumps([_BEACONS, b"".join(room.tag + room.digest for room in message.rooms)])
    if not is_room_id(message.pdu.get("room_id")):
        raise WireError("an event that does not name its room")
    try:
        check_canonical(message.pdu, loose=True)
        return cbor2.dumps([_EVENT, message.pdu])
    except (NotCanonical, UnicodeEncodeError) as error:
        raise WireError(f"an event that cannot be written: {error}") from None


def decode_broadcast(data: bytes) -> BroadcastMessage:
    """The value that the octets hold.

    Raises: WireError.
    """
    try:
        value = decode_cbor(data)
    except CborError as error:
        raise WireError(str(error)) from None
    if not isinstance(value, list) or len(value) != 2 or type(value[0]) is not int:
        raise WireError("not a broadcast message")
    number, body = value
    if number == _EVENT:
        return _event(body)
    if number == _BEACONS:
        return _beacons(body)
    raise WireError(f"a broadcast message of unknown number {number!r}")


def _event(body: Cbor) -> BroadcastEvent:
    if type(body) is not dict or not is_room_id(body.get("room_id")):
        raise WireError("no event that names its room")
    try:
        check_canonical(body, loose=True)
    except NotCanonical as error:
        raise WireError(f"an event that is not JSON: {error}") from None
    return BroadcastEvent(body)


def _beacons(body: Cbor) -> BroadcastBeacons:
    size = TAG_OCTETS + DIGEST_OCTETS
    if type(body) is not bytes or not body or len(body) % size or len(body) > BROADCAST_BEACONS_MAX * size:
        raise WireError("beacons are missing or cut off")
    starts = range(0, len(body), size)
    return BroadcastBeacons(
        tuple(Beacon(body[at : at + TAG_OCTETS], body[at + TAG_OCTETS : at + size]) for at in starts)
    )
