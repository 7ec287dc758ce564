"""Who dials whom, decided without a radio."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from transports.ble.roles import (
    BACK_OFF_MAX_S,
    DIALS_PER_MIN,
    FORGOTTEN_S,
    NEIGHBORS_MAX,
    POLITE_JITTER_S,
    POLITE_S,
    UNKNOWN_AGAIN_S,
    UNKNOWN_JITTER_S,
    Roles,
    TokenBucket,
)

LOW, HIGH = b"\x01" * 6, b"\xf0" * 6
OURS = b"\x80" * 6


def roles(own_id: bytes = OURS, *, accepts: bool = True, seed: int = 1) -> Roles:
    return Roles(own_id, random.Random(seed), accepts=accepts)


def test_the_lower_id_dials_at_once_and_the_higher_waits() -> None:
    ours = roles()
    ours.seen("H", HIGH, 0.0)
    ours.seen("L", LOW, 0.0)
    first = ours.next_dial(0.0)
    assert first is not None
    assert first.short_id == HIGH
    ours.linked(HIGH)
    assert ours.next_dial(0.0) is None
    due = ours.next_due(0.0)
    assert due is not None
    assert POLITE_S <= due <= POLITE_S + POLITE_JITTER_S


def test_who_waited_in_vain_for_a_neighbor_that_cannot_dial_dials_within_15_s() -> None:
    for seed in range(50):
        ours = roles(seed=seed)
        ours.seen("L", LOW, 0.0)
        ours.seen("L", LOW, 14.9)
        assert ours.next_dial(POLITE_S - 0.1) is None
        assert ours.next_dial(POLITE_S + POLITE_JITTER_S) is not None


def test_who_cannot_be_dialed_waits_for_nobody() -> None:
    ours = roles(accepts=False)
    ours.seen("L", LOW, 0.0)
    assert ours.next_dial(0.0) is not None


def test_a_neighbor_without_an_id_is_dialed_soon_and_known_by_its_address_for_a_while() -> None:
    ours = roles()
    ours.seen("X", None, 0.0)
    neighbor = ours.next_dial(UNKNOWN_JITTER_S)
    assert neighbor is not None
    assert ours.identified(neighbor, HIGH, 3.0)
    ours.linked(HIGH)
    ours.seen("X", None, 10.0)
    assert ours.next_dial(100.0) is None, "it is linked, whatever its advertisement does not say"
    ours.unlinked(HIGH, 100.0, 200.0)
    ours.seen("X", None, 3.0 + FORGOTTEN_S + 1)
    assert {neighbor.hint for neighbor in ours.services()} == {None}
    assert ours.next_dial(3.0 + FORGOTTEN_S + 10) is not None, "addresses rotate: by now it may be anybody"


def test_one_that_turns_out_to_be_linked_is_left_alone() -> None:
    ours = roles()
    ours.linked(HIGH)
    ours.seen("new address", None, 0.0)
    neighbor = ours.next_dial(5.0)
    assert neighbor is not None
    assert not ours.identified(neighbor, HIGH, 5.0)
    ours.seen("new address", None, 6.0)
    assert ours.next_dial(100.0) is None


def test_we_do_not_dial_ourselves() -> None:
    ours = roles()
    assert not ours.seen("mirror", OURS, 0.0)
    ours.seen("mirror", None, 0.0)
    neighbor = ours.next_dial(5.0)
    assert neighbor is not None
    assert not ours.identified(neighbor, OURS, 5.0)
    assert not ours.seen("mirror", None, 6.0)


def test_failures_make_the_pauses_grow_and_a_link_that_lasts_clears_them() -> None:
    ours = roles()
    now, pauses = 0.0, []
    ours.seen("H", HIGH, now)
    for _ in range(10):
        neighbor = ours.next_dial(now)
        assert neighbor is not None
        ours.dial_failed(neighbor, "silence", now)
        pauses.append(neighbor.due_at - now)
        now = neighbor.due_at
        assert ours.next_dial(now) is None, "it has to be heard again first"
        ours.seen("H", HIGH, now)
    assert 1.5 <= pauses[0] <= 2.5
    assert pauses[3] > pauses[1] > pauses[0]
    assert max(pauses) <= 1.25 * BACK_OFF_MAX_S
    ours.linked(HIGH)
    ours.unlinked(HIGH, 61.0, now)
    ours.seen("H", HIGH, now + 1)
    assert ours.next_dial(now + 2.5) is not None


def test_strangers_without_an_id_are_tried_once_a_minute() -> None:
    ours = roles()
    ours.seen("X", None, 0.0)
    neighbor = ours.next_dial(5.0)
    assert neighbor is not None
    ours.dial_failed(neighbor, "silence", 5.0)
    assert neighbor.due_at >= 5.0 + UNKNOWN_AGAIN_S


def test_who_is_no_longer_heard_is_not_dialed() -> None:
    ours = roles()
    ours.seen("H", HIGH, 0.0)
    assert ours.next_dial(60.0) is None


def test_a_new_id_of_a_linked_neighbor_is_no_stranger() -> None:
    ours = roles()
    ours.seen("H", HIGH, 0.0)
    ours.linked(HIGH)
    ours.renamed(HIGH, LOW)
    ours.seen("H", LOW, 1.0)
    assert ours.is_linked(LOW)
    assert ours.next_dial(100.0) is None
    ours.unlinked(LOW, 100.0, 100.0)
    assert not ours.is_linked(LOW)


def test_two_links_to_one_neighbor_are_counted() -> None:
    ours = roles()
    ours.linked(HIGH)
    ours.linked(HIGH)
    ours.unlinked(HIGH, 1.0, 0.0)
    assert ours.is_linked(HIGH)
    ours.unlinked(HIGH, 1.0, 0.0)
    assert not ours.is_linked(HIGH)


def test_a_flood_of_invented_neighbors_is_bounded_and_keeps_no_friend_out() -> None:
    ours = roles(own_id=b"\0" * 6)
    ours.seen("friend", HIGH, 0.0)
    ours.linked(HIGH)
    ours.unlinked(HIGH, 100.0, 0.0)
    rng = random.Random(2)
    dials, friend_at = 0, None
    for tick in range(600):
        now = tick / 10
        for _ in range(20):
            ours.seen(f"{rng.random()}", rng.randbytes(6), now)
        ours.seen("friend", HIGH, now)
        neighbor = ours.next_dial(now)
        if neighbor is None:
            continue
        dials += 1
        if neighbor.short_id == HIGH:
            friend_at = friend_at or now
            ours.linked(HIGH)
        else:
            ours.dial_failed(neighbor, "nobody there", now)
        assert len(ours.services()) <= NEIGHBORS_MAX
    assert friend_at is not None
    assert friend_at < 5, "who was linked before goes first"
    assert dials <= 1.5 * DIALS_PER_MIN + 1


def test_a_jump_of_the_clock_dials_nobody_twice() -> None:
    ours = roles()
    ours.seen("H", HIGH, 0.0)
    assert ours.next_dial(0.0) is not None
    assert ours.next_dial(3_600.0) is None
    ours.seen("H", HIGH, 3_600.0)
    assert ours.next_dial(3_600.0) is not None


def test_a_bucket_gives_bursts_and_a_rate() -> None:
    bucket = TokenBucket(60, 3)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(0.5)
    assert bucket.take(1.0)
    assert bucket.next_at(1.0) == 2.0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.floats(0, 40)), max_size=40), st.integers(0, 9))
def test_of_two_that_hear_each_other_one_dials_within_15_s(heard: list[tuple[str, bool, float]], seed: int) -> None:
    """Whatever each heard before and when: a link results, and rarely two."""
    a, b = roles(LOW, seed=seed), roles(HIGH, seed=seed + 100)
    for who, with_id, at in sorted(heard, key=lambda each: each[2]):
        ours, theirs = (a, HIGH) if who == "a" else (b, LOW)
        ours.seen("address", theirs if with_id else None, at)
    dialed = set()
    for tick in range(160):
        now = 40 + tick / 10
        a.seen("address", HIGH, now)
        b.seen("address", LOW, now)
        dialed |= {name for name, ours in (("a", a), ("b", b)) if ours.next_dial(now) is not None}
        if dialed:
            break
    assert dialed, "nobody dialed"
