"""The hybrid clock: near wall time, after its parents, never beyond its bound, never beyond 2^53-1."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pserver.meg.clock import ALONE_MAX_MS, DRIFT_MAX_MS, NEIGHBORS_MAX, TIMESTAMP_MAX, HybridClock

BUILD_MS = 1_760_000_000_000
NOW_MS = 1_780_000_000_000
any_int = st.integers(-(2**53), 2**53)
timestamps = st.integers(-(2**53 - 1), 2**53 - 1)
clocks = st.builds(HybridClock, build_ms=st.just(BUILD_MS), trusted=st.booleans())


@given(
    clock=clocks, wall_ms=any_int, parents=st.lists(timestamps, max_size=20), neighbors=st.lists(any_int, max_size=5)
)
def test_between_zero_and_the_bound(clock: HybridClock, wall_ms: int, parents: list[int], neighbors: list[int]) -> None:
    for number, clock_ms in enumerate(neighbors):
        clock.neighbor_clock(f"n{number}", clock_ms=clock_ms, wall_ms=wall_ms)
    stamp = clock.stamp(wall_ms=wall_ms, parents_ts=parents)
    bound = clock.bound_ms(wall_ms)
    assert 0 <= stamp <= min(bound + 1, TIMESTAMP_MAX)
    if parents and max(parents) <= bound:
        assert stamp > max(parents) or stamp == TIMESTAMP_MAX
    if 0 <= wall_ms <= bound:
        assert stamp >= wall_ms


@given(wall_ms=st.integers(0, 2**53 - 1), parents=st.lists(timestamps, max_size=20))
def test_a_trusted_wall_clock_is_left_by_no_more_than_a_quarter_of_an_hour(wall_ms: int, parents: list[int]) -> None:
    stamp = HybridClock(build_ms=BUILD_MS, trusted=True).stamp(wall_ms=wall_ms, parents_ts=parents)
    assert wall_ms <= stamp <= wall_ms + DRIFT_MAX_MS + 1


@given(walls=st.lists(st.integers(0, 2**53), min_size=2, max_size=20), lie=timestamps)
def test_a_chain_of_own_events_never_goes_back(walls: list[int], lie: int) -> None:
    """While the wall clock does not go back either; a liar among the parents changes nothing in that."""
    clock, last = HybridClock(build_ms=BUILD_MS, trusted=True), 0
    for wall_ms in sorted(walls):
        stamp = clock.stamp(wall_ms=wall_ms, parents_ts=[last, lie])
        assert stamp >= last
        last = stamp


def test_after_the_parents_by_a_millisecond() -> None:
    clock = HybridClock(build_ms=BUILD_MS, trusted=True)
    assert clock.stamp(wall_ms=NOW_MS, parents_ts=[]) == NOW_MS
    assert clock.stamp(wall_ms=NOW_MS, parents_ts=[NOW_MS - 5, NOW_MS - 9]) == NOW_MS
    assert clock.stamp(wall_ms=NOW_MS, parents_ts=[NOW_MS + 5, NOW_MS]) == NOW_MS + 6
    assert clock.stamp(wall_ms=NOW_MS, parents_ts=[NOW_MS]) == NOW_MS + 1


def test_a_parent_from_the_far_future_moves_us_a_quarter_of_an_hour() -> None:
    clock = HybridClock(build_ms=BUILD_MS, trusted=True)
    assert clock.stamp(wall_ms=NOW_MS, parents_ts=[TIMESTAMP_MAX]) == NOW_MS + DRIFT_MAX_MS + 1


def test_alone_without_a_clock_the_build_date_is_what_is_known() -> None:
    clock = HybridClock(build_ms=BUILD_MS, trusted=False)
    assert clock.bound_ms(0) == clock.bound_ms(TIMESTAMP_MAX) == BUILD_MS + ALONE_MAX_MS
    assert clock.stamp(wall_ms=0, parents_ts=[NOW_MS]) == NOW_MS + 1
    assert clock.stamp(wall_ms=TIMESTAMP_MAX, parents_ts=[]) == BUILD_MS + ALONE_MAX_MS


def test_without_a_clock_the_median_of_the_neighbors_counts() -> None:
    clock = HybridClock(build_ms=BUILD_MS, trusted=False)
    for neighbor, clock_ms in (("liar", TIMESTAMP_MAX), ("a", NOW_MS), ("b", NOW_MS + 1_000)):
        clock.neighbor_clock(neighbor, clock_ms=clock_ms, wall_ms=0)
    assert clock.bound_ms(0) == NOW_MS + 1_000 + DRIFT_MAX_MS
    assert clock.bound_ms(60_000) == NOW_MS + 61_000 + DRIFT_MAX_MS, "time has passed since they were heard"
    assert clock.stamp(wall_ms=0, parents_ts=[TIMESTAMP_MAX]) == NOW_MS + 1_000 + DRIFT_MAX_MS + 1
    clock.forget_neighbor("liar")
    assert clock.bound_ms(0) == NOW_MS + DRIFT_MAX_MS
    clock.forget_neighbor("a")
    clock.forget_neighbor("b")
    assert clock.bound_ms(0) == BUILD_MS + ALONE_MAX_MS


def test_a_trusted_clock_needs_no_neighbors() -> None:
    clock = HybridClock(build_ms=BUILD_MS, trusted=False)
    clock.neighbor_clock("a", clock_ms=NOW_MS * 2, wall_ms=NOW_MS)
    clock.trusted = True
    assert clock.bound_ms(NOW_MS) == NOW_MS + DRIFT_MAX_MS


def test_a_crowd_of_neighbors_takes_no_memory() -> None:
    """Each neighbor counts once, and those heard last stay."""
    clock = HybridClock(build_ms=BUILD_MS, trusted=False)
    for number in range(10 * NEIGHBORS_MAX):
        clock.neighbor_clock("same", clock_ms=TIMESTAMP_MAX, wall_ms=0)
        clock.neighbor_clock(f"n{number}", clock_ms=NOW_MS, wall_ms=0)
    assert clock.bound_ms(0) == NOW_MS + DRIFT_MAX_MS
    for number in range(NEIGHBORS_MAX):
        clock.neighbor_clock(f"later{number}", clock_ms=NOW_MS + 1, wall_ms=0)
    assert clock.bound_ms(0) == NOW_MS + 1 + DRIFT_MAX_MS


def test_saturation() -> None:
    clock = HybridClock(build_ms=BUILD_MS, trusted=True)
    assert clock.stamp(wall_ms=TIMESTAMP_MAX, parents_ts=[TIMESTAMP_MAX]) == TIMESTAMP_MAX
    assert clock.stamp(wall_ms=2**70, parents_ts=[2**70]) == TIMESTAMP_MAX
    assert clock.stamp(wall_ms=-1, parents_ts=[-5]) == 0
