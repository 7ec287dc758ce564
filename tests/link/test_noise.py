"""The Noise state machine against golden vectors and against a second implementation."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from p2pserver.link.noise import (
    IK,
    KEY_OCTETS,
    XX,
    XX_FALLBACK,
    Cipher,
    NoiseError,
    NoiseHandshake,
    Pattern,
    public_key_of,
)
from tests.link.noise_reference import run_handshake, run_ik

FOLDER = Path(__file__).parent.parent / "vectors"
PUBLISHED = json.loads((FOLDER / "noise_published.json").read_text())["vectors"]
PUBLISHED_IK = json.loads((FOLDER / "noise_ik_published.json").read_text())["vectors"]
MADE = json.loads((FOLDER / "noise.json").read_text())["vectors"]
VECTORS = [(XX, vector) for vector in PUBLISHED + MADE] + [(IK, vector) for vector in PUBLISHED_IK]


def pair(
    prologue: bytes, secrets: list[bytes], pattern: Pattern = XX, first: bytes = b""
) -> tuple[NoiseHandshake, NoiseHandshake]:
    """`secrets`: static and ephemeral of the initiator, then of the responder."""
    known = public_key_of(secrets[2]) if pattern is IK else None
    return (
        NoiseHandshake(
            pattern,
            initiator=True,
            static=secrets[0],
            ephemeral=secrets[1],
            prologue=prologue,
            remote_static=known,
            first=first,
        ),
        NoiseHandshake(
            pattern, initiator=False, static=secrets[2], ephemeral=secrets[3], prologue=prologue, first=first
        ),
    )


def run(initiator: NoiseHandshake, responder: NoiseHandshake, payloads: list[bytes]) -> list[bytes]:
    messages = []
    for index, payload in enumerate(payloads):
        by_initiator = initiator.pattern.writes(index, initiator=True)
        writer, reader = (initiator, responder) if by_initiator else (responder, initiator)
        messages.append(writer.write(payload))
        assert reader.read(messages[-1]) == payload
    return messages


@pytest.mark.parametrize(("pattern", "vector"), VECTORS, ids=[f"{p.name} {v['name']}" for p, v in VECTORS])
def test_vector(pattern: Pattern, vector: dict[str, object]) -> None:
    def octets(name: str) -> bytes:
        return bytes.fromhex(str(vector[name]))

    initiator, responder = pair(
        octets("prologue"),
        [octets("init_static"), octets("init_ephemeral"), octets("resp_static"), octets("resp_ephemeral")],
        pattern,
    )
    handshake = len(pattern.messages)
    messages = vector["messages"]
    assert isinstance(messages, list)
    payloads = [bytes.fromhex(message["payload"]) for message in messages]
    expected = [bytes.fromhex(message["ciphertext"]) for message in messages]
    assert run(initiator, responder, payloads[:handshake]) == expected[:handshake]
    assert initiator.handshake_hash == responder.handshake_hash
    assert initiator.handshake_hash.hex() == vector.get("handshake_hash", initiator.handshake_hash.hex())
    assert responder.remote_static == public_key_of(octets("init_static"))
    assert initiator.remote_static == public_key_of(octets("resp_static"))
    (i_send, i_receive), (r_send, r_receive) = initiator.split(), responder.split()
    for index, (payload, sealed) in enumerate(zip(payloads[handshake:], expected[handshake:], strict=True)):
        by_initiator = (handshake + index) % 2 == 0
        send, receive = (i_send, r_receive) if by_initiator else (r_send, i_receive)
        assert Cipher(send).encrypt(index // 2, b"", payload) == sealed
        assert Cipher(receive).decrypt(index // 2, b"", sealed) == payload


def test_the_published_vectors_are_there_and_say_the_handshake_hash() -> None:
    assert [vector["name"] for vector in PUBLISHED] == ["cacophony", "snow"]
    assert [len(vector["messages"]) for vector in PUBLISHED] == [6, 3]
    assert "handshake_hash" in PUBLISHED[0]
    assert [vector["name"] for vector in PUBLISHED_IK] == ["cacophony", "snow"]
    assert "handshake_hash" in PUBLISHED_IK[0]


@pytest.mark.parametrize("seed", range(20))
def test_two_implementations_agree(seed: int) -> None:
    rng = random.Random(seed)
    prologue = rng.randbytes(rng.randrange(40))
    secrets = [rng.randbytes(KEY_OCTETS) for _ in range(4)]
    payloads = [rng.randbytes(rng.randrange(200)) for _ in range(3)]
    expected = run_handshake(
        prologue, (secrets[0], secrets[1]), (secrets[2], secrets[3]), (payloads[0], payloads[1], payloads[2])
    )
    initiator, responder = pair(prologue, secrets)
    assert tuple(run(initiator, responder, payloads)) == expected.messages
    assert initiator.handshake_hash == responder.handshake_hash == expected.handshake_hash
    assert initiator.split() == (expected.initiator_key, expected.responder_key)
    assert responder.split() == (expected.responder_key, expected.initiator_key)


@pytest.mark.parametrize("seed", range(20))
def test_two_implementations_agree_on_ik_and_on_what_follows_when_it_fails(seed: int) -> None:
    rng = random.Random(seed)
    prologue = rng.randbytes(rng.randrange(40))
    secrets = [rng.randbytes(KEY_OCTETS) for _ in range(4)]
    payloads = [rng.randbytes(rng.randrange(200)) for _ in range(2)]
    initiator, responder = pair(prologue, secrets, IK)
    known = run_ik(prologue, (secrets[0], secrets[1]), (secrets[2], secrets[3]), (payloads[0], payloads[1]))
    assert tuple(run(initiator, responder, payloads)) == known.messages
    assert initiator.handshake_hash == responder.handshake_hash == known.handshake_hash
    assert initiator.split() == responder.split()[::-1] == (known.initiator_key, known.responder_key)
    assert responder.remote_static == public_key_of(secrets[0])

    other = run_handshake(
        prologue,
        (secrets[0], secrets[1]),
        (secrets[2], secrets[3]),
        (b"", payloads[0], payloads[1]),
        fallback=True,
    )
    initiator, responder = pair(prologue, secrets, XX_FALLBACK, public_key_of(secrets[1]))
    assert tuple(run(initiator, responder, payloads)) == other.messages[1:]
    assert initiator.handshake_hash == responder.handshake_hash == other.handshake_hash
    assert initiator.split() == responder.split()[::-1] == (other.initiator_key, other.responder_key)


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_message_changes_nothing(damaged: int) -> None:
    rng = random.Random(damaged)
    initiator, responder = pair(b"", [rng.randbytes(KEY_OCTETS) for _ in range(4)])
    for index in range(3):
        writer, reader = (initiator, responder) if index % 2 == 0 else (responder, initiator)
        message = writer.write(b"payload")
        if index == damaged:
            before = reader.handshake_hash
            for at in range(len(message)):
                with pytest.raises(NoiseError):
                    reader.read(message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :])
                with pytest.raises(NoiseError):
                    reader.read(message[:at])
            assert reader.handshake_hash == before
        assert reader.read(message) == b"payload"
    assert initiator.handshake_hash == responder.handshake_hash


SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
"""The u-coordinates of small order on Curve25519 and its twist, canonical and not."""


@pytest.mark.parametrize("key", SMALL_ORDER)
def test_a_key_of_small_order_is_refused(key: str) -> None:
    rng = random.Random(1)
    _, responder = pair(b"", [rng.randbytes(KEY_OCTETS) for _ in range(4)])
    responder.read(bytes.fromhex(key))
    with pytest.raises(NoiseError):
        responder.write(b"")
