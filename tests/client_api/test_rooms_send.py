"""Sending, state and redaction: idempotency, validation, permissions."""

import asyncio
from typing import Any

import pytest

from tests.client_api.harness import Client, running_node
from tests.client_api.talk import at, history, ids, join, new_room, say, set_state


async def test_a_repeated_transaction_is_one_event_also_while_the_first_is_running() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        tablet = await node.log_in("alice")
        room_id = await new_room(alice)
        path = at(room_id, "send", "m.room.message", "t1")
        answers = await asyncio.gather(*(alice.put(path, {"body": "x"}) for _ in range(10)))
        assert len({answer["event_id"] for answer in answers}) == 1
        again = await alice.put(path, {"body": "something else"})
        assert again["event_id"] == answers[0]["event_id"]
        other_device = await tablet.put(path, {"body": "x"})
        assert other_device["event_id"] != again["event_id"], "a transaction ID is a device's own"
        other_type = await alice.put(at(room_id, "send", "org.example", "t1"), {"body": "x"})
        assert other_type["event_id"] != again["event_id"], "and belongs to a path"
        messages = await history(alice, room_id, filter='{"types":["m.room.message"]}')
        assert len(messages) == 2


async def test_paths_that_look_alike_when_decoded_are_two() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        one = await alice.put(at(room_id, "send", "a/b", "c"), {})
        two = await alice.put(at(room_id, "send", "a", "b/c"), {})
        assert one["event_id"] != two["event_id"]


async def test_a_transaction_that_failed_may_be_tried_again() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        path = at(room_id, "send", "m.room.message", "t1")
        assert (await bob.put(path, {"body": "x"})).status == 403
        await join(bob, room_id)
        assert (await bob.put(path, {"body": "x"})).status == 200


async def test_an_answered_event_is_committed() -> None:
    """The row of the transaction and the event are of one unit: none without the other."""
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        event_id = await say(alice, room_id, "x")
        rows = await node.database.read(
            lambda tx: tx.all(
                "SELECT t.event_id, e.event_id FROM client_transactions AS t JOIN events AS e USING (event_id)"
            )
        )
        assert rows == [(event_id, event_id)]


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        (b'{"a":1.5}', 400, "M_BAD_JSON"),
        (b'{"a":1e3}', 400, "M_BAD_JSON"),
        (b'{"a":9007199254740992}', 400, "M_BAD_JSON"),
        (b'{"a":NaN}', 400, None),
        (b'{"a":1,"a":2}', 400, None),
        (b'{"a":"\\ud800"}', 400, None),
        (b"{", 400, "M_NOT_JSON"),
        (b"[]", 400, "M_BAD_JSON"),
        (b'{"a":"' + b"x" * 66_000 + b'"}', 413, "M_TOO_LARGE"),
        (b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", 400, None),
    ],
)
@pytest.mark.parametrize("what", ["send", "state"])
async def test_content_that_no_event_can_have(what: str, body: bytes, status: int, errcode: str | None) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        before = await node.database.read(lambda tx: tx.one("SELECT COUNT(*) FROM events"))
        path = at(room_id, what, "org.example", "k")
        answer = await alice.ask("PUT", path, body)
        assert answer.status == status
        assert answer.errcode in ([errcode] if errcode else ["M_BAD_JSON", "M_NOT_JSON"])
        assert await node.database.read(lambda tx: tx.one("SELECT COUNT(*) FROM events")) == before


@pytest.mark.parametrize("event_type", ["x" * 256, "é" * 128])
async def test_a_type_that_is_too_long(event_type: str) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        answer = await alice.put(at(room_id, "send", event_type, "1"), {})
        assert (answer.status, answer.errcode) == (413, "M_TOO_LARGE")


async def test_outsiders_and_unknown_rooms() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        event_id = await say(alice, room_id, "x")
        for target in (room_id, "!" + "c" * 43, "nonsense"):
            for path in (
                at(target, "send", "m.room.message", "1"),
                at(target, "state", "m.room.name"),
                at(target, "redact", event_id, "1"),
            ):
                answer = await bob.put(path, {})
                assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN"), path


async def test_state_in_its_three_spellings_and_the_same_again() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        base = at(room_id, "state", "org.example.thing")
        first = (await alice.put(base, {"v": 1}))["event_id"]
        assert (await alice.put(f"{base}/", {"v": 1}))["event_id"] == first, "an identical state event is the same one"
        second = (await alice.put(f"{base}/", {"v": 2}))["event_id"]
        assert second != first
        for spelling in (base, f"{base}/"):
            assert (await alice.get(spelling)).body == {"v": 2}
        keyed = at(room_id, "state", "org.example.thing", "key with / and ü")
        third = (await alice.put(keyed, {"v": 3}))["event_id"]
        assert (await alice.get(keyed)).body == {"v": 3}
        assert (await alice.get(base)).body == {"v": 2}
        event = (await alice.get(keyed, format="event")).body
        assert (event["event_id"], event["state_key"]) == (third, "key with / and ü")
        assert (await alice.get(keyed, format="other")).errcode == "M_INVALID_PARAM"


async def test_power_decides_who_may_set_state() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        path = at(room_id, "state", "m.room.name")
        assert (await bob.put(path, {"name": "bob's"})).errcode == "M_FORBIDDEN"
        levels = (await alice.get(at(room_id, "state", "m.room.power_levels"))).body
        await set_state(alice, room_id, "m.room.power_levels", {**levels, "users": {bob.user_id: 50}})
        assert (await bob.put(path, {"name": "bob's"})).status == 200
        bad = {**levels, "users": {bob.user_id: "50"}}
        assert (await alice.put(at(room_id, "state", "m.room.power_levels"), bad)).errcode == "M_FORBIDDEN"


@pytest.mark.parametrize("version", ["10", "11", "12"])
@pytest.mark.parametrize("through_send", [False, True])
async def test_redaction(version: str, through_send: bool) -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat", room_version=version)
        await join(bob, room_id)
        by_alice, by_bob = await say(alice, room_id, "a"), await say(bob, room_id, "b")

        async def redact(client: Any, event_id: str, txn: str) -> Any:
            if through_send:
                return await client.put(at(room_id, "send", "m.room.redaction", txn), {"redacts": event_id})
            return await client.put(at(room_id, "redact", event_id, txn), {})

        assert (await redact(bob, by_alice, "1")).errcode == "M_FORBIDDEN"
        own = await redact(bob, by_bob, "2")
        assert (await redact(bob, by_bob, "2"))["event_id"] == own["event_id"]
        moderated = await redact(alice, by_alice, "3")
        for event_id, redaction in ((by_bob, own), (by_alice, moderated)):
            event = (await bob.get(at(room_id, "event", event_id))).body
            assert event["content"] == {}
            because = event["unsigned"]["redacted_because"]
            assert because["event_id"] == redaction["event_id"]
            assert because["redacts"] == because["content"]["redacts"] == event_id
        assert (await redact(alice, "$" + "x" * 43, "4")).errcode == "M_NOT_FOUND"
        other = await new_room(alice)
        elsewhere = await say(alice, other, "elsewhere")
        assert (await redact(alice, elsewhere, "5")).errcode == "M_NOT_FOUND"


@pytest.mark.parametrize("body", [{}, {"redacts": 5}, {"redacts": None}])
async def test_a_redaction_of_nothing(body: dict[str, Any]) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        answer = await alice.put(at(room_id, "send", "m.room.redaction", "1"), body)
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


async def test_a_canonical_alias_must_point_here() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        mine, path = f"#mine:{node.server_name}", at(room_id, "state", "m.room.canonical_alias")
        assert (await alice.put(path, {"alias": mine})).errcode == "M_BAD_ALIAS"
        assert (await alice.put(path, {"alt_aliases": [mine]})).errcode == "M_BAD_ALIAS"
        assert (await alice.put(path, {"alias": "mine"})).errcode == "M_INVALID_PARAM"
        assert (await alice.put(path, {"alt_aliases": [5]})).errcode == "M_INVALID_PARAM"
        await alice.put(f"/directory/room/%23mine:{node.server_name}", {"room_id": room_id})
        assert (await alice.put(path, {"alias": mine, "alt_aliases": ["#other:elsewhere.example"]})).status == 200
        assert (await alice.put(path, {})).status == 200


async def test_messages_of_many_senders_keep_their_order() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        sent = await asyncio.gather(*(say(client, room_id, str(n)) for n in range(20) for client in (alice, bob)))
        forward = ids(await history(alice, room_id, direction="f"))
        backward = ids(await history(bob, room_id, direction="b"))
        assert forward == backward[::-1]
        assert set(sent) <= set(forward)
        assert len(forward) == len(set(forward))


async def test_what_relates_to_a_redacted_event_goes_with_it_if_asked_for_and_allowed() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)

        async def related(client: Client, target: str, kind: str, txn: str) -> str:
            content = {"body": kind, "m.relates_to": {"rel_type": kind, "event_id": target}}
            event_id: str = (await client.put(at(room_id, "send", "m.room.message", txn), content))["event_id"]
            return event_id

        target = await say(bob, room_id, "message")
        edit = await related(bob, target, "m.replace", "e")
        reply = await related(bob, target, "m.thread", "t")
        foreign = await related(alice, target, "m.replace", "f")
        body = {"reason": "gone", "org.matrix.msc3912.with_relations": ["m.replace"]}
        for _ in range(2):
            assert (await bob.put(at(room_id, "redact", target, "r1"), body)).status == 200

        async def is_redacted(event_id: str) -> bool:
            return "redacted_because" in (await alice.get(at(room_id, "event", event_id)))["unsigned"]

        assert [await is_redacted(each) for each in (target, edit, reply, foreign)] == [True, True, False, False]
        everything = {"org.matrix.msc3912.with_relations": ["*"]}
        assert (await alice.put(at(room_id, "redact", target, "r2"), everything)).status == 200
        assert [await is_redacted(each) for each in (reply, foreign)] == [True, True]
        assert (
            await alice.put(at(room_id, "redact", target, "r3"), {**everything, "reason": 5})
        ).errcode == "M_BAD_JSON"
