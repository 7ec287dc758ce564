"""Fifty whole nodes heal at once: a handful of healing events, not fifty."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from p2pserver.node.shared_verdicts import SharedVerdicts
from p2pserver.rooms import healing
from p2pserver.store import alarms
from tests.simulation.crowd import Crowd, agree
from transports.sim import run_virtual

NODES = 50
AT_MOST = 6
"""Healing events after one occasion."""


async def wide(crowd: Crowd) -> tuple[int, float]:
    """Every node writes by itself, then all meet: (healing events, virtual seconds to agreement)."""
    before = await crowd.healing_events()
    crowd.apart()
    for name in crowd.names:
        await crowd.say(name)
    return await come_together(crowd, before)


async def come_together(crowd: Crowd, before: int) -> tuple[int, float]:
    crowd.mesh.heal()
    took_s = await crowd.until(lambda digests: agree(digests, count=len(crowd.names)), within_s=300)
    await asyncio.sleep(20)  # whoever still means to post does
    assert agree(await crowd.digests(), count=len(crowd.names))
    return await crowd.healing_events() - before, took_s


async def torn(crowd: Crowd) -> tuple[int, float]:
    """Half of the nodes soft-fails what the others accept; then all meet: as above.

    One admin raises the level for the room's name, another one, who does not know that, changes the levels otherwise
    and wins, and a third gives the room a name. Who knew the first change and not the second soft-fails the name.
    """
    names = crowd.names
    before = await crowd.healing_events()
    crowd.apart()
    name = await crowd.set_state(names[3], "m.room.name", {"name": "ours"})
    raised = await crowd.set_state(
        names[1], "m.room.power_levels", {**levels_of(crowd), "events": {"m.room.name": 100}}
    )
    await asyncio.sleep(10)
    wins = await crowd.set_state(names[2], "m.room.power_levels", {**levels_of(crowd), "events": {"m.room.topic": 100}})
    for number, each in enumerate(names):
        await crowd.hand(
            each, [(names[1], raised), (names[3], name)] if number % 2 else [(names[2], wins), (names[3], name)]
        )
    named = [
        await crowd.unit(each, lambda rooms, tx: rooms.current_event(tx, crowd.room_id, "m.room.name"))
        for each in names
    ]
    assert sum(event is None for event in named) == len(names) // 2
    return await come_together(crowd, before)


def levels_of(crowd: Crowd) -> dict[str, Any]:
    return {"users_default": 50, "users": {crowd.user(crowd.names[number]): 100 for number in (1, 2)}}


def run(count: int, *scenes: Callable[[Crowd], Awaitable[tuple[int, float]]]) -> list[tuple[int, float]]:
    async def live() -> list[tuple[int, float]]:
        crowd = Crowd(count, seed=1, shared=shared)
        await crowd.settle_in(levels=levels_of(crowd))
        try:
            results = [await scene(crowd) for scene in scenes]
            await crowd.check_everything(crowd.names[::20])
            for name in crowd.names:
                assert await crowd.unit(name, lambda rooms, tx: alarms.alarms(tx)) == []
            return results
        finally:
            await crowd.mesh.stop()

    shared = SharedVerdicts()
    with shared.in_use():
        return run_virtual(live())


def test_fifty_nodes_heal_at_once() -> None:
    results = run(NODES, wide, torn)
    for scene, (count, took_s) in zip(("50 branches", "a state half of the nodes soft-failed"), results, strict=True):
        print(f"{NODES} nodes, {scene}: {count} healing events, equal after {took_s:.1f} s")
    assert all(1 <= count <= AT_MOST for count, _ in results)


def test_storm_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether somebody else has posted meanwhile."""
    monkeypatch.setattr(healing, "is_needed", lambda *args: True)
    [(count, _)] = run(14, torn)
    assert count > AT_MOST
