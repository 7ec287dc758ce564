"""B05 to B07: what an event cites, and what it does not."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from p2pserver.errors import Verdict
from p2pserver.node.simulation import RoomActions
from p2pserver.rooms.values import RoomLimits
from p2pserver.wire.messages import Pdus, Want
from tests.byzantine.forgery import Forged
from tests.byzantine.liar import Liar
from tests.byzantine.scenario import Scenario, case


@case
async def test_b05_missing_parent(scene: Scenario) -> None:
    """An event whose parent nobody gives is not applied, holds up nobody, and finds its place when the parent comes."""
    liar = scene.liar
    parent = await liar.make(body="withheld")
    child = await liar.make(body="on nothing", prev=[parent.event_id])
    for each in scene.liars:
        each.withheld.add(parent.event_id)
    for name in scene.honest:
        liar.push(name, child)
        sent = await scene.rooms[name].send("honest traffic goes on")
        await scene.until_held(sent, within_s=5)
    await scene.pass_time(150)
    assert await scene.verdicts(child.event_id) == {None}
    assert all([await scene.is_parked(name, child.event_id) for name in scene.honest])
    for each in scene.liars:
        each.withheld.clear()
    liar.push("a", parent)
    await scene.until_held(parent.event_id, child.event_id)
    assert await scene.verdicts(child.event_id) == {Verdict.ACCEPTED}


@case
async def test_b05_another_answer_for_each_node(scene: Scenario) -> None:
    """The parent never comes, and liars invent other events in its place: no node believes that it has it."""
    liar = scene.liar
    parent = await liar.make(body="withheld", hide=False)
    children = [await liar.make(body=f"on nothing {n}", prev=[parent.event_id], depth=100) for n in range(40)]
    others = {name: await liar.make(body=f"for {name}", hide=False) for name in scene.honest}

    def instead(victim: str, want: Want) -> list[Pdus] | None:
        if parent.event_id not in want.want or victim not in others:
            return None
        return [Pdus(want.room_id, (others[victim].raw,), more=True, in_answer=True)]

    for each in scene.liars:
        each.scripts[Want] = instead
    scene.split_all()
    for number, name in enumerate(scene.honest):
        liar.push_all([name], children[number::2])
    await scene.pass_time(700)
    for name in scene.honest:
        await scene.rooms[name].send(f"{name} goes on")
    scene.heal()
    await scene.until_held(*(other.event_id for other in others.values()))
    assert not await scene.verdicts(children[0].event_id) - {None}


@case
async def test_b05_more_waiting_events_than_are_kept(scene: Scenario) -> None:
    """The oldest give way, of the same source first; what honest nodes wait for still finds its place."""
    liar = scene.liar
    limits = RoomLimits()
    nowhere = [f"${number:043d}"[:-1] + "A" for number in range(450)]
    flood = [await liar.make(body=f"{n}", prev=[each], hide=False) for n, each in enumerate(nowhere)]
    for each in scene.liars:
        each.push_all(scene.honest, flood)
    await scene.pass_time(30)
    for name in scene.honest:
        rows = await scene.read(name, lambda tx: tx.all("SELECT source, count(*) FROM parked_pdus GROUP BY source"))
        assert 0 < sum(count for _, count in rows) <= limits.parked_per_room
        assert all(count <= limits.parked_per_source for _, count in rows)
        assert not await scene.is_parked(name, flood[0].event_id)
        assert await scene.is_parked(name, flood[-1].event_id)


async def on_unknown(scene: Scenario, liar: Liar) -> tuple[Forged, Collection[Verdict | None]]:
    return await liar.make(prev=["$" + "A" * 43]), {None}


async def on_another_room(scene: Scenario, liar: Liar) -> tuple[Forged, Collection[Verdict | None]]:
    """The first correct node holds the other room, too; the rest does not."""
    other = await scene.make_room()
    theirs = await other.send("elsewhere")
    here = await liar.leaves()
    return await liar.make(prev=[theirs, *here], state=await liar.state_after(here[0])), {None}


async def on_a_rejected_event(scene: Scenario, liar: Liar) -> tuple[Forged, Collection[Verdict | None]]:
    rejected = await liar.make("m.room.power_levels", {"users": {liar.user_id: 100}}, state_key="")
    liar.push_all(scene.honest, [rejected])
    await scene.until_held(rejected.event_id)
    assert await scene.verdicts(rejected.event_id) == {Verdict.REJECTED}
    state = await liar.state_after((await liar.leaves())[0])
    return await liar.make(prev=[rejected.event_id], state=state), {Verdict.ACCEPTED}


async def on_itself(scene: Scenario, liar: Liar) -> tuple[Forged, Collection[Verdict | None]]:
    event = await liar.make(hide=False)
    return Forged(event.changed(prev_events=[event.event_id]), event.event_id), {None}


async def on_nothing(scene: Scenario, liar: Liar) -> tuple[Forged, Collection[Verdict | None]]:
    state = await liar.state_after((await liar.leaves())[0])
    return await liar.make(prev=[], state=state), {Verdict.REJECTED}


async def on_one_twice(scene: Scenario, liar: Liar) -> tuple[Forged, Collection[Verdict | None]]:
    [leaf] = await liar.leaves()
    return await liar.make(prev=[leaf, leaf]), {Verdict.ACCEPTED}


@case
@pytest.mark.parametrize(
    "kind", [on_unknown, on_another_room, on_a_rejected_event, on_itself, on_nothing, on_one_twice]
)
async def test_b06_prev_events(scene: Scenario, kind: Any) -> None:
    """All correct nodes come to the same verdict; None is for what has no place anywhere."""
    event, expected = await kind(scene, scene.liar)
    for name in scene.honest:
        scene.liar.push(name, event)
    await scene.pass_time(100)
    assert await scene.verdicts(event.event_id) == expected
    if None not in expected:
        for name in scene.honest:
            [row] = await scene.read(
                name,
                lambda tx: tx.all("SELECT count(*) FROM event_edges WHERE event_id = ?", (event.event_id,)),
            )
            assert row[0] == len(set(event.raw["prev_events"]))


@case
async def test_b07_too_many_prev_events(scene: Scenario) -> None:
    """20 are taken. 21 are dropped from a push, and taken as history, from whoever holds it."""
    liar = scene.liar
    [leaf] = await liar.leaves()
    fan = [await liar.make(body=f"fan {n}", prev=[leaf]) for n in range(21)]
    state = await liar.state_after(leaf)
    ids = [each.event_id for each in fan]
    twenty = await liar.make(body="twenty", prev=ids[:20], state=state)
    more = await liar.make(body="twenty-one", prev=ids, state=state)
    liar.push_all(scene.honest, [*fan, twenty, more])
    await scene.until_held(twenty.event_id)
    await scene.pass_time(5)
    assert await scene.is_nowhere(more.event_id)
    above = await liar.make(body="above it", prev=[more.event_id])
    liar.push("a", above)
    await scene.until_held(more.event_id, above.event_id)
    assert await scene.verdicts(more.event_id) == {Verdict.ACCEPTED}


@case(version="11")
async def test_b07_too_many_auth_events(scene: Scenario) -> None:
    """10 are read, and needless ones among them rejected; 11 are dropped from a push and rejected as history."""
    liar = scene.liar
    needed = list((await liar.make(hide=False)).raw["auth_events"])
    for number in range(8):
        user = await scene.mesh.user("a", f"guest{number}")
        await RoomActions.join(user, scene.room_id)
    await scene.until_same_events(names=list(scene.mesh.nodes))
    members = [each for slot, each in (await scene.state("a")).items() if slot[0] == "m.room.member"]
    needless = [each for each in members if each not in needed]
    ten = await liar.make(body="ten", auth=[*needed, *needless][:10])
    more = await liar.make(body="eleven", auth=[*needed, *needless][:11])
    liar.push_all(scene.honest, [ten, more])
    await scene.until_held(ten.event_id)
    assert await scene.verdicts(ten.event_id) == {Verdict.REJECTED}
    assert await scene.is_nowhere(more.event_id)
    above = await liar.make(body="above", prev=[more.event_id], auth=needed)
    liar.push("b", above)
    await scene.until_held(more.event_id, above.event_id)
    assert await scene.verdicts(more.event_id) == {Verdict.REJECTED}
    assert await scene.verdicts(above.event_id) == {Verdict.ACCEPTED}
