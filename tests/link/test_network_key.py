"""Network keys: the line of text in which they travel, and what is no such line."""

from __future__ import annotations

import random

import pytest

from p2pserver.link.network_key import (
    OPEN_NETWORK,
    NetworkKey,
    NetworkKeyError,
    decode_network_key,
    encode_network_key,
)

VILLAGE = NetworkKey(network_id=b"12345678", name="Village", epoch=3, key=bytes(range(32)))
LINE = "P2PNET1:GEZDGNBVGY3TQAAAAABQAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H2WNFWGYYLHMXQJMGHY"


def test_the_line_is_the_one_that_is_specified() -> None:
    assert encode_network_key(VILLAGE) == LINE
    assert decode_network_key(LINE) == VILLAGE


def test_every_key_comes_back() -> None:
    rng = random.Random(3)
    for name in ("x", "Village", "Bergdorf über dem See", "村", "32 octets are the most of a name"):
        network = NetworkKey(
            network_id=rng.randbytes(8), name=name, epoch=rng.randint(1, 2**32 - 1), key=rng.randbytes(32)
        )
        assert decode_network_key(encode_network_key(network)) == network


def test_case_spaces_line_breaks_and_comments_do_not_matter() -> None:
    text = f"# the village\n{LINE[:40].lower()}\n  {LINE[40:60]} {LINE[60:]}\n\n"
    assert decode_network_key(text) == VILLAGE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no network key"),
        ("hello", "no network key"),
        ("P2PNET1:", "no network key"),
        (LINE.replace("P2PNET1", "P2PNET2"), "version 2: run a newer p2pserver"),
        (LINE[:-1], "damaged"),
        (LINE[:30], "damaged"),
        (LINE.replace("GEZD", "GEZE"), "damaged"),
        (LINE + LINE, "no network key"),
        (encode_network_key(OPEN_NETWORK), "open network"),
    ],
)
def test_what_is_no_key_is_told_in_one_line(text: str, says: str) -> None:
    with pytest.raises(NetworkKeyError, match=says) as caught:
        decode_network_key(text)
    assert "\n" not in str(caught.value)


def test_every_mistyped_character_is_found() -> None:
    rng = random.Random(1)
    for at in range(len("P2PNET1:"), len(LINE)):
        other = rng.choice([c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" if c != LINE[at]])
        changed = LINE[:at] + other + LINE[at + 1 :]
        try:
            assert decode_network_key(changed) == VILLAGE, "another key was read"
        except NetworkKeyError:
            continue
        assert at == len(LINE) - 1, "only bits behind the last octet may change unnoticed"


def test_nothing_but_an_error_comes_of_garbage() -> None:
    rng = random.Random(2)
    for _ in range(2_000):
        text = list(LINE)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text))
            text[at : at + rng.randint(0, 3)] = rng.choices("AZ27:# \n\0é", k=rng.randint(0, 3))
        try:
            decode_network_key("".join(text))
        except NetworkKeyError:
            continue
