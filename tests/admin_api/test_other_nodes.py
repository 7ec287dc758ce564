"""What an operator does to his copy of a room, where another node holds the room too: whole nodes, simulated links."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import pytest

from p2pserver.node.in_process_client import InProcessClient, RequestFailed, segment
from p2pserver.node.simulation import RoomActions, SimulatedMesh
from p2pserver.store.account_status import set_flag
from transports.sim import run_virtual


def live(story: Coroutine[Any, Any, None]) -> None:
    run_virtual(story, limit_s=7200)


async def two() -> tuple[SimulatedMesh, RoomActions, RoomActions, InProcessClient]:
    """Anna's room on node a, with boris of node b, who is an admin there."""
    mesh = SimulatedMesh(["a", "b"], seed=1)
    await mesh.start()
    await asyncio.sleep(5)
    anna, boris = await mesh.user("a", "anna"), await mesh.user("b", "boris")
    await make_admin(mesh, "b", boris)
    room = await RoomActions.create(anna, name="harbor", preset="private_chat", invite=[boris.user_id])
    await asyncio.sleep(2)
    joined = await RoomActions.join(boris, room.room_id)
    assert await mesh.until_equal(room.room_id, within_s=60) is not None
    return mesh, room, joined, boris


async def make_admin(mesh: SimulatedMesh, name: str, client: InProcessClient) -> None:
    database = mesh.nodes[name].database
    assert database is not None
    await database.write(lambda tx: set_flag(tx, client.user_id, "admin", True))


def admin_path(version: str, *segments: str) -> str:
    return "/".join(["/_synapse/admin", version, *map(segment, segments)])


def test_a_room_that_is_deleted_here_goes_on_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        mesh, room, joined, boris = await two()
        for number in range(3):
            await room.send(f"anna {number}")
            await joined.send(f"boris {number}")
        # Nothing waits until what was said last has arrived.
        await boris.request("DELETE", admin_path("v1", "rooms", room.room_id), {})
        await asyncio.sleep(60)
        assert (await room.read_state("m.room.member", boris.user_id))["membership"] == "leave"
        assert "boris 2" in await room.messages()
        for number in range(3):
            await room.send(f"alone {number}")
        await asyncio.sleep(600)
        assert await mesh.digest("b", room.room_id) is None
        with pytest.raises(RequestFailed):
            await boris.request("GET", admin_path("v1", "rooms", room.room_id))
        assert (await boris.request("GET", admin_path("v1", "rooms")))["total_rooms"] == 0
        # He may come back, and then has all of it again.
        await room.membership("invite", boris.user_id)
        await asyncio.sleep(5)
        again = await RoomActions.join(boris, room.room_id)
        assert await mesh.until_equal(room.room_id, within_s=120) is not None
        await again.send("back")
        await asyncio.sleep(5)
        assert sorted(await again.messages()) == sorted(await room.messages())
        await mesh.stop()

    with caplog.at_level(logging.WARNING):
        live(story())
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_blocked_room_stays_away() -> None:
    async def story() -> None:
        mesh, room, _, boris = await two()
        await boris.request("DELETE", admin_path("v1", "rooms", room.room_id), {"block": True})
        await asyncio.sleep(30)
        await room.membership("invite", boris.user_id)
        await asyncio.sleep(30)
        assert (await boris.request("GET", "/sync"))["rooms"].get("invite", {}) == {}
        with pytest.raises(RequestFailed) as refused:
            await RoomActions.join(boris, room.room_id)
        assert refused.value.errcode == "M_FORBIDDEN"
        await mesh.stop()

    live(story())


def test_what_is_purged_here_stays_purged_and_no_peer_sees_a_difference() -> None:
    async def story() -> None:
        mesh, room, joined, boris = await two()
        for number in range(5):
            await room.send(f"anna {number}")
        assert await mesh.until_equal(room.room_id, within_s=60) is not None
        before = await mesh.digests(room.room_id)
        body = {"purge_up_to_ts": 2**50}
        started = await boris.request("POST", admin_path("v1", "purge_history", room.room_id), body)
        status_path = admin_path("v1", "purge_history_status", started["purge_id"])
        await asyncio.sleep(5)
        assert (await boris.request("GET", status_path))["status"] == "complete"
        assert await joined.messages() == []
        assert await mesh.digests(room.room_id) == before
        await mesh.crash("b")
        await mesh.boot("b")
        await asyncio.sleep(600)
        await room.send("after")
        assert await mesh.until_equal(room.room_id, within_s=60) is not None
        assert await joined.messages() == ["after"]
        assert len(await room.messages()) == 6
        report = await boris.request("GET", admin_path("v1", "rooms", room.room_id))
        assert report["joined_members"] == 2
        await mesh.stop()

    live(story())


def test_erased_messages_reach_a_node_that_comes_later_without_their_content() -> None:
    async def story() -> None:
        mesh = SimulatedMesh(["a", "b"], seed=2)
        await mesh.start()
        await asyncio.sleep(5)
        anna, alex, boris = await mesh.user("a", "anna"), await mesh.user("a", "alex"), await mesh.user("b", "boris")
        await make_admin(mesh, "a", alex)
        room = await RoomActions.create(anna, preset="public_chat")
        staying = await RoomActions.join(alex, room.room_id)
        await room.send("anna's secret")
        await staying.send("alex's news")
        await alex.request("POST", admin_path("v1", "deactivate", anna.user_id), {"erase": True})
        await asyncio.sleep(5)
        assert sorted(await staying.messages()) == ["alex's news", "anna's secret"]
        late = await RoomActions.join(boris, room.room_id, via=mesh.nodes["a"].server_name)
        assert await mesh.until_equal(room.room_id, within_s=120) is not None
        assert await late.messages() == ["alex's news"]
        database = mesh.nodes["b"].database
        assert database is not None
        dump = await database.read(lambda tx: "\n".join(tx.conn.iterdump()))
        assert b"alex's news".hex() in dump.lower()
        assert b"anna's secret".hex() not in dump.lower()
        await mesh.stop()

    live(story())
