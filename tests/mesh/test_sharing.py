"""Which of several pipes to one peer sends what."""

from __future__ import annotations

from p2pserver.link import Priority
from p2pserver.mesh.sharing import LASTED_S, Standing, Trust, shares

LAN = Standing(bit_rate=None, metered=False, round_trip_s=0.002)
BLE = Standing(bit_rate=500_000, metered=False, round_trip_s=0.06)
RADIO = Standing(bit_rate=9_600, metered=True, round_trip_s=0.5)


def on(*pipes: Standing, before: dict[Priority, int] | None = None) -> list[int]:
    """The pipe of each class, the most urgent first."""
    chosen = shares(dict(enumerate(pipes)), before or {})
    return [chosen[priority] for priority in Priority]


def failing(pipe: Standing, timeouts: int) -> Standing:
    return Standing(bit_rate=pipe.bit_rate, metered=pipe.metered, round_trip_s=pipe.round_trip_s, timeouts=timeouts)


def test_no_pipe_carries_nothing() -> None:
    assert shares({}, {}) == {}


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
