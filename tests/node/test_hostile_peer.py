"""Whole nodes and one that says what it likes, with a valid key of its own: what it learns, and what goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from p2pserver.errors import Forbidden, MatrixError, NotFound
from p2pserver.events.build import build_event
from p2pserver.events.versions import V12
from p2pserver.federation.beacons import BeaconKey
from p2pserver.link import Priority
from p2pserver.node.in_process_client import InProcessClient
from p2pserver.node.session import Session
from p2pserver.node.simulation import RoomActions, SimulatedMesh
from p2pserver.wire import messages as m
from transports.sim import run_virtual

SECRET = "the-secret"


def live(story: Coroutine[Any, Any, None]) -> None:
    run_virtual(story, limit_s=7200)


class Mallory:
    """Node `name` of a mesh in the hands of an attacker: hears all that `victim` says to it, and may say anything."""

    def __init__(self, mesh: SimulatedMesh, name: str, victim: str) -> None:
        self.mesh, self.name, self.victim = mesh, name, victim
        self.heard: list[bytes] = []
        peering = self.session.peering
        receive = peering.receive

        def listen(data: bytes, now: float) -> None:
            self.heard.append(data)
            receive(data, now)

        peering.receive = listen  # type: ignore[method-assign]

    @property
    def session(self) -> Session:
        return self.mesh.nodes[self.name].running.mesh._by_name[self.mesh.nodes[self.victim].server_name]

    @property
    def server_name(self) -> str:
        return self.mesh.nodes[self.name].server_name

    def say(self, *messages: m.Message) -> None:
        for message in messages:
            self.session.conversation.send(m.encode_message(message), Priority.STATE)
        self.session.wake()
        if self.session.active is not None:
            self.session.active.wake()

    def has_heard(self, *words: str) -> bool:
        return any(word.encode() in data for data in self.heard for word in words)

    def said(self, kind: type) -> list[Any]:
        return [message for message in map(m.decode_message, self.heard) if isinstance(message, kind)]

    def beacon(self, room_id: str, leaves: list[str]) -> m.Beacon:
        """The beacon of a room by somebody who knows its ID, or guessed its tag."""
        ours = self.session.peering
        theirs = self.mesh.nodes[self.victim].running.mesh._by_name[self.server_name].peering
        key = BeaconKey((self.server_name, ours._salt), (self.mesh.nodes[self.victim].server_name, theirs._salt))
        return key.beacon(room_id, leaves)


async def private_room(names: list[str], seed: int = 1) -> tuple[SimulatedMesh, RoomActions, InProcessClient]:
    """Nodes a and b share a private room with a secret; all know each other."""
    mesh = SimulatedMesh(names, seed=seed)
    await mesh.start()
    await asyncio.sleep(5)
    anna, boris = await mesh.user("a", "anna"), await mesh.user("b", "boris")
    room = await RoomActions.create(anna, name=SECRET, preset="private_chat", invite=[boris.user_id])
    await asyncio.sleep(2)
    await RoomActions.join(boris, room.room_id)
    await room.send(SECRET)
    assert await mesh.until_equal(room.room_id, within_s=60, names=["a", "b"]) is not None
    return mesh, room, boris


async def leaves_of(mesh: SimulatedMesh, name: str, room_id: str) -> list[str]:
    database = mesh.nodes[name].database
    assert database is not None
    return await database.read(lambda tx: mesh.nodes[name].running.rooms.leaves(tx, room_id))


async def made_by_hand(
    mesh: SimulatedMesh, name: str, room_id: str, sender: str, prev_events: list[str], body: str
) -> dict[str, Any]:
    """A message of a user of node `name`, that the node itself knows nothing of."""
    database, rooms = mesh.nodes[name].database, mesh.nodes[name].running.rooms
    assert database is not None
    state = await database.read(lambda tx: rooms.current_state(tx, room_id))
    made = build_event(
        rules=V12,
        room_id=room_id,
        sender=sender,
        event_type="m.room.message",
        state_key=None,
        content={"msgtype": "m.text", "body": body},
        prev_events=prev_events,
        auth_events=[state["m.room.power_levels", ""], state["m.room.member", sender]],
        depth=50,
        origin_server_ts=1,
        signer=mesh.nodes[name].identity.signer,
    )
    return dict(made.raw)


def test_a_stranger_learns_nothing_of_a_private_room_whose_id_it_knows() -> None:
    async def story() -> None:
        mesh, room, boris = await private_room(["a", "b", "c"])
        mallory = Mallory(mesh, "c", "a")
        leaf = (await leaves_of(mesh, "a", room.room_id))[0]
        unknown = "$" + "A" * 43
        mallory.say(
            m.Beacons((mallory.beacon(room.room_id, [unknown]),)),
            m.Leaves(room.room_id, (unknown,), answer=False),
            m.Leaves(room.room_id, (), answer=False),
            m.Want(room.room_id, (leaf, unknown), (), 100_000),
            m.Offer(room.room_id, (unknown,)),
            m.Lacking(room.room_id, (leaf,)),
            m.Stored(room.room_id, (leaf,)),
        )
        a, remote = mesh.nodes["a"].server_name, mesh.nodes["c"].running.mesh
        mine = f"@mallory:{mallory.server_name}"
        questions: list[tuple[str, dict[str, Any], type[MatrixError]]] = [
            ("join", {"room_id": room.room_id, "user_id": mine, "versions": ["12"]}, Forbidden),
            ("join", {"room_id": room.room_id, "user_id": boris.user_id, "versions": ["12"]}, Forbidden),
            ("join", {"room_id": room.room_id, "user_id": room.client.user_id, "versions": ["12"]}, Forbidden),
            ("directory", {"alias": f"#nothing:{a}"}, NotFound),
        ]
        for name, body, error in questions:
            with pytest.raises(error):
                await remote.ask(a, name, body, timeout_s=5)
        assert (await remote.ask(a, "public_rooms", {}, timeout_s=5))["chunk"] == []
        await room.send(f"{SECRET} again")
        await asyncio.sleep(100)
        assert not mallory.has_heard(SECRET, boris.user_id)
        assert mallory.said(m.Pdus) == mallory.said(m.Item) == []
        assert all(leaves.event_ids == () for leaves in mallory.said(m.Leaves))
        lacked = {event_id for lacking in mallory.said(m.Lacking) for event_id in lacking.event_ids}
        assert lacked == {leaf, unknown}
        await mesh.stop()

    live(story())


def test_a_guessed_tag_does_not_tell_the_room() -> None:
    async def story() -> None:
        mesh, room, _ = await private_room(["a", "b", "c"])
        mallory = Mallory(mesh, "c", "a")
        for _ in range(20):
            mallory.say(m.Beacons((mallory.beacon(room.room_id, ["$" + "A" * 43]),)))
            await asyncio.sleep(0.1)
        await asyncio.sleep(100)
        assert not mallory.has_heard(room.room_id)
        assert len(mallory.heard) < 10
        await mesh.stop()

    live(story())


def test_what_members_miss_is_asked_of_members_only() -> None:
    async def story() -> None:
        mesh, room, boris = await private_room(["a", "b", "c"])
        await asyncio.sleep(70)  # by now node a has looked at its rooms with c in mind, too
        stranger, member = Mallory(mesh, "c", "a"), Mallory(mesh, "b", "a")
        nowhere = "$" + "A" * 43
        pdu = await made_by_hand(mesh, "b", room.room_id, boris.user_id, [nowhere], "on nothing")
        member.say(m.Pdus(room.room_id, (pdu,), more=False, in_answer=False))
        await asyncio.sleep(100)
        assert any(nowhere in want.want for want in member.said(m.Want))
        assert not stranger.has_heard(room.room_id)
        await mesh.stop()

    live(story())


def test_a_server_that_was_thrown_out_hears_nothing_that_happens_afterwards() -> None:
    async def story() -> None:
        mesh, room, boris = await private_room(["a", "b", "c"])
        mallory = Mallory(mesh, "b", "a")
        await room.membership("ban", boris.user_id)
        await asyncio.sleep(5)
        mallory.heard.clear()
        later = await room.send("after-the-ban")
        name = await room.state("m.room.name", {"name": "after-the-ban"})
        mallory.say(
            m.Beacons((mallory.beacon(room.room_id, [later]),)),
            m.Want(room.room_id, (later, name), (), 100_000),
            m.Leaves(room.room_id, (later,), answer=False),
        )
        a, remote = mesh.nodes["a"].server_name, mesh.nodes["b"].running.mesh
        body = {"room_id": room.room_id, "user_id": boris.user_id, "versions": ["12"]}
        with pytest.raises(Forbidden):
            await remote.ask(a, "join", body, timeout_s=5)
        await asyncio.sleep(100)
        assert not mallory.has_heard("after-the-ban")
        leaf = (await leaves_of(mesh, "a", room.room_id))[0]
        backdated = await made_by_hand(mesh, "b", room.room_id, boris.user_id, [leaf], "still here")
        mallory.say(m.Pdus(room.room_id, (backdated,), more=False, in_answer=False))
        await asyncio.sleep(10)
        assert "still here" not in await room.messages()
        await mesh.stop()

    live(story())


def test_a_fan_of_forks_does_not_keep_others_from_each_other() -> None:
    """Both sides hold hundreds of siblings, more than anybody can name as what he has."""

    async def story() -> None:
        mesh, room, boris = await private_room(["a", "b"])
        tips = await leaves_of(mesh, "b", room.room_id)
        fan = [
            await made_by_hand(mesh, "b", room.room_id, boris.user_id, tips, f"{number} " + "x" * 2000)
            for number in range(600)
        ]
        mesh.partition({"a"}, {"b"})
        for start in range(0, len(fan), 40):
            for name in ("a", "b"):
                database, rooms = mesh.nodes[name].database, mesh.nodes[name].running.rooms
                assert database is not None
                raws = fan[start : start + 40]
                await database.write(
                    lambda tx, raws=raws, rooms=rooms: rooms.receive(  # type: ignore[misc]
                        tx, room_id=room.room_id, raws=raws, source=mesh.nodes["b"].server_name
                    )
                )
            for number in range(3):
                await room.send(f"merges {start} {number}")
        database = mesh.nodes["a"].database
        assert database is not None
        await database.write(lambda tx: tx.execute("DELETE FROM outbox"))
        await mesh.crash("a")
        await mesh.boot("a")
        mesh.heal()
        assert await mesh.until_equal(room.room_id, within_s=120) is not None
        await mesh.stop()

    live(story())
