"""What is broadcast under a network key: opened by who has it, once, in bounded memory; no nonce is used twice."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from p2pserver.link.broadcast import (
    ASSEMBLIES_MAX,
    ASSEMBLY_S,
    FRAGMENTS_MAX,
    JUMP_MAX,
    SENDERS_MAX,
    Broadcaster,
    Heard,
    Listener,
    fragments_of,
    message_octets_max,
)
from p2pserver.link.errors import MessageSize
from p2pserver.link.frames import decode_varint
from p2pserver.link.network_key import OPEN_NETWORK, NetworkKey
from p2pserver.link.replay import ReplayWindow

ANNA, BEN, CARL = b"A" * 32, b"B" * 32, b"C" * 32
FIRST = NetworkKey(network_id=b"12345678", name="Village", epoch=1, key=bytes(32))
SECOND = NetworkKey(network_id=b"12345678", name="Village", epoch=2, key=b"\1" * 32)
OCTETS = 120
SALT = b"a process"


def broadcaster(node_key: bytes = ANNA, network: NetworkKey = FIRST, *, start: int = 0) -> Broadcaster:
    made = Broadcaster(network, node_key, OCTETS, SALT)
    made.use_counters(start, 1_000_000)
    return made


def listener(*networks: NetworkKey, known: tuple[bytes, ...] = (ANNA, BEN)) -> Listener:
    made = Listener(CARL)
    made.use_networks(networks or (FIRST,))
    for node_key in known:
        made.know(node_key, SALT)
    return made


def sealed(speaker: Broadcaster, message: bytes) -> list[bytes]:
    datagrams = speaker.seal(message)
    assert datagrams is not None
    return datagrams


def heard(ear: Listener, datagrams: list[bytes], now: float = 0.0) -> list[Heard]:
    return [one for one in (ear.receive(datagram, now) for datagram in datagrams) if one is not None]


def test_every_size_arrives_whole_and_once() -> None:
    speaker, ear = broadcaster(), listener()
    rng = random.Random(1)
    for size in (1, 2, 97, 98, 99, 100, 101, 200, message_octets_max(OCTETS)):
        message = rng.randbytes(size)
        datagrams = sealed(speaker, message)
        assert len(datagrams) == fragments_of(size, OCTETS) <= FRAGMENTS_MAX
        assert max(map(len, datagrams)) <= OCTETS
        rng.shuffle(datagrams)
        assert heard(ear, datagrams + datagrams) == [Heard(ANNA, message)]


def test_a_message_of_one_datagram_costs_thirteen_octets_more_at_first_and_sixteen_later() -> None:
    assert len(sealed(broadcaster(), b"x" * 50)[0]) == 50 + 13
    assert len(sealed(broadcaster(start=20_000), b"x" * 50)[0]) == 50 + 16


def test_sizes_that_cannot_be_broadcast_are_refused() -> None:
    for size in (0, message_octets_max(OCTETS) + 1):
        with pytest.raises(MessageSize):
            broadcaster().seal(bytes(size))
    assert message_octets_max(20) == 0


def test_a_lost_fragment_loses_the_message_and_no_other() -> None:
    speaker, ear = broadcaster(), listener()
    first, second = sealed(speaker, b"a" * 300), sealed(speaker, b"b" * 300)
    assert heard(ear, [*first[:-1], *second]) == [Heard(ANNA, b"b" * 300)]


def test_a_parity_stands_in_for_any_one_fragment_and_not_for_two() -> None:
    rng = random.Random(6)
    for size in (101, 150, 300, 301, 302, message_octets_max(OCTETS)):
        message = rng.randbytes(size)
        for lost in range(fragments_of(size, OCTETS) + 1):
            speaker, ear = broadcaster(), listener()
            datagrams = speaker.seal(message, parity=True) or []
            assert len(datagrams) == fragments_of(size, OCTETS) + 1
            assert max(map(len, datagrams)) <= OCTETS
            left = datagrams[:lost] + datagrams[lost + 1 :]
            rng.shuffle(left)
            assert heard(ear, [*left, datagrams[lost]]) == [Heard(ANNA, message)]
            assert not ear._assembling
        assert heard(listener(), datagrams[2:]) == []


def test_parity_is_not_for_messages_of_one_datagram() -> None:
    assert len(broadcaster().seal(b"short", parity=True) or []) == 1


def test_without_the_key_nothing_is_heard() -> None:
    other = NetworkKey(network_id=b"87654321", name="Town", epoch=1, key=b"\7" * 32)
    for network in (OPEN_NETWORK, SECOND, other):
        ear = listener(network)
        assert heard(ear, sealed(broadcaster(), b"secret")) == []
        assert ear.counts.strange == 1


def test_whoever_is_not_known_is_not_listened_to() -> None:
    ear = listener(known=(BEN,))
    assert heard(ear, sealed(broadcaster(ANNA), b"who?")) == []
    ear.know(ANNA, SALT)
    assert heard(ear, sealed(broadcaster(ANNA), b"me")) == [Heard(ANNA, b"me")]


def test_its_own_datagrams_are_not_heard() -> None:
    ear = listener()
    ear.know(CARL, SALT)
    assert heard(ear, sealed(broadcaster(CARL), b"echo")) == []


def test_nodes_with_one_handle_are_told_apart_by_the_tag() -> None:
    handle = FIRST.handle(ANNA)
    twin = next(key for key in (n.to_bytes(32, "big") for n in range(10**6)) if FIRST.handle(key) == handle)
    ear = listener(known=(twin, ANNA))
    assert heard(ear, sealed(broadcaster(ANNA), b"anna")) == [Heard(ANNA, b"anna")]
    assert heard(ear, sealed(broadcaster(twin), b"twin")) == [Heard(twin, b"twin")]


def test_the_older_epoch_is_read_and_a_newer_one_is_noticed() -> None:
    both, old = listener(SECOND, FIRST), listener(FIRST)
    new = sealed(broadcaster(network=SECOND), b"new")
    assert heard(both, sealed(broadcaster(network=FIRST), b"old") + new) == [Heard(ANNA, b"old"), Heard(ANNA, b"new")]
    assert heard(old, new) == []
    assert old.epochs_unread() == {2: 1}


def test_a_changed_octet_anywhere_makes_it_strange() -> None:
    datagram = sealed(broadcaster(), b"as it was sent")[0]
    for at in range(len(datagram)):
        for bit in range(8):
            changed = datagram[:at] + bytes([datagram[at] ^ 1 << bit]) + datagram[at + 1 :]
            assert listener().receive(changed, 0.0) is None


def test_a_forged_jump_does_not_silence_the_sender() -> None:
    ear, speaker = listener(), broadcaster()
    assert heard(ear, sealed(speaker, b"1"))
    assert not heard(ear, sealed(broadcaster(start=JUMP_MAX + 10), b"forged"))
    assert heard(ear, sealed(speaker, b"2"))
    assert heard(ear, sealed(broadcaster(start=JUMP_MAX - 10), b"forged within the jump"))
    assert not heard(ear, sealed(speaker, b"3"))
    ear.know(ANNA, SALT, next_counter=speaker.next_counter, epoch=1)
    assert heard(ear, sealed(speaker, b"4"))


def test_what_was_before_the_told_counter_is_old() -> None:
    ear, speaker = listener(known=()), broadcaster()
    before = sealed(speaker, b"recorded yesterday")
    ear.know(ANNA, SALT, next_counter=speaker.next_counter, epoch=1)
    assert not heard(ear, before)
    assert heard(ear, sealed(speaker, b"now"))


def test_counters_are_only_those_that_were_given() -> None:
    speaker = Broadcaster(FIRST, ANNA, OCTETS, SALT)
    assert speaker.seal(b"x") is None
    speaker.use_counters(10, 2)
    assert speaker.seal(b"x" * 300) is None
    assert [decode_varint(sealed(speaker, b"x")[0], 3)[0] for _ in range(2)] == [10, 11]
    assert speaker.seal(b"x") is None
    with pytest.raises(ValueError, match="given out before"):
        speaker.use_counters(11, 5)


def test_memory_is_bounded_whatever_a_forger_begins() -> None:
    ear = Listener(CARL)
    ear.use_networks([FIRST])
    keys = [number.to_bytes(32, "big") for number in range(SENDERS_MAX + 100)]
    for key in keys:
        ear.know(key, SALT)
    for key in keys:
        for number in range(4):
            ear.receive(sealed(broadcaster(key, start=number * 100), bytes(300))[0], 0.0)
    assert len(ear._senders) == SENDERS_MAX == sum(map(len, ear._by_handle.values()))
    assert len(ear._assembling) == sum(len(sender.assemblies) for sender in ear._senders.values()) <= ASSEMBLIES_MAX
    ear.receive(sealed(broadcaster(keys[-1], start=5_000), b"later")[0], ASSEMBLY_S + 1)
    assert not ear._assembling
    assert ear.counts.forgotten == SENDERS_MAX * 4


def test_any_datagram_is_taken_without_an_error() -> None:
    rng = random.Random(3)
    speaker, ear = broadcaster(), listener()
    captures = [datagram for size in (1, 40, 99, 300) for datagram in sealed(speaker, rng.randbytes(size))]
    for _ in range(20_000):
        datagram = bytearray(rng.choice(captures))
        for _ in range(rng.randint(0, 3)):
            at = rng.randrange(len(datagram))
            datagram[at : at + rng.randint(0, 4)] = rng.randbytes(rng.randint(0, 4))
            if not datagram:
                datagram = bytearray(b"\x40")
        ear.receive(bytes(datagram), 0.0)


def test_any_plaintext_under_the_key_is_taken_without_an_error() -> None:
    """The part behind the tag, as a forger with the key can reach it."""
    rng = random.Random(4)
    speaker, ear = broadcaster(), listener()
    whole = 0
    for _ in range(20_000):
        plaintext = bytes(rng.choices((0, 1, 2, 3, 16, 17, 255), k=rng.randint(1, 4))) + rng.randbytes(
            rng.randint(0, 9)
        )
        whole += ear.receive(speaker._datagram(plaintext), 0.0) is not None
    assert whole > 2_000
    assert ear.counts.strange == ear.counts.replayed == 0


# Sabotage


def check() -> list[str]:
    """What must hold of a speaker and an ear, over a long talk with two restarts of the speaker."""
    problems = []
    nonces: set[tuple[int, int]] = set()
    ear, reserved = listener(), 0
    rng = random.Random(5)
    said, got = 0, 0
    for _ in range(3):
        speaker = Broadcaster(FIRST, ANNA, OCTETS, SALT)
        for _ in range(50):
            message = rng.randbytes(rng.randint(1, 400))
            datagrams = speaker.seal(message)
            if datagrams is None:
                speaker.use_counters(reserved, 64)
                reserved += 64
                datagrams = sealed(speaker, message)
            said += 1
            for datagram in datagrams:
                nonce = (datagram[0], decode_varint(datagram, 3)[0])
                problems += [f"nonce {nonce} twice"] if nonce in nonces else []
                nonces.add(nonce)
            forged = [datagram[:-1] + bytes([datagram[-1] ^ 1]) for datagram in datagrams]
            problems += ["forged"] if heard(ear, forged) else []
            got += heard(ear, datagrams) == [Heard(ANNA, message)]
            problems += ["replayed"] if heard(ear, datagrams) else []
    return problems + ([] if said == got else [f"{got} of {said} heard"])


def test_the_check_is_content_with_the_code_as_it_is() -> None:
    assert check() == []


def repeat_a_nonce(patch: pytest.MonkeyPatch) -> None:
    honest = Broadcaster._datagram

    def stuck(self: Broadcaster, plaintext: bytes) -> bytes:
        datagram = honest(self, plaintext)
        self._next -= self._next % 10 == 7
        return datagram

    patch.setattr(Broadcaster, "_datagram", stuck)


def begin_again_after_a_restart(patch: pytest.MonkeyPatch) -> None:
    honest = Broadcaster.use_counters
    patch.setattr(Broadcaster, "use_counters", lambda self, start, count: honest(self, self._next, count))


def take_replays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReplayWindow, "is_new", lambda self, counter: True)


def swap_fragments(patch: pytest.MonkeyPatch) -> None:
    honest = Broadcaster.seal

    def swapped(self: Broadcaster, message: bytes) -> list[bytes] | None:
        middle = len(message) // 2
        return honest(self, message[middle:] + message[:middle] if len(message) > 200 else message)

    patch.setattr(Broadcaster, "seal", swapped)


def skip_the_tag(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("p2pserver.link.broadcast.compare_digest", lambda one, other: True)


@pytest.mark.parametrize(
    "fault", [repeat_a_nonce, begin_again_after_a_restart, take_replays, swap_fragments, skip_the_tag]
)
def test_a_fault_is_noticed(fault: Callable[[pytest.MonkeyPatch], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    assert check() != []
