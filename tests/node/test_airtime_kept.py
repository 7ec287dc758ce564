"""The airtime of an hour is not given twice, however often a node crashes, stops and starts again in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from p2pserver.link import AirtimeBudget
from p2pserver.node import airtime
from p2pserver.node.airtime import LOST_SHARE, AirtimeKeeper
from p2pserver.node.simulation import RoomActions, SimulatedMesh
from p2pserver.store.inline import InlineDatabase, SimulatedDisk
from tests.link.test_airtime import HOUR_S, METERED, busiest_hour_s
from transports.sim import SimLink, run_virtual

LIMIT_S = 36.0
A_COMMIT_S = 0.5
"""What may go out beyond the limit: what is sent while the last commit before a crash is on its way to the disk."""


async def sent_in_two_hours(monkeypatch: pytest.MonkeyPatch, down: Callable[[SimulatedMesh, int], bool]) -> list[float]:
    """(airtime of the busiest hour of node a, all its airtime); it has more to say than it may, and goes down at random
    times. `down(mesh, number)`: whether the power is cut that time, or the node stopped."""
    sent: list[tuple[float, float]] = []
    send = SimLink.send

    async def counted(link: SimLink, datagram: bytes) -> None:
        await send(link, datagram)
        if link.owner.host == "a":
            sent.append((asyncio.get_running_loop().time(), METERED.airtime_s(len(datagram))))

    monkeypatch.setattr(SimLink, "send", counted)
    mesh = SimulatedMesh(["a", "b"], seed=11, conditions=METERED)
    await mesh.start()
    ann, ben = await mesh.user("a", "ann"), await mesh.user("b", "ben")
    room = await RoomActions.create(ann, preset="public_chat")
    await asyncio.sleep(20)
    joining = asyncio.create_task(RoomActions.join(ben, room.room_id, via=mesh.nodes["a"].server_name))
    await asyncio.wait([joining], timeout=60)
    for number in range(4):
        for _ in range(5):
            await room.send("x" * 3_000)
        await asyncio.sleep(mesh.rng.uniform(100, 500))
        if down(mesh, number):
            await mesh.crash("a")
        else:
            node, database = mesh.nodes["a"].running, mesh.nodes["a"].database
            assert database is not None
            await node.stop()
            await database.close()
        await asyncio.sleep(mesh.rng.uniform(1, 60))
        await mesh.boot("a")
    await asyncio.sleep(2 * HOUR_S)
    await mesh.stop()
    joining.cancel()
    return [busiest_hour_s(sent), sum(airtime_s for _, airtime_s in sent)]


def test_power_cuts_and_restarts_give_no_more_airtime(monkeypatch: pytest.MonkeyPatch) -> None:
    busiest_s, all_s = run_virtual(sent_in_two_hours(monkeypatch, lambda _, number: number % 2 == 0))
    assert busiest_s <= LIMIT_S + A_COMMIT_S
    assert all_s > 1.5 * LIMIT_S, "it was silent for longer than the law asks"


def test_that_shows_a_node_that_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forget(self: AirtimeKeeper) -> None:
        return

    monkeypatch.setattr(AirtimeKeeper, "recall", forget)
    busiest_s, _ = run_virtual(sent_in_two_hours(monkeypatch, lambda *_: True))
    assert busiest_s > LIMIT_S + A_COMMIT_S


class Clocks:
    """Those of one node: the monotonic one begins anew with each process."""

    def __init__(self) -> None:
        self.monotonic_s = 5_000.0
        self.wall_ms = 1_790_000_000_000

    def pass_s(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.wall_ms += round(1000 * seconds)


def keeper(disk: SimulatedDisk, clocks: Clocks) -> AirtimeKeeper:
    return AirtimeKeeper(
        InlineDatabase(disk),
        clock=lambda: clocks.monotonic_s,
        wall_ms=lambda: clocks.wall_ms,
        build_ms=1_780_000_000_000,
    )


async def used_after(off_s: float, *, wall_off_s: float, is_whole: bool = True) -> float:
    """What counts of 10 s that were used just before the node went down."""
    disk, clocks = SimulatedDisk(), Clocks()
    before, budget = keeper(disk, clocks), AirtimeBudget(36_000)
    await before.recall()
    before.keep("serial", budget)
    budget.spend(10.0, clocks.monotonic_s)
    await before.save(is_whole=is_whole)
    clocks.pass_s(off_s)
    clocks.wall_ms += round(1000 * (wall_off_s - off_s))
    clocks.monotonic_s = 3.0
    after, again = keeper(disk, clocks), AirtimeBudget(36_000)
    await after.recall()
    after.keep("serial", again)
    return again.used_s(clocks.monotonic_s)


def test_time_that_passed_while_the_node_was_off_counts_as_far_as_it_is_known() -> None:
    async def main() -> None:
        assert await used_after(600, wall_off_s=600) == pytest.approx(10.0)
        assert await used_after(2 * HOUR_S, wall_off_s=2 * HOUR_S) == 0.0
        assert await used_after(2 * HOUR_S, wall_off_s=-600) == pytest.approx(10.0), "a clock that was put back"
        assert await used_after(2 * HOUR_S, wall_off_s=-40 * 365 * 86_400) == pytest.approx(10.0), "no clock at all"
        after_a_crash = await used_after(600, wall_off_s=600, is_whole=False)
        assert after_a_crash == pytest.approx(10.0 + LOST_SHARE * 36)

    run_virtual(main())


def test_little_is_written() -> None:
    """A hundred commits for all that an hour gives, and none while nothing is sent."""

    async def main() -> int:
        disk, clocks = SimulatedDisk(), Clocks()
        database = InlineDatabase(disk)
        kept = AirtimeKeeper(database, clock=lambda: clocks.monotonic_s, wall_ms=lambda: clocks.wall_ms, build_ms=0)
        budget = AirtimeBudget(36_000)
        kept.keep("serial", budget)
        running = asyncio.create_task(kept.run())
        writes = 0
        write = database.write

        async def counted(function: object) -> object:
            nonlocal writes
            writes += 1
            return await write(function)  # type: ignore[arg-type]

        database.write = counted  # type: ignore[method-assign, assignment]
        for _ in range(1_800):
            budget.spend(0.02, clocks.monotonic_s)
            clocks.pass_s(2.0)
            await asyncio.sleep(2.0)
        running.cancel()
        return writes

    assert 90 <= run_virtual(main()) <= 1 / airtime.SAVED_SHARE
