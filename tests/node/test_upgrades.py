"""Room upgrades on whole nodes: others see the tombstone, follow it, and go on in the new room."""

from __future__ import annotations

import asyncio

import pytest

from p2pserver.node.simulation import InProcessClient, RequestFailed, RoomActions, SimulatedMesh, segment
from transports.sim import run_virtual


async def follow(client: InProcessClient, room: RoomActions, *, via: str) -> RoomActions:
    """What a client does that sees a tombstone: it joins the room that this names."""
    tombstone = await room.read_state("m.room.tombstone")
    return await RoomActions.join(client, tombstone["replacement_room"], via=via)


@pytest.mark.parametrize(("old", "new"), [("1", "3"), ("3", "12"), ("12", "1")])
def test_a_room_is_upgraded_and_the_others_follow(old: str, new: str) -> None:
    async def story() -> None:
        mesh = SimulatedMesh(["a", "b", "c"], seed=7)
        await mesh.start()
        await asyncio.sleep(5)
        anna, boris, carla = [await mesh.user(name, f"user-{name}") for name in "abc"]
        via = mesh.nodes["a"].server_name
        room = await RoomActions.create(anna, preset="public_chat", room_version=old, room_alias_name="harbor")
        others = [await RoomActions.join(client, room.room_id, via=via) for client in (boris, carla)]
        assert await mesh.until_equal(room.room_id, within_s=60) is not None

        # carla is away; what she writes meanwhile belongs to the old room and does not stop anybody.
        mesh.partition({"a", "b"}, {"c"})
        answer = await anna.request("POST", f"/rooms/{segment(room.room_id)}/upgrade", {"new_version": new})
        new_id = answer["replacement_room"]
        await others[1].send("still here")
        await asyncio.sleep(5)
        boris_there = await follow(boris, others[0], via=via)
        assert boris_there.room_id == new_id
        await boris_there.send("moved")
        with pytest.raises(RequestFailed) as refused:
            await others[0].send("nobody speaks here any more")
        assert refused.value.status == 403

        mesh.heal()
        assert await mesh.until_equal(room.room_id, within_s=600) is not None
        alias = segment(f"#harbor:{via}")
        assert (await carla.request("POST", f"/join/{alias}", {}))["room_id"] == new_id
        carla_there = RoomActions(carla, new_id)
        await carla_there.send("late")
        assert await mesh.until_equal(new_id, within_s=600) is not None
        for actions in (RoomActions(anna, new_id), boris_there, carla_there):
            assert {"moved", "late"} <= set(await actions.messages())
            create = await actions.read_state("m.room.create")
            assert (create["room_version"], create["predecessor"]["room_id"]) == (new, room.room_id)
        await mesh.stop()

    run_virtual(story(), limit_s=7200)
