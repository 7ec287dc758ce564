"""B05 to B07: what an event cites, and what it does not."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from p2pserver.errors import Verdict
from p2pserver.node.simulation import RoomActions
from p2pserver.rooms.values import RoomLimits
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
async def test_b05_parent_for_ever_missing_and_a_claim_for_each(scene: Scenario) -> None:
    """The parent never comes, and each node is told another state in its place: nobody believes either."""
    liar = scene.liar
    old = await liar.read(lambda tx: dict(scene.mesh.nodes[liar.name].running.rooms.state_before(tx, scene.sent_first)))
    new = await scene.creator.state("m.room.topic", {"topic": "new"})
    await scene.until_held(new)
    parent = await liar.make(body="withheld", hide=False)
    child = await liar.make(body="on a claim", prev=[parent.event_id])
    claims = scene.liars[0].falsify_claims(child, {"a": old})
    for each in scene.liars[1:]:
        each.falsify_claims(child, {"a": old})
    scene.liar.push_all(scene.honest, [child])
    await scene.pass_time(1500)
    for name in scene.honest:
        assert (await scene.rooms[name].read_state("m.room.topic"))["topic"] == "new"
    print(claims, [await scene.verdict(name, child.event_id) for name in scene.honest])
