"""Server ACLs between whole nodes: a denied server cannot talk about the room, and the others still agree."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from p2pserver.node.simulation import InProcessClient, RoomActions, SimulatedMesh
from p2pserver.rooms import server_acl
from tests.node.test_ephemera import ephemeral, read, sync, typing
from tests.node.test_nodes import equal, live, outbox_of

ACL = "m.room.server_acl"


async def three(seed: int = 1) -> tuple[SimulatedMesh, list[RoomActions], list[InProcessClient]]:
    """Three nodes, all connected, in a room that Anna on the first one has made."""
    mesh = SimulatedMesh(["a", "b", "c"], seed=seed)
    await mesh.start()
    await asyncio.sleep(5)
    users = [await mesh.user(name, f"user-{name}") for name in "abc"]
    rooms = [await RoomActions.create(users[0], preset="public_chat")]
    via = mesh.nodes["a"].server_name
    rooms += [await RoomActions.join(each, rooms[0].room_id, via=via) for each in users[1:]]
    await equal(mesh, rooms[0].room_id)
    return mesh, rooms, users


async def deny(mesh: SimulatedMesh, room: RoomActions, name: str) -> None:
    await room.state(ACL, {"allow": ["*"], "deny": [mesh.nodes[name].server_name.upper()]})
    await asyncio.sleep(10)


async def story_of_a_denied_server() -> None:
    mesh, (anna, boris, carla), users = await three()
    await deny(mesh, anna, "c")
    await carla.send("are you there?")
    event_id = await boris.send("we talk on")
    await typing(users[2], carla, on=True)
    await read(users[2], carla, event_id)
    await asyncio.sleep(180)
    for room, user in ((anna, users[0]), (boris, users[1])):
        assert "are you there?" not in await room.messages()
        assert "we talk on" in await room.messages()
        answer = await sync(user)
        assert ephemeral(answer, room.room_id, "m.typing") in ([], [{"user_ids": []}])
        assert users[2].user_id not in str(ephemeral(answer, room.room_id, "m.receipt"))
    assert await outbox_of(mesh, "c") == [], "nothing waits for ever, and holds up other rooms"
    other = await RoomActions.create(users[2], preset="public_chat")
    there = await RoomActions.join(users[0], other.room_id, via=mesh.nodes["c"].server_name)
    await other.send("of another room")
    await equal_of(mesh, other.room_id, "ac")
    assert "of another room" in await there.messages()

    await anna.state(ACL, {"allow": ["*"]})
    await equal(mesh, anna.room_id, within_s=600)
    for room in (anna, boris, carla):
        assert {"are you there?", "we talk on"} <= set(await room.messages())
    await mesh.stop()


async def equal_of(mesh: SimulatedMesh, room_id: str, names: str) -> None:
    assert await mesh.until_equal(room_id, within_s=120, names=names) is not None


def test_a_denied_server_is_not_heard_until_it_is_allowed_again() -> None:
    live(story_of_a_denied_server())


async def story_of_history() -> None:
    """What is owed to a denied server is lost here: it can only ask for it."""
    mesh, (anna, _, carla), _ = await three(seed=2)
    mesh.partition({"a", "b"}, {"c"})
    await asyncio.sleep(60)
    for n in range(3):
        await anna.send(f"meanwhile {n}")
    await deny(mesh, anna, "c")
    await equal_of(mesh, anna.room_id, "ab")
    for name in "ab":
        database = mesh.nodes[name].database
        assert database is not None
        await database.write(lambda tx: tx.execute("DELETE FROM outbox"))
    mesh.heal()
    await asyncio.sleep(120)
    assert not [text for text in await carla.messages() if text.startswith("meanwhile")]
    await mesh.stop()


def test_it_is_given_no_history() -> None:
    live(story_of_history())


def test_an_acl_that_is_not_looked_at_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_acl, "is_denied", lambda tx, room_id, server: False)
    with pytest.raises(AssertionError, match="are you there"):
        live(story_of_a_denied_server())
    with pytest.raises(AssertionError, match="meanwhile"):
        live(story_of_history())


def test_who_heard_of_the_acl_later_brings_what_he_took() -> None:
    """Boris is with the denied server while Anna denies it: what he took from there is part of what both hold."""

    async def story() -> None:
        mesh, (anna, boris, carla), _ = await three(seed=3)
        mesh.partition({"a"}, {"b", "c"})
        await asyncio.sleep(60)
        await deny(mesh, anna, "c")
        await carla.send("before he knew")
        await equal_of(mesh, anna.room_id, "bc")
        await boris.send("an answer")
        mesh.heal()
        await equal_of(mesh, anna.room_id, "ab")
        assert {"before he knew", "an answer"} <= set(await anna.messages())
        await carla.send("after he knew")
        await asyncio.sleep(120)
        for room in (anna, boris):
            assert "after he knew" not in await room.messages()
        digests = await mesh.digests(anna.room_id, "ab")
        assert all(one == other for one, other in itertools.pairwise(digests.values()))
        await mesh.stop()

    live(story())
