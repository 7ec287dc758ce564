"""Slow half-duplex lines on virtual time: goodput, what overtakes what, lost answers, and what an idle line costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from benchmarks.links import PROFILES, Profile, bar, half_duplex
from benchmarks.two_ends import TwoEnds
from p2pserver.link import Priority, pacing
from p2pserver.link.endpoint import LinkEndpoint
from p2pserver.link.pacing import Pacer
from p2pserver.link.recovery import Recovery
from transports.sim import LinkConditions, SimLink, run_virtual


async def linked(conditions: LinkConditions, seed: int = 1) -> TwoEnds:
    world = TwoEnds(conditions, seed)
    await world.connect()
    assert await world.until(lambda: all(end.conversation.attached for end in world.ends), within_s=3_600)
    await asyncio.sleep(60)
    return world


def test_50_kilobytes_at_9600_bits_hold_the_bar_at_every_loss() -> None:
    assert bar()[1] == []


# What is urgent


def overtaking_problems(bit_rate: int) -> list[str]:
    """A text while a file is sent, five times: does it wait for more than the datagram on the line, and is much handed
    over ahead of the line?"""

    async def main() -> list[str]:
        conditions = half_duplex("", bit_rate, 255).conditions
        world = await linked(conditions)
        carol, dave = world.ends
        full_s = conditions.airtime_s(255)
        carol.send(world.rng.randbytes(50_000), Priority.MEDIA)
        problems = []
        ahead = 0
        for number in range(5):
            await asyncio.sleep(world.rng.uniform(8, 12) * full_s)
            carol.send(b"overtakes", Priority.TEXT)
            began = asyncio.get_running_loop().time()
            if not await world.until(lambda number=number: len(dave.received) > number, within_s=60 * full_s):  # type: ignore[misc]
                return [*problems, "a text did not come"]
            waited_s = asyncio.get_running_loop().time() - began
            # the datagram on the line, the one that begins with the text, and perhaps the other side's turn
            if waited_s > 2 * full_s + 0.5:
                problems.append(f"a text waited {waited_s:.1f} s; a datagram takes {full_s:.1f} s")
            assert carol.link is not None
            assert isinstance(carol.link.link, SimLink)
            ahead = max(ahead, carol.link.link._under_way_octets)
        if ahead > 2 * 255:
            problems.append(f"{ahead} octets were handed over ahead of the line")
        await world.stop()
        return problems

    return run_virtual(main())


@pytest.mark.parametrize("bit_rate", [300, 1_200, 9_600])
def test_a_text_overtakes_a_file_at_the_next_datagram(bit_rate: int) -> None:
    assert overtaking_problems(bit_rate) == []


# What is sent twice for nothing


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_short_message_is_sent_once_where_nothing_is_lost(profile: Profile) -> None:
    """Its acknowledgement waits for company; who sent the message must wait for longer than that."""

    async def main() -> None:
        world = await linked(profile.conditions)
        carol, dave = world.ends
        assert carol.link is not None
        await asyncio.sleep(1_200)  # PINGs, where they are asked: by then the round trip is known well
        for number in range(10):
            before, after_s = len(carol.link.sent), world.rng.uniform(5.0, 12.0)
            carol.send(bytes(8), Priority.TEXT)
            assert await world.until(lambda number=number: len(dave.received) > number, within_s=60)  # type: ignore[misc]
            await asyncio.sleep(after_s)
            assert len([octets for _, octets in carol.link.sent[before:] if octets > 20]) <= 1
        await world.stop()

    run_virtual(main())


# Lost answers


def answers_lost_problems(lose: Callable[[int], bool]) -> list[str]:
    """6 kB while the acknowledgements for which `lose(number)` is true are lost."""

    async def main() -> list[str]:
        world = await linked(half_duplex("", 9_600, 255).conditions)
        carol, dave = world.ends
        assert dave.link is not None
        count = 0

        def lost(_: bytes) -> bool:
            nonlocal count
            count += 1
            return lose(count)

        dave.link.lose = lost
        message = world.rng.randbytes(6_000)
        carol.send(message, Priority.STATE)
        problems = []
        if not await world.until(lambda: bool(carol.conversation.delivered()), within_s=120):
            problems.append("never known to be delivered")
        await asyncio.sleep(10)
        if dave.received != [message]:
            problems.append(f"received {len(dave.received)} times")
        await world.stop()
        return problems

    return run_virtual(main())


@pytest.mark.parametrize(
    "lose", [lambda number: number % 4 != 0, lambda number: number < 12], ids=["three of four", "the first eleven"]
)
def test_lost_acknowledgements_cost_questions_and_nothing_else(lose: Callable[[int], bool]) -> None:
    assert answers_lost_problems(lose) == []


def test_who_is_never_answered_stops_soon() -> None:
    async def main() -> None:
        world = await linked(half_duplex("", 1_200, 255).conditions)
        carol, dave = world.ends
        assert carol.link is not None
        assert dave.link is not None
        dave.link.lose = lambda _: True
        before = carol.link.octets
        carol.send(bytes(20_000), Priority.MEDIA)
        carol.send(b"text", Priority.TEXT)
        assert await world.until(lambda: carol.over is not None, within_s=3_600, every_s=1)
        assert carol.over == "the peer is silent"
        assert dave.received[:1] == [b"text"]
        assert dave.received.count(b"text") == 1
        assert carol.link.octets - before < 25_000
        assert carol.conversation.queued_octets == 20_004
        await world.stop()

    run_virtual(main())


# Silence


@pytest.mark.parametrize(("bit_rate", "loss", "most"), [(300, 0.0, 0.0), (1_200, 0.0, 0.5), (9_600, 0.3, 0.5)])
def test_an_idle_line_costs_next_to_nothing_and_still_works(bit_rate: int, loss: float, most: float) -> None:
    async def main() -> None:
        world = await linked(half_duplex("", bit_rate, 255).conditions)
        carol, dave = world.ends
        world.network.set_conditions("a", "b", half_duplex("", bit_rate, 255, loss=loss).conditions)
        assert carol.link is not None
        assert dave.link is not None
        before = carol.link.octets + dave.link.octets
        await asyncio.sleep(86_400)
        assert 8 * (carol.link.octets + dave.link.octets - before) / 86_400 <= most
        carol.send(b"still there?", Priority.TEXT)
        assert await world.until(lambda: dave.received == [b"still there?"], within_s=120)
        assert carol.over is dave.over is None
        await world.stop()

    run_virtual(main())


# Sabotage


def hand_over_far_ahead(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pacing, "LEAD_S", 60.0)


def test_a_pacer_that_hands_over_far_ahead_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    hand_over_far_ahead(monkeypatch)
    assert overtaking_problems(1_200) != []


def test_a_pipe_that_never_asks_again_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recovery, "timed_out", lambda _self, _now: None)
    assert answers_lost_problems(lambda number: number < 12) != []


def test_a_side_that_never_gives_up_its_turn_misses_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pacer, "answered", lambda _self: None)
    monkeypatch.setattr(LinkEndpoint, "_sends_on", lambda _self: False)
    assert bar()[1] != []
