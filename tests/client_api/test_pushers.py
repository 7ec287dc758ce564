"""Pushers, and what a push gateway is told by them. The gateway is a plain HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from p2pserver.client_api import pushers
from p2pserver.store.pushers import pushers_of
from tests.client_api.harness import Answer, Client, Node, running_node
from tests.client_api.listener import Listener
from tests.client_api.neighbors import carry, two_nodes
from tests.client_api.talk import at, invite_and_join, new_room, read, say

NOTIFY = "/_matrix/push/v1/notify"


class Gateway(Listener):
    """Answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict[str, Any]] = []
        self.answers: list[tuple[int, bytes]] = []
        """The next answers; 200 with nothing rejected when there is none."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{NOTIFY}"

    @property
    def events(self) -> list[str]:
        return [each["event_id"] for each in self.told if "event_id" in each]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                assert head.startswith(f"POST {NOTIFY} ".encode())
                self.told.append(body["notification"])
                self.news.set()
                status, answer = self.answers.pop(0) if self.answers else (200, b'{"rejected":[]}')
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(answer), answer))
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()


@asynccontextmanager
async def gateway_and_node(**options: Any) -> AsyncIterator[tuple[Gateway, Node]]:
    async with running_gateway() as gateway, running_node(**options) as node:
        node.api.start()
        yield gateway, node


@asynccontextmanager
async def running_gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0)
    gateway.port = server.sockets[0].getsockname()[1]
    try:
        yield gateway
    finally:
        server.close()


def pusher(gateway: Gateway, **fields: Any) -> dict[str, Any]:
    return {
        "kind": "http",
        "app_id": "org.example.app",
        "pushkey": "key",
        "app_display_name": "App",
        "device_display_name": "Phone",
        "lang": "en",
        "data": {"url": gateway.url, "brand": "x"},
        **fields,
    }


async def set_pusher(client: Client, gateway: Gateway, **fields: Any) -> Answer:
    return await client.post("/pushers/set", pusher(gateway, **fields))


async def friends(node: Node) -> tuple[Client, Client, str]:
    alice, bob = await node.register("alice"), await node.register("bob")
    room_id = await new_room(alice, name="Hut")
    await invite_and_join(alice, room_id, bob)
    return alice, bob, room_id


async def test_a_message_is_pushed_with_what_the_app_shows() -> None:
    async with gateway_and_node() as (gateway, node):
        alice, bob, room_id = await friends(node)
        assert (await set_pusher(bob, gateway)).body == {}
        await say(bob, room_id, "his own is not pushed")
        event_id = await say(alice, room_id, "hello bob")
        await gateway.until(lambda: bool(gateway.told))
        [told] = gateway.told
        assert told["event_id"] == event_id
        assert (told["room_id"], told["type"], told["sender"]) == (room_id, "m.room.message", alice.user_id)
        assert (told["sender_display_name"], told["room_name"], told["prio"]) == ("alice", "Hut", "high")
        assert told["content"] == {"msgtype": "m.text", "body": "hello bob"}
        [device] = told["devices"]
        assert device["data"] == {"brand": "x"}, "all of it but the address"
        assert (device["app_id"], device["pushkey"]) == ("org.example.app", "key")
        assert device["tweaks"] == {"sound": "default", "highlight": True}
        assert isinstance(device["pushkey_ts"], int)


async def test_event_id_only_tells_no_more_than_that() -> None:
    async with gateway_and_node() as (gateway, node):
        alice, bob, room_id = await friends(node)
        await set_pusher(bob, gateway, data={"url": gateway.url, "format": "event_id_only"})
        event_id = await say(alice, room_id, "secret")
        await gateway.until(lambda: bool(gateway.told))
        [told] = gateway.told
        assert set(told) == {"event_id", "room_id", "prio", "counts", "devices"}
        assert told["event_id"] == event_id
        assert told["counts"] == {"unread": 1}
        assert told["devices"][0]["data"] == {"format": "event_id_only"}


async def test_what_the_rules_leave_out_and_what_was_before_is_not_pushed() -> None:
    async with gateway_and_node() as (gateway, node):
        alice, bob, room_id = await friends(node)
        await say(alice, room_id, "before the pusher")
        await set_pusher(bob, gateway)
        path = at(room_id, "send", "m.room.message", "n1")
        await alice.put(path, {"msgtype": "m.notice", "body": "quiet"})
        await alice.put(at(room_id, "send", "m.reaction", "n2"), {})
        last = await say(alice, room_id, "loud")
        await gateway.until(lambda: bool(gateway.told))
        assert gateway.events == [last]
        assert gateway.told[0]["counts"] == {"unread": 2}


async def test_a_gateway_that_fails_is_tried_again_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushers, "WAIT_FIRST_S", 0.02)
    async with gateway_and_node() as (gateway, node):
        alice, bob, room_id = await friends(node)
        await set_pusher(bob, gateway)
        gateway.answers = [(500, b""), (404, b"{}"), (200, b"no json"), (200, b"5"), (200, b"x" * 70_000)]
        sent = [await say(alice, room_id, str(number)) for number in range(3)]
        await gateway.until(lambda: len(gateway.told) == 8)
        assert gateway.events == [sent[0]] * 6 + sent[1:]


async def test_the_waits_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushers, "WAIT_FIRST_S", 0.02)
    monkeypatch.setattr(pushers, "WAIT_MAX_S", 0.07)
    waits: list[float] = []
    original = pushers._Pushing._failed

    async def failed(self: Any, pusher: Any, progress: Any, look: Any, now: float) -> bool:
        result = await original(self, pusher, progress, look, now)
        waits.append(progress.wait_s)
        return result

    monkeypatch.setattr(pushers._Pushing, "_failed", failed)
    async with gateway_and_node() as (gateway, node):
        alice, bob, room_id = await friends(node)
        await set_pusher(bob, gateway)
        gateway.answers = [(500, b"")] * 4
        await say(alice, room_id, "x")
        await gateway.until(lambda: len(gateway.told) == 5)
        assert waits == [0.02, 0.04, 0.07, 0.07]


async def test_what_could_not_be_pushed_for_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushers, "WAIT_FIRST_S", 0.02)
    monkeypatch.setattr(pushers, "GIVE_UP_S", 0.01)
    async with gateway_and_node() as (gateway, node):
        alice, bob, room_id = await friends(node)
        await set_pusher(bob, gateway)
        gateway.answers = [(500, b"")] * 2
        old = await say(alice, room_id, "old")
        await gateway.until(lambda: gateway.events == [old, old])
        new = await say(alice, room_id, "new")
        await gateway.until(lambda: len(gateway.told) == 3)
        assert gateway.events == [old, old, new]


async def test_a_rejected_pushkey_is_removed() -> None:
    async with gateway_and_node() as (gateway, node):
        alice, bob, room_id = await friends(node)
        await set_pusher(bob, gateway)
        await set_pusher(bob, gateway, pushkey="other")
        gateway.answers = [(200, b'{"rejected":["key"]}')] * 2
        await say(alice, room_id, "x")
        for _ in range(3_000):
            left = [each["pushkey"] for each in (await bob.get("/pushers"))["pushers"]]
            if left == ["other"]:
                break
            await asyncio.sleep(0.01)
        assert left == ["other"]


async def test_reading_tells_the_new_count() -> None:
    async with gateway_and_node() as (gateway, node):
        alice, bob, room_id = await friends(node)
        await set_pusher(bob, gateway)
        await say(alice, room_id, "one")
        last = await say(alice, room_id, "two")
        await gateway.until(lambda: len(gateway.told) == 2)
        await read(bob, room_id, last)
        await gateway.until(lambda: len(gateway.told) == 3)
        badge = gateway.told[2]
        assert set(badge) == {"counts", "devices"}
        assert badge["counts"] == {}, "a count of zero is left out"


async def test_what_was_read_meanwhile_is_not_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushers, "WAIT_FIRST_S", 0.3)
    async with gateway_and_node() as (gateway, node):
        alice, bob, room_id = await friends(node)
        await set_pusher(bob, gateway)
        gateway.answers = [(500, b"")]
        first = await say(alice, room_id, "one")
        await gateway.until(lambda: len(gateway.told) == 1)
        await read(bob, room_id, await say(alice, room_id, "two"))
        third = await say(alice, room_id, "three")
        await gateway.until(lambda: third in gateway.events)
        assert gateway.events == [first, third]


async def test_an_invite_is_pushed_also_to_a_room_that_is_held_elsewhere() -> None:
    async with running_gateway() as gateway, two_nodes() as (here, there, _, _):
        here.api.start()
        alice, bob, carol = await here.register("alice"), await here.register("bob"), await there.register("carol")
        await set_pusher(bob, gateway)
        local = await new_room(alice, invite=[bob.user_id])
        await gateway.until(lambda: len(gateway.told) == 1)
        assert (gateway.told[0]["room_id"], gateway.told[0]["user_is_target"]) == (local, True)
        remote = await new_room(carol, invite=[bob.user_id])
        await carry(there, here)
        await gateway.until(lambda: len(gateway.told) == 2)
        assert (gateway.told[1]["room_id"], gateway.told[1]["sender"]) == (remote, carol.user_id)
        assert gateway.told[1]["content"]["membership"] == "invite"


async def until_written_down(node: Node, client: Client) -> None:
    """The gateway knows of a notification a moment before the store does: what is cut off there is told twice."""
    for _ in range(3_000):
        [held] = await node.database.read(lambda tx: pushers_of(tx, client.user_id))
        if held.position == node.database.position:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it was never written down")


async def test_places_survive_a_restart() -> None:
    async with running_gateway() as gateway:
        async with running_node() as node:
            node.api.start()
            alice, bob, room_id = await friends(node)
            await set_pusher(bob, gateway)
            first = await say(alice, room_id, "one")
            await gateway.until(lambda: gateway.events == [first])
            await until_written_down(node, bob)
            disk = node.disk
        async with running_node(disk=disk) as node:
            second = await say(Client(node.http, alice.token), room_id, "while nobody pushes")
            node.api.start()
            await gateway.until(lambda: len(gateway.told) == 2)
            assert gateway.events == [first, second]


async def test_pushers_are_listed_changed_and_removed() -> None:
    async with running_gateway() as gateway, running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        await set_pusher(bob, gateway, profile_tag="t", append=False)
        [shown] = (await bob.get("/pushers"))["pushers"]
        assert shown == {**pusher(gateway), "profile_tag": "t"}
        await set_pusher(bob, gateway, lang="de")
        assert [each["lang"] for each in (await bob.get("/pushers"))["pushers"]] == ["de"]
        await set_pusher(alice, gateway, append=True)
        assert len((await bob.get("/pushers"))["pushers"]) == 1
        await set_pusher(alice, gateway)
        assert (await bob.get("/pushers"))["pushers"] == [], "the phone is alice's now"
        assert (
            await alice.post("/pushers/set", {"kind": None, "app_id": "org.example.app", "pushkey": "key"})
        ).body == {}
        assert (await alice.get("/pushers"))["pushers"] == []
        await set_pusher(bob, gateway)
        tablet = await node.log_in("bob")
        assert (await bob.post("/logout")).status == 200
        assert (await tablet.get("/pushers"))["pushers"] == [], "it ended with its session"


async def test_an_account_keeps_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pserver.store.pushers.PUSHERS_PER_USER_MAX", 3)
    async with running_gateway() as gateway, running_node() as node:
        alice = await node.register("alice")
        for number in range(6):
            await set_pusher(alice, gateway, pushkey=str(number))
        assert [each["pushkey"] for each in (await alice.get("/pushers"))["pushers"]] == ["3", "4", "5"]


async def test_bad_pushers_are_refused() -> None:
    async with running_gateway() as gateway, running_node() as node:
        alice = await node.register("alice")
        good = pusher(gateway)
        for name in ("kind", "app_id", "pushkey", "app_display_name", "device_display_name", "lang", "data"):
            answer = await alice.post("/pushers/set", {key: value for key, value in good.items() if key != name})
            assert answer.errcode == "M_MISSING_PARAM", name
        for fields in (
            {"kind": "email"},
            {"app_id": "x" * 65},
            {"pushkey": "x" * 513},
            {"data": {}},
            {"data": {"url": "ftp://x" + NOTIFY}},
            {"data": {"url": "https://x/other"}},
            {"data": {"url": "https://" + NOTIFY}},
            {"data": {"url": "http://[x" + NOTIFY}},
            {"append": "yes"},
            {"profile_tag": 5},
        ):
            assert (await set_pusher(alice, gateway, **fields)).status == 400, fields
        assert (await set_pusher(alice, gateway, data={"url": gateway.url, "x": "x" * 9_000})).status == 413
