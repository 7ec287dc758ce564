"""Which of two pipes stays, and who may talk."""

from __future__ import annotations

import itertools

import pytest

from p2pserver.mesh.neighbors import Neighbors, PipeFacts, newer_stays

SMALL, LARGE = b"\x01" * 32, b"\x02" * 32


def facts(*, here: bool, since: float = 0.0) -> PipeFacts:
    return PipeFacts(transport=0, initiated_here=here, since=since)


@pytest.mark.parametrize(
    ("old_by_small", "new_by_small", "gap_s"), list(itertools.product((True, False), (True, False), (0.0, 1.0, 60.0)))
)
def test_both_ends_decide_alike(old_by_small: bool, new_by_small: bool, gap_s: float) -> None:
    at_small = newer_stays(SMALL, LARGE, old=facts(here=old_by_small), new=facts(here=new_by_small, since=gap_s))
    at_large = newer_stays(
        LARGE, SMALL, old=facts(here=not old_by_small), new=facts(here=not new_by_small, since=gap_s)
    )
    assert at_small == at_large
    if gap_s > 10 or old_by_small == new_by_small:
        assert at_small
    else:
        assert at_small == new_by_small


def test_of_two_dials_at_once_the_order_of_arrival_does_not_matter() -> None:
    """One end may see the pipes in the other order than the other end."""
    by_small_stays = newer_stays(SMALL, LARGE, old=facts(here=False), new=facts(here=True, since=0.1))
    by_large_goes = newer_stays(LARGE, SMALL, old=facts(here=False), new=facts(here=True, since=0.1))
    assert by_small_stays
    assert not by_large_goes


def test_a_key_keeps_its_first_name() -> None:
    neighbors = Neighbors(SMALL)
    neighbors.remember_name(LARGE, "first")
    neighbors.remember_name(LARGE, "second")
    assert neighbors.name_of(LARGE) == "first"
    assert neighbors.name_of(SMALL) is None


def test_who_may_talk() -> None:
    neighbors = Neighbors(SMALL)
    assert not neighbors.may_talk(SMALL, 0.0)
    assert neighbors.may_talk(LARGE, 0.0)
    neighbors.punish(LARGE, until=60.0)
    assert not neighbors.may_talk(LARGE, 59.0)
    assert neighbors.may_talk(LARGE, 60.0)
    assert neighbors.block_only([LARGE]) == {LARGE}
    assert neighbors.block_only([LARGE]) == frozenset()
    assert not neighbors.may_talk(LARGE, 100.0)
    neighbors.block_only([])
    assert neighbors.may_talk(LARGE, 100.0)


def test_memory_of_strangers_is_bounded() -> None:
    neighbors = Neighbors(SMALL)
    for number in range(20_000):
        key = number.to_bytes(32, "big")
        neighbors.punish(key, until=1e9)
        neighbors.remember_name(key, str(number))
        neighbors.met_at(key, "lan", [key[:8], f"lan {number}"])
    assert len(neighbors._key_at) == 2_048
    assert len(neighbors._penalty_until) == 1024
    assert len(neighbors._name_of) == 16_384


def test_who_was_met_somewhere_is_expected_there() -> None:
    neighbors = Neighbors(SMALL)
    assert neighbors.expected_at("lan", [b"instance", "lan 10.0.0.2:4001"]) is None
    neighbors.met_at(LARGE, "lan", [b"instance", "lan 10.0.0.2:4001"])
    assert neighbors.expected_at("lan", [b"restarted", "lan 10.0.0.2:4001"]) == LARGE
    assert neighbors.expected_at("ble", [b"instance"]) is None
    other = bytes([7]) * 32
    neighbors.met_at(other, "lan", ["lan 10.0.0.2:4001"])
    assert neighbors.expected_at("lan", [b"instance", "lan 10.0.0.2:4001"]) == LARGE
    assert neighbors.expected_at("lan", ["lan 10.0.0.2:4001"]) == other
