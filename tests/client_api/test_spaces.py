"""Spaces and room summaries, of this node and of others."""

from typing import Any

import pytest

from p2pserver.client_api import space_hierarchy
from p2pserver.client_api.space_walks import WALKS_MAX, SpaceWalk, SpaceWalks
from p2pserver.rooms import summaries
from tests.client_api.harness import Client, running_node
from tests.client_api.talk import at, invite_and_join, join, new_room, set_state
from tests.client_api.wire import wired_nodes

SPACE = {"creation_content": {"type": "m.space"}, "preset": "public_chat"}


def _hierarchy(room_id: str) -> str:
    return f"/_matrix/client/v1{at(room_id, 'hierarchy')}"


async def _child(client: Client, space: str, room_id: str, *via: str, **content: Any) -> None:
    await set_state(client, space, "m.space.child", {"via": list(via), **content}, room_id)


def _ids(answer: Any) -> list[str]:
    return [room["room_id"] for room in answer["rooms"]]


async def test_a_space_is_shown_depth_first_in_order_and_page_by_page() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        here = node.server_name
        space = await new_room(alice, name="Village", **SPACE)
        inner = await new_room(alice, name="Inner", **SPACE)
        rooms = [await new_room(alice, name=f"Room {number}", preset="public_chat") for number in range(4)]
        private = await new_room(alice, name="Private")
        await _child(alice, space, rooms[0], here)
        await _child(alice, space, private, here)
        await _child(alice, space, inner, here, order="a", suggested=True)
        await _child(alice, space, rooms[1], here, order="b", suggested=True)
        await _child(alice, space, rooms[2])
        await _child(alice, inner, rooms[3], here)
        await _child(alice, inner, space, here)
        expected = [space, inner, rooms[3], rooms[1], rooms[0]]
        assert _ids((await bob.get(_hierarchy(space))).body) == expected, "no private room, none without via, no loop"
        everything = (await alice.get(_hierarchy(space))).body
        assert set(_ids(everything)) == {*expected, private}
        root = everything["rooms"][0]
        assert (root["name"], root["room_type"], root["num_joined_members"]) == ("Village", "m.space", 1)
        assert [child["state_key"] for child in root["children_state"]][:2] == [inner, rooms[1]]
        assert root["children_state"][0].keys() == {"type", "state_key", "content", "sender", "origin_server_ts"}
        assert _ids((await bob.get(_hierarchy(space), suggested_only="true")).body) == [space, inner, rooms[1]]
        assert _ids((await bob.get(_hierarchy(space), max_depth=1)).body) == [space, inner, rooms[1], rooms[0]]
        assert _ids((await bob.get(_hierarchy(space), max_depth=0)).body) == [space]

        paged: list[str] = []
        query: dict[str, Any] = {}
        while True:
            page = (await bob.get(_hierarchy(space), limit=2, **query)).body
            paged += _ids(page)
            if "next_batch" not in page:
                break
            assert len(page["rooms"]) == 2
            query = {"from": page["next_batch"]}
        assert paged == expected
        again = await bob.get(_hierarchy(space), limit=2, **query)
        assert _ids(again.body) == paged[-len(_ids(again.body)) :], "a page can be asked for twice"
        for wrong in ({**query, "max_depth": 3}, {**query, "suggested_only": "true"}, {"from": "nonsense"}):
            assert (await bob.get(_hierarchy(space), **wrong)).errcode == "M_INVALID_PARAM"
        assert (await alice.get(_hierarchy(space), **query)).errcode == "M_INVALID_PARAM", "a token is its user's own"
        assert (await bob.get(_hierarchy(space), limit=0)).errcode == "M_INVALID_PARAM"
        assert (await bob.get(_hierarchy(private))).errcode == "M_FORBIDDEN"
        assert (await bob.get(_hierarchy("!" + "a" * 43))).errcode == "M_FORBIDDEN"


def test_walks_are_remembered_up_to_a_number() -> None:
    walks = SpaceWalks()
    for number in range(WALKS_MAX + 5):
        walks.keep(str(number), SpaceWalk("@a:x", "!r", suggested_only=False, max_depth=None, queue=[]))
        assert walks.get("0") is not None, "what is used stays"
    assert walks.get("1") is None
    assert walks.get(str(WALKS_MAX + 4)) is not None


async def test_a_space_with_rooms_on_another_node() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob, carol = await north.register("alice"), await south.register("bob"), await south.register("carol")
        space = await new_room(alice, name="Village", **SPACE)
        inner = await new_room(alice, name="Inner", **SPACE)
        public = await new_room(alice, name="Public", preset="public_chat")
        rules = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": space}]}
        restricted = await new_room(
            alice, name="Restricted", initial_state=[{"type": "m.room.join_rules", "content": rules}]
        )
        private = await new_room(alice, name="Private")
        for parent, child in ((space, inner), (inner, public), (inner, restricted), (inner, private)):
            await _child(alice, parent, child, north.server_name)
        assert _ids((await bob.get(_hierarchy(space))).body) == [space, inner, public], "of a space he is not in"
        assert (await bob.post(f"/join/{space}?via={north.server_name}")).status == 200
        await wire.deliver()
        await wire.backfill(south, space, north)
        wire.asked.clear()
        answer = (await bob.get(_hierarchy(space))).body
        assert _ids(answer) == [space, inner, public, restricted]
        assert answer["rooms"][3]["allowed_room_ids"] == [space]
        assert [name for _, _, name in wire.asked].count("hierarchy") == 2, "inner with all that is in it, and private"
        assert _ids((await carol.get(_hierarchy(space))).body) == [space, inner, public], "she is not in the space"
        wire.separate(north, south)
        assert _ids((await bob.get(_hierarchy(space))).body) == [space], "what cannot be asked is left out at once"
        assert (await bob.get(_hierarchy(inner))).errcode == "M_FORBIDDEN"


async def test_an_answer_that_would_be_too_large_leaves_children_out_and_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(summaries, "ANSWER_OCTETS_MAX", 1_500)
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        space = await new_room(alice, **SPACE)
        children = [await new_room(alice, topic="t" * 300, preset="public_chat") for _ in range(3)]
        for number, child in enumerate(children):
            await _child(alice, space, child, north.server_name, order=str(number))
        assert _ids((await bob.get(_hierarchy(space))).body) == [space, *children]
        assert 1 < [name for _, _, name in wire.asked].count("hierarchy") < 5


async def test_one_page_asks_other_servers_a_bounded_number_of_times(monkeypatch: Any) -> None:
    monkeypatch.setattr(space_hierarchy, "ASKED_PER_PAGE_MAX", 2)
    async with wired_nodes(2) as (_, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        space = await new_room(bob, **SPACE)
        children = [await new_room(alice, preset="public_chat") for _ in range(4)]
        for number, child in enumerate(children):
            await _child(bob, space, child, north.server_name, order=str(number))
        first = (await bob.get(_hierarchy(space))).body
        assert _ids(first) == [space, *children[:2]]
        second = (await bob.get(_hierarchy(space), **{"from": first["next_batch"]})).body
        assert _ids(second) == children[2:]
        assert "next_batch" not in second


async def test_a_room_summary_under_all_its_paths() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        encryption = [{"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]
        public = await new_room(
            alice, name="Hut", topic="talk", preset="public_chat", room_alias_name="hut", initial_state=encryption
        )
        private = await new_room(alice, name="Private")
        summary = {
            "room_id": public,
            "name": "Hut",
            "topic": "talk",
            "canonical_alias": f"#hut:{node.server_name}",
            "num_joined_members": 1,
            "world_readable": False,
            "guest_can_join": False,
            "join_rule": "public",
            "room_version": "12",
            "encryption": "m.megolm.v1.aes-sha2",
            "im.nheko.summary.room_version": "12",
            "im.nheko.summary.version": "12",
            "im.nheko.summary.encryption": "m.megolm.v1.aes-sha2",
        }
        for target in (public, f"%23hut:{node.server_name}"):
            for path in (
                f"/_matrix/client/v1/room_summary/{target}",
                f"/_matrix/client/unstable/im.nheko.summary/rooms/{target}/summary",
                f"/_matrix/client/unstable/im.nheko.summary/summary/{target}",
            ):
                assert (await node.stranger().get(path)).body == summary
                assert (await bob.get(path)).body == {**summary, "membership": "leave"}
        path = f"/_matrix/client/v1/room_summary/{private}"
        assert (await node.stranger().get(path)).errcode == "M_NOT_FOUND"
        assert (await bob.get(path)).errcode == "M_NOT_FOUND"
        assert (await alice.get(path))["membership"] == "join"
        await invite_and_join(alice, private, bob)
        assert (await bob.get(path))["num_joined_members"] == 2
        assert (await bob.get("/_matrix/client/v1/room_summary/nonsense")).errcode == "M_INVALID_PARAM"
        assert (await bob.get("/_matrix/client/v1/room_summary/!" + "a" * 43)).errcode == "M_NOT_FOUND"


async def test_a_room_summary_from_another_node_or_from_the_invite() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await new_room(alice, name="Hut")
        path = f"/_matrix/client/v1/room_summary/{room_id}"
        assert (await bob.get(path, via=north.server_name)).errcode == "M_NOT_FOUND"
        await alice.post(at(room_id, "invite"), {"user_id": bob.user_id})
        await wire.deliver()
        answer = await bob.get(path, via=north.server_name)
        assert (answer["name"], answer["membership"], answer["num_joined_members"]) == ("Hut", "invite", 1)
        wire.separate(north, south)
        kept = await bob.get(path)
        assert (kept["name"], kept["membership"], kept["join_rule"]) == ("Hut", "invite", "invite")
        wire.rejoin(north, south)
        await join(bob, room_id)
        assert (await bob.get(path))["membership"] == "join"
