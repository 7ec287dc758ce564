"""Timers and datagram sizes from the profile of a link."""

from __future__ import annotations

import pytest

from p2pserver.link import LinkTimers, airtime_s, datagram_octets, timers_for
from transports.contract import LinkProfile


def profile(bit_rate: int | None, octets: int = 255, **more: object) -> LinkProfile:
    return LinkProfile(
        kind="test",
        addressed_octets_max=octets,
        broadcast_octets_max=None,
        bit_rate=bit_rate,
        airtime_ms_per_hour=None,
        shared_medium=False,
        half_duplex=True,
        **more,  # type: ignore[arg-type]
    )


def test_a_link_that_tells_nothing_has_the_timers_of_a_lan() -> None:
    assert timers_for(profile(None, 65_535)) == LinkTimers()
    assert airtime_s(profile(None), 1_000) == 0


def test_airtime_is_a_fixed_part_and_the_octets() -> None:
    assert airtime_s(profile(1_200, datagram_overhead_ms=40.0), 150) == pytest.approx(1.04)


@pytest.mark.parametrize("octets", [20, 64, 255, 65_535])
@pytest.mark.parametrize("bit_rate", [300, 1_200, 9_600, 115_200, 1_000_000, 100_000_000])
def test_no_timer_is_shorter_than_the_datagrams_it_waits_for(bit_rate: int, octets: int) -> None:
    link = profile(bit_rate, octets)
    timers = timers_for(link)
    full_s = airtime_s(link, datagram_octets(link))
    message_s = airtime_s(link, 160)
    assert timers.handshake_retry_s > 2 * message_s
    assert timers.handshake_limit_s > 8 * timers.handshake_retry_s
    assert timers.initial_rtt_s > 2 * full_s
    assert timers.timeout_max_s > 4 * full_s
    assert timers.dead_after_s >= timers.answer_s > 8 * full_s


def test_datagrams_of_a_slow_link_leave_room_for_what_is_urgent() -> None:
    assert datagram_octets(profile(300, 65_535)) == 255
    assert airtime_s(profile(9_600), datagram_octets(profile(9_600, 65_535))) <= 0.5
    assert datagram_octets(profile(9_600, 20)) == 20
    assert datagram_octets(profile(None, 65_535)) == 65_535


def test_an_idle_slow_link_is_asked_rarely_or_never() -> None:
    assert timers_for(profile(300)).idle_ping_s is None
    slow = timers_for(profile(1_200)).idle_ping_s
    assert slow is not None
    assert 8 * 30 / slow < 0.5
    assert timers_for(profile(115_200)).idle_ping_s == 15


def test_a_gap_is_no_loss_while_the_link_may_still_bring_it() -> None:
    for bit_rate in (None, 250_000):
        timers = timers_for(profile(bit_rate, reorder_ms=1_000))
        assert timers.reorder_wait_s == 1.0
        assert timers.timeout_min_s == 1.5
