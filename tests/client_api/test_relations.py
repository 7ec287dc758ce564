"""Relations and threads: what relates to an event, page by page, and what of it somebody may see."""

import json
from typing import Any

from tests.client_api.harness import Answer, Client, Node, running_node
from tests.client_api.talk import at, ids, invite_and_join, join, new_room, say, sync


async def relate(
    client: Client, room_id: str, parent: str, rel_type: str, txn: str, *, kind: str = "m.room.message"
) -> str:
    content = {"msgtype": "m.text", "body": txn, "m.relates_to": {"rel_type": rel_type, "event_id": parent, "key": txn}}
    event_id: str = (await client.put(at(room_id, "send", kind, txn), content))["event_id"]
    return event_id


async def relations(client: Client, room_id: str, *rest: str, **query: Any) -> Answer:
    path = "/_matrix/client/v1" + at(room_id, "relations", *rest)
    return await client.get(path, **query)


async def threads(client: Client, room_id: str, **query: Any) -> Answer:
    return await client.get("/_matrix/client/v1" + at(room_id, "threads"), **query)


async def test_relations_are_found_by_parent_type_and_event_type() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        parent, other = await say(alice, room_id, "parent"), await say(alice, room_id, "other")
        reaction = await relate(alice, room_id, parent, "m.annotation", "1", kind="m.reaction")
        reply = await relate(alice, room_id, parent, "m.thread", "2")
        await relate(alice, room_id, other, "m.thread", "3")
        assert ids((await relations(alice, room_id, parent))["chunk"]) == [reply, reaction]
        assert ids((await relations(alice, room_id, parent, dir="f"))["chunk"]) == [reaction, reply]
        assert ids((await relations(alice, room_id, parent, "m.thread"))["chunk"]) == [reply]
        assert ids((await relations(alice, room_id, parent, "m.annotation", "m.reaction"))["chunk"]) == [reaction]
        assert (await relations(alice, room_id, parent, "m.annotation", "m.room.message")).body == {"chunk": []}
        assert (await relations(alice, room_id, "$nothing")).errcode == "M_NOT_FOUND"
        assert (await relations(alice, room_id, parent, dir="x")).errcode == "M_INVALID_PARAM"
        assert (await relations(alice, room_id, parent, **{"from": "x"})).errcode == "M_INVALID_PARAM"


async def test_recursion_finds_what_relates_to_relations() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        chain = [await say(alice, room_id, "root")]
        for number in range(5):
            chain.append(await relate(alice, room_id, chain[-1], "m.reference", str(number)))
        flat = (await relations(alice, room_id, chain[0], dir="f")).body
        assert (ids(flat["chunk"]), "recursion_depth" in flat) == (chain[1:2], False)
        deep = (await relations(alice, room_id, chain[0], dir="f", recurse="true")).body
        assert (ids(deep["chunk"]), deep["recursion_depth"]) == (chain[1:4], 3)


async def test_pages_lose_and_repeat_nothing() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        parent = await say(alice, room_id, "parent")
        sent = []
        for number in range(7):
            sent.append(await relate(alice, room_id, parent, "m.thread", str(number)))
            await relate(alice, room_id, parent, "m.annotation", f"r{number}", kind="m.reaction")
        for direction, expected in (("f", sent), ("b", sent[::-1])):
            found: list[str] = []
            page = (await relations(alice, room_id, parent, "m.thread", dir=direction, limit="3")).body
            while True:
                found += ids(page["chunk"])
                if "next_batch" not in page:
                    break
                query = {"dir": direction, "limit": "3", "from": page["next_batch"]}
                page = (await relations(alice, room_id, parent, "m.thread", **query)).body
                assert page["prev_batch"] == query["from"]
            assert found == expected


async def test_a_redacted_reply_relates_to_nothing() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        root = await say(alice, room_id, "root")
        kept, redacted = [await relate(alice, room_id, root, "m.thread", txn) for txn in ("1", "2")]
        await alice.put(at(room_id, "redact", redacted, "3"))
        assert ids((await relations(alice, room_id, root))["chunk"]) == [kept]
        thread = (await threads(alice, room_id))["chunk"][0]["unsigned"]["m.relations"]["m.thread"]
        assert (thread["count"], thread["latest_event"]["event_id"]) == (1, kept)


async def test_the_event_on_which_a_thread_hangs_carries_its_summary() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob, carol)
        root = await say(alice, room_id, "root")
        event = (await alice.get(at(room_id, "event", root))).body
        assert "m.relations" not in event["unsigned"]
        await relate(bob, room_id, root, "m.thread", "1")
        last = await relate(bob, room_id, root, "m.thread", "2")
        for client, takes_part in ((alice, True), (bob, True), (carol, False)):
            event = (await client.get(at(room_id, "event", root))).body
            thread = event["unsigned"]["m.relations"]["m.thread"]
            assert (thread["count"], thread["current_user_participated"]) == (2, takes_part)
            assert thread["latest_event"]["event_id"] == last
            assert ("transaction_id" in thread["latest_event"]["unsigned"]) is (client is bob)
            timeline = (await sync(client))["rooms"]["join"][room_id]["timeline"]["events"]
            shown = next(each for each in timeline if each["event_id"] == root)
            assert shown["unsigned"]["m.relations"]["m.thread"]["count"] == 2
            assert all("m.relations" not in each["unsigned"] for each in timeline if each["event_id"] != root)


async def test_threads_are_listed_by_their_last_reply() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        assert (await threads(alice, room_id)).body == {"chunk": []}
        roots = [await say(alice, room_id, f"root {number}") for number in range(3)]
        for number, (client, root) in enumerate(
            [(bob, roots[1]), (alice, roots[0]), (alice, roots[2]), (alice, roots[0])]
        ):
            await relate(client, room_id, root, "m.thread", str(number))
        await relate(alice, room_id, roots[1], "m.annotation", "r", kind="m.reaction")
        assert ids((await threads(bob, room_id))["chunk"]) == [roots[0], roots[2], roots[1]]
        assert ids((await threads(bob, room_id, include="participated"))["chunk"]) == [roots[1]]
        first = (await threads(bob, room_id, limit="2")).body
        second = (await threads(bob, room_id, limit="2", **{"from": first["next_batch"]})).body
        assert ids(first["chunk"]) + ids(second["chunk"]) == [roots[0], roots[2], roots[1]]
        assert "next_batch" not in second
        assert (await threads(bob, room_id, include="some")).errcode == "M_INVALID_PARAM"


async def test_nobody_is_told_of_relations_that_he_may_not_see() -> None:
    async with running_node() as node:
        alice, bob, mallory = [await node.register(name) for name in ("alice", "bob", "mallory")]
        state = [{"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}]
        room_id = await new_room(alice, preset="public_chat", initial_state=state)
        early = await say(alice, room_id, "before bob")
        await relate(alice, room_id, early, "m.thread", "1")
        await join(bob, room_id)
        root = await say(alice, room_id, "root")
        seen = await relate(alice, room_id, root, "m.thread", "2")
        assert ids((await threads(bob, room_id))["chunk"]) == [root]
        assert (await relations(bob, room_id, early)).errcode == "M_NOT_FOUND"
        assert (await bob.post(at(room_id, "leave"))).status == 200
        await relate(alice, room_id, root, "m.thread", "3")
        assert ids((await relations(bob, room_id, root))["chunk"]) == [seen]
        assert "m.relations" not in (await bob.get(at(room_id, "event", root)))["unsigned"]
        assert (await relations(mallory, room_id, root)).errcode == "M_NOT_FOUND"
        assert (await threads(mallory, room_id)).errcode == "M_FORBIDDEN"


async def test_nonsense_in_m_relates_to_is_taken_for_no_relation() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        root = await say(alice, room_id, "root")
        nonsense: list[Any] = [None, 1, "x", [], {}, {"event_id": 5}, {"event_id": {"a": []}}, {"event_id": root}]
        nonsense += [{"event_id": root, "rel_type": 7}, {"event_id": root, "rel_type": ["m.thread"]}]
        for number, relation in enumerate(nonsense):
            answer = await alice.put(at(room_id, "send", "m.room.message", str(number)), {"m.relates_to": relation})
            assert answer.status == 200
        assert (await relations(alice, room_id, root, "m.thread")).body == {"chunk": []}
        assert (await threads(alice, room_id)).body == {"chunk": []}
        assert len((await relations(alice, room_id, root))["chunk"]) == 3


async def _plan(node: Node, sql: str) -> str:
    rows: list[tuple[Any, ...]] = await node.database.read(lambda tx: tx.all("EXPLAIN QUERY PLAN " + sql))
    return " ".join(str(row[-1]) for row in rows)


async def test_relations_are_looked_up_by_an_index() -> None:
    async with running_node() as node:
        seen: list[str] = []
        alice = await node.register("alice")
        room_id = await new_room(alice)
        root = await say(alice, room_id, "root")
        await relate(alice, room_id, root, "m.thread", "1")

        def trace(tx: Any) -> None:
            tx.conn.set_trace_callback(seen.append)

        await node.database.read(trace)
        await relations(alice, room_id, root)
        await alice.get(at(room_id, "event", root))
        await threads(alice, room_id)
        queries = [sql for sql in dict.fromkeys(seen) if '"m.relates_to".event_id' in sql]
        assert len(queries) == 5
        for sql in queries:
            assert "events_by_relation" in await _plan(node, sql), sql


async def test_a_filter_asks_for_events_to_which_others_relate() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        plain = await say(alice, room_id, "plain")
        threaded, edited = await say(alice, room_id, "threaded"), await say(alice, room_id, "edited")
        for client, target, kind in ((bob, threaded, "m.thread"), (alice, edited, "m.replace")):
            content = {"msgtype": "m.text", "body": kind, "m.relates_to": {"rel_type": kind, "event_id": target}}
            assert (await client.put(at(room_id, "send", "m.room.message", kind), content)).status == 200

        async def found(**wanted: list[str]) -> list[str]:
            page = await alice.get(at(room_id, "messages"), dir="b", limit=50, filter=json.dumps(wanted))
            return [event["event_id"] for event in page["chunk"]]

        assert await found(related_by_rel_types=["m.thread"]) == [threaded]
        assert await found(related_by_rel_types=["m.thread", "m.replace"]) == [edited, threaded]
        assert await found(related_by_senders=[alice.user_id]) == [edited]
        assert await found(related_by_senders=[alice.user_id], related_by_rel_types=["m.thread"]) == []
        assert plain in await found()


def edited(body: str, parent: str) -> dict[str, Any]:
    relation = {"rel_type": "m.replace", "event_id": parent}
    new = {"msgtype": "m.text", "body": body}
    return {"msgtype": "m.text", "body": f"* {body}", "m.new_content": new, "m.relates_to": relation}


async def put(client: Client, room_id: str, content: dict[str, Any], txn: str, kind: str = "m.room.message") -> str:
    event_id: str = (await client.put(at(room_id, "send", kind, txn), content))["event_id"]
    return event_id


async def related(client: Client, room_id: str, event_id: str) -> dict[str, Any]:
    event = (await client.get(at(room_id, "event", event_id))).body
    found: dict[str, Any] = event["unsigned"].get("m.relations", {})
    return found


async def test_an_event_carries_its_newest_edit_by_its_own_sender() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        original = await say(alice, room_id, "first")
        await put(bob, room_id, edited("not his", original), "1")
        await put(alice, room_id, edited("another type", original), "2", "x.y")
        without = {key: value for key, value in edited("x", original).items() if key != "m.new_content"}
        await put(alice, room_id, without, "3")
        assert await related(bob, room_id, original) == {}
        second = await put(alice, room_id, edited("second", original), "4")
        third = await put(alice, room_id, edited("third", original), "5")
        found = await related(bob, room_id, original)
        assert found["m.replace"]["event_id"] == third
        assert found["m.replace"]["content"]["m.new_content"]["body"] == "third"
        assert (await bob.get(at(room_id, "event", original)))["content"]["body"] == "first", "the original stays"
        await put(alice, room_id, edited("an edit of an edit", third), "6")
        assert await related(bob, room_id, third) == {}
        await alice.put(at(room_id, "redact", third, "7"))
        assert (await related(bob, room_id, original))["m.replace"]["event_id"] == second
        await alice.put(at(room_id, "redact", original, "8"))
        assert await related(bob, room_id, original) == {}
        assert ids((await relations(bob, room_id, original, "m.replace"))["chunk"]), "the children stay"


async def test_an_encrypted_event_is_edited_by_an_encrypted_one_only() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        secret = await put(alice, room_id, {"ciphertext": "a"}, "1", "m.room.encrypted")
        await put(alice, room_id, edited("plain", secret), "2")
        assert await related(alice, room_id, secret) == {}
        content = {"ciphertext": "b", "m.relates_to": {"rel_type": "m.replace", "event_id": secret}}
        edit = await put(alice, room_id, content, "3", "m.room.encrypted")
        assert (await related(alice, room_id, secret))["m.replace"]["event_id"] == edit


async def test_the_last_reply_of_a_thread_carries_its_edit_and_references_are_listed() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        root = await say(alice, room_id, "root")
        reply = await relate(bob, room_id, root, "m.thread", "1")
        edit = await put(bob, room_id, edited("better", reply), "2")
        refers = [await relate(bob, room_id, root, "m.reference", txn, kind="x.y") for txn in ("3", "4")]
        found = await related(alice, room_id, root)
        assert set(found) == {"m.thread", "m.reference"}
        latest = found["m.thread"]["latest_event"]
        assert (latest["event_id"], latest["unsigned"]["m.relations"]["m.replace"]["event_id"]) == (reply, edit)
        assert found["m.reference"] == {"chunk": [{"event_id": event_id} for event_id in refers]}
        ignored = {"ignored_users": {bob.user_id: {}}}
        await alice.put(f"/user/{alice.user_id}/account_data/m.ignored_user_list", ignored)
        assert await related(alice, room_id, root) == {}, "ignored users do not count"


async def test_a_sync_that_leaves_nothing_out_need_not_tell_what_relates() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        token = (await sync(alice))["next_batch"]
        original = await say(alice, room_id, "first")
        await put(alice, room_id, edited("second", original), "1")
        query = {"filter": {"room": {"timeline": {"limit": 2}}}}
        [first, _] = (await sync(alice, token, **query))["rooms"]["join"][room_id]["timeline"]["events"]
        assert "m.relations" not in first["unsigned"]
        whole = (await sync(alice, **query))["rooms"]["join"][room_id]["timeline"]
        assert whole["limited"] is True
        assert "m.replace" in whole["events"][0]["unsigned"]["m.relations"]
