"""Rooms of the versions whose event IDs are not URL-safe hashes, on whole nodes: invites, refusals, a restart."""

from __future__ import annotations

import asyncio

import pytest

from p2pserver.node.simulation import RoomActions, SimulatedMesh, segment
from transports.sim import run_virtual


async def agree(mesh: SimulatedMesh, room_id: str, *names: str) -> bool:
    """Whether these nodes come to hold the same room within ten minutes."""
    for _ in range(300):
        digests = await mesh.digests(room_id)
        found = {digest.sec if digest else None for name in names for digest in [digests[name]]}
        if len(found) == 1 and None not in found:
            return True
        await asyncio.sleep(2)
    return False


@pytest.mark.parametrize("version", ["1", "3"])
def test_invites_are_taken_and_refused(version: str) -> None:
    async def story() -> None:
        mesh = SimulatedMesh(["a", "b", "c"], seed=3)
        await mesh.start()
        await asyncio.sleep(5)
        anna, boris, carla = [await mesh.user(name, f"user-{name}") for name in "abc"]
        invited = [boris.user_id, carla.user_id]
        room = await RoomActions.create(anna, preset="private_chat", room_version=version, invite=invited)
        await asyncio.sleep(5)
        joined = await RoomActions.join(boris, room.room_id)
        await carla.request("POST", f"/rooms/{segment(room.room_id)}/leave", {})
        first, second = await room.send("hello"), await joined.send("hello")
        assert await agree(mesh, room.room_id, "a", "b")
        await asyncio.sleep(30)
        assert (await room.read_state("m.room.member", carla.user_id))["membership"] == "leave"
        assert (":" in first) == (version == "1")
        for client, event_id in ((anna, second), (boris, first)):
            path = f"/rooms/{segment(room.room_id)}/event/{segment(event_id)}"
            assert (await client.request("GET", path))["event_id"] == event_id

        await mesh.crash("b")
        last = await room.send("while boris is down")
        await mesh.boot("b")
        assert await agree(mesh, room.room_id, "a", "b")
        path = f"/rooms/{segment(room.room_id)}/event/{segment(last)}"
        assert (await boris.request("GET", path))["content"]["body"] == "while boris is down"
        await mesh.stop()

    run_virtual(story(), limit_s=7200)
