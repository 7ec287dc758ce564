"""Frames on a serial line: what arrives damaged is not taken for a frame, and never harms the next."""

from __future__ import annotations

import random

import pytest

from transports.contract import INSTANCE_ID_OCTETS
from transports.serial import frames as frames_module
from transports.serial.control import Control, Kind, decode_control
from transports.serial.frames import (
    HANDLE_MAX,
    Frame,
    FrameDecoder,
    body_octets_within,
    decode_frame,
    encode_frame,
    frame_octets,
)

FUZZ_CASES = 20_000
BODY_MAX = 300


def some_frame(rng: random.Random) -> Frame:
    body = rng.choice([rng.randbytes, bytes])(rng.choice([1, 2, 20, 253, 254, rng.randint(1, BODY_MAX)]))
    return Frame(
        rng.randint(0, HANDLE_MAX),
        rng.randint(1, HANDLE_MAX),
        body,
        control=rng.random() < 0.3,
        over=rng.random() < 0.5,
    )


def in_pieces(rng: random.Random, octets: bytes) -> list[bytes]:
    cuts = sorted(rng.randint(0, len(octets)) for _ in range(rng.randint(0, 5)))
    return [octets[start:end] for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True)]


def feed(decoder: FrameDecoder, pieces: list[bytes]) -> list[Frame]:
    return [frame for piece in pieces for frame in decoder.feed(piece)]


def test_frames_arrive_as_they_were_sent_however_they_are_cut() -> None:
    rng = random.Random(1)
    for _ in range(300):
        sent = [some_frame(rng) for _ in range(rng.randint(1, 6))]
        octets = b"".join(encode_frame(frame, after_silence=rng.random() < 0.5) for frame in sent)
        decoder = FrameDecoder(BODY_MAX)
        assert feed(decoder, in_pieces(rng, octets)) == sent
        assert (decoder.good, decoder.damaged, decoder.octets) == (len(sent), 0, len(octets))
        assert not decoder.mid_frame


def test_a_frame_costs_seven_octets_and_one_in_254() -> None:
    for body in (1, 20, 100, 249, 250, 500, 1_500):
        worst = Frame(1, 2, b"\1" * body)
        assert len(encode_frame(worst, after_silence=True)) == frame_octets(body)
    assert frame_octets(20) == 27
    assert body_octets_within(240) == 233


def test_noise_before_a_frame_costs_nothing_and_within_one_only_that() -> None:
    first, second = Frame(1, 2, b"first"), Frame(1, 2, b"second")
    decoder = FrameDecoder(BODY_MAX)
    got = decoder.feed(b"noise" + encode_frame(first, after_silence=True))
    got += decoder.feed(b"noise" + encode_frame(first, after_silence=False) + encode_frame(second, after_silence=False))
    assert got == [first, second]
    assert decoder.damaged == 2


def test_what_is_too_long_is_not_kept() -> None:
    decoder = FrameDecoder(BODY_MAX)
    for _ in range(1_000):
        assert decoder.feed(b"\x55" * 1_000) == []
        assert len(decoder._begun) <= frame_octets(BODY_MAX)
    fine = Frame(3, 4, b"fine")
    assert decoder.feed(encode_frame(fine, after_silence=True)) == [fine]
    assert decoder.damaged == 1


def mutated(rng: random.Random, octets: bytes) -> bytes:
    """One to four faults of a line: octets flipped, lost, doubled, inserted, a piece swapped or cut off."""
    out = bytearray(octets)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out)) if out else 0
        match rng.randrange(6):
            case 0 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 1 if out:
                del out[at : at + rng.randint(1, 3)]
            case 2:
                out[at:at] = out[at : at + rng.randint(1, 8)]
            case 3:
                out[at:at] = rng.randbytes(rng.randint(1, 4))
            case 4 if out:
                other = rng.randrange(len(out))
                out[at], out[other] = out[other], out[at]
            case _:
                del out[at:]
    return bytes(out)


def test_mutated_captures_are_frames_that_were_sent_or_none() -> None:
    """What passes the CRC is what was sent: 16 bits let 1 in 65,536 slip, so two in this many cases are too many."""
    rng = random.Random(2)
    wrong = passed = 0
    for _ in range(FUZZ_CASES):
        sent = [some_frame(rng) for _ in range(2)]
        octets = b"".join(encode_frame(frame, after_silence=True) for frame in sent)
        got = feed(FrameDecoder(BODY_MAX), in_pieces(rng, mutated(rng, octets)))
        passed += bool(got)
        wrong += sum(frame not in sent for frame in got)
    assert passed >= FUZZ_CASES // 5
    assert wrong <= 1


def test_mutated_control_frames_are_understood_or_ignored() -> None:
    """With a right CRC, as a hostile node sends them: half of the cases are understood."""
    rng = random.Random(3)
    understood = 0
    for _ in range(FUZZ_CASES):
        control = Control(rng.choice(list(Kind)), rng.randbytes(INSTANCE_ID_OCTETS), rng.randrange(1 << 16), 5, b"ab")
        found = decode_control(mutated(rng, control.encode()))
        understood += found is not None
        if found is not None:
            again = decode_control(found.encode())
            assert again == found
    assert understood >= FUZZ_CASES // 5


def test_a_decoder_that_checks_no_crc_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module.binascii, "crc_hqx", lambda data, value: 0)
    with pytest.raises(AssertionError):
        test_mutated_captures_are_frames_that_were_sent_or_none()


@pytest.mark.parametrize("piece", [b"", b"\1", b"\1\1\1\1\1", b"\5ab", bytes(range(1, 20))])
def test_what_is_no_frame_is_none(piece: bytes) -> None:
    assert decode_frame(piece) is None
