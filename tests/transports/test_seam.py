"""Two halves of a simulation, here in two threads, stay in step; links across lose, end and come back as others do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from typing import Any

import pytest

from transports.contract import LinkDown
from transports.sim import LinkConditions, NetworkAcross, OtherHalfGone, Seam, run_beside

LOOKAHEAD_S = 0.1
CONDITIONS = LinkConditions(loss=0.2, delay_ms_mean=200, jitter_ms=90, duplication=0.1, bit_rate=100_000)

Half = Callable[[Seam], Coroutine[Any, Any, Any]]


def both(near: Half, far: Half, *, quiet_until: Callable[[float], float] = lambda at_s: at_s) -> list[Any]:
    """What the two halves come to."""
    ends = Pipe()
    seams = [Seam(end, half=half, lookahead_s=LOOKAHEAD_S, quiet_until=quiet_until) for half, end in enumerate(ends)]
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(run_beside, seam, half(seam), limit_s=10_000.0)
            for seam, half in zip(seams, (near, far), strict=True)
        ]
        return [future.exception() or future.result() for future in futures]


def network(seam: Seam, conditions: LinkConditions = CONDITIONS) -> tuple[NetworkAcross, str, str]:
    near, far = ("a", "b") if seam.half == 0 else ("b", "a")
    return NetworkAcross(seam, seed=5, conditions=conditions, down_after_s=20.0), near, far


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def chatter(seam: Seam) -> list[tuple[float, bytes]]:
    """Both send at their own pace; what each heard when."""
    across, near, far = network(seam)
    transport = across.transport(near)
    await transport.start(bytes(8))
    across.set_link(near, far, up=True)
    link = await transport.next_link()
    heard: list[tuple[float, bytes]] = []

    async def hear() -> None:
        while True:
            heard.append((now_s(), await link.receive()))

    hearing = asyncio.create_task(hear())
    for number in range(40):
        await link.send(f"{near} {number}".encode() * 20)
        await asyncio.sleep(0.013 if seam.half == 0 else 0.31)
    await asyncio.sleep(30)
    hearing.cancel()
    assert across.counts.lost > 0
    assert across.counts.duplicated > 0
    return heard


def test_what_is_heard_across_follows_from_the_seed() -> None:
    first, again = both(chatter, chatter), both(chatter, chatter)
    assert first == again
    assert [len({data for _, data in heard}) for heard in first] != [0, 0]
    assert {data.split()[0] for _, data in first[0]} == {b"b"}
    assert {data.split()[0] for _, data in first[1]} == {b"a"}


def test_words_of_both_halves_are_gathered_in_their_order() -> None:
    async def half(seam: Seam) -> tuple[list[str], float]:
        await asyncio.sleep(1.0)
        return await seam.gather(f"half {seam.half}"), now_s()

    assert both(half, half) == [(["half 0", "half 1"], 1.0 + LOOKAHEAD_S)] * 2


def test_no_half_waits_for_the_other_while_nothing_crosses() -> None:
    async def half(seam: Seam) -> int:
        for _ in range(1000 if seam.half == 0 else 700):
            await asyncio.sleep(1.0)
        await asyncio.sleep(5000.0 - now_s())
        await seam.gather(None)
        return seam.exchanges

    assert max(both(half, half, quiet_until=lambda at_s: max(at_s, 5000.0))) < 10
    assert min(both(half, half)) > 900


def test_a_parcel_that_the_other_half_does_not_wait_for_is_refused() -> None:
    async def too_soon(seam: Seam) -> None:
        seam.send("word", "now", after_s=LOOKAHEAD_S / 2)

    async def in_quiet_time(seam: Seam) -> None:
        await seam.gather("nobody listens")

    async def idle(seam: Seam) -> None:
        await asyncio.sleep(1.0)

    for results in (both(too_soon, idle), both(in_quiet_time, idle, quiet_until=lambda at_s: max(at_s, 50.0))):
        assert isinstance(results[0], ValueError)
        assert results[1] is None


def test_who_waits_for_a_half_that_has_ended_is_told() -> None:
    async def ends(seam: Seam) -> None:
        await asyncio.sleep(1.0)

    async def waits(seam: Seam) -> None:
        await asyncio.sleep(50.0)
        await seam.gather("?")

    nothing, error = both(ends, waits)
    assert nothing is None
    assert isinstance(error, OtherHalfGone)


def test_links_across_end_and_come_back() -> None:
    async def half(seam: Seam) -> list[tuple[str, bool]]:
        across, near, far = network(seam, LinkConditions(delay_ms_mean=200))
        transport = across.transport(near)
        await transport.start(bytes(8))
        told: list[tuple[str, bool]] = []

        async def take() -> None:
            """The next link, and a word over it each way."""
            link = await transport.next_link()
            await link.send(near.encode())
            assert await link.receive() == far.encode()
            if seam.half == 1 and not told:
                await asyncio.sleep(2.0)
                await link.close()
            with pytest.raises(LinkDown) as down:
                await link.receive()
            told.append((str(down.value), link.initiator))

        across.set_link(near, far, up=True)
        await take()
        across_again = asyncio.create_task(take())
        await asyncio.sleep(100.0 - now_s())
        across.set_link(near, far, up=False)
        await across_again
        assert now_s() == pytest.approx(120.0)
        return told

    near, far = both(half, half)
    assert near == [("closed by the other side", True), ("out of reach", True)]
    assert far == [("closed here", False), ("out of reach", False)]


def test_a_delay_below_the_lookahead_is_refused() -> None:
    seam = Seam(Pipe()[0], half=0, lookahead_s=LOOKAHEAD_S, quiet_until=lambda at_s: at_s)
    with pytest.raises(ValueError, match="within the lookahead"):
        network(seam, LinkConditions(delay_ms_mean=200, jitter_ms=150))
