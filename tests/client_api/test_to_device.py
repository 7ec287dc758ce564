"""To-device messages: queues, idempotency, order, bounds; between nodes, durable and once."""

import asyncio
import json
from typing import Any

import pytest

from p2pserver.rooms.edus import receive_edu
from p2pserver.store import to_device
from p2pserver.store.to_device import add_to_device, delete_to_device, to_device_since
from tests.client_api.harness import Client, Node, running_node
from tests.client_api.neighbors import carry, two_nodes

PATH = "/sendToDevice/m.room_key_request/"


def to(client: Client, device_id: str | None = None, **content: Any) -> dict[str, Any]:
    return {"messages": {client.user_id: {device_id or client.device_id: content}}}


async def queue(node: Node, client: Client) -> list[dict[str, Any]]:
    rows = await node.database.read(
        lambda tx: to_device_since(tx, client.user_id, client.device_id, 0, tx.position(), limit=10_000)
    )
    return [message for _, message in rows]


async def numbers(node: Node, client: Client) -> list[int]:
    return [message["content"]["n"] for message in await queue(node, client)]


async def test_a_message_reaches_the_device_it_is_for() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        other = await node.log_in("bob")
        assert (await alice.put(PATH + "1", to(bob, n=1))).body == {}
        assert await queue(node, bob) == [{"type": "m.room_key_request", "sender": alice.user_id, "content": {"n": 1}}]
        assert await queue(node, other) == []
        await alice.put(PATH + "2", to(bob, "*", n=2))
        assert await numbers(node, bob) == [1, 2]
        assert await numbers(node, other) == [2]
        await alice.put(PATH + "3", to(bob, "UNKNOWN", n=3))
        await alice.put(PATH + "4", {"messages": {f"@nobody:{node.server_name}": {"*": {}}}})
        assert await numbers(node, bob) == [1, 2]


async def test_a_repeat_sends_nothing_also_while_the_first_is_under_way() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        answers = await asyncio.gather(*(alice.put(PATH + "same", to(bob, n=n)) for n in range(5)))
        assert {answer.status for answer in answers} == {200}
        assert len(await numbers(node, bob)) == 1
        # Scoped to the device and the path, not to the user.
        second = await node.log_in("alice")
        await second.put(PATH + "same", to(bob, n=7))
        await alice.put("/sendToDevice/m.other/same", to(bob, n=8))
        assert (await numbers(node, bob))[1:] == [7, 8]
        relogged = await node.log_in("alice", device_id=alice.device_id)
        await relogged.put(PATH + "same", to(bob, n=9))
        assert len(await numbers(node, bob)) == 3


async def test_messages_stay_until_the_client_comes_back_with_a_later_token() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        for n in range(250):
            await node.database.write(
                lambda tx, n=n: add_to_device(
                    tx, bob.user_id, bob.device_id, {"type": "t", "sender": alice.user_id, "content": {"n": n}}
                )
            )
        since = (await bob.get("/sync", timeout=0))["next_batch"]
        first = (await bob.get("/sync", timeout=0)).body
        seen = [event["content"]["n"] for event in first["to_device"]["events"]]
        assert seen == list(range(100))
        again = (await bob.get("/sync", timeout=0)).body
        assert again["to_device"] == first["to_device"]
        for _ in range(3):
            answer = (await bob.get("/sync", timeout=0, since=since)).body
            assert [event["content"]["n"] for event in answer["to_device"]["events"]] == list(
                range(len(seen), min(len(seen) + 100, 250))
            )
            seen += [event["content"]["n"] for event in answer["to_device"]["events"]]
            since = answer["next_batch"]
        assert seen == list(range(250))
        await bob.get("/sync", timeout=0, since=since)
        assert await queue(node, bob) == []


async def test_the_queue_of_a_deleted_device_is_dropped_and_a_full_one_takes_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(to_device, "QUEUE_MAX", 3)
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob", device_id="PHONE")
        for n in range(5):
            await alice.put(f"{PATH}{n}", to(bob, n=n))
        assert await numbers(node, bob) == [0, 1, 2]
        await bob.post("/logout")
        again = await node.log_in("bob", device_id="PHONE")
        assert await numbers(node, again) == []
        await node.database.write(lambda tx: delete_to_device(tx, again.user_id, "PHONE", tx.position()))


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"messages": []}, 400, "M_BAD_JSON"),
        ({"messages": {"@a:b": []}}, 400, "M_BAD_JSON"),
        ({"messages": {"@a:b": {"D": "text"}}}, 400, "M_BAD_JSON"),
        ({"messages": {"@a:b": {"D": {"x": 0.5}}}}, 400, "M_BAD_JSON"),
        ({"messages": {"@a:b": {"D": json.loads('{"a":' * 92 + "1" + "}" * 92)}}}, 400, "M_BAD_JSON"),
        ({"messages": {"nobody": {"D": {}}}}, 400, "M_INVALID_PARAM"),
        ({"messages": {"@a:b": {"D": {"x": "y" * 70_000}}}}, 413, "M_TOO_LARGE"),
        ({"messages": {"@a:b": {str(n): {} for n in range(1001)}}}, 400, "M_INVALID_PARAM"),
    ],
)
async def test_messages_that_are_refused(body: dict[str, Any], status: int, errcode: str) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        answer = await alice.put(PATH + "1", body)
        assert (answer.status, answer.errcode) == (status, errcode)


async def test_messages_wait_durably_for_a_server_that_is_away_and_arrive_once_in_order() -> None:
    async with two_nodes() as (here, there, wire, _):
        alice, bob = await here.register("alice"), await there.register("bob")
        other = await there.log_in("bob")
        wire.plugged = False
        for n in range(20):
            await alice.put(f"{PATH}{n}", to(bob, n=n))
            await alice.put(f"{PATH}{n}", to(bob, n=n))
        await alice.put(f"{PATH}all", to(bob, "*", n=99))
        assert await numbers(there, bob) == []
        assert await carry(here, there, twice=True) == 21
        assert await numbers(there, bob) == [*range(20), 99]
        assert await numbers(there, other) == [99]
        assert (await queue(there, bob))[0] == {
            "type": "m.room_key_request",
            "sender": alice.user_id,
            "content": {"n": 0},
        }
        assert await carry(here, there) == 0


async def test_many_recipients_on_one_server_are_split_by_size_and_all_arrive() -> None:
    async with two_nodes() as (here, there, _, _):
        alice, bob = await here.register("alice"), await there.register("bob")
        devices = [await there.log_in("bob") for _ in range(8)]
        content = {"ciphertext": "x" * 20_000}
        body = {"messages": {bob.user_id: {device.device_id: content for device in devices}}}
        assert (await alice.put(PATH + "1", body)).status == 200
        assert await carry(here, there) == 4
        for device in devices:
            assert [message["content"] for message in await queue(there, device)] == [content]


async def test_only_a_server_itself_speaks_for_its_users() -> None:
    async with two_nodes() as (here, there, _, _):
        alice, bob = await here.register("alice"), await there.register("bob")

        async def send(**changes: Any) -> list[int]:
            content = {
                "sender": alice.user_id,
                "type": "m.test",
                "message_id": "id",
                "messages": {bob.user_id: {bob.device_id: {"n": 1}}},
            } | changes
            await there.database.write(lambda tx: receive_edu(tx, here.server_name, "m.direct_to_device", content))
            return await numbers(there, bob)

        for changes in (
            {"sender": bob.user_id},
            {"sender": "@alice:elsewhere"},
            {"sender": None},
            {"type": 7},
            {"type": "x" * 300},
            {"message_id": None},
            {"message_id": ""},
            {"message_id": "x" * 33},
            {"messages": []},
            {"messages": {bob.user_id: []}, "message_id": "other"},
            {"messages": {bob.user_id: {bob.device_id: "text"}}, "message_id": "another"},
            {"messages": {bob.user_id: {bob.device_id: {"n": 0.5}}}, "message_id": "float"},
            {"messages": {bob.user_id: {bob.device_id: {"n": "\ud800"}}}, "message_id": "surrogate"},
            {"messages": {bob.user_id: {bob.device_id: {"n": "x" * 70_000}}}, "message_id": "large"},
        ):
            assert await send(**changes) == [], changes
        assert await send() == [1]
        assert await send() == [1]
        await there.database.write(lambda tx: receive_edu(tx, here.server_name, "m.unknown", {"anything": 1}))


async def test_what_is_remembered_of_received_messages_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_device, "REMEMBERED_PER_ORIGIN_MAX", 100)
    async with running_node() as node:
        for n in range(250):
            assert await node.database.write(lambda tx, n=n: to_device.is_first_receipt(tx, "origin", f"m{n}"))
        rows = await node.database.read(lambda tx: tx.all("SELECT message_id FROM to_device_received ORDER BY number"))
        assert 80 <= len(rows) <= 100
        assert rows[-1] == ("m249",)
        assert not await node.database.write(lambda tx: to_device.is_first_receipt(tx, "origin", "m249"))
