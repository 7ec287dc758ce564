"""The octets of messages: exact both ways, strict on the way in."""

import base64
import random
import struct

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pserver.events.canonical import encode_canonical
from p2pserver.wire import messages as m
from p2pserver.wire.cbor import CborError, decode_cbor
from p2pserver.wire.event_ids import is_canonical_event_id
from p2pserver.wire.fields import WireError
from tests.wire.samples import (
    chosen_event_ids,
    event_ids,
    json_objects,
    json_values,
    messages,
    standard_event_ids,
)

EVENT = "$" + "A" * 43
ROOM = "!" + "A" * 43


@given(messages)
@settings(max_examples=200)
def test_a_message_comes_back_equal(message: m.Message) -> None:
    assert m.decode_message(m.encode_message(message)) == message


@given(json_objects)
@settings(max_examples=200)
def test_a_pdu_comes_back_with_the_same_canonical_json(pdu: dict) -> None:
    came = m.decode_message(m.encode_message(m.Pdus(ROOM, (pdu,), more=False, in_answer=True)))
    assert isinstance(came, m.Pdus)
    assert encode_canonical(came.pdus[0], loose=True) == encode_canonical(pdu, loose=True)
    assert m.pdu_octets(pdu) == len(cbor2.dumps(pdu))


@given(json_values)
def test_the_reader_agrees_with_cbor2(value: object) -> None:
    assert decode_cbor(cbor2.dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "",  # nothing
        "c074323031332d30332d32315432303a30343a30305a",  # tag 0, a date
        "c48221196ab3",  # tag 4, a decimal fraction
        "d81c80",  # tag 28, a shared reference
        "c249010000000000000000",  # tag 2, a bignum
        "f97e00",  # NaN in 2 octets
        "fb7ff0000000000000",  # infinity
        "fb7ff8000000000000",  # NaN
        "fa3f800000",  # 1.0 in 4 octets
        "fb3ff00000",
        "f7",  # undefined
        "f0",  # simple(16)
        "f818",  # simple(24)
        "a20101",  # a key that is no text
        "a2616101616102",  # a key twice
        "a1616101" + "00",  # octets after the end
        "5f4101ff",  # an indefinite byte string
        "9f01ff",  # an indefinite array
        "bf616101ff",  # an indefinite map
        "1801",  # 1 in 2 octets
        "1900ff",  # 255 in 3
        "1a0000ffff",
        "1b00000000ffffffff",
        "7801" + "61",  # a length in 2 octets
        "3bffffffffffffffff",  # -2^64
        "62c328",  # not UTF-8
        "63eda080",  # a surrogate
        "6261",  # cut off
        "1a00",
        "9b7fffffffffffffff",  # an array longer than the message
        "bbffffffffffffffff",
        "5bffffffffffffffff",
        "9a000fffff" + "80",
        "1c",
        "fc",
        "ff",
    ],
)
def test_what_is_not_of_the_used_part_of_cbor_is_refused(text: str) -> None:
    with pytest.raises(CborError):
        decode_cbor(bytes.fromhex(text))


def test_depth_and_counts_are_bounded() -> None:
    with pytest.raises(CborError, match="deeply"):
        decode_cbor(b"\x81" * 5000 + b"\x80")
    with pytest.raises(CborError, match="lists and maps"):
        decode_cbor(b"\x9a" + struct.pack(">I", 70_000) + b"\x80" * 70_000)
    with pytest.raises(CborError, match="values"):
        decode_cbor(b"\x9a" + struct.pack(">I", 300_000) + b"\x00" * 300_000)


@pytest.mark.parametrize(
    "value",
    [
        7,
        [],
        [0],
        [13],
        ["1"],
        [True, "x"],
        [1, 2, "a" * 52, "agent", b"12345678", 0, 0],
        [1, 1, "A" * 52, "agent", b"12345678", 0, 0],
        [1, 1, "example.org", "agent", b"12345678", 0, 0],
        [1, 1, "a" * 52, "agent\n", b"12345678", 0, 0],
        [1, 1, "a" * 52, "agent", b"1234567", 0, 0],
        [1, 1, "a" * 52, "agent", b"12345678", -1, 0],
        [2, b"x" * 13],
        [2, b"x" * 12 * 1025],
        [3, "no room", b"", False],
        [3, ROOM, b"x" * 33, False],
        [3, ROOM, b"x" * 64, False],
        [3, ROOM, b"", 0],
        [3, ROOM, [], False],
        [3, ROOM, [b""], False],
        [3, ROOM, [b"", b"x" * 31], False],
        [3, ROOM, [b"", "$a:b.example"], False],
        [3, ROOM, [b"", b"", "$" + "A" * 43], False],
        [3, ROOM, [b"", b"", "$a"], False],
        [3, ROOM, [b"", b"", "$a:b.example", "$a:b.example"], False],
        [3, ROOM, [b"x" * 32 * 300, b"y" * 32 * 300], False],
        [3, ROOM, [b"\0" * 32, b"\0" * 32], False],  # one spelling in both alphabets
        [3, ROOM, 2.0, False],
        [5, ROOM, [{"a": 2**64}], False, True],
        [4, ROOM, b"", b"", 1],
        [4, ROOM, b"x" * 32, b"", True],
        [5, ROOM, [[]], False, True],
        [5, ROOM, [{"a": b"octets"}], False, True],
        [5, ROOM, {}, False, True],
        [9, 1, "pdu", b"{}", False],
        [9, 1, "edu", "{}", False],
        [10, [-1]],
        [11, 1, "Join", b"{}"],
        [11, 1, "join", b"{" * 200_000],
        [12, 1, True, b"", True],
        [12, 1, True, b"", -1],
        [12, 1, True, b"", 0, None],
    ],
)
def test_a_value_that_is_no_message_is_refused(value: object) -> None:
    with pytest.raises(WireError):
        m.decode_message(cbor2.dumps(value))


def test_what_cannot_travel_is_refused_before_it_is_sent() -> None:
    for message in (
        m.Leaves(ROOM, ("$" + "B" * 43,), answer=False),  # another spelling of the same octets
        m.Leaves(ROOM, ("$short",), answer=False),
        m.Leaves(ROOM, ("$" + "/" * 43,), answer=False),
        m.Leaves(ROOM, ("$a:b.example", "$a:b:c"), answer=False),
        m.Pdus(ROOM, ({"a": 2**64},), more=False, in_answer=False),
        m.Pdus(ROOM, ({"a": float("nan")},), more=False, in_answer=False),
        m.Pdus(ROOM, ({"a": "\ud800"},), more=False, in_answer=False),
        m.Pdus(ROOM, ({"a": "x" * 400_000},), more=False, in_answer=False),
        m.Request(1, "join", b"x" * 131_073),
    ):
        with pytest.raises(WireError):
            m.encode_message(message)


@given(st.lists(event_ids | standard_event_ids | chosen_event_ids, unique=True, max_size=9).map(tuple))
def test_ids_of_any_versions_travel_together(mixed: tuple[str, ...]) -> None:
    came = m.decode_message(m.encode_message(m.Lacking(ROOM, mixed)))
    assert isinstance(came, m.Lacking)
    assert sorted(came.event_ids) == sorted(mixed)


def test_ids_of_version_4_and_later_take_32_octets_each_and_others_little_more() -> None:
    def octets(event_ids: tuple[str, ...]) -> int:
        return len(m.encode_message(m.Offer(ROOM, event_ids)))

    one, two = ("$" + "-" * 42 + "A", "$" + "_" * 42 + "A")
    assert octets((one, two)) - octets((one,)) == 32
    standard = tuple(event_id.replace("-", "+").replace("_", "/") for event_id in (one, two))
    assert octets(standard) - octets(standard[:1]) == 32
    assert octets(standard) - octets((one, two)) == 2
    assert octets(("$a:b.example", "$b:b.example")) - octets(("$a:b.example",)) == 13


@given(st.binary(min_size=32, max_size=32), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"))
def test_one_spelling_of_an_event_id_can_travel(octets: bytes, last: str) -> None:
    canonical = "$" + base64.urlsafe_b64encode(octets).decode().rstrip("=")
    other = canonical[:-1] + last
    assert is_canonical_event_id(canonical)
    assert is_canonical_event_id(other) == (
        "$" + base64.urlsafe_b64encode(base64.urlsafe_b64decode(other[1:] + "=")).decode().rstrip("=") == other
    )
    assert not is_canonical_event_id(canonical + "A")
    assert not is_canonical_event_id(canonical[:-1])
    assert not is_canonical_event_id(canonical[1:])


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"a":NaN}', b'{"a":1,"a":2}', b'{"a":"\\ud800"}', b"\xff"])
def test_bodies_are_json_objects(text: bytes) -> None:
    with pytest.raises(WireError):
        m.decode_json_object(text)


def test_bodies_may_hold_floats_but_nothing_that_is_not_json() -> None:
    assert m.decode_json_object(m.encode_json({"volume": 0.5})) == {"volume": 0.5}
    for value in ({"a": float("nan")}, {"a": b""}, {"a": "\ud800"}):
        with pytest.raises(WireError):
            m.encode_json(value)


def mutated(rng: random.Random, data: bytes) -> bytes:
    octets = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(octets) + 1)
        match rng.randrange(5):
            case 0 if at < len(octets):
                octets[at] = rng.randrange(256)
            case 1:
                octets[at:at] = rng.randbytes(rng.choice((1, 4, 32)))
            case 2:
                del octets[at : at + rng.choice((1, 4, 32))]
            case 3 if at < len(octets):
                octets[at] ^= 1 << rng.randrange(8)
            case _:
                other = rng.randrange(len(octets) + 1)
                octets[at:at] = octets[other : other + 16]
    return bytes(octets)


def test_mutations_of_valid_messages_earn_an_error_or_a_valid_message() -> None:
    rng = random.Random(5)
    originals = [
        m.Hello(server_name="a" * 51 + "q", agent="p2pserver", salt=b"12345678", clock_ms=5, mark=b"m" * 17),
        m.Keep(b"m" * 17),
        m.Hears(b"12345678", 1, 5, b"salt" * 2),
        m.Beacons((m.Beacon(b"1234", b"12345678"),) * 5),
        m.Leaves(ROOM, (EVENT,), answer=False),
        m.Want(ROOM, (EVENT,), (), 200_000),
        m.Pdus(ROOM, ({"type": "m.room.message", "content": {"body": "hej", "n": [1, -2, None]}},), True, True),
        m.Item(5, "edu", b"{}", more=False),
        m.ItemsStored((1, 2, 3)),
        m.Request(1, "join", b'{"room_id":"!a"}'),
        m.Response(1, True, b"{}", 300),
    ]
    passed = 0
    for _ in range(10_000):
        try:
            message = m.decode_message(mutated(rng, m.encode_message(rng.choice(originals))))
        except WireError:
            continue
        passed += 1
        assert m.decode_message(m.encode_message(message)) == message
    assert passed > 1_000
