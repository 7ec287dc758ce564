"""Counts of unread messages: what raises them, what lowers them, in which answer they come."""

import asyncio
import itertools
from typing import Any

from p2pserver.rooms import unread
from tests.client_api.harness import Client, Node, running_node
from tests.client_api.sliding import one_list, slide
from tests.client_api.talk import at, invite_and_join, join, joined, new_room, read, say, set_state, sync

_numbers = itertools.count()
THREADED = {"room": {"timeline": {"unread_thread_notifications": True}}}


async def rooms_of_three(node: Node) -> tuple[Client, Client, Client, str]:
    """Alice's room with Bob and Carol: three members, so that no message is a direct one."""
    alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
    room_id = await new_room(alice)
    await invite_and_join(alice, room_id, bob, carol)
    return alice, bob, carol, room_id


async def counts(client: Client, room_id: str) -> tuple[int, int]:
    """(notifications, highlights) by a first sync; a sliding one says the same."""
    room = joined(await sync(client), room_id)["unread_notifications"]
    found = room["notification_count"], room["highlight_count"]
    sliding = (await slide(client, lists=one_list((0, 9))))["rooms"][room_id]
    assert (sliding["notification_count"], sliding["highlight_count"]) == found
    return found


async def by_thread(client: Client, room_id: str) -> dict[str, tuple[int, int]]:
    room = joined(await sync(client, filter=THREADED), room_id)
    found = {"main": room["unread_notifications"], **room.get("unread_thread_notifications", {})}
    return {thread: (count["notification_count"], count["highlight_count"]) for thread, count in found.items()}


async def send(client: Client, room_id: str, content: dict[str, Any], kind: str = "m.room.message") -> str:
    event_id: str = (await client.put(at(room_id, "send", kind, f"x{next(_numbers)}"), content))["event_id"]
    return event_id


def text(body: str, **more: Any) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": body, **more}


def in_thread(root: str, body: str = "x") -> dict[str, Any]:
    return text(body, **{"m.relates_to": {"rel_type": "m.thread", "event_id": root}})


async def test_messages_of_others_count_and_a_receipt_takes_them_away() -> None:
    async with running_node() as node:
        alice, bob, _, room_id = await rooms_of_three(node)
        assert await counts(bob, room_id) == (0, 0), "what was there before he came is not unread"
        first = await say(alice, room_id, "one")
        await say(alice, room_id, "bob, two")
        assert await counts(bob, room_id) == (2, 1)
        assert await counts(alice, room_id) == (0, 0), "her own"
        await read(bob, room_id, first)
        assert await counts(bob, room_id) == (1, 1)
        await read(bob, room_id, await say(alice, room_id, "three"), "m.read.private")
        assert await counts(bob, room_id) == (0, 0), "the farther one of both receipts counts"


async def test_the_count_comes_with_the_event_and_with_the_receipt_that_change_it() -> None:
    async with running_node() as node:
        alice, bob, _, room_id = await rooms_of_three(node)
        tablet = await node.log_in("bob")
        token = (await sync(tablet))["next_batch"]
        pos = (await slide(tablet, lists=one_list((0, 9))))["pos"]
        event_id = await say(alice, room_id, "one")
        answer = await sync(tablet, token)
        assert joined(answer, room_id)["unread_notifications"]["notification_count"] == 1
        sliding = await slide(tablet, pos, lists=one_list((0, 9)))
        assert sliding["rooms"][room_id]["notification_count"] == 1
        for kind in ("m.read", "m.read.private"):
            waiting = asyncio.create_task(
                sync(tablet, answer["next_batch"], wait_ms=60_000, filter={"room": {"ephemeral": {"types": []}}})
            )
            await asyncio.sleep(0.05)
            await read(bob, room_id, event_id, kind)
            answer = await waiting
            room = joined(answer, room_id)
            assert room["unread_notifications"]["notification_count"] == 0
            assert room["timeline"]["events"] == []
        room = (await slide(tablet, sliding["pos"], lists=one_list((0, 9))))["rooms"][room_id]
        assert room == {"notification_count": 0, "highlight_count": 0}


async def test_who_writes_has_read_what_was_written_before() -> None:
    async with running_node() as node:
        alice, bob, _, room_id = await rooms_of_three(node)
        await say(alice, room_id, "one")
        await say(bob, room_id, "answer")
        assert await counts(bob, room_id) == (0, 0)
        await say(alice, room_id, "two")
        assert await counts(bob, room_id) == (1, 0)
        await set_state(alice, room_id, "m.room.topic", {"topic": "no message"})
        assert await counts(bob, room_id) == (1, 0)


async def test_the_rules_decide_what_counts() -> None:
    async with running_node() as node:
        alice, bob, carol, room_id = await rooms_of_three(node)
        parent = await say(bob, room_id, "mine")
        await send(alice, room_id, text("* edit", **{"m.relates_to": {"rel_type": "m.replace", "event_id": parent}}))
        reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": parent, "key": "+"}}
        await send(alice, room_id, reaction, "m.reaction")
        await send(alice, room_id, {"msgtype": "m.notice", "body": "bob"})
        assert await counts(bob, room_id) == (0, 0), "edits, reactions and notices"
        await send(alice, room_id, text("look", **{"m.mentions": {"user_ids": [bob.user_id]}}))
        assert await counts(bob, room_id) == (1, 1)
        await send(alice, room_id, text("bob is not meant", **{"m.mentions": {}}))
        assert await counts(bob, room_id) == (2, 1)
        await send(alice, room_id, text("all of you", **{"m.mentions": {"room": True}}))
        assert await counts(bob, room_id) == (3, 2), "she may notify the room"
        await send(carol, room_id, text("all of you!", **{"m.mentions": {"room": True}}))
        assert await counts(bob, room_id) == (4, 2), "she may not"
        assert await counts(alice, room_id) == (1, 0)


async def test_a_changed_rule_counts_from_then_on() -> None:
    async with running_node() as node:
        alice, bob, _, room_id = await rooms_of_three(node)
        await say(alice, room_id, "one")
        assert await counts(bob, room_id) == (1, 0)
        rule = f"/pushrules/global/room/{room_id}"
        assert (await bob.put(rule, {"actions": []})).status == 200
        assert await counts(bob, room_id) == (0, 0)
        assert (await bob.put(f"{rule}/enabled", {"enabled": False})).status == 200
        assert await counts(bob, room_id) == (1, 0)
        assert (await bob.put("/pushrules/global/override/.m.rule.master/enabled", {"enabled": True})).status == 200
        assert await counts(bob, room_id) == (0, 0)


async def test_in_a_room_of_two_every_message_is_a_direct_one() -> None:
    """`.m.rule.room_one_to_one` can be turned off alone: it depends on the number of members."""
    async with running_node() as node:
        alice, bob, carol, room_id = await rooms_of_three(node)
        rule = "/pushrules/global/underride/.m.rule.room_one_to_one"
        assert (await bob.put(f"{rule}/actions", {"actions": []})).status == 200
        await say(alice, room_id, "one")
        assert await counts(bob, room_id) == (1, 0)
        await carol.post(at(room_id, "leave"))
        await read(bob, room_id, await say(alice, room_id, "two"))
        await say(alice, room_id, "three")
        assert await counts(bob, room_id) == (0, 0)


async def test_a_redacted_message_does_not_count_any_more() -> None:
    async with running_node() as node:
        alice, bob, _, room_id = await rooms_of_three(node)
        event_id = await say(alice, room_id, "bob!")
        await say(alice, room_id, "stays")
        assert await counts(bob, room_id) == (2, 1)
        assert (await alice.put(at(room_id, "redact", event_id, "r1"))).status == 200
        assert await counts(bob, room_id) == (1, 0)


async def test_ignored_users_do_not_count() -> None:
    async with running_node() as node:
        alice, bob, _, room_id = await rooms_of_three(node)
        await say(alice, room_id, "bob!")
        ignored = {"ignored_users": {alice.user_id: {}}}
        await bob.put(f"/user/{bob.user_id}/account_data/m.ignored_user_list", ignored)
        assert await counts(bob, room_id) == (0, 0)


async def test_threads_have_counts_of_their_own() -> None:
    async with running_node() as node:
        alice, bob, _, room_id = await rooms_of_three(node)
        root = await say(alice, room_id, "root")
        await send(alice, room_id, in_thread(root, "bob, look"))
        second = await send(alice, room_id, in_thread(root, "two"))
        assert await by_thread(bob, room_id) == {"main": (1, 0), root: (2, 1)}
        assert await counts_together(bob, room_id) == (3, 1), "for who does not ask by thread"
        await read(bob, room_id, root, thread_id="main")
        assert await by_thread(bob, room_id) == {"main": (0, 0), root: (2, 1)}
        await read(bob, room_id, second, thread_id=root)
        assert await by_thread(bob, room_id) == {"main": (0, 0)}
        await send(alice, room_id, in_thread(root, "three"))
        await say(alice, room_id, "main again")
        assert await by_thread(bob, room_id) == {"main": (1, 0), root: (1, 0)}
        await read(bob, room_id, await say(alice, room_id, "last"))
        assert await by_thread(bob, room_id) == {"main": (0, 0)}, "a receipt without a thread is for all of them"


async def counts_together(client: Client, room_id: str) -> tuple[int, int]:
    room = joined(await sync(client), room_id)
    assert "unread_thread_notifications" not in room
    count = room["unread_notifications"]
    return count["notification_count"], count["highlight_count"]


async def test_what_relates_to_an_event_of_a_thread_is_of_the_thread() -> None:
    async with running_node() as node:
        alice, bob, _, room_id = await rooms_of_three(node)
        root = await say(bob, room_id, "root")
        reply = await send(alice, room_id, in_thread(root))
        reference = {"m.relates_to": {"rel_type": "m.reference", "event_id": reply}}
        child = await send(alice, room_id, text("about it", **reference))
        await send(alice, room_id, text("and that", **{"m.relates_to": {"rel_type": "x.y", "event_id": child}}))
        quote = {"m.relates_to": {"m.in_reply_to": {"event_id": reply}}}
        await send(alice, room_id, text("a plain reply is of the main timeline", **quote))
        assert await by_thread(bob, room_id) == {"main": (1, 0), root: (3, 0)}
        await send(bob, room_id, in_thread(root))
        assert await by_thread(bob, room_id) == {"main": (1, 0)}, "he wrote in the thread"


async def test_who_comes_back_has_read_what_was_there() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        await say(alice, room_id, "one")
        await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Robert"})
        assert await counts(bob, room_id) == (1, 0), "another name is no other join"
        await bob.post(at(room_id, "leave"))
        await say(alice, room_id, "two")
        await join(bob, room_id)
        assert await counts(bob, room_id) == (0, 0)


async def test_of_very_many_only_the_newest_are_looked_at(monkeypatch: Any) -> None:
    monkeypatch.setattr(unread, "COUNTED_MAX", 5)
    async with running_node() as node:
        alice, bob, _, room_id = await rooms_of_three(node)
        for number in range(9):
            await say(alice, room_id, str(number))
        assert await counts(bob, room_id) == (5, 0)


async def test_the_list_of_notifications_has_what_was_counted() -> None:
    async with running_node() as node:
        alice, bob, _, room_id = await rooms_of_three(node)
        other = await new_room(alice)
        await invite_and_join(alice, other, bob)
        sent = [
            await say(alice, room_id, "one"),
            await say(alice, other, "bob: two"),
            await say(alice, room_id, "three"),
        ]
        await send(alice, room_id, {"msgtype": "m.notice", "body": "no"})
        await read(bob, room_id, sent[0])
        answer = await bob.get("/notifications", limit=2)
        found = answer["notifications"]
        assert [entry["event"]["event_id"] for entry in found] == [sent[2], sent[1]]
        assert [entry["room_id"] for entry in found] == [room_id, other]
        assert found[1]["actions"] == ["notify", {"set_tweak": "sound", "value": "default"}, {"set_tweak": "highlight"}]
        assert all(isinstance(entry["ts"], int) for entry in found)
        last = await bob.get("/notifications", **{"from": answer["next_token"]})
        entries = [
            (entry["event"]["type"], entry["event"]["event_id"], entry["read"]) for entry in last["notifications"]
        ]
        assert entries[0] == ("m.room.message", sent[0], True)
        assert [kind for kind, _, _ in entries[1:]] == ["m.room.member"] * 2, "the invites to himself"
        assert [entry["read"] for entry in found] == [False, False]
        assert "next_token" not in last.body
        only = await bob.get("/notifications", only="highlight")
        assert [entry["event"]["event_id"] for entry in only["notifications"]] == [sent[1]]
        assert (await bob.get("/notifications", **{"from": "x"})).errcode == "M_INVALID_PARAM"
