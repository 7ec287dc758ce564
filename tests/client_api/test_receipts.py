"""Receipts and typing notices on one node: who is shown what, in which answer of `/sync`."""

import asyncio
from typing import Any

from tests.client_api.harness import running_node
from tests.client_api.talk import at, invite_and_join, joined, new_room, read, say, sync
from tests.client_api.test_unread import in_thread, send


def ephemeral(answer: dict[str, Any], room_id: str, kind: str) -> list[dict[str, Any]]:
    room = answer["rooms"]["join"].get(room_id, {"ephemeral": {"events": []}})
    return [event["content"] for event in room["ephemeral"]["events"] if event["type"] == kind]


async def test_a_receipt_wakes_the_others_and_is_told_once() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        event_id = await say(alice, room_id, "hello")
        token = (await sync(alice))["next_batch"]
        waiting = asyncio.create_task(sync(alice, token, wait_ms=60_000))
        await asyncio.sleep(0.05)
        await read(bob, room_id, event_id)
        answer = await waiting
        [content] = ephemeral(answer, room_id, "m.receipt")
        assert list(content[event_id]["m.read"]) == [bob.user_id]
        assert set(content[event_id]["m.read"][bob.user_id]) == {"ts"}
        assert joined(answer, room_id)["timeline"]["events"] == []
        assert (await sync(alice, answer["next_batch"]))["rooms"]["join"] == {}
        await read(bob, room_id, event_id)
        assert (await sync(alice, answer["next_batch"]))["rooms"]["join"] == {}, "the same again is no news"
        assert ephemeral(await sync(alice), room_id, "m.receipt") == [content], "and it is kept"


async def test_a_private_receipt_is_for_the_users_own_devices() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        tablet = await node.log_in("bob")
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        event_id = await say(alice, room_id, "hello")
        tokens = {client: (await sync(client))["next_batch"] for client in (alice, tablet)}
        await read(bob, room_id, event_id, "m.read.private")
        assert (await sync(alice, tokens[alice]))["rooms"]["join"] == {}
        assert ephemeral(await sync(alice), room_id, "m.receipt") == []
        [content] = ephemeral(await sync(tablet, tokens[tablet]), room_id, "m.receipt")
        assert list(content[event_id]) == ["m.read.private"]


async def test_a_receipt_does_not_move_backwards_and_threads_have_their_own() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        first, second = await say(alice, room_id, "1"), await say(alice, room_id, "2")
        reply = await send(alice, room_id, in_thread(first, "3"))
        await read(bob, room_id, second)
        token = (await sync(alice))["next_batch"]
        await read(bob, room_id, first)
        assert (await sync(alice, token))["rooms"]["join"] == {}
        await read(bob, room_id, first, thread_id="main")
        await read(bob, room_id, reply, thread_id=first)
        await read(bob, room_id, second, "m.read.private", thread_id="main")
        threads = [
            (event_id, data.get("thread_id"))
            for content in ephemeral(await sync(alice), room_id, "m.receipt")
            for event_id, kinds in content.items()
            for data in kinds["m.read"].values()
        ]
        assert sorted(threads, key=str) == sorted([(second, None), (first, "main"), (reply, first)], key=str)


async def test_bad_threads_are_refused() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        event_id = await say(alice, room_id, "1")
        for thread_id in ("", 5, "thread", ["main"]):
            answer = await alice.post(at(room_id, "receipt", "m.read", event_id), {"thread_id": thread_id})
            assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM"), thread_id
        answer = await alice.post(at(room_id, "receipt", "m.fully_read", event_id), {"thread_id": "main"})
        assert answer.errcode == "M_INVALID_PARAM"


async def test_a_receipt_of_a_thread_is_for_an_event_of_it() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        root, other = await say(alice, room_id, "root"), await say(alice, room_id, "other")
        reply = await send(alice, room_id, in_thread(root, "reply"))
        edit = {
            "msgtype": "m.text",
            "body": "* better",
            "m.new_content": {"msgtype": "m.text", "body": "better"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": reply},
        }
        edited = await send(alice, room_id, edit)
        reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": root, "key": "+"}}
        reacted = await send(alice, room_id, reaction, kind="m.reaction")
        good = {root: {"main", root}, reacted: {"main", root}, reply: {root}, edited: {root}, other: {"main", other}}
        for event_id, threads in good.items():
            for thread_id in ("main", root, other, "$unknown"):
                answer = await alice.post(at(room_id, "receipt", "m.read", event_id), {"thread_id": thread_id})
                expected = (200, None) if thread_id in threads else (400, "M_INVALID_PARAM")
                assert (answer.status, answer.errcode) == expected, (event_id, thread_id)


async def test_a_receipt_for_what_is_not_in_the_room_changes_nothing() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        here, elsewhere = await new_room(alice), await new_room(alice)
        event_id = await say(alice, elsewhere, "1")
        token = (await sync(alice))["next_batch"]
        await read(alice, here, event_id)
        assert (await sync(alice, token))["rooms"]["join"] == {}


async def test_read_markers_set_all_three_at_once() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        event_id = await say(alice, room_id, "1")
        token = (await sync(alice))["next_batch"]
        marks = dict.fromkeys(("m.read", "m.read.private", "m.fully_read"), event_id)
        assert (await alice.post(at(room_id, "read_markers"), marks)).status == 200
        room = joined(await sync(alice, token), room_id)
        [receipt] = room["ephemeral"]["events"]
        assert set(receipt["content"][event_id]) == {"m.read", "m.read.private"}
        assert room["account_data"]["events"] == [{"type": "m.fully_read", "content": {"event_id": event_id}}]


async def test_typing_is_told_when_it_begins_and_when_it_ends() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        token = (await sync(alice))["next_batch"]
        waiting = asyncio.create_task(sync(alice, token, wait_ms=60_000))
        await asyncio.sleep(0.05)
        path = at(room_id, "typing", bob.user_id)
        assert (await bob.put(path, {"typing": True, "timeout": 30_000})).status == 200
        answer = await waiting
        assert ephemeral(answer, room_id, "m.typing") == [{"user_ids": [bob.user_id]}]
        assert ephemeral(await sync(alice), room_id, "m.typing") == [{"user_ids": [bob.user_id]}]
        assert (await bob.put(path, {"typing": True, "timeout": 30_000})).status == 200
        assert (await sync(alice, answer["next_batch"]))["rooms"]["join"] == {}, "going on is no news"
        assert (await bob.put(path, {"typing": False})).status == 200
        answer = await sync(alice, answer["next_batch"])
        assert ephemeral(answer, room_id, "m.typing") == [{"user_ids": []}]
        assert (await sync(alice, answer["next_batch"]))["rooms"]["join"] == {}
        assert ephemeral(await sync(alice), room_id, "m.typing") == []


async def test_typing_ends_by_itself_and_by_its_message() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        path = at(room_id, "typing", bob.user_id)
        await bob.put(path, {"typing": True, "timeout": 100})
        token = (await sync(alice))["next_batch"]
        node.clock_s[0] += 1
        answer = await sync(alice, token, wait_ms=60_000)
        assert ephemeral(answer, room_id, "m.typing") == [{"user_ids": []}]
        await bob.put(path, {"typing": True, "timeout": 60_000})
        token = (await sync(alice, answer["next_batch"]))["next_batch"]
        await say(bob, room_id, "here it is")
        answer = await sync(alice, token)
        assert ephemeral(answer, room_id, "m.typing") == [{"user_ids": []}], "with the message, not after it"
        assert len(joined(answer, room_id)["timeline"]["events"]) == 1


async def test_the_filter_and_the_list_of_ignored_users_apply() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        await read(bob, room_id, await say(alice, room_id, "1"))
        await bob.put(at(room_id, "typing", bob.user_id), {"typing": True, "timeout": 30_000})

        async def kinds(**ephemeral_filter: Any) -> list[str]:
            room = joined(await sync(alice, filter={"room": {"ephemeral": ephemeral_filter}}), room_id)
            return [event["type"] for event in room["ephemeral"]["events"]]

        assert await kinds() == ["m.receipt", "m.typing"]
        assert await kinds(types=["m.typing"]) == ["m.typing"]
        assert await kinds(not_types=["m.*"]) == []
        assert await kinds(not_rooms=[room_id]) == []
        ignored = {"ignored_users": {bob.user_id: {}}}
        await alice.put(f"/user/{alice.user_id}/account_data/m.ignored_user_list", ignored)
        assert await kinds() == []
