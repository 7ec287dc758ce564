"""The airtime budget: no hour has more than the law gives, and what is urgent goes before it is used up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from benchmarks.two_ends import TwoEnds
from p2pserver.link import AirtimeBudget, Priority
from p2pserver.link.airtime import HOUR_S, SHARES
from p2pserver.link.pacing import LEAD_S, Line, Pacer
from transports.contract import DUTY_CYCLES, airtime_of_duty_cycle
from transports.sim import LinkConditions, run_virtual


def busiest_hour_s(sent: list[tuple[float, float]]) -> float:
    """The most airtime within any 3,600 s; `sent` is (when, seconds), in order."""
    most = used = 0.0
    first = 0
    for at, airtime_s in sent:
        used += airtime_s
        while sent[first][0] <= at - HOUR_S:
            used -= sent[first][1]
            first += 1
        most = max(most, used)
    return most


@pytest.mark.parametrize("seed", range(5))
def test_no_hour_has_more_than_its_share(seed: int) -> None:
    rng = random.Random(seed)
    budget = AirtimeBudget(DUTY_CYCLES["eu868-1"])
    sent: list[tuple[float, float]] = []
    now = rng.random() * 1_000
    while now < 6 * HOUR_S:
        now += rng.expovariate(1.0)
        airtime_s = rng.choice((0.05, 0.4, 2.0))
        lowest = budget.lowest_class(airtime_s, now)
        if lowest is not None:
            budget.spend(airtime_s, now)
            sent.append((now, airtime_s))
    assert 34 < busiest_hour_s(sent) <= 36
    assert sum(airtime_s for _, airtime_s in sent) > 6 * 30


def test_the_less_urgent_waits_first_and_knows_how_long() -> None:
    def used_up() -> AirtimeBudget:
        budget = AirtimeBudget(36_000)
        for minute in range(36):
            budget.spend(1.0, 60.0 * minute)
        return budget

    budget = AirtimeBudget(36_000)
    assert budget.lowest_class(0.1, 0.0) is Priority.PRESENCE
    assert budget.note(0.0) is None
    allowed = []
    for minute in range(36):
        budget.spend(1.0, 60.0 * minute)
        allowed.append(budget.lowest_class(0.001, 60.0 * minute))
    assert [allowed.index(lowest) for lowest in (Priority.MEDIA, Priority.RECEIPT, Priority.TEXT, Priority.ALERT)] == [
        14,
        21,
        30,
        34,
    ]
    assert allowed[-1] is None
    now = 60.0 * 35
    assert "nothing is sent" in str(budget.note(now))
    for priority in Priority:
        at = budget.allowed_at(priority, 0.5, now)
        assert at > now
        later, before = used_up().lowest_class(0.5, at), used_up().lowest_class(0.5, at - 0.01)
        assert later is not None
        assert later >= priority
        assert before is None or before < priority
    assert budget.lowest_class(0.5, now + HOUR_S + 60) is Priority.PRESENCE


def test_a_duty_cycle_has_a_name_or_is_a_percentage() -> None:
    assert airtime_of_duty_cycle("eu868-1") == airtime_of_duty_cycle("1%") == 36_000
    assert airtime_of_duty_cycle("eu868-10") == airtime_of_duty_cycle("10") == 360_000
    assert airtime_of_duty_cycle("0.1%") == 3_600
    for wrong in ("", "0", "101", "eu868", "nan"):
        with pytest.raises(ValueError, match="a duty cycle is one of eu868-1, eu868-10 or a percentage"):
            airtime_of_duty_cycle(wrong)


METERED = LinkConditions(
    loss=0.1,
    bit_rate=9_600,
    half_duplex=True,
    datagram_octets_max=255,
    datagram_overhead_ms=20,
    airtime_ms_per_hour=DUTY_CYCLES["eu868-1"],
)


def metered_problems() -> list[str]:
    """A file of 40 kB under 1 %, and texts while it waits for airtime: what is wrong."""

    async def main() -> list[str]:
        world = TwoEnds(METERED, 3)
        await world.connect()
        carol, dave = world.ends
        assert carol.link is not None and dave.link is not None  # noqa: PT018
        assert await world.until(lambda: carol.conversation.attached and dave.conversation.attached, within_s=60)
        carol.send(world.rng.randbytes(40_000), Priority.MEDIA)
        await asyncio.sleep(300)
        problems = ["the file needed no budget"] if dave.received else []
        for number in range(5):
            carol.send(b"text %d" % number, Priority.TEXT)
            if not await world.until(lambda number=number: len(dave.received) == number + 1, within_s=20):  # type: ignore[misc]
                problems.append(f"text {number} waits for the file")
        if not await world.until(lambda: len(dave.received) == 6, within_s=5 * HOUR_S, every_s=10):
            problems.append("the file never came")
        if carol.over or dave.over:
            problems.append(f"the pipe died: {carol.over or dave.over}")
        for end in (carol.link, dave.link):
            sent = [(at, METERED.airtime_s(octets)) for at, octets in end.sent]
            if busiest_hour_s(sent) > 36.5:
                problems.append(f"{busiest_hour_s(sent):.1f} s in an hour")
        await world.stop()
        return problems

    return run_virtual(main())


def test_a_file_waits_for_airtime_and_a_text_does_not() -> None:
    assert metered_problems() == []


def ignore_the_budget(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AirtimeBudget, "lowest_class", lambda *_: Priority.PRESENCE)


def forget_what_was_sent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AirtimeBudget, "spend", lambda *_: None)


def keep_no_reserve(patch: pytest.MonkeyPatch) -> None:
    for priority in Priority:
        patch.setitem(SHARES, priority, 0.6)


def count_the_octets_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pacer, "airtime_s", lambda self, octets: octets * self._octet_s / 4)


@pytest.mark.parametrize("sabotage", [ignore_the_budget, forget_what_was_sent, keep_no_reserve, count_the_octets_alone])
def test_sabotage_is_reported(sabotage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage(monkeypatch)
    assert metered_problems() != []


def test_pipes_over_one_radio_share_its_line_and_its_airtime() -> None:
    line = Line(AirtimeBudget(36_000))
    first, second = (Pacer(1_200, 0.1, 4, line) for _ in range(2))
    assert first.sent(150, 10.0) == pytest.approx(11.1)
    assert second.send_at == first.send_at == pytest.approx(11.1 - LEAD_S)
    assert second.sent(150, 10.0) == pytest.approx(12.2)
    assert line.budget is not None
    assert line.budget.used_s(13.0) == pytest.approx(2.2)
    alone = Pacer(1_200, 0.1, 4)
    assert alone.send_at < 10
