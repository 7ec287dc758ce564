"""Which of several pipes to one peer sends what."""

from __future__ import annotations

from dataclasses import replace

from p2pserver.link import Priority
from p2pserver.mesh.sharing import LASTED_S, Standing, Trust, homes, shares

LAN = Standing(bit_rate=None, metered=False, round_trip_s=0.002)
BLE = Standing(bit_rate=500_000, metered=False, round_trip_s=0.06)
RADIO = Standing(bit_rate=9_600, metered=True, round_trip_s=0.5)


def on(*pipes: Standing, before: dict[Priority, int] | None = None) -> list[int]:
    """The pipe of each class, the most urgent first."""
    standings = dict(enumerate(pipes))
    chosen = shares(standings, homes(standings, before or {}))
    return [chosen[priority] for priority in Priority]


def failing(pipe: Standing, timeouts: int) -> Standing:
    return Standing(bit_rate=pipe.bit_rate, metered=pipe.metered, round_trip_s=pipe.round_trip_s, timeouts=timeouts)


def test_no_pipe_carries_nothing() -> None:
    assert shares({}, homes({}, {})) == {}


def test_the_fast_pipe_carries_everything() -> None:
    assert on(RADIO, BLE, LAN) == [2] * 6


def test_a_metered_pipe_is_the_last_resort() -> None:
    slow = Standing(bit_rate=1_200, metered=False, round_trip_s=2.0)
    assert on(RADIO, slow) == [1] * 6
    assert on(RADIO, failing(slow, 3)) == [0] * 6


def test_short_messages_move_at_the_first_timeout_and_long_ones_at_the_third() -> None:
    assert on(BLE, failing(LAN, 1)) == [0, 0, 1, 1, 1, 1]
    assert on(BLE, failing(LAN, 2)) == [0, 0, 1, 1, 1, 1]
    assert on(BLE, failing(LAN, 3)) == [0] * 6


def losing(pipe: Standing, loss: float, late_s: float, timeouts: int = 0) -> Standing:
    return replace(pipe, loss=loss, late_s=late_s, timeouts=timeouts)


def test_a_pipe_that_loses_is_left_by_what_is_there_sooner_over_another() -> None:
    fast = Standing(bit_rate=9_600, metered=False, round_trip_s=0.1)
    slow = Standing(bit_rate=4_800, metered=False, round_trip_s=0.1)
    assert on(fast, slow) == [0] * 6
    before = dict.fromkeys(Priority, 0)
    assert on(losing(fast, 0.1, 0.05), slow, before=before) == [0] * 6
    assert on(losing(fast, 0.4, 0.8), slow, before=before) == [1, 1, 0, 1, 0, 1]
    assert on(losing(fast, 0.8, 1.6), slow, before=before) == [1] * 6
    assert on(losing(LAN, 0.4, 0.1), slow, before=before) == [0] * 6


def test_where_losses_hold_the_window_down_what_is_long_moves() -> None:
    far = Standing(bit_rate=None, metered=False, round_trip_s=0.2, loss=0.2, late_s=0.02, window_bit_rate=330_000)
    near = Standing(bit_rate=1_000_000, metered=False, round_trip_s=0.15)
    assert on(far, near, before=dict.fromkeys(Priority, 0)) == [0, 0, 1, 0, 1, 0]


def test_a_pipe_that_loses_much_is_not_taken_for_dead_by_chance() -> None:
    assert [replace(LAN, loss=loss).patience for loss in (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.89)] == [
        *(3, 3, 3, 4, 6, 9, 9, 9)
    ]
    lossy = losing(LAN, 0.4, 0.01)
    assert on(BLE, replace(lossy, timeouts=8)) == [0, 0, 1, 1, 1, 1]
    assert on(BLE, replace(lossy, timeouts=9)) == [0] * 6


def test_what_left_for_a_moment_comes_back_at_once() -> None:
    """It would not if the pipe that it went over for the moment were its home: half the time is not to be had here."""
    other = Standing(bit_rate=None, metered=False, round_trip_s=0.0018)
    belongs = homes({0: LAN, 1: other}, dict.fromkeys(Priority, 0))
    assert shares({0: failing(LAN, 1), 1: other}, belongs)[Priority.TEXT] == 1
    belongs = homes({0: failing(LAN, 1), 1: other}, belongs)
    assert shares({0: LAN, 1: other}, belongs)[Priority.TEXT] == 0


def test_where_all_fail_the_one_with_the_fewest_timeouts_is_tried() -> None:
    assert on(failing(BLE, 4), failing(LAN, 9)) == [0] * 6


def test_a_little_better_is_not_worth_a_change() -> None:
    other = Standing(bit_rate=None, metered=False, round_trip_s=0.0018)
    assert on(LAN, other, before=dict.fromkeys(Priority, 0)) == [0] * 6
    assert on(LAN, other) == [1] * 6


def test_a_pipe_that_fails_again_and_again_is_left_out_for_longer_and_longer() -> None:
    trust, now = Trust(), 0.0
    waits = []
    for _ in range(9):
        trust.failed(now)
        until = trust.distrusted_until(now)
        waits.append(0.0 if until is None else until - now)
        now += 10.0 if until is None else until - now
    assert waits == [0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0]
    now += LASTED_S
    trust.failed(now)
    assert trust.distrusted_until(now) is None
