"""Whole nodes on one serial bus, through the serial transport's own medium: a text goes out once for all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from p2pserver.node.shared_medium import SharedMedium
from p2pserver.node.simulation import RoomActions
from tests.node.serial_mesh import SerialMesh
from transports.sim import run_virtual

NAMES = "abc"


def test_a_text_is_broadcast_on_a_serial_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    spoken: list[bytes] = []
    said = SharedMedium._say

    async def say(self: SharedMedium, message: bytes, **how: Any) -> bool:
        spoken.append(message)
        return await said(self, message, **how)

    monkeypatch.setattr(SharedMedium, "_say", say)

    async def story() -> None:
        mesh = SerialMesh(NAMES, "port=/dev/ttyS0,profile=bus,baud=9600")
        await mesh.start()
        users = {name: await mesh.user(name, name) for name in NAMES}
        for _ in range(600):
            if all(len(mesh.nodes[name].running.mesh.connected()) == 2 for name in NAMES):
                break
            await asyncio.sleep(1)
        room = await RoomActions.create(users["a"], name="bus", preset="public_chat")
        rooms = {"a": room}
        for name in NAMES[1:]:
            rooms[name] = await RoomActions.join(users[name], room.room_id, via=mesh.nodes["a"].server_name)
            assert await mesh.until_equal(room.room_id, within_s=2_000, names=[*rooms]) is not None
            await asyncio.sleep(100)
        spoken.clear()
        await room.send("all aboard")
        assert await mesh.until_equal(room.room_id, within_s=600) is not None
        assert len(spoken) == 1
        (medium,) = mesh.nodes["c"].running.mesh._media
        assert medium._listener.counts.messages > 0
        await asyncio.sleep(100)
        database = mesh.nodes["a"].database
        assert database is not None
        assert await database.read(lambda tx: tx.all("SELECT * FROM outbox")) == []
        for name in NAMES:
            assert await rooms[name].messages() == ["all aboard"]
        await mesh.stop()

    run_virtual(story(), limit_s=50_000)
