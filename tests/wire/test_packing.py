"""Large JSON texts are sent deflated, and what comes back is bounded whatever the octets are."""

from __future__ import annotations

import json
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pserver.wire.fields import WireError
from p2pserver.wire.packing import pack, unpack

FUZZ_CASES = 20_000


@given(st.dictionaries(st.text(), st.text()))
def test_a_text_comes_back(value: dict[str, str]) -> None:
    text = json.dumps(value).encode()
    packed = pack(text)
    assert len(packed) <= len(text)
    assert unpack(packed, len(text)) == text


def test_text_that_repeats_itself_is_shorter() -> None:
    text = json.dumps([{"type": "m.room.member", "sender": f"@user{n}:example.org"} for n in range(20)]).encode()
    assert len(pack(text)) < len(text) // 3


def test_a_bomb_is_refused_before_it_is_held() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"\0" + b"".join(bomb.compress(bytes(1_000_000)) for _ in range(100)) + bomb.flush()
    assert len(packed) < 200_000
    with pytest.raises(WireError, match="too much"):
        unpack(packed, 4_000_000)


def test_mutated_packed_texts_are_unpacked_within_the_bound_or_refused() -> None:
    """Deflate has no checksum: a fifth at least still unpacks, to something else."""
    rng = random.Random(4)
    text = json.dumps([{"body": rng.randbytes(8).hex(), "n": n} for n in range(12)]).encode()
    valid = pack(text)
    understood = 0
    for _ in range(FUZZ_CASES):
        octets = bytearray(valid)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(1, len(octets))
            match rng.randrange(3):
                case 0:
                    octets[at] ^= 1 << rng.randrange(8)
                case 1:
                    octets[at:at] = rng.randbytes(1)
                case _:
                    octets[at], octets[-at] = octets[-at], octets[at]
        try:
            found = unpack(bytes(octets), 2 * len(text))
        except WireError:
            continue
        understood += 1
        assert len(found) <= 2 * len(text)
    assert understood >= FUZZ_CASES // 5
