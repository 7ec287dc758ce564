"""Valid datagrams and frames of every kind, changed a little: 100,000 cases, 20,000 of which pass the outer layer.

No exception leaves an endpoint, memory stays bounded, nothing is believed without the right tag, and an honest peer is
served afterwards.
"""

from __future__ import annotations

import random

import pytest

from p2pserver.link import Conversation, LinkEndpoint, PeerAuthenticated, Priority
from p2pserver.link.errors import RemoteLinkError
from p2pserver.link.frames import Ack, Credit, Fragment, Frame, Goodbye, Held, decode_frames, encode_ack, encode_goodbye
from p2pserver.link.limits import HANDSHAKE_OCTETS_MAX
from p2pserver.link.node_key import node_key_of
from p2pserver.link.pipe_state import PipeState
from p2pserver.link.sealing import SECURED, Sealer
from tests.link.lossy import CAROL, DAVE, Faults, World
from tests.link.test_hostile import Duel, honest_corpus, mutated

DECODER_CASES, INNER_CASES, OUTER_CASES = 50_000, 20_000, 30_000
PIECES = 10


def frames_of_all_kinds(seed: int) -> list[bytes]:
    """Plaintexts of honest pipes one after another, with losses, in datagrams large and small."""
    frames: list[bytes] = []
    kinds: set[type[Frame]] = set()
    honest = Sealer.seal

    def recording(self: Sealer, plain: bytes, acknowledged: int) -> bytes:
        frames.append(plain)
        kinds.update(map(type, decode_frames(plain, 1 << 20, short=self.is_short(acknowledged))))
        return honest(self, plain, acknowledged)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sealer, "seal", recording)
        world = World(seed)
        for octets_max in (1_400, 20, 244):
            for node in world.nodes:
                for octets in (3, 60, 700, 3_000):
                    node.conversation.send(world.rng.randbytes(octets), Priority(octets % 6))
            pipe = world.lay_pipe(octets_max, Faults(loss=0.2, delay_s=0.01, jitter_s=0.02))
            world.run(1)
            for end in pipe.ends:
                end.close("enough", world.now)
            world.kick()
            world.run(0.1)
    scattered = [(n, n + 1) for n in range(4_000, 3_900, -3)]
    frames += [encode_ack(scattered, 90, 9), encode_ack(scattered, 90, 200), encode_goodbye("why not", 100)]
    frames += [b"\x03\x48\x00", b"\x21\x03abc\x00\x02"]
    assert kinds >= {Ack, Credit, Fragment, Goodbye, Held}
    return frames


def handshakes(seed: int) -> list[bytes]:
    """Datagrams of handshakes of every pattern, whole and in parts."""
    datagrams: list[bytes] = []
    for octets_max in (20, 244):
        for known in (None, DAVE, b"\x05" * 32):
            world = World(seed)
            world.tamper = lambda _, datagram: datagrams.append(datagram) or [datagram]  # type: ignore[func-returns-value]
            world.lay_pipe(octets_max, Faults(), known_key=None if known is None else node_key_of(known))
            world.run(0.5)
    assert sum(not datagram[0] & SECURED for datagram in datagrams) > 40
    return datagrams


def test_decoder_of_frames() -> None:
    rng = random.Random(1)
    corpus = frames_of_all_kinds(1)
    understood = 0
    for _ in range(DECODER_CASES):
        try:
            plain = mutated(rng, rng.choice(corpus), corpus)
            understood += bool(decode_frames(plain, rng.choice((0, 40, 5_000, 1 << 40)), short=rng.random() < 0.3))
        except RemoteLinkError:
            continue
    assert 0.1 < understood / DECODER_CASES < 0.9


@pytest.mark.parametrize("piece", range(PIECES))
def test_mutated_frames_under_real_keys(piece: int) -> None:
    duel = Duel(piece + 100)
    corpus = frames_of_all_kinds(piece)
    before = duel.pipes
    for case in range(INNER_CASES // PIECES):
        if duel.is_dead():
            duel.connect()
        duel.attack_inside(mutated(duel.rng, duel.rng.choice(corpus), corpus))
        if case % 5 == 0:
            duel.conversation.received()
        if case % 1_000 == 999:
            assert duel.honest_message_passes(), f"{piece=} {case=}"
            duel.connect()
    assert duel.authentic == INNER_CASES // PIECES
    assert duel.pipes - before > 100


@pytest.mark.parametrize("piece", range(PIECES))
def test_mutated_datagrams(piece: int) -> None:
    """To an endpoint in every state; none gets a key or a message from it."""
    rng = random.Random(piece)
    corpus = handshakes(piece) + honest_corpus(piece)[0]

    def stranger() -> LinkEndpoint:
        initiator = rng.random() < 0.5
        known = rng.choice((None, node_key_of(CAROL))) if initiator else None
        octets_max = rng.choice((20, 1_400))
        return LinkEndpoint(
            DAVE, initiator, octets_max, rng.randbytes, 0.0, lambda _: True, local_epoch=2, known_key=known
        )

    duel = Duel(piece)
    strangers = [stranger(), stranger()]
    for case in range(OUTER_CASES // PIECES):
        which = rng.random()
        if which < 0.8:
            data = mutated(rng, rng.choice(corpus), corpus)
        elif which < 0.98:
            data = bytes((rng.randrange(256),)) + rng.randbytes(rng.randrange(120))
        else:
            data = rng.choice((b"", b"\x08", b"\x80", rng.randbytes(65_535), b"\x80" + bytes(70_000)))
        victim = (duel.victim, *strangers)[case % 3]
        victim.datagram_received(data, 1.0)
        victim.poll_transmit(1.0)
        parts = victim._handshake._parts.values()
        assert sum(len(octets) for known in parts for octets, _ in known.values()) <= HANDSHAKE_OCTETS_MAX
        assert not any(isinstance(event, PeerAuthenticated) for event in victim.events())
        if case % 3 and (victim.state is PipeState.DEAD or case % 100 < 3):
            strangers[case % 3 - 1] = stranger()
        if duel.is_dead():
            duel.connect()
    assert duel.conversation.received() == []
    assert duel.honest_message_passes()


def test_there_are_a_hundred_thousand_cases_and_a_fifth_of_them_is_sealed() -> None:
    assert DECODER_CASES + INNER_CASES + OUTER_CASES >= 100_000
    assert 5 * INNER_CASES >= DECODER_CASES + INNER_CASES + OUTER_CASES


def third_node() -> tuple[Duel, Duel]:
    """A conversation, and another of the same victim's program with somebody else."""
    return Duel(1), Duel(2)


def test_an_acknowledgement_of_a_third_node_frees_nothing() -> None:
    duel, other = third_node()
    number = duel.conversation.send(b"for you alone", Priority.TEXT)
    duel.victim.poll_transmit(duel.now)
    assert other.attacker._sealer is not None
    forged = other.attacker._seal(encode_ack([(0, 3)], 0, 100), 0.0)
    assert duel.victim._opener is not None
    for tag in (forged[0], duel.victim._opener.link_tag):
        duel.attack(bytes((tag,)) + forged[1:])
    assert duel.conversation.delivered() == []
    assert duel.conversation.queued_octets > 0
    duel.attack_inside(encode_ack([(0, duel.victim._sealer.counter)], 0, 100) if duel.victim._sealer else b"")
    assert duel.conversation.delivered() == [number]


def test_a_conversation_takes_a_counter_once() -> None:
    duel = Duel(1)
    conversation = Conversation(1)
    duel.attacker.attach(conversation)
    conversation.send(b"once", Priority.TEXT)
    datagrams = duel.attacker.poll_transmit(duel.now)
    for datagram in datagrams * 3:
        duel.attack(datagram)
    assert duel.conversation.received() == [b"once"]
