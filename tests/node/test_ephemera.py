"""Receipts, typing and presence between nodes on the simulated network."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from p2pserver.node.ephemera import RECEIPTS_AT_ONCE, TYPING_S
from p2pserver.node.simulation import InProcessClient, RoomActions, segment
from p2pserver.rooms.edus import receive_receipts
from tests.node.test_nodes import live, two
from transports.sim import LinkConditions


async def read(client: InProcessClient, room: RoomActions, event_id: str, kind: str = "m.read", **body: Any) -> None:
    await client.request("POST", f"/rooms/{segment(room.room_id)}/receipt/{kind}/{segment(event_id)}", body)


async def typing(client: InProcessClient, room: RoomActions, *, on: bool, timeout_ms: int = 30_000) -> None:
    path = f"/rooms/{segment(room.room_id)}/typing/{segment(client.user_id)}"
    await client.request("PUT", path, {"typing": on, "timeout": timeout_ms})


async def sync(client: InProcessClient, since: str | None = None, wait_ms: int = 0) -> dict[str, Any]:
    query = {} if since is None else {"since": since}
    answer: dict[str, Any] = await client.request("GET", "/sync", timeout=str(wait_ms), set_presence="offline", **query)
    return answer


def ephemeral(answer: dict[str, Any], room_id: str, kind: str) -> list[dict[str, Any]]:
    room = answer["rooms"]["join"].get(room_id, {"ephemeral": {"events": []}})
    return [event["content"] for event in room["ephemeral"]["events"] if event["type"] == kind]


async def readers(client: InProcessClient, room: RoomActions) -> dict[tuple[str, str | None], str]:
    """By (user, thread), which event his receipt is at."""
    return {
        (user_id, data.get("thread_id")): event_id
        for content in ephemeral(await sync(client), room.room_id, "m.receipt")
        for event_id, kinds in content.items()
        for users in kinds.values()
        for user_id, data in users.items()
    }


def test_a_receipt_wakes_the_client_on_the_other_node_and_a_private_one_stays() -> None:
    async def story() -> None:
        mesh, room, joined, anna, boris = await two()
        event_id = await room.send("hello")
        await asyncio.sleep(2)
        token = (await sync(anna))["next_batch"]
        waiting = asyncio.create_task(sync(anna, token, 60_000))
        await asyncio.sleep(1)
        await read(boris, joined, event_id, "m.read.private")
        await asyncio.sleep(5)
        assert not waiting.done()
        await read(boris, joined, event_id)
        answer = await waiting
        [content] = ephemeral(answer, room.room_id, "m.receipt")
        assert list(content[event_id]) == ["m.read"]
        await read(boris, joined, event_id, thread_id="main")
        await asyncio.sleep(1)
        assert await readers(anna, room) == {(boris.user_id, None): event_id, (boris.user_id, "main"): event_id}
        await mesh.stop()

    live(story())


def test_receipts_of_somebody_who_was_away_come_when_he_is_met_and_only_the_newest() -> None:
    async def story() -> None:
        mesh, room, joined, anna, boris = await two()
        sent = [await room.send(f"{number}") for number in range(5)]
        await asyncio.sleep(5)
        mesh.partition({"a"}, {"b"})
        await asyncio.sleep(120)
        for event_id in sent:
            await read(boris, joined, event_id)
        assert await readers(anna, room) == {}
        mesh.heal()
        await asyncio.sleep(60)
        assert await readers(anna, room) == {(boris.user_id, None): sent[-1]}
        await mesh.stop()

    live(story())


def test_receipts_survive_the_power_cut_of_who_should_have_heard_them() -> None:
    async def story() -> None:
        mesh, room, joined, anna, boris = await two()
        event_id = await room.send("hello")
        await asyncio.sleep(5)
        await mesh.crash("a")
        await read(boris, joined, event_id)
        await asyncio.sleep(5)
        await mesh.boot("a")
        await asyncio.sleep(60)
        assert await readers(anna, room) == {(boris.user_id, None): event_id}
        await mesh.stop()

    live(story())


def test_more_receipts_than_go_into_one_message_all_arrive() -> None:
    async def story() -> None:
        mesh, room, joined, anna, boris = await two()
        sent = [await joined.send(f"{number}") for number in range(RECEIPTS_AT_ONCE + 20)]
        await asyncio.sleep(10)
        mesh.partition({"a"}, {"b"})
        await asyncio.sleep(60)
        for event_id in sent[-190:]:
            await read(boris, joined, event_id, thread_id=event_id)
        for number in range(40):
            await read(boris, joined, sent[-40 + number])
        mesh.heal()
        await asyncio.sleep(60)
        found = await readers(anna, room)
        assert len(found) == 191
        assert found[boris.user_id, None] == sent[-1]
        await mesh.stop()

    live(story())


def test_typing_is_seen_on_the_other_node_goes_on_and_ends() -> None:
    async def story() -> None:
        mesh, room, joined, anna, boris = await two()
        token = (await sync(anna))["next_batch"]
        waiting = asyncio.create_task(sync(anna, token, 60_000))
        await asyncio.sleep(1)
        await typing(boris, joined, on=True)
        answer = await waiting
        assert ephemeral(answer, room.room_id, "m.typing") == [{"user_ids": [boris.user_id]}]
        for _ in range(6):
            await typing(boris, joined, on=True)
            await asyncio.sleep(20)
        assert ephemeral(await sync(anna), room.room_id, "m.typing") == [{"user_ids": [boris.user_id]}]
        assert (await sync(anna, answer["next_batch"]))["rooms"]["join"] == {}, "going on is no news"
        await typing(boris, joined, on=False)
        await asyncio.sleep(1)
        answer = await sync(anna, answer["next_batch"])
        assert ephemeral(answer, room.room_id, "m.typing") == [{"user_ids": []}]
        await typing(boris, joined, on=True, timeout_ms=120_000)
        await asyncio.sleep(1)
        mesh.partition({"a"}, {"b"})
        await asyncio.sleep(TYPING_S + 30)
        assert ephemeral(await sync(anna), room.room_id, "m.typing") == [], "nobody types for ever"
        await mesh.stop()

    live(story())


def presence_of(answer: dict[str, Any], user_id: str) -> dict[str, Any] | None:
    found = [event["content"] for event in answer["presence"]["events"] if event["sender"] == user_id]
    return found[0] if found else None


def test_presence_goes_over_and_ends_with_the_link() -> None:
    async def story() -> None:
        mesh, _, _, anna, boris = await two()
        token = (await sync(anna))["next_batch"]
        path = f"/presence/{segment(boris.user_id)}/status"
        waiting = asyncio.create_task(sync(anna, token, 60_000))
        await asyncio.sleep(1)
        await boris.request("PUT", path, {"presence": "busy", "status_msg": "sawing"})
        answer = await waiting
        content = presence_of(answer, boris.user_id)
        assert content is not None
        assert (content["presence"], content["status_msg"]) == ("busy", "sawing")
        assert (await anna.request("GET", path))["presence"] == "busy"
        mesh.partition({"a"}, {"b"})
        await asyncio.sleep(120)
        assert (await anna.request("GET", path))["presence"] == "offline"
        await boris.request("PUT", path, {"presence": "online"})
        mesh.heal()
        await asyncio.sleep(29)
        assert (await anna.request("GET", path))["presence"] in ("online", "offline")
        await boris.request("PUT", path, {"presence": "unavailable"})
        await asyncio.sleep(20)
        assert (await anna.request("GET", path))["presence"] == "unavailable"
        await mesh.stop()

    live(story())


def test_a_slow_link_carries_receipts_now_and_then_and_nothing_that_runs_by_the_clock() -> None:
    async def story() -> None:
        mesh, room, joined, anna, boris = await two(conditions=LinkConditions(bit_rate=9_600))
        sent = [await room.send(f"{number}") for number in range(4)]
        await asyncio.sleep(30)
        await typing(boris, joined, on=True)
        await boris.request("PUT", f"/presence/{segment(boris.user_id)}/status", {"presence": "online"})
        for event_id in sent:
            await read(boris, joined, event_id)
            await asyncio.sleep(2)
        await asyncio.sleep(120)
        assert await readers(anna, room) == {(boris.user_id, None): sent[-1]}
        answer = await sync(anna)
        assert ephemeral(answer, room.room_id, "m.typing") == []
        assert presence_of(answer, boris.user_id) is None
        await mesh.stop()

    live(story())


def test_a_node_may_speak_of_its_own_users_only() -> None:
    async def story() -> None:
        mesh, room, _, anna, boris = await two()
        event_id = await room.send("hello")
        await asyncio.sleep(5)
        node, liar = mesh.nodes["a"].running, mesh.nodes["b"].server_name
        stranger = f"@stranger:{liar}"

        async def hear(*edus: Any) -> None:
            await node.mesh._ephemera.hear(liar, json.dumps({"edus": edus}).encode())  # type: ignore[union-attr]

        def receipt(user_id: str, kind: str = "m.read", **data: Any) -> dict[str, Any]:
            entry = {"event_ids": [event_id], "data": {"ts": 5, **data}}
            return {"edu_type": "m.receipt", "content": {room.room_id: {kind: {user_id: entry}}}}

        def notice(user_id: Any, room_id: Any = room.room_id, **fields: Any) -> dict[str, Any]:
            content = {"room_id": room_id, "user_id": user_id, "typing": True, **fields}
            return {"edu_type": "m.typing", "content": content}

        def push(*entries: Any) -> dict[str, Any]:
            return {"edu_type": "m.presence", "content": {"push": list(entries)}}

        await hear(
            receipt(anna.user_id),
            receipt(stranger),
            receipt(boris.user_id, "m.read.private"),
            receipt(boris.user_id, thread_id="nonsense"),
            receipt(boris.user_id, ts="5"),
            {"edu_type": "m.receipt", "content": {room.room_id: {"m.read": {boris.user_id: {"event_ids": []}}}}},
            {"edu_type": "m.receipt", "content": {room.room_id: {"m.read": 5}, "x": []}},
            notice(anna.user_id),
            notice(stranger),
            notice(boris.user_id, "!other"),
            notice(boris.user_id, typing="yes"),
            notice(5, 7),
            push({"user_id": anna.user_id, "presence": "busy"}, {"user_id": stranger, "presence": "busy"}),
            push({"user_id": boris.user_id, "presence": "dancing"}, 5, {}),
            {"edu_type": "m.presence", "content": {"push": 5}},
            {"edu_type": "x.unknown", "content": {}},
            {"edu_type": 5},
            "nonsense",
        )
        await node.mesh._ephemera.hear(liar, b"[]")  # type: ignore[union-attr]
        await node.mesh._ephemera.hear(liar, b'{"edus":5}')  # type: ignore[union-attr]
        assert await readers(anna, room) == {}
        assert node.client_api.typing.rooms() == []
        assert node.client_api.presence.of_user(stranger).state == "offline"
        assert node.client_api.presence.of_user(boris.user_id).state == "offline"
        await hear(
            receipt(boris.user_id), notice(boris.user_id), push({"user_id": boris.user_id, "presence": "online"})
        )
        assert await readers(anna, room) == {(boris.user_id, None): event_id}
        assert node.client_api.typing.users(room.room_id) == [boris.user_id]
        assert node.client_api.presence.of_user(boris.user_id).state == "online"
        await mesh.stop()

    live(story())


def test_one_edu_brings_a_bounded_number_of_receipts() -> None:
    async def story() -> None:
        mesh, room, _, _, boris = await two()
        database = mesh.nodes["a"].database
        assert database is not None
        entry = {"event_ids": ["$" + "a" * 42 + "A"], "data": {"ts": 5}}
        content = {f"!{number}": {"m.read": {boris.user_id: entry}} for number in range(600)}
        content[room.room_id] = {"m.read": {boris.user_id: entry}}
        await database.write(lambda tx: receive_receipts(tx, mesh.nodes["b"].server_name, content))
        assert await database.read(lambda tx: tx.one("SELECT COUNT(*) FROM receipts")) == (0,)
        await mesh.stop()

    live(story())
