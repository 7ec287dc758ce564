"""What sliding sync tells beside the rooms, and how it bounds what it remembers."""

import asyncio
import json
from typing import Any

import pytest

from p2pserver.client_api.sliding_sync import connections
from p2pserver.client_api.sliding_sync.connections import Connections, Position, RoomTold, StreamTold, UnknownPos
from p2pserver.client_api.sliding_sync.request import RoomConfig
from tests.client_api.harness import Client, running_node
from tests.client_api.sliding import DEPLOYED, ask, one_list, slide
from tests.client_api.talk import at, invite_and_join, new_room, say


def on(*names: str, **fields: Any) -> dict[str, Any]:
    return {name: {"enabled": True, **fields} for name in names}


async def send_to(sender: Client, target: Client, text: str) -> None:
    body = {"messages": {target.user_id: {target.device_id: {"text": text}}}}
    assert (await sender.put(f"/sendToDevice/x.y/{text}", body)).status == 200


def bodies(answer: dict[str, Any]) -> list[str]:
    return [event["content"]["text"] for event in answer["extensions"]["to_device"]["events"]]


async def test_to_device_messages_go_when_their_own_token_comes_back() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        first = await slide(bob, extensions=on("to_device"))
        assert first["extensions"]["to_device"]["events"] == []
        token = first["extensions"]["to_device"]["next_batch"]
        await send_to(alice, bob, "one")
        answer = await slide(bob, first["pos"], wait_ms=60_000, extensions=on("to_device", since=token))
        assert bodies(answer) == ["one"]
        again = await slide(bob, answer["pos"], extensions=on("to_device", since=token))
        assert bodies(again) == ["one"], "the position went on, the token did not"
        token = again["extensions"]["to_device"]["next_batch"]
        assert bodies(await slide(bob, again["pos"], extensions=on("to_device", since=token))) == []
        assert bodies(await slide(bob, extensions=on("to_device"))) == [], "deleted"


async def test_to_device_messages_are_cut_without_losing_the_rest() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        for number in range(5):
            await send_to(alice, bob, str(number))
        since: dict[str, str] = {}
        found: list[str] = []
        for _ in range(3):
            answer = await slide(bob, extensions=on("to_device", limit=2, **since))
            found += bodies(answer)
            since = {"since": answer["extensions"]["to_device"]["next_batch"]}
        assert found == ["0", "1", "2", "3", "4"]


async def test_a_token_of_another_life_deletes_nothing() -> None:
    """A client may be newer than the database of a node that was restored."""
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        await send_to(alice, bob, "one")
        assert bodies(await slide(bob, extensions=on("to_device", since="999999"))) == ["one"]


async def test_what_is_not_switched_on_is_not_there() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        assert (await slide(alice))["extensions"] == {}
        assert (await slide(alice, extensions={"e2ee": {"enabled": False}, "x.unknown": 5}))["extensions"] == {}


async def test_e2ee_always_has_the_counts_and_tells_of_devices() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        answer = await slide(alice, conn_id="encryption", extensions=on("e2ee"))
        assert answer["extensions"]["e2ee"] == {
            "device_one_time_keys_count": {"signed_curve25519": 0},
            "device_unused_fallback_key_types": [],
        }
        waiting = asyncio.create_task(
            slide(alice, answer["pos"], wait_ms=60_000, conn_id="encryption", extensions=on("e2ee"))
        )
        await asyncio.sleep(0.05)
        keys = {"user_id": bob.user_id, "device_id": bob.device_id, "algorithms": [], "keys": {}, "signatures": {}}
        assert (await bob.post("/keys/upload", {"device_keys": keys})).status == 200
        e2ee = (await waiting)["extensions"]["e2ee"]
        assert e2ee["device_lists"] == {"changed": [bob.user_id], "left": []}
        assert e2ee["device_one_time_keys_count"] == {"signed_curve25519": 0}


async def test_a_one_time_key_that_was_taken_ends_the_wait() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        keys = {"signed_curve25519:A": {"key": "x", "signatures": {}}}
        assert (await alice.post("/keys/upload", {"one_time_keys": keys})).status == 200
        answer = await slide(alice, extensions=on("e2ee"))
        assert answer["extensions"]["e2ee"]["device_one_time_keys_count"] == {"signed_curve25519": 1}
        claim = {"one_time_keys": {alice.user_id: {alice.device_id: "signed_curve25519"}}}
        assert (await bob.post("/keys/claim", claim)).status == 200
        answer = await slide(alice, answer["pos"], wait_ms=60_000, extensions=on("e2ee"))
        assert answer["extensions"]["e2ee"]["device_one_time_keys_count"] == {"signed_curve25519": 0}


async def test_account_data_is_global_and_of_the_rooms_in_the_window() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        below, above = await new_room(alice), await new_room(alice)
        for room_id in (below, above):
            await alice.put(f"/user/{alice.user_id}/rooms/{room_id}/account_data/x.y", {"v": 1})
        asked = {"lists": one_list((0, 0)), "extensions": on("account_data")}
        answer = await slide(alice, **asked)
        data = answer["extensions"]["account_data"]
        assert [entry["type"] for entry in data["global"]] == ["m.push_rules"]
        assert data["rooms"] == {above: [{"type": "x.y", "content": {"v": 1}}]}
        answer = await slide(alice, answer["pos"], **asked)
        assert answer["extensions"]["account_data"] == {"global": [], "rooms": {}}
        await alice.put(f"/user/{alice.user_id}/account_data/x.global", {"v": 2})
        await alice.put(f"/user/{alice.user_id}/rooms/{above}/account_data/x.y", {"v": 3})
        await alice.put(f"/user/{alice.user_id}/rooms/{below}/account_data/x.y", {"v": 4})
        answer = await slide(alice, answer["pos"], wait_ms=60_000, **asked)
        assert answer["extensions"]["account_data"] == {
            "global": [{"type": "x.global", "content": {"v": 2}}],
            "rooms": {above: [{"type": "x.y", "content": {"v": 3}}]},
        }
        assert answer["rooms"] == {}
        asked["lists"] = one_list((0, 1))
        answer = await slide(alice, answer["pos"], **asked)
        assert answer["extensions"]["account_data"]["rooms"] == {below: [{"type": "x.y", "content": {"v": 4}}]}


async def test_an_extension_may_be_for_some_lists_and_rooms_only() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        one, two = await new_room(alice), await new_room(alice)
        for room_id in (one, two):
            await alice.put(f"/user/{alice.user_id}/rooms/{room_id}/account_data/x.y", {})
        subscription = {one: {"timeline_limit": 1, "required_state": []}}

        async def rooms(**fields: Any) -> set[str]:
            asked = {"lists": one_list((0, 0)), "room_subscriptions": subscription}
            answer = await slide(alice, **asked, extensions=on("account_data", **fields))
            return set(answer["extensions"]["account_data"]["rooms"])

        assert await rooms() == await rooms(lists=["*"], rooms=["*"]) == {one, two}
        assert await rooms(lists=[]) == {one}
        assert await rooms(lists=["all"], rooms=[]) == {two}
        assert await rooms(lists=["other"], rooms=["!x"]) == set()


async def test_receipts_and_typing_are_told_by_room() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        old = await say(alice, room_id, "old")
        new = await say(alice, room_id, "new")
        await bob.post(at(room_id, "receipt", "m.read", new))
        await alice.post(at(room_id, "receipt", "m.read.private", old))
        asked = {"lists": one_list((0, 9), limit=1), "extensions": on("receipts", "typing", rooms=["*"])}
        answer = await slide(alice, **asked)
        event = answer["extensions"]["receipts"]["rooms"][room_id]
        assert (event["type"], event["room_id"]) == ("m.receipt", room_id)
        assert {event_id: set(kinds) for event_id, kinds in event["content"].items()} == {
            new: {"m.read"},
            old: {"m.read.private"},
        }
        assert answer["extensions"]["typing"] == {"rooms": {}}
        await bob.put(at(room_id, "typing", bob.user_id), {"typing": True, "timeout": 60_000})
        answer = await slide(alice, answer["pos"], wait_ms=60_000, **asked)
        assert answer["extensions"]["receipts"] == {"rooms": {}}
        event = answer["extensions"]["typing"]["rooms"][room_id]
        assert event == {"type": "m.typing", "room_id": room_id, "content": {"user_ids": [bob.user_id]}}
        fresh = await slide(alice, conn_id="other", **asked)
        assert fresh["extensions"]["typing"]["rooms"][room_id] == event
        await bob.put(at(room_id, "typing", bob.user_id), {"typing": False})
        answer = await slide(alice, answer["pos"], wait_ms=60_000, **asked)
        assert answer["extensions"]["typing"]["rooms"][room_id]["content"] == {"user_ids": []}
        assert (await slide(alice, answer["pos"], **asked))["extensions"]["typing"] == {"rooms": {}}


async def test_of_receipts_before_the_timeline_a_new_room_has_only_the_users_own() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bob)
        old = await say(alice, room_id, "old")
        await bob.post(at(room_id, "receipt", "m.read", old))
        await say(alice, room_id, "new")
        asked = {"lists": one_list((0, 9), limit=1), "extensions": on("receipts")}
        answer = await slide(alice, **asked)
        assert answer["extensions"]["receipts"] == {"rooms": {}}
        answer = await slide(bob, **asked)
        assert list(answer["extensions"]["receipts"]["rooms"][room_id]["content"]) == [old]


async def test_a_client_that_hangs_up_ends_its_wait() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        pos = (await slide(alice))["pos"]
        hung_up = asyncio.Event()
        body = json.dumps({}).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await hung_up.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise AssertionError(f"nobody is there to hear {message}")

        scope = {
            "type": "http",
            "method": "POST",
            "raw_path": DEPLOYED.encode(),
            "path": DEPLOYED,
            "query_string": f"timeout=600000&pos={pos}".encode(),
            "headers": [
                (b"authorization", f"Bearer {alice.token}".encode()),
                (b"content-length", str(len(body)).encode()),
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8008),
            "scheme": "http",
        }
        request = asyncio.create_task(node.api.asgi_app()(scope, receive, send))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        assert not request.done()
        assert len(node.api._waiting) == 1
        hung_up.set()
        await asyncio.wait_for(request, 10)
        assert not node.api._waiting


async def test_two_clients_at_once_on_one_connection_both_get_an_answer() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        pos = (await slide(alice, lists=one_list((0, 9))))["pos"]
        waiting = [asyncio.create_task(slide(alice, pos, wait_ms=60_000, lists=one_list((0, 9)))) for _ in range(3)]
        await asyncio.sleep(0.05)
        await say(alice, room_id, "x")
        for answer in await asyncio.gather(*waiting):
            assert list(answer["rooms"]) == [room_id]
            assert (await ask(alice, answer["pos"])).status in (200, 400), "the first that comes back wins"


# What is remembered


def told(rooms: int) -> Position:
    config = RoomConfig(1, frozenset())
    return Position(stream=1, live=0, rooms={f"!{number}": RoomTold(config, is_dm=False) for number in range(rooms)})


def test_connections_are_bounded_by_device_and_altogether(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 20)
    kept = Connections(bytes)
    first = kept.add("@a", "D", "0", None, told(1))
    for number in range(1, connections.CONNECTIONS_PER_DEVICE_MAX):
        kept.add("@a", "D", str(number), None, told(1))
    kept.position("@a", "D", "0", first)
    kept.add("@a", "D", "more", None, told(1))
    assert kept.position("@a", "D", "0", first), "used last"
    with pytest.raises(UnknownPos):
        kept.position("@a", "D", "1", first)
    for number in range(100):
        kept.add(f"@{number}", "D", "", None, told(1))
    assert len(kept) == 20


def test_connections_are_bounded_by_their_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ROOMS_MAX", 100)
    numbers = iter(range(1, 1000))
    kept = Connections(lambda octets: next(numbers).to_bytes(octets, "big"))
    one = kept.add("@a", "D", "", None, told(60))
    for _ in range(10):
        one = kept.add("@a", "D", "", one, told(60))
    assert len(kept) == 1, "positions of one connection share their rooms"
    kept.add("@b", "D", "", None, told(60))
    assert len(kept) == 1
    with pytest.raises(UnknownPos):
        kept.position("@a", "D", "", one)
    kept.add("@b", "D", "", None, told(0))
    kept.add("@c", "D", "", None, told(90))
    assert len(kept) == 2


def test_a_stream_remembers_how_far_each_room_was_told() -> None:
    stream = StreamTold()
    due, stream = stream.advance(frozenset({"!a", "!b"}), set(), 1)
    assert due == {"!a": None, "!b": None}
    due, after = stream.advance(frozenset({"!a"}), {"!a", "!b", "!strange"}, 5)
    assert due == {"!a": 5}
    due, later = after.advance(frozenset({"!a"}), {"!b"}, 9)
    assert due == {}
    due, _ = later.advance(frozenset({"!a", "!b"}), {"!b"}, 12)
    assert due == {"!b": 5}, "from where it fell behind"
    due, _ = stream.advance(frozenset({"!a", "!b"}), {"!b"}, 5)
    assert due == {"!b": 5}, "the earlier value is as it was"
