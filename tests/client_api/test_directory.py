"""Aliases and the list of public rooms, here and nearby."""

import asyncio
from typing import Any

import pytest

from p2pserver.errors import Forbidden, PeerUnreachable
from tests.client_api.harness import running_node
from tests.client_api.talk import at, join, new_room, set_state

NEARBY = "b" * 52
FAR = "far.example"


class Neighbors:
    """Servers that answer by a script; `silent` ones take for ever."""

    def __init__(self, answers: dict[tuple[str, str], Any], silent: tuple[str, ...] = ()) -> None:
        self.answers = answers
        self.silent = silent

    def connected(self) -> list[str]:
        return sorted({server for server, _ in self.answers} | set(self.silent))

    async def ask(
        self, server: str, name: str, body: dict[str, Any], *, timeout_s: float, progress: Any = None
    ) -> dict[str, Any]:
        if server in self.silent:
            await asyncio.sleep(timeout_s)
            raise PeerUnreachable("slow")
        answer = self.answers.get((server, name))
        if answer is None:
            raise PeerUnreachable(f"{server} is not connected")
        if isinstance(answer, Exception):
            raise answer
        found: dict[str, Any] = answer
        return found


async def test_aliases_of_this_node() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        path = f"/directory/room/%23hut:{node.server_name}"
        assert (await alice.get(path)).errcode == "M_NOT_FOUND"
        assert (await bob.put(path, {"room_id": room_id})).errcode == "M_FORBIDDEN"
        assert (await alice.put(path, {"room_id": room_id})).status == 200
        taken = await alice.put(path, {"room_id": room_id})
        assert taken.status == 409
        found = await node.stranger().get(path)
        assert (found["room_id"], found["servers"]) == (room_id, [node.server_name])
        assert (await alice.get(at(room_id, "aliases")))["aliases"] == [f"#hut:{node.server_name}"]
        await join(bob, room_id)
        assert (await bob.delete(path)).errcode == "M_FORBIDDEN"
        assert (await alice.delete(path)).status == 200
        assert (await alice.delete(path)).errcode == "M_NOT_FOUND"
        assert (await alice.get(at(room_id, "aliases")))["aliases"] == []


@pytest.mark.parametrize(
    ("alias", "body", "errcode"),
    [
        ("%23hut:elsewhere.example", {"room_id": "!" + "a" * 43}, "M_INVALID_PARAM"),
        ("hut", {"room_id": "!" + "a" * 43}, "M_INVALID_PARAM"),
        ("%23:SERVER", {"room_id": "!" + "a" * 43}, "M_INVALID_PARAM"),
        ("%23a%20b:SERVER", {"room_id": "!" + "a" * 43}, "M_INVALID_PARAM"),
        ("%23hut:SERVER", {}, "M_MISSING_PARAM"),
        ("%23hut:SERVER", {"room_id": 5}, "M_BAD_JSON"),
        ("%23hut:SERVER", {"room_id": "x"}, "M_INVALID_PARAM"),
    ],
)
async def test_bad_aliases(alias: str, body: dict[str, Any], errcode: str) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        answer = await alice.put(f"/directory/room/{alias.replace('SERVER', node.server_name)}", body)
        assert (answer.status, answer.errcode) == (400, errcode)


async def test_an_alias_of_another_server_is_asked_for_there() -> None:
    room_id = "!" + "r" * 43
    answers = {
        (NEARBY, "directory"): {"room_id": room_id, "servers": ["one.example", 5, "not a server"]},
        (FAR, "directory"): {"room_id": "nonsense"},
    }
    async with running_node(remote=Neighbors(answers)) as node:
        found = await node.stranger().get(f"/directory/room/%23hut:{NEARBY}")
        assert (found["room_id"], found["servers"]) == (room_id, ["one.example", NEARBY])
        assert (await node.stranger().get(f"/directory/room/%23hut:{FAR}")).errcode == "M_UNREACHABLE"
        assert (await node.stranger().get("/directory/room/%23hut:gone.example")).errcode == "M_UNREACHABLE"


async def test_visibility_in_the_directory() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        path = f"/directory/list/room/{room_id}"
        assert (await node.stranger().get(path))["visibility"] == "private"
        assert (await bob.put(path, {"visibility": "public"})).errcode == "M_FORBIDDEN"
        assert (await alice.put(path, {"visibility": "maybe"})).errcode == "M_INVALID_PARAM"
        assert (await alice.put(path, {"visibility": "public"})).status == 200
        assert (await node.stranger().get(path))["visibility"] == "public"
        assert (await alice.get("/directory/list/room/!nowhere:x")).errcode == "M_NOT_FOUND"
        assert len((await node.stranger().get("/publicRooms"))["chunk"]) == 1
        await alice.put(path, {"visibility": "private"})
        assert (await alice.get("/publicRooms"))["chunk"] == []


async def test_public_rooms_search_pages_and_types() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        huts = [await new_room(alice, visibility="public", name=f"Hut {n}", topic="Wood") for n in range(3)]
        space = await new_room(alice, visibility="public", name="All", creation_content={"type": "m.space"})
        await join(bob, huts[1])
        first = await alice.post("/publicRooms", {"limit": 3})
        assert first["chunk"][0]["room_id"] == huts[1], "the largest comes first"
        assert first["chunk"][0]["num_joined_members"] == 2
        assert (first["chunk"][0]["topic"], first["chunk"][0]["world_readable"]) == ("Wood", False)
        second = await alice.post("/publicRooms", {"limit": 3, "since": first["next_batch"]})
        assert {room["room_id"] for room in (*first["chunk"], *second["chunk"])} == {*huts, space}
        assert "next_batch" not in second.body
        assert second["prev_batch"] == "0"
        found = await alice.post("/publicRooms", {"filter": {"generic_search_term": "hUT 2"}})
        assert [room["room_id"] for room in found["chunk"]] == [huts[2]]
        spaces = await alice.post("/publicRooms", {"filter": {"room_types": ["m.space"]}})
        assert [room["room_id"] for room in spaces["chunk"]] == [space]
        plain = await alice.post("/publicRooms", {"filter": {"room_types": [None]}})
        assert {room["room_id"] for room in plain["chunk"]} == set(huts)
        assert len((await alice.get("/publicRooms", limit=1))["chunk"]) == 1
        for bad in ({"limit": "x"}, {"limit": -1}, {"since": 5}, {"filter": []}, {"filter": {"room_types": "x"}}):
            assert (await alice.post("/publicRooms", bad)).status == 400, bad
        assert (await alice.get("/publicRooms", since="x")).status == 400


async def test_public_rooms_of_neighbors_come_with_ours_and_slow_or_lying_ones_do_no_harm() -> None:
    there = {"room_id": "!" + "n" * 43, "num_joined_members": 7, "name": "Nearby", "evil": {"x": 1}, "topic": 5}
    answers = {
        (NEARBY, "public_rooms"): {
            "chunk": [there, 5, {"room_id": "x"}, {"room_id": "!" + "m" * 43, "num_joined_members": "many"}]
        },
        ("liar.example", "public_rooms"): {"chunk": "all"},
        ("closed.example", "public_rooms"): Forbidden("no"),
    }
    async with running_node(remote=Neighbors(answers, silent=("slow.example",))) as node:
        alice = await node.register("alice")
        own = await new_room(alice, visibility="public", name="Own")
        began = asyncio.get_running_loop().time()
        rooms = (await alice.get("/publicRooms"))["chunk"]
        assert asyncio.get_running_loop().time() - began < 4
        assert [room["room_id"] for room in rooms] == [there["room_id"], own, "!" + "m" * 43]
        assert rooms[0] == {
            "room_id": there["room_id"],
            "num_joined_members": 7,
            "name": "Nearby",
            "world_readable": False,
            "guest_can_join": False,
        }
        theirs = (await alice.get("/publicRooms", server=NEARBY))["chunk"]
        assert [room["room_id"] for room in theirs] == [there["room_id"], "!" + "m" * 43]
        ours = (await alice.get("/publicRooms", server=node.server_name))["chunk"]
        assert [room["room_id"] for room in ours] == [own]
        assert (await alice.get("/publicRooms", server="no server")).errcode == "M_INVALID_PARAM"
        away = await alice.get("/publicRooms", server="away.example")
        assert (away.status, away.errcode) == (502, "M_UNREACHABLE"), "it is not that it has no rooms"


async def test_a_room_nobody_here_is_in_is_not_listed() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice, visibility="public", name="Empty")
        await set_state(alice, room_id, "m.room.topic", {"topic": "t"})
        await alice.post(at(room_id, "leave"))
        assert (await alice.get("/publicRooms"))["chunk"] == []
