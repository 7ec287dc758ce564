"""The messages of a conversation between two servers, as values and as octets.

Each is a CBOR array whose first member is its number; docs/peering.md tells what each is for and draws who sends what.
Event IDs travel as the 32 octets that they spell, many in one byte string (of room versions 1 to 3: in a list); PDUs as
maps, whole; what requests and queued items carry as JSON text.

Whoever decodes gets a valid message or `WireError`: counts, sizes and grammars are checked here, meaning is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeAlias

import cbor2

from p2pserver.events.canonical import NotCanonical, check_canonical, decode_loose
from p2pserver.identifiers import public_key_of
from p2pserver.wire.cbor import Cbor, CborError, decode_cbor
from p2pserver.wire.event_ids import event_ids_of, packed
from p2pserver.wire.fields import WireError, flag_of, list_of, number_of, octets_of, room_id_of, text_of

VERSION: Final = 1
MESSAGE_OCTETS_MAX: Final = 384 * 1024
BEACONS_MAX: Final = 1024
"""Rooms in one `Beacons`; more go into several."""
DIGESTS_MAX: Final = 512
"""Rooms in one `Digests`."""
EVENT_IDS_MAX: Final = 512
"""Event IDs in one message."""
PDUS_MAX: Final = 512
WANT_MAX: Final = 128
HAVE_MAX: Final = 128
HOLDS_OCTETS_MAX: Final = 1028
"""A salt of 4 octets, and two for each of 512 events."""
ITEMS_MAX: Final = 256
ITEM_OCTETS_MAX: Final = 1024 * 1024 + 4096
"""An EDU may have 1 MiB, and has its type beside it."""
REQUEST_OCTETS_MAX: Final = 128 * 1024
PART_OCTETS_MAX: Final = 64 * 1024
"""Of items, responses and files, which travel in parts."""
TICKET_OCTETS_MAX: Final = 16
AGENT_LENGTH_MAX: Final = 64
SALT_OCTETS: Final = 8
TAG_OCTETS: Final = 4
DIGEST_OCTETS: Final = 8
NETWORK_ID_OCTETS: Final = 8
MARK_OCTETS: Final = 17
EPOCH_MAX: Final = 2**32 - 1
ITEM_KINDS: Final = ("edu", "invite")

_REQUEST_NAME = re.compile(r"[a-z][a-z_]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first message of each side, and of each new contact: who speaks, and salt for the keys of the beacons."""

    server_name: str
    agent: str
    """The software, for people."""
    salt: bytes
    """8 random octets, new at each contact."""
    clock_ms: int
    """The sender's wall clock, in milliseconds since 1970."""
    features: int = 0
    """Bits for what later versions can do more; unknown ones are ignored."""
    mark: bytes = b""
    """For the receiver to keep, and to give back at the next contact (`federation.marks`)."""
    kept: bytes = b""
    """The newest mark that the receiver gave to the sender; b"": none."""


@dataclass(frozen=True, slots=True)
class Beacon:
    """One room in 12 octets: a tag that only who knows the room can compute, and a digest of all its leaves."""

    tag: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Beacons:
    """Where the sender stands in rooms that both share. Equal digests mean that nothing is missing on either side."""

    rooms: tuple[Beacon, ...]


@dataclass(frozen=True, slots=True)
class RoomDigests:
    """What a server makes of the events of a room: digests of its leaves, of every event with its states (SEC), and of
    the current state."""

    tag: bytes
    leaves: bytes
    sec: bytes
    current: bytes


@dataclass(frozen=True, slots=True)
class Digests:
    """What the sender makes of complete rooms of which both hold the same leaves. Said once, and when it changed."""

    rooms: tuple[RoomDigests, ...]


@dataclass(frozen=True, slots=True)
class Leaves:
    """The leaves of a room as the sender holds it; with `answer`, in reply to the receiver's own."""

    room_id: str
    event_ids: tuple[str, ...]
    answer: bool


@dataclass(frozen=True, slots=True)
class Want:
    """Asks for the events `want` and their ancestors that are not ancestors of `have`: oldest first, up to a size.

    `holds`: a filter of what the asker holds or has parked of late (`federation.held_filter`); b"" for none.
    """

    room_id: str
    want: tuple[str, ...]
    have: tuple[str, ...]
    octets_max: int
    holds: bytes = b""


@dataclass(frozen=True, slots=True)
class Pdus:
    """Events in federation form. `in_answer`: to a `Want`, and then `more` says that it was not all."""

    room_id: str
    pdus: tuple[Mapping[str, Any], ...]
    more: bool
    in_answer: bool


@dataclass(frozen=True, slots=True)
class Lacking:
    """Events that the sender was asked for and does not hold, or may not show."""

    room_id: str
    event_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """Events that the sender received from somebody else, for who lacks them."""

    room_id: str
    event_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """Events that the sender now holds durably, or has refused for good: nobody need send them to it again."""

    room_id: str
    event_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """A part of something for the receiver alone, an EDU or an invite, in order; `more` until the last.

    Joined, `part` is the JSON text of an object.
    """

    number: int
    kind: str
    part: bytes
    more: bool


@dataclass(frozen=True, slots=True)
class ItemsStored:
    """Items that the sender has taken durably, or refused for good."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A question; `number` comes back in the response. `body` is the JSON text of an object."""

    number: int
    name: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A part of the answer, in order; `left` octets follow. Joined and unpacked it is the JSON text of an object.

    ok: True for an answer, False for a Matrix error object.
    """

    number: int
    ok: bool
    part: bytes
    left: int


@dataclass(frozen=True, slots=True)
class Hears:
    """On a shared medium: the sender reads what is broadcast under this network's epoch and the one before, and its own
    next datagram there has this counter, under a key that its process salted."""

    network_id: bytes
    epoch: int
    next_counter: int
    salt: bytes


@dataclass(frozen=True, slots=True)
class MediaWant:
    """Asks for `octets` octets of a file from `start` on. `ticket` came with the file's manifest."""

    number: int
    ticket: bytes
    start: int
    octets: int


@dataclass(frozen=True, slots=True)
class MediaPart:
    """What there is of it, perhaps less than was asked for; b"": nothing."""

    number: int
    octets: bytes


@dataclass(frozen=True, slots=True)
class Ephemera:
    """EDUs that may be lost: who types, who is present, how far users have read. JSON text, perhaps packed."""

    edus: bytes


@dataclass(frozen=True, slots=True)
class Keep:
    """A newer mark in place of the one in the Hello."""

    mark: bytes


Message: TypeAlias = (
    Hello
    | Beacons
    | Leaves
    | Want
    | Pdus
    | Lacking
    | Offer
    | Stored
    | Item
    | ItemsStored
    | Request
    | Response
    | Digests
    | Hears
    | MediaWant
    | MediaPart
    | Ephemera
    | Keep
)


def encode_json(value: object) -> bytes:
    """The JSON text of what a request, a response or an item carries.

    Raises: WireError, if it is not JSON.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from None


def decode_json_object(data: bytes) -> dict[str, Any]:
    """The object that a request, a response or an item carries.

    Raises: WireError.
    """
    try:
        value = decode_loose(data)
    except NotCanonical as error:
        raise WireError(str(error)) from None
    if not isinstance(value, dict):
        raise WireError("not a JSON object")
    return value


def pdu_octets(pdu: Mapping[str, Any]) -> int:
    """How many octets one PDU takes in `Pdus`.

    Raises: WireError, if it has no canonical JSON, not even the loose form of old room versions.
    """
    try:
        check_canonical(pdu, loose=True)
        return len(cbor2.dumps(pdu))
    except (NotCanonical, UnicodeEncodeError) as error:
        raise WireError(f"a PDU without canonical form: {error}") from None


def encode_message(message: Message) -> bytes:
    """The octets of a message; what `decode_message` turns into an equal one.

    Raises: WireError, if it is too large or holds what the wire cannot express.
    """
    number = _NUMBER_OF[type(message)]
    try:
        data = cbor2.dumps([number, *_FIELDS_OF[type(message)](message)])
    except (NotCanonical, UnicodeEncodeError) as error:
        raise WireError(f"a {type(message).__name__} that cannot be written: {error}") from None
    if len(data) > MESSAGE_OCTETS_MAX:
        raise WireError(f"a {type(message).__name__} of {len(data)} octets")
    return data


def decode_message(data: bytes) -> Message:
    """The message that the octets hold.

    Raises: WireError.
    """
    if len(data) > MESSAGE_OCTETS_MAX:
        raise WireError(f"a message of {len(data)} octets")
    try:
        value = decode_cbor(data)
    except CborError as error:
        raise WireError(str(error)) from None
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise WireError("not a message")
    reader = _READER_OF.get(value[0])
    if reader is None:
        raise WireError(f"a message of unknown number {value[0]}")
    kind, fields = reader
    if len(value) - 1 != fields:
        raise WireError("a message with too many or too few members")
    return kind(value[1:])


# Fields, out


def _pdus_out(message: Pdus) -> list[Any]:
    for pdu in message.pdus:
        check_canonical(pdu, loose=True)
    return [message.room_id, list(message.pdus), message.more, message.in_answer]


def _request_out(message: Request) -> list[Any]:
    if len(message.body) > REQUEST_OCTETS_MAX:
        raise WireError(f"a request of {len(message.body)} octets")
    return [message.number, message.name, message.body]


_FIELDS_OF: dict[type, Callable[[Any], Sequence[Any]]] = {
    Hello: lambda m: [VERSION, m.server_name, m.agent, m.salt, m.clock_ms, m.features, m.mark, m.kept],
    Beacons: lambda m: [b"".join(room.tag + room.digest for room in m.rooms)],
    Leaves: lambda m: [m.room_id, packed(m.event_ids), m.answer],
    Want: lambda m: [m.room_id, packed(m.want), packed(m.have), m.octets_max, m.holds],
    Pdus: _pdus_out,
    Lacking: lambda m: [m.room_id, packed(m.event_ids)],
    Offer: lambda m: [m.room_id, packed(m.event_ids)],
    Stored: lambda m: [m.room_id, packed(m.event_ids)],
    Item: lambda m: [m.number, m.kind, m.part, m.more],
    ItemsStored: lambda m: [list(m.numbers)],
    Request: _request_out,
    Response: lambda m: [m.number, m.ok, m.part, m.left],
    Digests: lambda m: [b"".join(room.tag + room.leaves + room.sec + room.current for room in m.rooms)],
    Hears: lambda m: [m.network_id, m.epoch, m.next_counter, m.salt],
    MediaWant: lambda m: [m.number, m.ticket, m.start, m.octets],
    MediaPart: lambda m: [m.number, m.octets],
    Ephemera: lambda m: [m.edus],
    Keep: lambda m: [m.mark],
}


# Fields, in


def _hello(fields: list[Cbor]) -> Hello:
    version = number_of(fields[0])
    if version != VERSION:
        raise WireError(f"version {version} of the messages is not spoken here")
    server_name = text_of(fields[1], 255)
    if public_key_of(server_name) is None:
        raise WireError("not the name of a node")
    agent = text_of(fields[2], AGENT_LENGTH_MAX)
    if not agent.isprintable():
        raise WireError("an agent that cannot be printed")
    return Hello(
        server_name=server_name,
        agent=agent,
        salt=octets_of(fields[3], SALT_OCTETS, octets_min=SALT_OCTETS),
        clock_ms=number_of(fields[4]),
        features=number_of(fields[5]),
        mark=_mark(fields[6]),
        kept=_mark(fields[7]),
    )


def _mark(value: Cbor) -> bytes:
    mark = octets_of(value, MARK_OCTETS)
    if len(mark) not in (0, MARK_OCTETS):
        raise WireError("a mark is cut off")
    return mark


def _beacons(fields: list[Cbor]) -> Beacons:
    size = TAG_OCTETS + DIGEST_OCTETS
    packed = octets_of(fields[0], BEACONS_MAX * size)
    if len(packed) % size:
        raise WireError("beacons are cut off")
    starts = range(0, len(packed), size)
    return Beacons(tuple(Beacon(packed[at : at + TAG_OCTETS], packed[at + TAG_OCTETS : at + size]) for at in starts))


def _digests(fields: list[Cbor]) -> Digests:
    size = TAG_OCTETS + 3 * DIGEST_OCTETS
    packed = octets_of(fields[0], DIGESTS_MAX * size)
    if len(packed) % size:
        raise WireError("digests are cut off")
    cuts = [0, *range(TAG_OCTETS, size + 1, DIGEST_OCTETS)]
    return Digests(
        tuple(
            RoomDigests(*(packed[at + start : at + end] for start, end in pairwise(cuts)))
            for at in range(0, len(packed), size)
        )
    )


def _leaves(fields: list[Cbor]) -> Leaves:
    return Leaves(room_id_of(fields[0]), event_ids_of(fields[1], EVENT_IDS_MAX), flag_of(fields[2]))


def _want(fields: list[Cbor]) -> Want:
    want = event_ids_of(fields[1], WANT_MAX)
    if not want:
        raise WireError("nothing is wanted")
    holds = octets_of(fields[4], HOLDS_OCTETS_MAX)
    return Want(room_id_of(fields[0]), want, event_ids_of(fields[2], HAVE_MAX), number_of(fields[3]), holds)


def _pdus(fields: list[Cbor]) -> Pdus:
    pdus = []
    for pdu in list_of(fields[1], PDUS_MAX):
        if type(pdu) is not dict:
            raise WireError("a PDU is not a map")
        pdus.append(_json(pdu))
    return Pdus(room_id_of(fields[0]), tuple(pdus), flag_of(fields[2]), flag_of(fields[3]))


def _json(pdu: dict[str, Cbor]) -> dict[str, Any]:
    """A map of JSON values: no byte strings, no more nesting than canonical JSON has.

    Whether it may hold floats and large integers is asked when the room version is known.
    """
    try:
        check_canonical(pdu, loose=True)
    except NotCanonical as error:
        raise WireError(f"a PDU is not JSON: {error}") from None
    return pdu


def _item(fields: list[Cbor]) -> Item:
    kind = text_of(fields[1], 16)
    if kind not in ITEM_KINDS:
        raise WireError("an item of unknown kind")
    return Item(number_of(fields[0]), kind, octets_of(fields[2], PART_OCTETS_MAX), flag_of(fields[3]))


def _items_stored(fields: list[Cbor]) -> ItemsStored:
    return ItemsStored(tuple(number_of(number) for number in list_of(fields[0], ITEMS_MAX)))


def _request(fields: list[Cbor]) -> Request:
    name = text_of(fields[1], 32)
    if not _REQUEST_NAME.fullmatch(name):
        raise WireError("not the name of a request")
    return Request(number_of(fields[0]), name, octets_of(fields[2], REQUEST_OCTETS_MAX))


def _response(fields: list[Cbor]) -> Response:
    part = octets_of(fields[2], PART_OCTETS_MAX)
    return Response(number_of(fields[0]), flag_of(fields[1]), part, number_of(fields[3]))


def _hears(fields: list[Cbor]) -> Hears:
    network_id = octets_of(fields[0], NETWORK_ID_OCTETS, octets_min=NETWORK_ID_OCTETS)
    salt = octets_of(fields[3], SALT_OCTETS, octets_min=SALT_OCTETS)
    return Hears(network_id, number_of(fields[1], EPOCH_MAX), number_of(fields[2]), salt)


def _media_want(fields: list[Cbor]) -> MediaWant:
    ticket = octets_of(fields[1], TICKET_OCTETS_MAX, octets_min=1)
    octets = number_of(fields[3], PART_OCTETS_MAX)
    if octets == 0:
        raise WireError("nothing is asked for")
    return MediaWant(number_of(fields[0]), ticket, number_of(fields[2]), octets)


_READER_OF: dict[int, tuple[Callable[[list[Cbor]], Message], int]] = {
    1: (_hello, 8),
    2: (_beacons, 1),
    3: (_leaves, 3),
    4: (_want, 5),
    5: (_pdus, 4),
    6: (lambda fields: Lacking(room_id_of(fields[0]), event_ids_of(fields[1], EVENT_IDS_MAX)), 2),
    7: (lambda fields: Offer(room_id_of(fields[0]), event_ids_of(fields[1], EVENT_IDS_MAX)), 2),
    8: (lambda fields: Stored(room_id_of(fields[0]), event_ids_of(fields[1], EVENT_IDS_MAX)), 2),
    9: (_item, 4),
    10: (_items_stored, 1),
    11: (_request, 3),
    12: (_response, 4),
    13: (_digests, 1),
    14: (_hears, 4),
    15: (_media_want, 4),
    16: (lambda fields: MediaPart(number_of(fields[0]), octets_of(fields[1], PART_OCTETS_MAX)), 2),
    17: (lambda fields: Ephemera(octets_of(fields[0], PART_OCTETS_MAX)), 1),
    18: (lambda fields: Keep(_mark(fields[0])), 1),
}
_NUMBER_OF: dict[type, int] = dict(zip(_FIELDS_OF, _READER_OF, strict=True))
