"""A node whose database goes back to an earlier state, by `restore` or by a folder that was copied back; and twins.

Nothing that it did since is done again, what it wrote comes back to it, and it is told where nobody told it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.shared_medium import village
from p2pserver.link.broadcast import Broadcaster
from p2pserver.node import shared_medium
from p2pserver.node.backup.contents import Manifest
from p2pserver.node.backup.restoring import settle
from p2pserver.node.identity import newest_run, write_run
from p2pserver.node.in_process_client import InProcessClient
from p2pserver.node.lines import line_of
from p2pserver.node.node import Node
from p2pserver.node.peer_events import FormerUsers, PeerEvent
from p2pserver.node.runs import Runs, notice_older_database
from p2pserver.node.simulation import RoomActions, SimulatedMesh
from p2pserver.rooms.anew import rooms_of_origin, rooms_told
from p2pserver.store.alarms import KEY_USED_TWICE, SET_BACK, alarms
from p2pserver.store.inline import InlineDatabase, SimulatedDisk
from p2pserver.store.runs import begin_life, begin_run, life
from p2pserver.store.tx import Tx
from tests.node.test_shared_medium import TIMERS
from transports.sim import run_virtual

Way = Callable[[SimulatedDisk, SimulatedMesh], None]
"""How the state of then is put in the place of the state of now."""


def live(story: Coroutine[Any, Any, None]) -> None:
    run_virtual(story, limit_s=200_000)


def copy_of(disk: SimulatedDisk) -> SimulatedDisk:
    """The folder as it is now."""
    made = SimulatedDisk()
    disk.conn.backup(made.conn)
    return made


def restored(disk: SimulatedDisk, mesh: SimulatedMesh) -> None:
    """What `p2pserver restore` does with the database of a backup."""
    manifest = Manifest(
        server_name=mesh.nodes["a"].server_name,
        created_ms=0,
        software="",
        kind="backup",
        position=0,
        files=0,
        octets=0,
    )
    disk.conn.execute("BEGIN")
    tx = Tx(disk.conn, {})
    settle(tx, manifest, now_ms=1_790_000_000_000)
    disk.conn.execute("UPDATE stream SET position = ?", (tx.position(),))
    disk.conn.execute("COMMIT")


def copied_back(disk: SimulatedDisk, mesh: SimulatedMesh) -> None:
    """`cp -a` of an old folder, or a snapshot of a machine: nobody tells the node."""


async def database(mesh: SimulatedMesh, name: str) -> InlineDatabase:
    found = mesh.nodes[name].database
    assert found is not None
    return found


async def alarms_of(mesh: SimulatedMesh, name: str) -> list[tuple[str, str]]:
    """(kind, about) of all alarms."""
    return [(alarm.kind, alarm.about) for alarm in await (await database(mesh, name)).read(alarms)]


async def until(check: Callable[[], Coroutine[Any, Any, bool]], within_s: float = 120.0) -> None:
    for _ in range(int(within_s / 0.5)):
        if await check():
            return
        await asyncio.sleep(0.5)
    raise AssertionError("not within the time")


def keys(*names: str) -> dict[str, Any]:
    return {"one_time_keys": {f"signed_curve25519:{name}": {"key": name, "signatures": {}} for name in names}}


PICTURE = {"a picture": "as JSON"}


async def downloaded(client: InProcessClient, uri: str) -> Any:
    return await client.request("GET", f"/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}")


async def claimed(client: InProcessClient, user_id: str) -> str:
    body = {"one_time_keys": {user_id: {"SIM": "signed_curve25519"}}}
    answer = await client.request("POST", "/keys/claim", body)
    return next(iter(answer["one_time_keys"].get(user_id, {}).get("SIM", {"none": 0})))


@dataclass(slots=True)
class Story:
    """Three nodes and what happened on them; `a` went back to where it was before the second half of it."""

    mesh: SimulatedMesh
    anna: InProcessClient
    boris: InProcessClient
    room: RoomActions
    theirs: RoomActions
    later_room: str
    invited_to: str
    claimed_before: str
    picture: str
    token: str


async def gone_back(way: Way) -> Story:
    mesh = SimulatedMesh("abc", seed=7)
    await mesh.start()
    await asyncio.sleep(5)
    anna, boris, cleo = await mesh.user("a", "anna"), await mesh.user("b", "boris"), await mesh.user("c", "cleo")
    room = await RoomActions.create(anna, preset="public_chat")
    theirs = await RoomActions.join(boris, room.room_id, via=mesh.nodes["a"].server_name)
    await RoomActions.join(cleo, room.room_id, via=mesh.nodes["a"].server_name)
    await room.send("before")
    await anna.request("POST", "/keys/upload", keys("A", "B"))
    assert await mesh.until_equal(room.room_id, within_s=60) is not None
    await (await database(mesh, "a")).read(lambda tx: None)  # nothing is half written
    then = copy_of(mesh.nodes["a"].disk)

    await room.send("since, by anna")
    await theirs.send("since, by boris")
    claimed_before = await claimed(boris, anna.user_id)
    picture = (await anna.request("POST", "/_matrix/media/v3/upload", PICTURE))["content_uri"]
    assert await downloaded(boris, picture) == PICTURE
    later = await RoomActions.create(boris, preset="public_chat")
    await RoomActions.join(anna, later.room_id, via=mesh.nodes["b"].server_name)
    invited = await RoomActions.create(cleo, preset="private_chat", invite=[anna.user_id])
    assert await mesh.until_equal(room.room_id, within_s=60) is not None
    await asyncio.sleep(10)
    token = (await anna.request("GET", "/sync"))["next_batch"]

    await mesh.crash("a")
    way(then, mesh)
    mesh.nodes["a"].disk = then
    await mesh.boot("a")
    return Story(mesh, anna, boris, room, theirs, later.room_id, invited.room_id, claimed_before, picture, token)


async def check_all_is_well(story: Story) -> None:
    mesh, room = story.mesh, story.room
    room.transactions = 100  # another client
    await room.send("after")
    await asyncio.sleep(20)
    await story.theirs.send("to a node that came back")
    assert await mesh.until_equal(room.room_id, within_s=120) is not None
    texts = ["after", "before", "since, by anna", "since, by boris", "to a node that came back"]
    for actions in (room, story.theirs):
        assert sorted(await actions.messages()) == texts, "nothing is lost, and nothing twice"

    assert (await claimed(story.boris, story.anna.user_id)) == "none", "a key may have been given to somebody else"
    await story.anna.request("POST", "/keys/upload", keys("C"))
    assert (await claimed(story.boris, story.anna.user_id)) == "signed_curve25519:C"

    async def is_in_the_later_room() -> bool:
        return story.later_room in (await story.anna.request("GET", "/joined_rooms"))["joined_rooms"]

    await until(is_in_the_later_room)
    synced = await story.anna.request("GET", "/sync", since=story.token, timeout="0")
    assert await downloaded(story.anna, story.picture) == PICTURE
    assert story.invited_to in synced["rooms"]["invite"]
    seen = [event["content"].get("body") for event in synced["rooms"]["join"][room.room_id]["timeline"]["events"]]
    assert "after" in seen, "a token of the time that is not known hides nothing"
    assert "to a node that came back" in seen


def test_a_restored_backup_is_joined_to_what_came_after_it() -> None:
    async def story() -> None:
        found = await gone_back(restored)
        await check_all_is_well(found)
        for name in "abc":
            assert await alarms_of(found.mesh, name) == [], "nobody is alarmed by what he did himself"
        assert await (await database(found.mesh, "a")).read(life) == 1
        await found.mesh.stop()

    live(story())


def test_a_folder_that_was_copied_back_is_noticed_at_the_first_contact() -> None:
    async def story() -> None:
        found = await gone_back(copied_back)
        await asyncio.sleep(20)
        await check_all_is_well(found)
        own_name = found.mesh.nodes["a"].server_name
        assert await alarms_of(found.mesh, "a") == [(SET_BACK, own_name)]
        assert await (await database(found.mesh, "a")).read(life) == 1
        # the next starts are nothing special
        for _ in range(2):
            await found.mesh.crash("a")
            await found.mesh.boot("a")
            await asyncio.sleep(20)
        assert await (await database(found.mesh, "a")).read(life) == 1
        assert await found.mesh.until_equal(found.room.room_id, within_s=60) is not None
        await found.mesh.stop()

    live(story())


def test_without_new_marks_it_would_not_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is handed out twice then, where peers keep the first mark for ever."""
    keep = Runs.keep
    monkeypatch.setattr(Runs, "keep", lambda self, key, mark: key in self._kept or keep(self, key, mark))

    async def story() -> None:
        found = await gone_back(copied_back)
        await asyncio.sleep(20)
        assert await claimed(found.boris, found.anna.user_id) == found.claimed_before
        assert await alarms_of(found.mesh, "a") == []
        await found.mesh.stop()

    live(story())


def test_a_planned_move_goes_on_as_if_nothing_had_been() -> None:
    async def story() -> None:
        mesh = SimulatedMesh("ab", seed=3)
        await mesh.start()
        await asyncio.sleep(5)
        anna, boris = await mesh.user("a", "anna"), await mesh.user("b", "boris")
        room = await RoomActions.create(anna, preset="public_chat")
        theirs = await RoomActions.join(boris, room.room_id, via=mesh.nodes["a"].server_name)
        await anna.request("POST", "/keys/upload", keys("A", "B"))
        assert await mesh.until_equal(room.room_id, within_s=60) is not None
        token = (await anna.request("GET", "/sync"))["next_batch"]
        simulated = mesh.nodes["a"]
        await simulated.running.stop()
        await (await database(mesh, "a")).close()
        mesh.network.crash("a")
        simulated.node, simulated.disk = None, copy_of(simulated.disk)
        await mesh.boot("a")
        await theirs.send("are you there?")
        await room.send("in a new place")
        assert await mesh.until_equal(room.room_id, within_s=60) is not None
        assert await claimed(boris, anna.user_id) == "signed_curve25519:A"
        synced = await anna.request("GET", "/sync", since=token, timeout="0")
        assert len(synced["rooms"]["join"][room.room_id]["timeline"]["events"]) == 2
        for name in "ab":
            assert await alarms_of(mesh, name) == []
        await mesh.stop()

    live(story())


def test_two_nodes_with_one_key_are_told_at_all_sides() -> None:
    async def story() -> None:
        mesh = SimulatedMesh("abcd", seed=5)
        await mesh.start()
        await asyncio.sleep(5)
        anna, boris = await mesh.user("a", "anna"), await mesh.user("b", "boris")
        room = await RoomActions.create(anna, preset="public_chat")
        theirs = await RoomActions.join(boris, room.room_id, via=mesh.nodes["a"].server_name)
        assert await mesh.until_equal(room.room_id, within_s=60, names="ab") is not None
        own_name = mesh.nodes["a"].server_name
        await mesh.crash("d")
        twin = mesh.nodes["d"]
        twin.identity, twin.disk = mesh.nodes["a"].identity, copy_of(mesh.nodes["a"].disk)
        mesh.partition("abc", "d")
        await mesh.boot("d")
        await asyncio.sleep(5)
        for _ in range(3):  # they do not meet each other, but b by turns
            mesh.partition("ac", "bd")
            await asyncio.sleep(120)
            mesh.partition("abc", "d")
            await asyncio.sleep(120)
        for name in "abd":
            assert (KEY_USED_TWICE, own_name) in await alarms_of(mesh, name), name
        assert await (await database(mesh, "a")).read(life) <= 1
        assert await (await database(mesh, "d")).read(life) <= 1
        await theirs.send("to both")
        await asyncio.sleep(10)
        mesh.partition("ac", "bd")
        await asyncio.sleep(60)
        assert len({digest.sec for digest in (await mesh.digests(room.room_id, "abd")).values() if digest}) == 1
        await mesh.stop()

    live(story())


def test_twins_that_meet_each_other_are_told() -> None:
    async def story() -> None:
        mesh = SimulatedMesh("ab", seed=5)
        mesh.nodes["b"].identity = mesh.nodes["a"].identity
        await mesh.start()
        await asyncio.sleep(20)
        own_name = mesh.nodes["a"].server_name
        for name in "ab":
            assert await alarms_of(mesh, name) == [(KEY_USED_TWICE, own_name)]
        await mesh.stop()

    live(story())


def test_a_database_that_was_put_back_alone_is_noticed_before_any_contact(tmp_path: Path) -> None:
    """A file beside it names the newest run."""

    async def story() -> None:
        database = InlineDatabase(SimulatedDisk())
        for run in (b"run1", b"run2"):
            await database.write(lambda tx, run=run: begin_run(tx, run, ahead=5))  # type: ignore[misc]
        assert newest_run(tmp_path) is None
        write_run(tmp_path, b"run1")
        for known, noticed in ((b"run1", False), (b"run2", False), (b"run3", True), (b"run3", False)):
            write_run(tmp_path, known)
            newest = newest_run(tmp_path)
            assert newest == known
            assert await notice_older_database(database, newest, server_name="x", now_ms=1) is noticed
        assert [alarm.kind for alarm in await database.read(alarms)] == [SET_BACK]
        assert await database.read(life) == 1

    live(story())


# Nonces on a shared medium


def repeated_keystreams(said: list[tuple[bytes, bytes]]) -> int:
    """Pairs of (plaintext, datagram) that a listener can take apart: one XOR cancels the key stream of both."""
    count = 0
    by_head: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for plain, datagram in said:
        head, sealed = datagram[: -len(plain) - 8], datagram[-len(plain) - 8 : -8]
        for other_plain, other_sealed in by_head.setdefault(head, []):
            octets = min(len(plain), len(other_plain))
            of_sealed = bytes(one ^ other for one, other in zip(sealed, other_sealed, strict=False))
            of_plain = bytes(one ^ other for one, other in zip(plain, other_plain, strict=False))
            count += of_sealed[:octets] == of_plain[:octets]
        by_head[head].append((plain, sealed))
    return count


async def said_by_a_node_that_went_back() -> tuple[int, int]:
    """(datagrams with a counter that was used before under the same network key, key streams that were used twice)."""
    said: list[tuple[bytes, bytes]] = []
    seal = Broadcaster._datagram

    def noted(self: Broadcaster, plaintext: bytes) -> bytes:
        datagram = seal(self, plaintext)
        said.append((plaintext, datagram))
        return datagram

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Broadcaster, "_datagram", noted)
        patch.setattr(shared_medium, "COUNTERS_AT_ONCE", 8)
        here = await village("abc", timers=TIMERS)
        await here.mesh.nodes["a"].running.database.read(lambda tx: None)
        then = copy_of(here.mesh.nodes["a"].disk)
        for number in range(3):
            await here.room.send(f"a text {number}")
            await here.equal()
        await here.mesh.crash("a")
        here.mesh.nodes["a"].disk = then
        await here.mesh.boot("a")
        await here.all_connected()
        await here.room.send("another text, of another time")
        await here.equal()
    await here.mesh.stop()
    heads = [datagram[: -len(plain) - 8] for plain, datagram in said]
    return len(heads) - len(set(heads)), repeated_keystreams(said)


def test_no_key_stream_is_used_twice_after_a_folder_was_copied_back() -> None:
    counters, streams = run_virtual(said_by_a_node_that_went_back(), limit_s=200_000)
    assert counters > 0, "the counters did go back"
    assert streams == 0


def test_without_a_salt_of_the_process_key_streams_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runs, "salt", property(lambda self: bytes(8)))
    _, streams = run_virtual(said_by_a_node_that_went_back(), limit_s=200_000)
    assert streams > 0


# With the key alone


def test_a_node_of_which_only_the_key_is_left_finds_its_rooms_again() -> None:
    async def story() -> None:
        mesh = SimulatedMesh("ab", seed=11)
        await mesh.start()
        await asyncio.sleep(5)
        anna, boris = await mesh.user("a", "anna"), await mesh.user("b", "boris")
        room = await RoomActions.create(anna, preset="private_chat", invite=[boris.user_id])
        await asyncio.sleep(2)
        theirs = await RoomActions.join(boris, room.room_id)
        await room.send("before")
        assert await mesh.until_equal(room.room_id, within_s=60) is not None
        await mesh.crash("a")

        simulated = mesh.nodes["a"]
        simulated.disk, simulated.clients = SimulatedDisk(), {}
        begin_life(Tx(simulated.disk.conn, {}))  # as `p2pserver restore --recovery-key` does
        told: list[PeerEvent] = []
        with pytest.MonkeyPatch.context() as patch:
            init = Node.__init__
            patch.setattr(Node, "__init__", lambda self, *args, **more: init(self, *args, **more, tell=told.append))
            await mesh.boot("a")
        await asyncio.sleep(20)
        assert FormerUsers((anna.user_id,)) in told
        assert "register NAME" in line_of(FormerUsers((anna.user_id,)))
        assert await mesh.digest("a", room.room_id) is None, "nobody is here who could be in it"

        again = await mesh.user("a", "anna")
        assert await mesh.until_equal(room.room_id, within_s=60) is not None
        assert (await again.request("GET", "/joined_rooms"))["joined_rooms"] == [room.room_id]
        actions = RoomActions(again, room.room_id)
        await actions.send("after")
        assert await mesh.until_equal(room.room_id, within_s=60) is not None
        assert sorted(await theirs.messages()) == sorted(await actions.messages()) == ["after", "before"]
        for name in "ab":
            assert await alarms_of(mesh, name) == []
        await mesh.stop()

    live(story())


def test_a_peer_cannot_bring_anybody_into_a_room_that_he_never_joined() -> None:
    async def story() -> None:
        mesh = SimulatedMesh("ab", seed=11)
        await mesh.start()
        await asyncio.sleep(5)
        anna, boris = await mesh.user("a", "anna"), await mesh.user("b", "boris")
        room = await RoomActions.create(anna, preset="public_chat")
        await RoomActions.join(boris, room.room_id, via=mesh.nodes["a"].server_name)
        assert await mesh.until_equal(room.room_id, within_s=60) is not None
        ours, theirs = (mesh.nodes[name].running.rooms.context for name in "ab")
        own_name = mesh.nodes["a"].server_name
        answer = await (await database(mesh, "b")).write(lambda tx: rooms_of_origin(theirs, tx, own_name, {}))
        assert rooms_told(ours, answer) == [(anna.user_id, room.room_id)]
        told = answer["rooms"][room.room_id]
        (join,) = told["joined"]
        invited = {**join, "content": {"membership": "invite"}}
        for lie in (
            {},
            {"rooms": []},
            {"rooms": {room.room_id: "x"}},
            {"rooms": {room.room_id: {"version": "99", "joined": [join]}}},
            {"rooms": {room.room_id: {"version": told["version"], "joined": join}}},
            {"rooms": {"!another": told}},
            {"rooms": {room.room_id: {**told, "joined": [invited, 7, {}, {**join, "sender": boris.user_id}]}}},
            {"rooms": {room.room_id: {**told, "joined": [{**join, "signatures": {}}]}}},
        ):
            assert rooms_told(ours, lie) == []
        assert rooms_told(theirs, answer) == [], "of somebody else's users"
        await mesh.stop()

    live(story())
