"""What a peering does by the clock, by the speed of its link."""

from __future__ import annotations

import pytest

from p2pserver.federation.limits import PeeringLimits, PeeringTimers, answer_octets_on, timers_on

LAN = PeeringTimers()


@pytest.mark.parametrize("bit_rate", [None, 64_000, 1_000_000])
def test_a_fast_link_is_a_lan(bit_rate: int | None) -> None:
    assert timers_on(bit_rate, LAN) is LAN
    assert answer_octets_on(bit_rate) == PeeringLimits().answer_octets


@pytest.mark.parametrize("bit_rate", [300, 1_200, 9_600, 57_600])
def test_a_slow_link_says_little_by_the_clock_and_gives_answers_time(bit_rate: int) -> None:
    slow = timers_on(bit_rate, LAN)
    beacons_octets = 200  # of both sides, with acknowledgements and what the link adds
    assert 8 * beacons_octets / slow.compare_all_s < 0.25
    answer_s = answer_octets_on(bit_rate) * 8 / bit_rate
    assert slow.answer_s > 2.5 * answer_s
    assert answer_s <= 120
    for name in PeeringTimers.__slots__:
        if name != "offer_s":
            assert getattr(slow, name) >= getattr(LAN, name), name
