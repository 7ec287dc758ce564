"""What a server says that it holds in two octets for an event."""

from __future__ import annotations

import random

import pytest

from p2pserver.federation.held_filter import EVENTS_MAX, HeldThere, events_max, filter_of
from p2pserver.wire.messages import HOLDS_OCTETS_MAX

SALT = b"salt"


def ids(count: int, *, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [f"${rng.randbytes(32).hex()}" for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 33, EVENTS_MAX])
def test_all_that_is_held_is_found(count: int) -> None:
    held = ids(count, seed=count)
    octets = filter_of(held, SALT)
    assert len(octets) == 4 + 2 * count <= HOLDS_OCTETS_MAX
    assert all(each in HeldThere((), octets) for each in held)


def test_of_others_one_in_a_thousand_seems_held() -> None:
    there = HeldThere((), filter_of(ids(EVENTS_MAX, seed=1), SALT))
    wrong = sum(each in there for each in ids(20_000, seed=2))
    assert wrong < 40, wrong


def test_another_salt_is_wrong_about_others() -> None:
    held, others = ids(EVENTS_MAX, seed=1), ids(20_000, seed=2)
    first, second = (HeldThere((), filter_of(held, salt)) for salt in (SALT, b"tlas"))
    assert not [each for each in others if each in first and each in second]


def test_what_was_named_is_held_without_a_filter() -> None:
    named, other = ids(2, seed=3)
    assert named in HeldThere({named}, b"")
    assert other not in HeldThere({named}, b"")


@pytest.mark.parametrize("octets", [b"", b"\xff", b"\xff" * 4, b"\xff" * 5, b"\x00" * 1028, b"\xff" * 1028])
def test_any_octets_are_a_filter(octets: bytes) -> None:
    there = HeldThere((), octets)
    assert {each in there for each in ids(50, seed=4)} == {len(octets) > 4 and octets[4] == 0xFF}


def test_a_filter_takes_half_a_second_of_a_slow_link() -> None:
    assert events_max(None) == events_max(10**9) == EVENTS_MAX == 512
    assert events_max(9_600) * 16 <= 9_600 / 2
    assert events_max(20) == 0
    assert filter_of([], SALT) == b""
