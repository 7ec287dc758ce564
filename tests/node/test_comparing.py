"""Two whole nodes that hold the same events and make something else of them: an alarm, or a healing event."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from p2pserver.node.healing import HealingTimes
from p2pserver.node.sabotage import replace_in_units
from p2pserver.node.simulation import RoomActions, SimulatedMesh
from p2pserver.rooms import proof
from p2pserver.store import rooms
from p2pserver.store.alarms import DIVERGED, Alarm, alarms
from p2pserver.store.events import HEALING_TYPE
from tests.node.test_nodes import live, two


async def alarms_of(mesh: SimulatedMesh, name: str) -> list[Alarm]:
    database = mesh.nodes[name].database
    assert database is not None
    return await database.read(alarms)


async def meet_again(mesh: SimulatedMesh) -> None:
    mesh.partition({"a"}, {"b"})
    await asyncio.sleep(60)
    mesh.heal()
    await asyncio.sleep(20)


def test_equal_nodes_raise_no_alarm() -> None:
    async def story() -> None:
        mesh, room, joined, _, _ = await two()
        for number in range(5):
            await room.send(f"{number}")
            await joined.send(f"{number}")
        await meet_again(mesh)
        assert await alarms_of(mesh, "a") == await alarms_of(mesh, "b") == []
        await mesh.stop()

    live(story())


def test_broken_disk_is_told_by_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        mesh, room, _, _, _ = await two()
        database = mesh.nodes["b"].database
        assert database is not None
        await asyncio.sleep(5)
        await database.write(lambda tx: tx.execute("UPDATE events SET sec = zeroblob(32)"))
        for _ in range(3):
            await meet_again(mesh)
        for name, other in (("a", "b"), ("b", "a")):
            [alarm] = await alarms_of(mesh, name)
            assert (alarm.room_id, alarm.kind) == (room.room_id, DIVERGED)
            assert alarm.about == mesh.nodes[other].server_name
            assert alarm.details["ours"] != alarm.details["theirs"]
            assert alarm.times == 3
        await mesh.stop()

    live(story())
    told = [record for record in caplog.records if "something else of the same events" in record.getMessage()]
    assert len(told) == 2  # each node once


def test_partial_room_says_nothing() -> None:
    async def story() -> None:
        mesh, room, _, _, _ = await two()
        database = mesh.nodes["b"].database
        assert database is not None
        await database.write(lambda tx: tx.execute("UPDATE events SET sec = zeroblob(32)"))
        await database.write(lambda tx: rooms.set_complete(tx, room.room_id, False))
        await meet_again(mesh)
        assert await alarms_of(mesh, "a") == await alarms_of(mesh, "b") == []
        await mesh.stop()

    live(story())


def test_liar_costs_a_few_events() -> None:
    """It claims another current state at every contact and after every event; each answer would be one more event."""

    async def story() -> None:
        mesh, room, _, _, _ = await two()
        liar, honest = mesh.nodes["b"].database, mesh.nodes["a"].database
        assert liar is not None
        assert honest is not None
        replace_in_units(liar, proof, "_operational", lambda *_args: b"another one")

        async def healing_events() -> int:
            rows = await honest.read(lambda tx: tx.all("SELECT 1 FROM events WHERE type = ?", (HEALING_TYPE,)))
            return len(rows)

        for _ in range(5):
            await meet_again(mesh)
        assert await healing_events() <= 4  # at most two of each node, and then nobody has anything to say
        for number in range(40):
            await room.send(f"{number}")
            await asyncio.sleep(60)
        print(f"{await healing_events()} healing events for 40 messages in 40 minutes")
        assert await healing_events() <= 2 * HealingTimes().per_hour
        await mesh.stop()

    live(story())


def test_clients_see_no_healing_event() -> None:
    async def story() -> None:
        mesh, room, joined, anna, boris = await two()
        shown_before = await joined.messages()
        sync = await boris.request("GET", "/sync")
        node, database = mesh.nodes["a"].running, mesh.nodes["a"].database
        assert database is not None
        root = await room.send("the root")
        await boris.request("GET", "/sync", since=sync["next_batch"])
        content = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
        healing: Any = await database.write(
            lambda tx: node.rooms.send(
                tx, room_id=room.room_id, sender=anna.user_id, event_type=HEALING_TYPE, content=content
            )
        )
        await asyncio.sleep(5)
        assert await mesh.until_equal(room.room_id, within_s=60) is not None
        sync = await boris.request("GET", "/sync", since=sync["next_batch"])
        later = await boris.request("GET", "/sync", since=sync["next_batch"], timeout="0")
        assert later["rooms"]["join"] == {}
        path = f"/rooms/{room.room_id}"
        everywhere = [
            await boris.request("GET", "/sync"),
            sync,
            await boris.request("GET", f"{path}/messages", dir="b", limit="100"),
            await boris.request("GET", f"{path}/context/{root}", limit="100"),
        ]
        assert all(healing.event_id not in str(each) for each in everywhere)
        assert HEALING_TYPE not in str(everywhere)
        assert "m.thread" not in str(everywhere)
        assert await joined.messages() == [*shown_before, "the root"]
        await mesh.stop()

    live(story())


def test_better_copy_of_levels_changes_the_verdicts_and_raises_no_alarm() -> None:
    """Version 10: the levels come altered to one node, whose user then invites somebody, as he may by that copy."""

    async def story() -> None:
        mesh = SimulatedMesh(["a", "b"], seed=4)
        await mesh.start()
        await asyncio.sleep(5)
        anna, boris = await mesh.user("a", "anna"), await mesh.user("b", "boris")
        room = await RoomActions.create(anna, preset="public_chat", room_version="10")
        joined = await RoomActions.join(boris, room.room_id, via=mesh.nodes["a"].server_name)
        assert await mesh.until_equal(room.room_id, within_s=60) is not None
        mesh.partition({"a"}, {"b"})
        levels = await room.state("m.room.power_levels", {"users": {anna.user_id: 100}, "invite": 100})
        databases = {name: mesh.nodes[name].database for name in ("a", "b")}
        rooms = {name: mesh.nodes[name].running.rooms for name in ("a", "b")}
        assert databases["a"] is not None
        assert databases["b"] is not None
        raw = await databases["a"].read(lambda tx: rooms["a"].event(tx, levels).raw)
        altered = {**raw, "content": {**raw["content"], "invite": 0}}
        source = mesh.nodes["a"].server_name
        await databases["b"].write(
            lambda tx: rooms["b"].receive(tx, room_id=room.room_id, raws=[altered], source=source)
        )
        guest = f"@guest:{mesh.nodes['a'].server_name}"
        await joined.membership("invite", guest)
        mesh.heal()
        await asyncio.sleep(90)
        assert await mesh.until_equal(room.room_id, within_s=120) is not None
        for database in databases.values():
            verdict = await database.read(
                lambda tx: tx.one(
                    "SELECT verdict FROM events WHERE state_key = ? AND sender = ?", (guest, boris.user_id)
                )
            )
            assert verdict == ("rejected",)
        assert await alarms_of(mesh, "a") == await alarms_of(mesh, "b") == []
        digests = await mesh.digests(room.room_id)
        assert len(set(map(str, digests.values()))) == 1
        await mesh.stop()

    live(story())
