"""`POST /search`: what is found, by whom, in which order, and what is not."""

from typing import Any

import pytest

from p2pserver.client_api import search
from p2pserver.store import search_index
from p2pserver.store.inline import SimulatedDisk
from p2pserver.store.migrations import migrate
from tests.client_api.harness import Client, running_node
from tests.client_api.talk import at, history, ids, invite_and_join, join, new_room, say, set_state
from tests.client_api.wire import wired_nodes


async def _search(client: Client, term: str, *, token: str | None = None, **fields: Any) -> dict[str, Any]:
    path = "/search" if token is None else f"/search?next_batch={token}"
    answer = await client.post(path, {"search_categories": {"room_events": {"search_term": term, **fields}}})
    found: dict[str, Any] = answer["search_categories"]["room_events"]
    return found


async def _found(client: Client, term: str, **fields: Any) -> list[str]:
    return [entry["result"]["event_id"] for entry in (await _search(client, term, **fields))["results"]]


async def _edit(client: Client, room_id: str, target: str, text: str, txn: str) -> str:
    content = {
        "msgtype": "m.text",
        "body": f"* {text}",
        "m.new_content": {"msgtype": "m.text", "body": text},
        "m.relates_to": {"rel_type": "m.replace", "event_id": target},
    }
    event_id: str = (await client.put(at(room_id, "send", "m.room.message", txn), content))["event_id"]
    return event_id


async def test_words_are_found_in_messages_names_and_topics() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, name="Garden", topic="about Tomatoes", preset="public_chat")
        other = await new_room(alice, name="Kitchen")
        ripe = await say(alice, room_id, "The tomatoes are RIPE, señor")
        soup = await say(alice, other, "tomatoes make a soup of tomatoes")
        names = {event["type"]: event["event_id"] for event in await history(alice, room_id) if "state_key" in event}
        assert set(await _found(alice, "tomatoes")) == {ripe, soup, names["m.room.topic"]}
        assert await _found(alice, "ripe tomatoes") == [ripe], "all words"
        assert await _found(alice, "senor") == [ripe], "whatever the accents"
        assert await _found(alice, "toma", filter={"rooms": [other]}) == [soup], "the last word may go on"
        assert await _found(alice, "toma soup") == [], "the others may not"
        assert await _found(alice, "garden", keys=["content.name"]) == [names["m.room.name"]]
        assert await _found(alice, "garden", keys=["content.body"]) == []
        assert await _found(alice, '"; DROP TABLE events; -- OR NEAR(') == []
        assert await _found(alice, "!!! ") == []
        assert await _found(bob, "tomatoes") == [], "he is in none of the rooms"
        found = await _search(alice, "Ripe")
        assert (found["count"], found["highlights"]) == (1, ["ripe"])
        assert found["results"][0]["result"]["content"]["body"] == "The tomatoes are RIPE, señor"
        assert found["results"][0]["rank"] > 0


async def test_pages_order_groups_context_and_state() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        one, two = await new_room(alice, name="One"), await new_room(alice, name="Two")
        await invite_and_join(alice, one, bob)
        sent = []
        for number in range(6):
            await say(alice, one, f"filler {number}")
            sent.append(await say(bob if number % 2 else alice, one, f"apple {number}"))
        best = await say(alice, two, "apple")
        assert (await _found(alice, "apple"))[0] == best, "nothing but the word fits best"
        assert await _found(alice, "apple", order_by="recent") == [best, *reversed(sent)]
        pages, token = [], None
        while True:
            page = await _search(alice, "apple", order_by="recent", filter={"limit": 3}, token=token)
            pages.append([entry["result"]["event_id"] for entry in page["results"]])
            token = page.get("next_batch")
            if token is None:
                break
        assert pages == [[best, sent[5], sent[4]], [sent[3], sent[2], sent[1]], [sent[0]]]
        found = await _search(
            alice,
            "apple",
            order_by="recent",
            include_state=True,
            groupings={"group_by": [{"key": "room_id"}, {"key": "sender"}]},
            event_context={"before_limit": 1, "after_limit": 2, "include_profile": True},
            filter={"senders": [bob.user_id], "types": ["m.room.*"]},
        )
        assert found["count"] == 3
        assert found["groups"]["room_id"] == {one: {"results": [sent[5], sent[3], sent[1]], "order": 0}}
        assert list(found["groups"]["sender"]) == [bob.user_id]
        context = found["results"][1]["context"]
        assert [event["content"]["body"] for event in context["events_before"]] == ["filler 3"]
        assert [event["content"]["body"] for event in context["events_after"]] == ["filler 4", "apple 4"]
        assert context["profile_info"][bob.user_id] == {"displayname": "bob"}
        further = await alice.get(at(one, "messages"), **{"from": context["end"], "dir": "f", "limit": 1})
        assert further["chunk"][0]["content"]["body"] == "filler 5"
        assert {event["type"] for event in found["state"][one]} >= {"m.room.create", "m.room.name"}


async def test_history_that_somebody_may_not_see_is_not_found_nor_counted() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        joined_only = [{"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}]
        room_id = await new_room(alice, preset="public_chat", initial_state=joined_only)
        secret = await say(alice, room_id, "treasure under the oak")
        await join(bob, room_id)
        seen = await say(alice, room_id, "what treasure?")
        found = await _search(bob, "treasure")
        assert [entry["result"]["event_id"] for entry in found["results"]] == [seen]
        assert found["count"] == 1
        await bob.post(at(room_id, "leave"))
        later = await say(alice, room_id, "treasure, again")
        assert await _found(bob, "treasure") == [seen], "he keeps what he saw"
        await bob.post(at(room_id, "forget"))
        assert await _found(bob, "treasure") == []
        assert set(await _found(alice, "treasure")) == {secret, seen, later}
        await bob.put(f"/user/{bob.user_id}/account_data/m.ignored_user_list", {"ignored_users": {alice.user_id: {}}})
        await join(bob, room_id)
        assert await _found(bob, "treasure") == [], "of somebody he ignores"


async def test_edits_and_redactions_change_what_is_found() -> None:
    disk = SimulatedDisk()
    async with running_node(disk=disk) as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        event_id = await say(alice, room_id, "meet at the bridge")
        first = await _edit(alice, room_id, event_id, "meet at the mill", "e1")
        second = await _edit(alice, room_id, event_id, "meet at the church", "e2")
        await _edit(bob, room_id, event_id, "meet at the tavern", "e3")
        assert await _found(alice, "church") == [event_id], "the message, not the edit"
        for gone in ("bridge", "mill", "tavern"):
            assert await _found(alice, gone) == []
        await alice.put(at(room_id, "redact", second, "r1"), {})
        assert await _found(alice, "mill") == [event_id]
        await alice.put(at(room_id, "redact", first, "r2"), {})
        assert await _found(alice, "bridge") == [event_id]
    async with running_node(disk=disk) as node:
        alice = await node.log_in("alice")
        assert await _found(alice, "bridge") == [event_id], "after a restart too"
        await alice.put(at(room_id, "redact", event_id, "r3"), {})
        assert await _found(alice, "bridge") == []
        await set_state(alice, room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
        await alice.put(at(room_id, "send", "m.room.encrypted", "c1"), {"ciphertext": "bridge", "body": "bridge"})
        counts = await node.database.read(
            lambda tx: [tx.one(f"SELECT COUNT(*) FROM {table}") for table in ("search_entries", "search_texts")]
        )
        assert counts == [(0,), (0,)], "redacted and encrypted events leave nothing in the index"


async def test_what_another_node_wrote_before_we_joined_is_found_and_an_edit_that_came_first_counts() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        event_id = await say(alice, room_id, "meet at the bridge")
        await _edit(alice, room_id, event_id, "meet at the mill", "e1")
        await bob.post(f"/join/{room_id}?via={north.server_name}")
        await wire.deliver()
        await wire.backfill(south, room_id, north)
        assert await _found(bob, "mill") == [event_id]
        assert await _found(bob, "bridge") == []


async def test_words_are_taken_in_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_index, "PENDING_MAX", 4)

    async def counts() -> tuple[int, int]:
        rows = await node.database.read(
            lambda tx: [tx.one(f"SELECT COUNT(*) FROM {table}") for table in ("search_pending", "search_entries")]
        )
        return rows[0][0], rows[1][0]

    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        sent = [await say(alice, room_id, f"apple {number}") for number in range(3)]
        assert await counts() == (3, 0)
        sent.append(await say(alice, room_id, "apple"))
        assert await counts() == (0, 4)
        await _edit(alice, room_id, sent[0], "pear", "e1")
        assert set(await _found(alice, "apple")) == set(sent[1:])
        assert await counts() == (0, 4)


async def test_one_request_looks_at_a_bounded_number_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "EXAMINED_MAX", 3)
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        sent = [await say(alice, room_id, f"apple {number}") for number in range(5)]
        first = await _search(alice, "apple", order_by="recent", filter={"limit": 10})
        second = await _search(alice, "apple", order_by="recent", filter={"limit": 10}, token=first["next_batch"])
        shown = [entry["result"] for page in (first, second) for entry in page["results"]]
        assert ids(shown) == sent[::-1]
        assert "next_batch" not in second


BAD_QUESTIONS: list[tuple[dict[str, Any], str]] = [
    ({}, "M_MISSING_PARAM"),
    ({"search_categories": {}}, "M_MISSING_PARAM"),
    ({"search_categories": {"room_events": {}}}, "M_MISSING_PARAM"),
    ({"search_categories": {"room_events": {"search_term": 5}}}, "M_BAD_JSON"),
    ({"search_categories": {"room_events": {"search_term": "a", "keys": ["content.x"]}}}, "M_INVALID_PARAM"),
    ({"search_categories": {"room_events": {"search_term": "a", "keys": [{}]}}}, "M_INVALID_PARAM"),
    ({"search_categories": {"room_events": {"search_term": "a", "order_by": "x"}}}, "M_INVALID_PARAM"),
    ({"search_categories": {"room_events": {"search_term": "a", "filter": {"limit": -1}}}}, "M_BAD_JSON"),
    (
        {"search_categories": {"room_events": {"search_term": "a", "groupings": {"group_by": ["x"]}}}},
        "M_BAD_JSON",
    ),
]


async def test_bad_questions() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        for body, errcode in BAD_QUESTIONS:
            answer = await alice.post("/search", body)
            assert (answer.status, answer.errcode) == (400, errcode), body
        assert (await node.stranger().post("/search", {})).status == 401


async def test_what_was_written_before_there_was_an_index_is_found() -> None:
    disk = SimulatedDisk()
    async with running_node(disk=disk) as node:
        alice = await node.register("alice")
        room_id = await new_room(alice, name="Garden", topic="about tomatoes")
        said, gone = await say(alice, room_id, "ripe tomatoes"), await say(alice, room_id, "rotten tomatoes")
        await alice.put(at(room_id, "redact", gone, "r"), {})
        await alice.put(at(room_id, "send", "m.room.message", "odd"), {"body": 5})
        await alice.put(at(room_id, "send", "m.room.encrypted", "enc"), {"body": "tomatoes"})
    for statement in (
        "DROP TRIGGER search_entries_go",
        "DROP TABLE search_texts",
        "DROP TABLE search_entries",
        "DROP TABLE search_pending",
        "DELETE FROM schema_migrations WHERE name = '0146_search.sql'",
    ):
        disk.conn.execute(statement)
    migrate(disk.conn)
    async with running_node(disk=disk) as node:
        alice = await node.log_in("alice")
        found = await _search(alice, "tomatoes")
        assert {entry["result"]["type"] for entry in found["results"]} == {"m.room.message", "m.room.topic"}
        assert said in [entry["result"]["event_id"] for entry in found["results"]]
        assert found["count"] == 2
