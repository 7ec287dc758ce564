"""What is broadcast: octets and back, and nothing but an error of anything else."""

from __future__ import annotations

import random

import cbor2
import pytest

from p2pserver.wire.broadcasts import (
    BROADCAST_BEACONS_MAX,
    BroadcastBeacons,
    BroadcastEvent,
    decode_broadcast,
    encode_broadcast,
)
from p2pserver.wire.fields import WireError
from p2pserver.wire.messages import Beacon

ROOM = "!" + "a" * 42 + "A"
PDU = {
    "room_id": ROOM,
    "type": "m.room.message",
    "content": {"body": "hello", "n": [1, None, True, {"deep": ["x"]}]},
    "prev_events": ["$" + "b" * 42 + "A"],
    "depth": 12,
}
BEACONS = BroadcastBeacons(tuple(Beacon(bytes([n]) * 4, bytes([n]) * 8) for n in range(BROADCAST_BEACONS_MAX)))


def test_both_kinds_come_back() -> None:
    for message in (BroadcastEvent(PDU), BEACONS):
        assert decode_broadcast(encode_broadcast(message)) == message
    assert BroadcastEvent(PDU).room_id == ROOM


def test_one_beacon_costs_fifteen_octets() -> None:
    assert len(encode_broadcast(BroadcastBeacons(BEACONS.rooms[:1]))) == 15


def test_an_event_that_names_no_room_is_not_broadcast() -> None:
    for pdu in ({"type": "m.room.create"}, {"room_id": 7}, {"room_id": "x"}):
        with pytest.raises(WireError):
            encode_broadcast(BroadcastEvent(pdu))
        with pytest.raises(WireError):
            decode_broadcast(cbor2.dumps([1, pdu]))


@pytest.mark.parametrize(
    "value",
    [
        1,
        [],
        [1],
        [1, {}, 2],
        [1, []],
        [1, {"room_id": ROOM, "content": b"octets"}],
        [2, b""],
        [2, bytes(13)],
        [2, bytes(12 * (BROADCAST_BEACONS_MAX + 1))],
        [2, "text"],
        [3, {}],
        ["1", {}],
        [True, {}],
    ],
)
def test_what_is_no_message_is_refused(value: object) -> None:
    with pytest.raises(WireError):
        decode_broadcast(cbor2.dumps(value))


def test_mutated_captures_give_a_message_or_an_error() -> None:
    rng = random.Random(1)
    captures = [encode_broadcast(BroadcastEvent(PDU)), encode_broadcast(BEACONS)]
    read = 0
    for _ in range(30_000):
        data = bytearray(rng.choice(captures))
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(data))
            if rng.random() < 0.7:
                data[at] = rng.randrange(256)
            else:
                data[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        try:
            message = decode_broadcast(bytes(data))
        except WireError:
            continue
        read += 1
        assert decode_broadcast(encode_broadcast(message)) == message
    assert read > 6_000, "fewer than a fifth pass the outer layer"
