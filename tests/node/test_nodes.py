"""Whole nodes on the simulated network: rooms, partitions, bursts, restarts, crashes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from p2pserver.errors import Forbidden, MatrixError, NotFound, PeerUnreachable, Unrecognized
from p2pserver.node.exchange import error_of
from p2pserver.node.simulation import InProcessClient, RoomActions, SimulatedMesh
from p2pserver.store.inline import InlineDatabase
from p2pserver.store.outbox import queue_edu
from p2pserver.store.peers import allow_server, block_server, list_peers
from p2pserver.store.tx import Tx
from transports.sim import LinkConditions, run_virtual

T = TypeVar("T")


def live(story: Coroutine[Any, Any, None]) -> None:
    run_virtual(story, limit_s=7200)


async def two(
    seed: int = 1, **options: Any
) -> tuple[SimulatedMesh, RoomActions, RoomActions, InProcessClient, InProcessClient]:
    """Two nodes, connected, whose users share a room."""
    mesh = SimulatedMesh(["a", "b"], seed=seed, **options)
    await mesh.start()
    await asyncio.sleep(5)
    anna, boris = await mesh.user("a", "anna"), await mesh.user("b", "boris")
    room = await RoomActions.create(anna, name="harbor", preset="private_chat", invite=[boris.user_id])
    await asyncio.sleep(2)
    joined = await RoomActions.join(boris, room.room_id)
    assert await mesh.until_equal(room.room_id, within_s=60) is not None
    return mesh, room, joined, anna, boris


async def outbox_of(mesh: SimulatedMesh, name: str) -> list[tuple[Any, ...]]:
    database = mesh.nodes[name].database
    assert database is not None
    return await database.read(lambda tx: tx.all("SELECT kind, event_id FROM outbox"))


async def equal(mesh: SimulatedMesh, room_id: str, within_s: float = 60) -> None:
    assert await mesh.until_equal(room_id, within_s=within_s) is not None, await mesh.digests(room_id)


def test_invite_join_and_chat() -> None:
    async def story() -> None:
        mesh, room, joined, _, _ = await two()
        for n in range(10):
            await room.send(f"anna {n}")
            await joined.send(f"boris {n}")
        await equal(mesh, room.room_id)
        texts = await room.messages()
        assert sorted(texts) == sorted(await joined.messages())
        assert len(texts) == 20
        await asyncio.sleep(5)
        assert await outbox_of(mesh, "a") == []
        assert await outbox_of(mesh, "b") == []
        await mesh.stop()

    live(story())


def test_an_event_is_with_the_other_node_in_a_few_milliseconds() -> None:
    async def story() -> None:
        conditions = LinkConditions(delay_ms_mean=0.1)
        mesh, room, _, _, _ = await two(conditions=conditions, commit_delay_s=0.001)
        await asyncio.sleep(10)
        database = mesh.nodes["b"].database
        assert database is not None
        loop = asyncio.get_running_loop()
        for n in range(5):
            before, began = database.position, loop.time()
            await room.send(f"quick {n}")
            assert await database.wait([f"room:{room.room_id}"], after=before, timeout_s=5)
            assert loop.time() - began < 0.008
            await asyncio.sleep(1)
        await mesh.stop()

    live(story())


@pytest.mark.parametrize("seconds", [3, 120])
def test_a_partition_heals(seconds: float) -> None:
    async def story() -> None:
        mesh, room, joined, _, _ = await two()
        mesh.partition({"a"}, {"b"})
        for n in range(50):
            await room.send(f"anna alone {n}")
            await joined.send(f"boris alone {n}")
        await room.state("m.room.name", {"name": "by anna"})
        await asyncio.sleep(seconds)
        if seconds > 60:
            assert mesh.nodes["a"].running.mesh.connected() == []
        mesh.heal()
        await equal(mesh, room.room_id)
        assert len(await joined.messages()) == 100
        await asyncio.sleep(5)
        assert await outbox_of(mesh, "a") == await outbox_of(mesh, "b") == []
        await mesh.stop()

    live(story())


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_a_burst_of_300_arrives_whole(loss: float) -> None:
    async def story() -> None:
        conditions = LinkConditions(loss=loss, delay_ms_mean=20, jitter_ms=15, datagram_octets_max=1_400)
        mesh, room, joined, _, _ = await two(conditions=conditions)
        await asyncio.gather(*(room.send(f"burst {n}") for n in range(300)))
        await equal(mesh, room.room_id, 120)
        assert set(await joined.messages()) == {f"burst {n}" for n in range(300)}
        await mesh.stop()

    live(story())


def test_a_room_with_a_long_history_can_be_joined() -> None:
    async def story() -> None:
        mesh = SimulatedMesh(["a", "b"], seed=4)
        await mesh.start()
        anna, boris = await mesh.user("a", "anna"), await mesh.user("b", "boris")
        room = await RoomActions.create(anna, preset="public_chat")
        for n in range(500):
            await room.send(f"old {n}")
        joined = await RoomActions.join(boris, room.room_id, via=mesh.nodes["a"].server_name)
        await joined.send("new")
        await equal(mesh, room.room_id, 120)
        assert len(await joined.messages()) == 501
        await mesh.stop()

    live(story())


@pytest.mark.parametrize("seed", range(5))
def test_a_node_that_restarts_in_the_middle_catches_up(seed: int) -> None:
    async def story() -> None:
        mesh, room, _, _, boris = await two(seed)
        rng = random.Random(seed)
        for _ in range(4):
            for n in range(rng.randrange(1, 40)):
                await room.send(f"{n}")
            await mesh.crash("b")
            for n in range(rng.randrange(1, 40)):
                await room.send(f"meanwhile {n}")
            await asyncio.sleep(rng.choice((0.1, 5, 100)))
            await mesh.boot("b")
            await asyncio.sleep(rng.choice((0.0, 0.5, 3)))
        await equal(mesh, room.room_id, 120)
        mine = await room.messages()
        assert await RoomActions(boris, room.room_id).messages() == mine
        await mesh.stop()

    live(story())


def test_both_dialing_at_once_leaves_one_link() -> None:
    async def story() -> None:
        for seed in range(8):
            mesh = SimulatedMesh(["a", "b", "c"], seed=seed)
            mesh.network.both_dial = 1.0
            await mesh.start()
            await asyncio.sleep(30)
            for name in mesh.nodes:
                node_mesh = mesh.nodes[name].running.mesh
                assert len(node_mesh.connected()) == 2
                assert len(node_mesh._pipes) == 2
            await mesh.stop()

    live(story())


def test_a_neighbor_that_is_met_again_is_known_by_its_key() -> None:
    def handshakes(mesh: SimulatedMesh) -> set[str]:
        """The patterns of the handshakes behind the pipes that there are."""
        nodes = [simulated.node for simulated in mesh.nodes.values()]
        assert all(node is not None for node in nodes)
        noises = [pipe.endpoint._handshake._noise for node in nodes if node is not None for pipe in node.mesh._pipes]
        return {noise.pattern.name for noise in noises if noise is not None}

    async def story() -> None:
        mesh, room, joined, _, _ = await two(conditions=LinkConditions(delay_ms_mean=5))
        assert handshakes(mesh) == {"XX"}
        mesh.network.set_link("a", "b", up=False)
        await room.send("while you were away")
        await asyncio.sleep(90)
        assert handshakes(mesh) == set()
        mesh.network.set_link("a", "b", up=True)
        await equal(mesh, room.room_id)
        assert handshakes(mesh) == {"IK"}
        assert "while you were away" in await joined.messages()
        await mesh.stop()

    live(story())


def test_what_passes_between_others_reaches_all_members() -> None:
    """Three in a line: the ends never meet."""

    async def story() -> None:
        mesh = SimulatedMesh(["a", "b", "c"], seed=2)
        mesh.network.set_link("a", "c", up=False)
        await mesh.start()
        await asyncio.sleep(5)
        clients = [await mesh.user(name, f"user-{name}") for name in "abc"]
        room = await RoomActions.create(clients[1], preset="public_chat")
        via = mesh.nodes["b"].server_name
        ends = [await RoomActions.join(client, room.room_id, via=via) for client in (clients[0], clients[2])]
        await equal(mesh, room.room_id)
        loop = asyncio.get_running_loop()
        for n in range(10):
            began = loop.time()
            await ends[0].send(f"a to c {n}")
            await ends[1].send(f"c to a {n}")
            await equal(mesh, room.room_id)
            assert loop.time() - began < 2
        assert sorted(await ends[0].messages()) == sorted(await ends[1].messages())
        await mesh.stop()

    live(story())


def test_questions_and_their_errors() -> None:
    async def story() -> None:
        mesh, room, _, anna, _ = await two()
        remote = mesh.nodes["b"].running.mesh
        server = mesh.nodes["a"].server_name
        loop = asyncio.get_running_loop()
        assert remote.connected() == [server]
        assert isinstance(await remote.ask(server, "profile", {"user_id": anna.user_id}, timeout_s=5), dict)
        with pytest.raises(NotFound):
            await remote.ask(server, "profile", {"user_id": "@nobody:" + server}, timeout_s=5)
        with pytest.raises(Unrecognized):
            await remote.ask(server, "no_such_question", {}, timeout_s=5)
        with pytest.raises(PeerUnreachable):
            await remote.ask("x" * 52, "profile", {}, timeout_s=5)
        with pytest.raises(PeerUnreachable):
            await remote.ask(server, "profile", {"user_id": "x" * 200_000}, timeout_s=5)
        mesh.partition({"a"}, {"b"})
        began = loop.time()
        with pytest.raises(PeerUnreachable):
            await remote.ask(server, "profile", {"user_id": anna.user_id}, timeout_s=5)
        assert 4.9 < loop.time() - began < 5.1
        await asyncio.sleep(120)
        began = loop.time()
        with pytest.raises(PeerUnreachable):
            await remote.ask(server, "profile", {"user_id": anna.user_id}, timeout_s=5)
        assert loop.time() == began
        assert room.room_id
        await mesh.stop()

    live(story())


def test_an_error_of_another_server_is_the_same_error_here() -> None:
    refused = error_of({"errcode": "M_FORBIDDEN", "error": "no"})
    assert isinstance(refused, Forbidden)
    assert refused.message == "no"
    assert error_of({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 50}).body()["retry_after_ms"] == 50
    assert error_of({"errcode": "M_INCOMPATIBLE_ROOM_VERSION", "room_version": "9"}).body()["room_version"] == "9"
    for odd in ({}, {"errcode": 5}, {"errcode": "M_SOMETHING", "error": ["x"]}, {"errcode": None}):
        assert type(error_of(odd)) is MatrixError


def test_a_to_device_message_waits_for_a_node_that_is_away() -> None:
    async def story() -> None:
        mesh, _, _, anna, boris = await two()
        await mesh.crash("b")
        body = {"messages": {boris.user_id: {"SIM": {"hello": "boris"}}}}
        await anna.request("PUT", "/sendToDevice/m.test/t1", body)
        await asyncio.sleep(50)
        await mesh.crash("a")
        await mesh.boot("a")
        await mesh.boot("b")
        await asyncio.sleep(20)
        answer = await boris.request("GET", "/sync", timeout="0")
        assert [event["content"] for event in answer["to_device"]["events"]] == [{"hello": "boris"}]
        assert await outbox_of(mesh, "a") == []
        await mesh.stop()

    live(story())


def test_a_blocked_server_is_cut_off_and_kept_out_until_it_is_allowed() -> None:
    async def story() -> None:
        mesh, _, _, _, _ = await two()
        database, key = mesh.nodes["a"].database, mesh.nodes["b"].identity.signer.verify_key
        assert database is not None
        assert await database.write(lambda tx: block_server(tx, key))
        assert not await database.write(lambda tx: block_server(tx, key))
        await asyncio.sleep(4)
        assert mesh.nodes["a"].running.mesh.connected() == []
        await asyncio.sleep(100)
        assert mesh.nodes["a"].running.mesh.connected() == []
        [row] = await database.read(list_peers)
        assert (row["server_name"], row["connected"], row["blocked"]) == (mesh.nodes["b"].server_name, False, True)
        assert await database.write(lambda tx: allow_server(tx, key))
        assert not await database.write(lambda tx: allow_server(tx, key))
        await asyncio.sleep(100)
        assert mesh.nodes["a"].running.mesh.connected() == [mesh.nodes["b"].server_name]
        [row] = await database.read(list_peers)
        assert (row["connected"], row["blocked"]) == (True, False)
        await mesh.stop()

    live(story())


def test_the_operator_sees_who_was_met_and_what_waits() -> None:
    async def story() -> None:
        mesh, room, _, _, _ = await two()
        database = mesh.nodes["a"].database
        assert database is not None
        await mesh.crash("b")
        await asyncio.sleep(60)
        await room.send("one")
        await room.send("two")
        [row] = await database.read(list_peers)
        assert row["connected"] is False
        assert row["queued"] == 2
        assert row["link"] == "sim b"
        assert row["last_seen"].endswith("UTC")
        stranger = bytes(range(32))
        await database.write(lambda tx: block_server(tx, stranger))
        assert [other["blocked"] for other in await database.read(list_peers)] == [False, True]
        await mesh.stop()

    live(story())


def test_stopping_is_quick_and_told_to_the_others() -> None:
    async def story() -> None:
        mesh, _, _, anna, _ = await two()
        poll = asyncio.create_task(anna.request("GET", "/sync", timeout="30000"))
        await asyncio.sleep(0.1)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await mesh.nodes["a"].running.stop()
        assert loop.time() - began < 2
        await asyncio.sleep(1)
        assert mesh.nodes["b"].running.mesh.connected() == []
        await asyncio.gather(poll, return_exceptions=True)
        mesh.nodes["a"].node = None
        await mesh.stop()

    live(story())


# Acknowledged means durable


async def lost_by_a_crash(seed: int, *, sabotaged: bool) -> list[str]:
    """What node a was told that b has, and b has not: b loses its power again and again while a sends to it."""
    rng = random.Random(seed)
    mesh, room, _, _, boris = await two(seed, commit_delay_s=0.05)
    a, b = mesh.nodes["a"], mesh.nodes["b"]
    if sabotaged:
        b.sabotage = acknowledge_too_early
    lost = []
    sent_events: list[str] = []
    for round_number in range(6):
        await asyncio.sleep(20)
        sent_events += [await room.send(f"{round_number}.{n}") for n in range(2)]
        content = {
            "sender": room.client.user_id,
            "type": "m.test",
            "message_id": f"m{round_number}",
            "messages": {boris.user_id: {"SIM": {"n": round_number}}},
        }
        assert a.database is not None
        await a.database.write(lambda tx, content=content: queue_edu(tx, b.server_name, "m.direct_to_device", content))  # type: ignore[misc]
        await asyncio.sleep(rng.uniform(0.0, 0.08))
        await mesh.crash("b")
        await asyncio.sleep(1)
        owed = {event_id for _, event_id in await outbox_of(mesh, "a")}
        held = {row[0] for row in b.disk.conn.execute("SELECT event_id FROM events")}
        lost += [event_id for event_id in sent_events if event_id not in owed and event_id not in held]
        await mesh.boot("b")
    await asyncio.sleep(60)
    answer = await boris.request("GET", "/sync", timeout="0")
    arrived = {event["content"]["n"] for event in answer["to_device"]["events"]}
    lost += [f"to-device {n}" for n in range(6) if n not in arrived]
    await mesh.stop()
    return lost


def acknowledge_too_early(database: InlineDatabase) -> None:
    """Sabotage: a unit of work is taken for durable while its commit is still to come."""
    write = database.write

    async def hasty(unit: Callable[[Tx], T]) -> T:
        results: list[T] = []
        work = asyncio.ensure_future(write(lambda tx: results.append(unit(tx))))
        await asyncio.sleep(0)
        if not results:
            await work
        return results[0]

    database.write = hasty  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(8))
def test_what_is_acknowledged_survives_a_crash(seed: int) -> None:
    assert run_virtual(lost_by_a_crash(seed, sabotaged=False)) == []


def test_an_acknowledgement_before_the_commit_is_noticed() -> None:
    assert any(run_virtual(lost_by_a_crash(seed, sabotaged=True)) for seed in range(4))
