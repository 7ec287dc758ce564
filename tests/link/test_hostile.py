"""Whatever another side sends: no exception, bounded memory, and honest peers are served afterwards."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable

import pytest

from p2pserver.link import EPOCHS, Conversation, LinkEndpoint, PeerAuthenticated, PipeDead, Priority
from p2pserver.link.frames import (
    LONG_BITS,
    encode_ack,
    encode_credit,
    encode_fragment,
    encode_goodbye,
    encode_varint,
)
from p2pserver.link.limits import COUNTER_MAX, CREDIT_OCTETS, MESSAGE_OCTETS_MAX, REPLAY_WINDOW
from p2pserver.link.pipe_state import PipeState
from p2pserver.link.replay import ReplayWindow
from tests.link.lossy import CAROL, DAVE

HELD_MAX = 2 * CREDIT_OCTETS


class Duel:
    """An attacker who holds a real key, and a victim with one conversation over all pipes that the attacker makes."""

    def __init__(self, seed: int, octets_max: int = 1_400) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.octets_max = octets_max
        self.conversation = Conversation(2)
        self.pipes = 0
        self.authentic = 0
        self.connect()

    def connect(self, attacker_epoch: int = 1) -> None:
        """A new pipe with an honest handshake; the attacker sends nothing by itself after it."""
        self.attacker, self.victim = (
            LinkEndpoint(
                seed, seed is CAROL, self.octets_max, self.rng.randbytes, self.now, lambda _: True, local_epoch=epoch
            )
            for seed, epoch in ((CAROL, attacker_epoch), (DAVE, 2))
        )
        for _ in range(4):
            for source, target in ((self.attacker, self.victim), (self.victim, self.attacker)):
                for datagram in source.poll_transmit(self.now):
                    target.datagram_received(datagram, self.now)
        assert any(isinstance(event, PeerAuthenticated) for event in self.victim.events())
        self.victim.attach(self.conversation)
        self.pipes += 1

    def attack(self, datagram: bytes) -> None:
        """Hand a datagram to the victim and look at it from all sides."""
        self.now += 0.001
        self.victim.datagram_received(datagram, self.now)
        assert self.conversation.octets_held <= HELD_MAX
        self.victim.handle_timeout(self.now)
        self.victim.poll_transmit(self.now)
        deadline = self.victim.next_deadline()
        assert deadline is None or deadline > self.now, "the victim would spin"

    def attack_inside(self, frames: bytes) -> None:
        """The same with frames of the attacker's choice, encrypted with the real keys."""
        self.authentic += 1
        self.attack(self.attacker._seal(frames, self.now))

    def is_dead(self) -> bool:
        return self.victim.state is PipeState.DEAD

    def reason(self) -> str:
        (event,) = [event for event in self.victim.events() if isinstance(event, PipeDead)]
        return event.reason

    def honest_message_passes(self) -> bool:
        """A peer of the same key that restarted and means well is heard and answered."""
        epoch = self.rng.randrange(EPOCHS)
        self.connect(epoch)
        self.conversation.received()
        peer = Conversation(epoch)
        self.attacker.attach(peer)
        peer.send(b"honest", Priority.TEXT)
        answer = self.conversation.send(b"answer", Priority.ALERT)
        heard: list[bytes] = []
        got: list[bytes] = []
        delivered: list[int] = []
        for _ in range(20):
            self.now += 0.02
            for source, target in ((self.attacker, self.victim), (self.victim, self.attacker)):
                source.handle_timeout(self.now)
                for datagram in source.poll_transmit(self.now):
                    target.datagram_received(datagram, self.now)
            heard += self.conversation.received()
            got += peer.received()
            delivered += self.conversation.delivered()
        return heard == [b"honest"] and b"answer" in got and answer in delivered


def honest_corpus(seed: int) -> tuple[list[bytes], list[bytes]]:
    """(datagrams, the frames in them) of a handshake and a conversation both ways."""
    duel = Duel(seed, 200)
    datagrams: list[bytes] = []
    frames: list[bytes] = []
    fresh = [
        LinkEndpoint(key, key is CAROL, 200, duel.rng.randbytes, 0.0, lambda _: True, local_epoch=epoch)
        for key, epoch in ((CAROL, 1), (DAVE, 2))
    ]
    talks = [Conversation(1), Conversation(2)]
    for index, talk in enumerate(talks):
        for octets in (3, 60, 700, 5_000):
            talk.send(bytes([index]) * octets, Priority(octets % 6))
    for end in fresh:
        seal = end._seal

        def recording(plain: bytes, now: float, seal: Callable[[bytes, float], bytes] = seal) -> bytes:
            frames.append(plain)
            return seal(plain, now)

        end._seal = recording  # type: ignore[method-assign,assignment]
    now = 0.0
    for _ in range(60):
        now += 0.01
        for side in (0, 1):
            fresh[side].handle_timeout(now)
            for event in fresh[side].events():
                if isinstance(event, PeerAuthenticated):
                    fresh[side].attach(talks[side])
            for datagram in fresh[side].poll_transmit(now):
                datagrams.append(datagram)
                fresh[1 - side].datagram_received(datagram, now)
    assert not any(talk.queued_octets for talk in talks)
    assert len(frames) > 60
    return datagrams, frames


def mutated(rng: random.Random, original: bytes, others: list[bytes]) -> bytes:
    """One of many small changes to something valid."""
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        what = rng.randrange(8)
        at = rng.randrange(len(data) + 1)
        if what == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif what == 1 and data:
            data[at % len(data)] = rng.choice((0x00, 0x3F, 0x40, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif what == 2:
            del data[at:]
        elif what == 3:
            del data[at : at + rng.randrange(1, 9)]
        elif what == 4:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif what == 5:
            data[at:at] = encode_varint(rng.choice((0, 63, 64, 16_384, 1 << 20, (1 << 30) - 1, 1 << 40, (1 << 62) - 1)))
        elif what == 6:
            other = rng.choice(others)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        else:
            data += data[: rng.randrange(1 + min(len(data), 1_000))]
    return bytes(data[:60_000])


def fragment(position: int, data: bytes, *, priority: int = 1) -> bytes:
    return encode_fragment(priority, position, LONG_BITS[1], data, with_length=True)


def message(data: bytes) -> bytes:
    return encode_varint(len(data)) + data


PROTOCOL_ERRORS = {
    "unknown frame": b"\x07",
    "empty fragment": b"\x60\x00\x00",
    "fragment without position": b"\x60",
    "cut position": b"\x68\x00\x00",
    "cut length": b"\x70\x00\x00\x05abc",
    "message of no octets": fragment(0, b"\x00"),
    "message over its limit": fragment(0, encode_varint(MESSAGE_OCTETS_MAX + 1)),
    "message of 2**62": fragment(0, encode_varint((1 << 62) - 1)),
    "before the first octet": fragment((1 << LONG_BITS[1]) - 1, b"x"),
    "more than the credit": fragment(CREDIT_OCTETS, b"x"),
    "more than the credit in all classes": b"".join(fragment(400_000, b"x", priority=n) for n in range(6)),
    "more messages than the credit": fragment(0, message(b"x") * 8_200),
    "acknowledges the next one": encode_ack([(1_000, 1_001)], 0, 100),
    "range below zero": b"\x01\x00\x00\x00\x00\x06",
    "bits below zero": b"\x06\x00\x00\x00\x80\x00\x00\x00",
    "too many ranges": b"\x01\x00\x00\x00" + encode_varint(5_000) + bytes(400),
    "cut acknowledgement": b"\x01\x05",
    "cut bits": b"\x06\x00\x00\x00\x80\x00",
    "cut goodbye": b"\x04\x05abc",
    "cut unknown frame": b"\x30\x05abc",
    "holds what was never sent": b"\x05\x02\x20\x00\x00\x01",
    "holds behind what was never sent": b"\x05\x02\x21\x00\x00\x00\x00\x00",
    "holds a class that is not in the mask": b"\x05\x02\x40\x00\x00\x00",
    "holds a class that there is not": b"\x05\x80\xe0\x00\x00\x00",
    "cut held": b"\x05\x02\x21\x00\x00\x00\x00",
}


@pytest.mark.parametrize("frames", PROTOCOL_ERRORS.values(), ids=PROTOCOL_ERRORS.keys())
def test_protocol_errors_end_the_pipe_and_only_the_pipe(frames: bytes) -> None:
    duel = Duel(1)
    duel.attack_inside(frames)
    assert duel.is_dead()
    assert duel.reason().startswith("protocol error of the peer: ")
    assert not duel.conversation.attached
    assert duel.honest_message_passes()


def test_frames_of_a_later_version_are_skipped() -> None:
    duel = Duel(1)
    duel.attack_inside(b"\x20\x03abc" + b"\x00\x00" + fragment(0, message(b"hello")) + b"\x3f\x00")
    assert not duel.is_dead()
    assert duel.conversation.received() == [b"hello"]


def test_what_a_stranger_says_at_the_end_is_printable_and_short() -> None:
    duel = Duel(1)
    duel.attack_inside(b"\x04\x40\x60" + b"\x1b[31m\n" * 16)
    reason = duel.reason()
    assert reason.isprintable()
    assert len(reason) < 60
    assert encode_goodbye("é" * 100, 1_000)[1] == 40
    assert len(encode_goodbye("é" * 100, 9)) == 9


def test_counters_may_jump_but_never_come_back() -> None:
    duel = Duel(1)
    sealer = duel.attacker._sealer
    assert sealer is not None
    sealer.counter = 1 << 28
    recorded = duel.attacker._seal(fragment(0, message(b"one")), 0.0)
    for _ in range(3):
        duel.attack(recorded)
    sealer.counter = (1 << 28) - REPLAY_WINDOW
    duel.attack_inside(fragment(4, message(b"too old")))
    assert duel.conversation.received() == [b"one"]
    assert not duel.is_dead()


def test_an_endpoint_ends_before_it_uses_a_counter_twice() -> None:
    duel = Duel(1)
    assert duel.victim._sealer is not None
    duel.victim._sealer.counter = COUNTER_MAX - 1
    duel.conversation.send(bytes(5_000), Priority.TEXT)
    assert len(duel.victim.poll_transmit(duel.now)) == 1
    assert duel.reason() == "all counters are used"


def test_a_tampered_or_foreign_datagram_has_no_effect() -> None:
    duel = Duel(1)
    sealed = duel.attacker._seal(fragment(0, message(b"real")), 0.0)
    for at in range(len(sealed)):
        for bit in (1, 128):
            duel.attack(sealed[:at] + bytes([sealed[at] ^ bit]) + sealed[at + 1 :])
    assert duel.conversation.received() == []
    assert duel.victim.bad_datagrams >= 2 * (len(sealed) - 3)
    other = Duel(2)
    duel.attack(other.attacker._seal(fragment(0, message(b"foreign")), 0.0))
    assert duel.conversation.received() == []
    duel.attack(sealed)
    assert duel.conversation.received() == [b"real"]


def test_the_two_directions_have_different_keys() -> None:
    duel = Duel(1)
    duel.conversation.send(b"mirror", Priority.TEXT)
    own = duel.victim.poll_transmit(duel.now)
    assert own
    for datagram in own:
        duel.attack(datagram)
    assert duel.conversation.received() == []
    assert duel.victim.bad_datagrams == len(own)


def test_half_messages_hold_bounded_memory() -> None:
    duel = Duel(1, 65_535)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        position = 0
        while not duel.is_dead() and position < 10_000_000:
            duel.attack_inside(b"".join(fragment(position + 1, bytes(10_000), priority=n) for n in range(6)))
            position += 10_000
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert duel.reason() == "protocol error of the peer: more than the credit allows"
    assert position < 400_000
    assert held < 4_000_000


def test_tiny_messages_that_nobody_takes_hold_bounded_memory() -> None:
    duel = Duel(1, 65_535)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        number = 0
        while not duel.is_dead() and number < 100_000:
            duel.attack_inside(fragment(2 * number, message(b"x") * 500))
            number += 500
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert duel.reason() == "protocol error of the peer: more than the credit allows"
    assert number < 10_000
    assert held < 2_000_000


def test_a_message_in_too_many_pieces_holds_bounded_memory() -> None:
    duel = Duel(1, 65_535)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        pieces = 0
        while not duel.is_dead() and pieces < 100_000:
            duel.attack_inside(b"".join(fragment(2 * (pieces + n) + 1, b"a") for n in range(500)))
            pieces += 500
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert duel.reason() == "protocol error of the peer: messages in too many pieces"
    assert pieces <= 10_000
    assert held < 6_000_000


def test_restarting_again_and_again_holds_bounded_memory() -> None:
    duel = Duel(1, 65_535)
    for epoch in range(20):
        duel.connect(epoch + 10)
        for number in range(35):
            duel.attack_inside(fragment(number * 59_004, message(bytes(59_000))))
    assert CREDIT_OCTETS < duel.conversation.octets_held <= HELD_MAX
    assert len(duel.conversation.received()) >= 35


def test_an_acknowledgement_bomb_is_cheap() -> None:
    duel = Duel(1)
    duel.conversation.send(bytes(20_000), Priority.STATE)
    duel.victim.poll_transmit(duel.now)
    assert duel.victim._sealer is not None
    duel.victim._sealer.counter += 1 << 40
    bomb = encode_ack(
        [((1 << 40) - 10_000_000 * n - 9_999_999, (1 << 40) - 10_000_000 * n) for n in range(60)], 0, 1_300
    )
    for _ in range(200):
        duel.attack_inside(bomb)
    assert not duel.is_dead()
    assert duel.conversation.queued_octets == 20_000


def test_credit_that_shrinks_or_is_enormous_does_no_harm() -> None:
    duel = Duel(1)
    for limit in (0, (1 << 62) - 1, 5):
        duel.attack_inside(encode_credit(limit))
    duel.conversation.send(b"still", Priority.TEXT)
    assert duel.victim.poll_transmit(duel.now)


@pytest.mark.parametrize("seed", range(5))
def test_replay_window_against_a_plain_set(seed: int) -> None:
    rng = random.Random(seed)
    window = ReplayWindow()
    seen: set[int] = set()
    base = 0
    for _ in range(3_000):
        base += rng.choice((0, 1, 1, 2, 50, 3_000 if rng.random() < 0.01 else 1))
        counter = max(0, base - rng.choice((0, 0, 1, 5, 900, 1_023, 1_024, 1_500)))
        highest = max(seen, default=-1)
        expected = counter not in seen and counter > highest - REPLAY_WINDOW
        assert window.is_new(counter) == expected
        if expected:
            window.mark(counter)
            seen.add(counter)


def test_a_secured_datagram_before_the_handshake_is_ignored() -> None:
    rng = random.Random(1)
    end = LinkEndpoint(DAVE, False, 200, rng.randbytes, 0.0, lambda _: True, local_epoch=1)
    for _ in range(2_000):
        end.datagram_received(bytes((0x80 | rng.randrange(128),)) + rng.randbytes(40), 0.0)
    assert end.state is PipeState.AWAIT_FIRST
    assert end.bad_datagrams == 0
