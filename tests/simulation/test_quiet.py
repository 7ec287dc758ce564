"""What nodes do while nothing happens is a matter of their timers: a battery can ask for longer ones."""

from __future__ import annotations

import asyncio

from p2pserver.federation.limits import PeeringTimers
from p2pserver.link import LinkTimers
from p2pserver.node.simulation import RoomActions, SimulatedMesh
from p2pserver.node.timers import NodeTimers
from transports.sim import LinkConditions, run_virtual

CALM = NodeTimers(
    link=LinkTimers(idle_ping_s=600, dead_after_s=660, answer_s=60),
    peering=PeeringTimers(compare_all_s=3600),
    blocks_s=3600,
    seen_s=3600,
)


def datagrams_of_an_idle_day(timers: NodeTimers | None) -> int:
    async def live() -> int:
        mesh = SimulatedMesh(["a", "b"], seed=5, conditions=LinkConditions(), timers=timers)
        await mesh.start()
        await asyncio.sleep(5)
        room = await RoomActions.create(await mesh.user("a", "anna"), preset="public_chat")
        joined = await RoomActions.join(await mesh.user("b", "boris"), room.room_id, via=mesh.nodes["a"].server_name)
        await asyncio.sleep(60)
        before = mesh.network.counts.sent
        await asyncio.sleep(86_400)
        sent = mesh.network.counts.sent - before
        event_id = await room.send("still there?")
        await asyncio.sleep(2)
        assert "still there?" in await joined.messages(), event_id
        await mesh.stop()
        return sent

    return run_virtual(live())


def test_long_timers_keep_a_link_almost_silent_and_as_quick() -> None:
    assert datagrams_of_an_idle_day(CALM) < 1_000
