"""State, members, single events, context and paging: who sees what, and that tokens lose and repeat nothing."""

import json
from typing import Any

import pytest

from tests.client_api.harness import Client, running_node
from tests.client_api.talk import at, history, ids, join, joined, new_room, say, set_state, slots, sync, texts

READS = ("state", "members", "joined_members", "messages", "aliases")


async def _room(alice: Client, visibility: str, **fields: Any) -> str:
    state = [{"type": "m.room.history_visibility", "content": {"history_visibility": visibility}}]
    return await new_room(alice, preset="public_chat", initial_state=state, **fields)


async def test_outsiders_read_nothing_whether_the_room_exists_or_not() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat", invite=[bob.user_id])
        event_id = await say(alice, room_id, "x")
        for target in (room_id, "!" + "d" * 43, "nonsense"):
            for what in READS:
                answer = await bob.get(at(target, what), dir="b")
                assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN"), what
            assert (await bob.get(at(target, "state", "m.room.name"))).status == 403
            assert (await bob.get(at(target, "event", event_id))).errcode == "M_NOT_FOUND"
            assert (await bob.get(at(target, "context", event_id))).errcode == "M_NOT_FOUND"


async def test_a_world_readable_room_is_open_to_those_outside() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await _room(alice, "world_readable")
        event_id = await say(alice, room_id, "for all")
        assert texts((await bob.get(at(room_id, "messages"), dir="b"))["chunk"]) == ["for all"]
        assert (await bob.get(at(room_id, "event", event_id))).status == 200
        assert (await bob.get(at(room_id, "state"))).status == 200
        assert (await bob.get(at(room_id, "state", "m.room.create"))).status == 200
        assert (await bob.get(at(room_id, "context", event_id))).status == 200
        assert (await bob.get(at(room_id, "members"))).status == 403
        assert (await bob.put(at(room_id, "send", "m.room.message", "1"), {})).status == 403


@pytest.mark.parametrize(
    ("visibility", "expected"),
    [
        ("world_readable", ["before invite", "invited", "joined"]),
        ("shared", ["before invite", "invited", "joined"]),
        ("invited", ["invited", "joined"]),
        ("joined", ["joined"]),
    ],
)
async def test_history_visibility_on_every_path(visibility: str, expected: list[str]) -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await _room(alice, visibility)
        sent = {}
        for text in ("before invite", "invited", "joined", "left"):
            if text == "invited":
                await alice.post(at(room_id, "invite"), {"user_id": bob.user_id})
            elif text == "joined":
                await join(bob, room_id)
            elif text == "left":
                await bob.post(at(room_id, "leave"))
            sent[text] = await say(alice, room_id, text)
        if visibility == "world_readable":
            expected = [*expected, "left"]

        async def check() -> None:
            assert texts(await history(bob, room_id))[::-1] == expected
            assert texts(await history(bob, room_id, direction="f")) == expected
            for text, event_id in sent.items():
                status = 200 if text in expected else 404
                assert (await bob.get(at(room_id, "event", event_id))).status == status, text
                assert (await bob.get(at(room_id, "context", event_id))).status == status, text
            around = await bob.get(at(room_id, "context", sent["joined"]), limit=100)
            seen = texts([*around["events_before"][::-1], around["event"], *around["events_after"]])
            assert seen == expected

        await check()
        left = (await sync(bob, filter={"room": {"include_leave": True, "timeline": {"limit": 50}}}))["rooms"]["leave"]
        assert texts(left[room_id]["timeline"]["events"]) == [text for text in expected if text != "left"]
        await join(bob, room_id)
        if visibility == "shared":
            expected = [*expected, "left"]
        await check()
        assert (
            texts(joined(await sync(bob, filter={"room": {"timeline": {"limit": 50}}}), room_id)["timeline"]["events"])
            == expected
        )


async def test_who_has_left_sees_the_room_as_it_was() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        room_id = await new_room(alice, preset="public_chat", name="then")
        await join(bob, room_id)
        await bob.post(at(room_id, "leave"))
        await set_state(alice, room_id, "m.room.name", {"name": "now"})
        await set_state(alice, room_id, "m.room.topic", {"topic": "new"})
        await join(carol, room_id)
        assert (await bob.get(at(room_id, "state", "m.room.name"))).body == {"name": "then"}
        assert (await bob.get(at(room_id, "state", "m.room.topic"))).status == 404
        state = slots((await bob.get(at(room_id, "state"))).body)
        assert state["m.room.name", ""]["content"] == {"name": "then"}
        members = {event["state_key"] for event in (await bob.get(at(room_id, "members")))["chunk"]}
        assert members == {alice.user_id, bob.user_id}
        assert (await bob.get(at(room_id, "joined_members"))).status == 403
        await alice.post(at(room_id, "ban"), {"user_id": bob.user_id})
        assert (await bob.get(at(room_id, "state", "m.room.name"))).body == {"name": "then"}, "a ban shows no more"


async def test_members_filters_and_point_in_time() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        room_id = await new_room(alice, preset="public_chat")
        token = (await sync(alice))["next_batch"]
        await join(bob, room_id)
        await alice.post(at(room_id, "invite"), {"user_id": carol.user_id})
        await bob.post(at(room_id, "leave"))

        async def members(**query: str) -> set[str]:
            chunk = (await alice.get(at(room_id, "members"), **query))["chunk"]
            assert all(event["type"] == "m.room.member" for event in chunk)
            return {event["state_key"] for event in chunk}

        assert await members() == {alice.user_id, bob.user_id, carol.user_id}
        assert await members(at=token) == {alice.user_id}
        assert await members(membership="join") == {alice.user_id}
        assert await members(not_membership="leave") == {alice.user_id, carol.user_id}
        assert await members(membership="leave", not_membership="join") == {bob.user_id, carol.user_id}
        assert (await alice.get(at(room_id, "members"), at="x")).errcode == "M_INVALID_PARAM"
        assert (await alice.get(at(room_id, "members"), membership="king")).errcode == "M_INVALID_PARAM"
        await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "A"})
        await set_state(alice, room_id, "m.room.member", {"membership": "join", "displayname": "A"}, alice.user_id)
        answer = await alice.get(at(room_id, "joined_members"))
        assert answer["joined"] == {alice.user_id: {"display_name": "A"}}


@pytest.mark.parametrize("limit", [1, 2, 5, 1000])
async def test_paging_both_ways_gives_everything_once(limit: int) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        for number in range(12):
            await say(alice, room_id, str(number))
        forward = await history(alice, room_id, direction="f", limit=limit)
        backward = await history(alice, room_id, direction="b", limit=limit)
        assert ids(forward) == ids(backward)[::-1]
        assert texts(forward) == [str(number) for number in range(12)]
        assert forward[0]["type"] == "m.room.create"


async def test_paging_from_tokens_of_sync() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        await say(alice, room_id, "1")
        middle = (await sync(alice))["next_batch"]
        await say(alice, room_id, "2")
        path = at(room_id, "messages")
        assert texts((await alice.get(path, **{"from": middle, "dir": "f"}))["chunk"]) == ["2"]
        assert texts((await alice.get(path, **{"from": middle, "dir": "b", "limit": 1}))["chunk"]) == ["1"]
        end = (await sync(alice))["next_batch"]
        assert texts((await alice.get(path, **{"from": end, "dir": "b", "to": middle}))["chunk"]) == ["2"]
        assert texts((await alice.get(path, **{"from": middle, "dir": "f", "to": end}))["chunk"]) == ["2"]
        page = await alice.get(path, **{"from": end, "dir": "b", "limit": 1})
        assert page["start"] == end
        back = await alice.get(path, **{"from": page["end"], "dir": "f", "limit": 1})
        assert ids(back["chunk"]) == ids(page["chunk"]), "from its end, a page can be walked back"
        assert (await alice.get(path, **{"from": end, "dir": "f"})).body.keys() == {"start", "chunk"}


@pytest.mark.parametrize(
    "query",
    [
        {"dir": "x"},
        {"dir": "b", "from": "x"},
        {"dir": "b", "to": "t1"},
        {"dir": "b", "limit": "many"},
        {"dir": "b", "limit": "-1"},
        {"dir": "b", "filter": "{"},
        {"dir": "b", "filter": '{"types": 5}'},
        {"dir": "b", "filter": "[]"},
    ],
)
async def test_bad_paging_parameters(query: dict[str, str]) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        answer = await alice.get(at(room_id, "messages"), **query)
        assert answer.status == 400
        assert answer.errcode in ("M_INVALID_PARAM", "M_BAD_JSON")


async def test_paging_with_a_filter_and_lazy_members() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        for number in range(5):
            await say(alice, room_id, f"a{number}")
            await say(bob, room_id, f"b{number}")
        only = json.dumps({"senders": [bob.user_id], "types": ["m.room.message"], "lazy_load_members": True})
        found = await history(alice, room_id, limit=2, filter=only)
        assert texts(found) == ["b4", "b3", "b2", "b1", "b0"]
        page = await alice.get(at(room_id, "messages"), dir="b", limit=2, filter=only)
        assert [event["state_key"] for event in page["state"]] == [bob.user_id]
        elsewhere = json.dumps({"rooms": []})
        assert (await alice.get(at(room_id, "messages"), dir="b", filter=elsewhere))["chunk"] == []


async def test_context() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        await set_state(alice, room_id, "m.room.topic", {"topic": "old"})
        sent = [await say(alice, room_id, str(number)) for number in range(9)]
        await set_state(alice, room_id, "m.room.topic", {"topic": "new"})
        context = await alice.get(at(room_id, "context", sent[4]), limit=4)
        assert context["event"]["event_id"] == sent[4]
        assert texts(context["events_before"]) == ["3", "2"]
        assert texts(context["events_after"]) == ["5", "6"]
        assert slots(context["state"])["m.room.topic", ""]["content"] == {"topic": "old"}
        path = at(room_id, "messages")
        older = await alice.get(path, **{"from": context["start"], "dir": "b", "limit": 2})
        newer = await alice.get(path, **{"from": context["end"], "dir": "f", "limit": 2})
        assert texts(older["chunk"]) == ["1", "0"]
        assert texts(newer["chunk"]) == ["7", "8"]
        alone = await alice.get(at(room_id, "context", sent[4]), limit=0)
        assert alone["events_before"] == alone["events_after"] == []
        older = await alice.get(path, **{"from": alone["start"], "dir": "b", "limit": 1})
        newer = await alice.get(path, **{"from": alone["end"], "dir": "f", "limit": 1})
        assert (texts(older["chunk"]), texts(newer["chunk"])) == (["3"], ["5"])
        assert (await alice.get(at(room_id, "context", "$nothing"))).errcode == "M_NOT_FOUND"


async def test_a_timeline_of_nothing_but_hidden_events_ends() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await _room(alice, "joined")
        for number in range(30):
            await say(alice, room_id, str(number))
        await join(bob, room_id)
        found = await history(bob, room_id, limit=1)
        assert texts(found) == []
        assert [event["type"] for event in found[:2]] == ["m.room.member", "m.room.history_visibility"]
