"""What a service is told, in which order, and that nothing of it is lost."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from p2pserver.client_api import app_service_delivery, app_service_news
from tests.app_services.service import HS_TOKEN, Asked, Bridge, bridged_node, ghost, running_service, until_noted
from tests.client_api.harness import Client, Node, running_node
from tests.client_api.talk import at, invite_and_join, new_room, read, say


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_service_delivery, "WAIT_FIRST_S", 0.02)
    monkeypatch.setattr(app_service_delivery, "WAIT_MAX_S", 0.1)


async def portal(node: Node) -> tuple[Client, Bridge, str]:
    """Somebody with a room in which a user of the service is."""
    alice, nick = await node.register("alice"), await ghost(node, "irc_nick")
    room_id = await new_room(alice, name="Hut")
    await invite_and_join(alice, room_id, nick)
    return alice, nick, room_id


async def test_what_happens_in_a_portal_comes_in_order_with_the_token_of_the_node() -> None:
    async with bridged_node() as (service, node):
        alice, nick, room_id = await portal(node)
        sent = [await say(alice, room_id, str(number)) for number in range(5)]
        await say(nick, room_id, "its own too")
        await service.until(lambda: len(service.texts) == 6)
        assert service.texts == ["0", "1", "2", "3", "4", "its own too"]
        assert [event["event_id"] for event in service.events if event["type"] == "m.room.message"][:5] == sent
        assert {(asked.method, asked.token, asked.query.get("access_token")) for asked in service.asked} == {
            ("PUT", HS_TOKEN, None)
        }
        assert all(asked.path.startswith("/_matrix/app/v1/transactions/") for asked in service.asked)
        assert len({txn_id for txn_id, _ in service.transactions}) == len(service.transactions)
        event = service.events[-1]
        assert (event["room_id"], event["sender"], event["content"]["msgtype"]) == (room_id, nick.user_id, "m.text")
        assert event["unsigned"]["age"] >= 0


async def test_interest_is_by_sender_member_alias_and_room() -> None:
    async with bridged_node() as (service, node):
        alice = await node.register("alice")
        private = await new_room(alice)
        await say(alice, private, "nobody of the service is here")
        listed = await new_room(alice)
        await Bridge(node).put(f"/directory/room/%23irc_here:{node.server_name}", {"room_id": listed})
        bot = await ghost(node, "ircbot")
        await invite_and_join(alice, listed, bot)
        assert (await bot.put(f"/directory/room/%23irc_here:{node.server_name}", {"room_id": listed})).status == 200
        await bot.post(at(listed, "leave"))
        await say(alice, listed, "by its alias")
        await service.until(lambda: "by its alias" in service.texts)
        assert all(event["room_id"] == listed for event in service.events)
    fields = {"namespaces": {"rooms": [{"regex": "!.*", "exclusive": False}]}}
    async with bridged_node(fields=fields) as (service, node):
        alice = await node.register("alice")
        await say(alice, await new_room(alice), "by its ID")
        await service.until(lambda: "by its ID" in service.texts)


async def test_an_invite_says_what_may_be_known_of_the_room() -> None:
    async with bridged_node() as (service, node):
        alice = await node.register("alice")
        await ghost(node, "ircbot")
        room_id = await new_room(alice, name="Hut", invite=[f"@ircbot:{node.server_name}"])
        await service.until(lambda: bool(service.events))
        [invite] = service.events
        assert (invite["type"], invite["state_key"]) == ("m.room.member", f"@ircbot:{node.server_name}")
        assert (invite["room_id"], invite["content"]["membership"]) == (room_id, "invite")
        state = {each["type"]: each["content"] for each in invite["unsigned"]["invite_room_state"]}
        assert state["m.room.name"] == {"name": "Hut"}


async def test_an_invited_user_who_does_not_exist_yet_is_asked_for_first() -> None:
    async with bridged_node() as (service, node):
        alice = await node.register("alice")
        user_id = f"@irc_new:{node.server_name}"
        await new_room(alice, invite=[user_id])
        await service.until(lambda: bool(service.events))
        assert service.asked[0].path == f"/_matrix/app/v1/users/{user_id}"
        assert len(service.asked) == 2


async def test_a_service_that_fails_gets_the_same_again_and_nothing_overtakes() -> None:
    async with bridged_node() as (service, node):
        statuses = itertools.chain([500, 503, 500, 429], itertools.repeat(200))
        service.answer = lambda asked: (next(statuses), {})
        alice, _, room_id = await portal(node)
        for number in range(3):
            await say(alice, room_id, str(number))
        await service.until(lambda: len(service.transactions) > 4 and service.texts[-1:] == ["2"])
        first = service.transactions[:5]
        assert len({txn_id for txn_id, _ in first}) == 1
        assert all(body == first[0][1] for _, body in first)
        taken = [event for _, body in service.transactions[4:] for event in body["events"]]
        assert [event["content"]["body"] for event in taken if event["type"] == "m.room.message"] == ["0", "1", "2"]
        assert len({event["event_id"] for event in taken}) == len(taken)


async def test_a_ping_ends_the_wait_of_a_service_that_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_service_delivery, "WAIT_FIRST_S", 3_600.0)
    async with bridged_node() as (service, node):
        service.answer = lambda asked: (500, {})
        alice, _, room_id = await portal(node)
        await say(alice, room_id, "hello")
        await service.until(lambda: bool(service.transactions))
        service.answer = lambda asked: (200, {})
        for _ in range(3_000):
            await Bridge(node).ask("POST", "/appservice/irc/ping", {}, version="v1")
            if service.texts:
                break
            await asyncio.sleep(0.01)
        assert service.texts == ["hello"]


async def test_a_mistake_of_ours_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_service_delivery, "WAIT_MAX_S", 0.01)
    mistakes = iter([True, False, True])

    def sometimes(*args: Any, **kwargs: Any) -> app_service_news.News:
        if next(mistakes, False):
            raise KeyError("ours")
        return app_service_news.next_news(*args, **kwargs)

    monkeypatch.setattr(app_service_delivery, "next_news", sometimes)
    async with bridged_node() as (service, node):
        alice, _, room_id = await portal(node)
        await say(alice, room_id, "hello")
        await service.until(lambda: "hello" in service.texts)


async def test_nobody_waits_for_a_service_that_hangs() -> None:
    async with bridged_node() as (service, node):
        alice, _, room_id = await portal(node)
        await service.until(lambda: bool(service.events))
        service.answer = lambda asked: (500, {})
        async with asyncio.timeout(30):
            for number in range(20):
                await say(alice, room_id, str(number))


async def test_a_service_that_was_away_for_long_gets_everything_in_bounded_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app_service_news, "EVENTS_MAX", 7)
    monkeypatch.setattr(app_service_news, "EXAMINED_MAX", 30)
    async with running_service() as service:
        async with running_node(app_services=[service.registration()]) as node:
            node.api.start()
            alice, nick, room_id = await portal(node)
            other = await new_room(alice)
            await service.until(lambda: any(event["sender"] == nick.user_id for event in service.events))
            await until_noted(node)
            disk, token = node.disk, alice.token
        service.asked.clear()
        async with running_node(disk=disk, app_services=[service.registration()]) as node:
            alice = Client(node.http, token)
            for number in range(30):
                await say(alice, room_id, str(number))
                await say(alice, other, "not for the service")
            nick = Bridge(node, "irc_nick")
            await nick.post(at(room_id, "leave"))
            await say(alice, room_id, "after it left")
            waiting = await node.database.read(lambda tx: tx.all("SELECT length(body) FROM app_services"))
            assert waiting == [(None,)], "what waits is a place in the stream, not a copy"
            node.api.start()
            await service.until(lambda: any(e["content"].get("membership") == "leave" for e in service.events))
            assert service.texts == [str(number) for number in range(30)]
            assert max(len(body["events"]) for _, body in service.transactions) == 7


async def test_a_large_backlog_is_cut_by_octets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_service_news, "OCTETS_MAX", 20_000)
    async with bridged_node() as (service, node):
        service.answer = lambda asked: (500, {})
        alice, _, room_id = await portal(node)
        for number in range(8):
            await say(alice, room_id, f"{number}" * 8_000)
        service.answer = lambda asked: (200, {})
        await service.until(lambda: len({text[0] for text in service.texts}) == 8)
        assert max(len(str(body)) for _, body in service.transactions) < 25_000


async def test_a_power_cut_between_sending_and_its_answer_loses_nothing() -> None:
    async with running_service() as service:
        hanging = asyncio.Event()

        async with running_node(app_services=[service.registration()]) as node:
            node.api.start()
            alice, _, room_id = await portal(node)
            await say(alice, room_id, "before")
            await service.until(lambda: service.texts == ["before"])
            await until_noted(node)

            def hang(asked: Asked) -> tuple[int, Any]:
                hanging.set()
                return 500, {}

            service.answer = hang
            await say(alice, room_id, "under way")
            await asyncio.wait_for(hanging.wait(), 60)
            disk, token = node.disk, alice.token
        await service.until(lambda: service.texts[-1] == "under way")
        under_way = service.transactions[-1]
        service.asked.clear()
        service.answer = lambda asked: (200, {})
        async with running_node(disk=disk, app_services=[service.registration()]) as node:
            await say(Client(node.http, token), room_id, "newer")
            node.api.start()
            await service.until(lambda: service.texts[-1:] == ["newer"])
            assert service.transactions[0] == under_way, "the same under the same ID, before anything newer"
            assert service.texts == ["under way", "newer"]


async def test_typing_receipts_and_presence_go_to_who_asks_for_them() -> None:
    fields = {"receive_ephemeral": True}
    async with bridged_node(fields=fields) as (service, node):
        alice, nick, room_id = await portal(node)
        event_id = await say(nick, room_id, "read me")
        await service.until(lambda: "read me" in service.texts)
        await read(alice, room_id, event_id)
        await alice.put(at(room_id, "typing", alice.user_id), {"typing": True, "timeout": 30_000})
        await alice.put(f"/presence/{alice.user_id}/status", {"presence": "online", "status_msg": "here"})

        def came() -> dict[str, dict[str, Any]]:
            return {each["type"]: each for each in service.lists("ephemeral")}

        await service.until(lambda: set(came()) == {"m.receipt", "m.typing", "m.presence"})
        receipt = came()["m.receipt"]
        assert receipt["room_id"] == room_id
        assert alice.user_id in receipt["content"][event_id]["m.read"]
        assert came()["m.typing"]["room_id"] == room_id
        assert came()["m.presence"]["content"]["status_msg"] == "here"
        assert service.lists("ephemeral") == service.lists("de.sorunome.msc2409.ephemeral")
        private = await new_room(alice)
        await read(alice, private, await say(alice, private, "x"))
        await read(alice, room_id, await say(nick, room_id, "more"))
        await service.until(lambda: sum(each["type"] == "m.receipt" for each in service.lists("ephemeral")) == 2)
        assert private not in str(service.asked)


async def test_without_asking_there_is_nothing_ephemeral() -> None:
    async with bridged_node() as (service, node):
        alice, nick, room_id = await portal(node)
        await alice.put(at(room_id, "typing", alice.user_id), {"typing": True})
        await read(alice, room_id, await say(nick, room_id, "read me"))
        await say(alice, room_id, "last")
        await service.until(lambda: "last" in service.texts)
        assert all(set(body) == {"events"} for _, body in service.transactions)


async def test_encryption_for_users_of_a_service() -> None:
    fields = {"receive_ephemeral": True, "org.matrix.msc3202": True}
    async with bridged_node(fields=fields) as (service, node):
        alice = await node.register("alice")
        bot = await ghost(node, "ircbot")
        assert (await bot.post("/keys/upload", {})).errcode == "M_INVALID_PARAM"
        login = {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": "ircbot"}}
        device_id = (await Bridge(node).post("/login", {**login, "device_id": "BRIDGE"}))["device_id"]
        device = Bridge(node, "ircbot", device_id=device_id)
        assert (await device.get("/account/whoami"))["device_id"] == "BRIDGE"
        room_id = await new_room(alice)
        await invite_and_join(alice, room_id, bot)
        counts = "org.matrix.msc3202.device_one_time_keys_count"
        await service.until(lambda: bool(service.transactions))
        none = {bot.user_id: {device_id: {"signed_curve25519": 0}}}
        assert service.transactions[-1][1][counts] == none, "mautrix uploads its first keys when it is told"
        keys = {
            "user_id": bot.user_id,
            "device_id": device_id,
            "algorithms": ["m.megolm.v1.aes-sha2"],
            "keys": {f"ed25519:{device_id}": "A" * 43},
            "signatures": {},
        }
        one_time = {f"signed_curve25519:{n}": {"key": "A" * 43, "signatures": {}} for n in range(3)}
        upload = await device.post("/keys/upload", {"device_keys": keys, "one_time_keys": one_time})
        assert upload["one_time_key_counts"]["signed_curve25519"] == 3
        message = {"messages": {bot.user_id: {"*": {"secret": 1}}}}
        assert (await alice.put("/sendToDevice/m.room.encrypted/1", message)).status == 200
        await service.until(lambda: bool(service.lists("de.sorunome.msc2409.to_device")))
        [came] = service.lists("de.sorunome.msc2409.to_device")
        assert came == {
            "type": "m.room.encrypted",
            "sender": alice.user_id,
            "content": {"secret": 1},
            "to_user_id": bot.user_id,
            "to_device_id": device_id,
        }
        body = next(body for _, body in service.transactions if "de.sorunome.msc2409.to_device" in body)
        assert body[counts] == {bot.user_id: {device_id: {"signed_curve25519": 3}}}
        assert body["org.matrix.msc3202.device_unused_fallback_key_types"] == {bot.user_id: {device_id: []}}

        def changed() -> set[str]:
            lists = [b.get("org.matrix.msc3202.device_lists", {"changed": []}) for _, b in service.transactions]
            return {user_id for each in lists for user_id in each["changed"]}

        await service.until(lambda: alice.user_id in changed())
        for _ in range(3_000):
            waiting = await node.database.read(lambda tx: tx.all("SELECT 1 FROM to_device"))
            if not waiting:
                break
            await asyncio.sleep(0.01)
        assert not waiting, "what the service has is not kept"


async def test_older_services_are_asked_as_they_expect_it() -> None:
    async with bridged_node() as (service, node):

        def only_in_the_address(asked: Asked) -> tuple[int, Any]:
            return (200, {}) if asked.query.get("access_token") == HS_TOKEN else (403, {"errcode": "M_FORBIDDEN"})

        service.answer = only_in_the_address
        alice, _, room_id = await portal(node)
        await say(alice, room_id, "x")
        await service.until(lambda: service.texts[-1:] == ["x"])
        assert service.asked[-1].path.startswith("/_matrix/app/v1/")

        def without_prefix(asked: Asked) -> tuple[int, Any]:
            return (404, {}) if asked.path.startswith("/_matrix") else only_in_the_address(asked)

        service.answer = without_prefix
        service.asked.clear()
        await say(alice, room_id, "y")
        await service.until(lambda: service.texts[-1:] == ["y"] and service.asked[-1].path.startswith("/transactions"))


async def test_a_service_without_an_address_is_told_nothing() -> None:
    async with bridged_node(fields={"url": None}) as (service, node):
        _, nick, room_id = await portal(node)
        await say(nick, room_id, "still speaks")
        assert not service.asked
        assert await node.database.read(lambda tx: tx.all("SELECT 1 FROM app_services")) == []


async def test_a_new_service_hears_of_what_happens_from_now_on() -> None:
    async with running_service() as service:
        async with running_node() as node:
            alice = await node.register("alice")
            room_id = await new_room(alice, preset="public_chat")
            await say(alice, room_id, "long ago")
            disk, token = node.disk, alice.token
        fields = {"namespaces": {"rooms": [{"regex": "!.*", "exclusive": False}]}}
        async with running_node(disk=disk, app_services=[service.registration(**fields)]) as node:
            node.api.start()
            alice = Client(node.http, token)
            for _ in range(3_000):
                if await node.database.read(lambda tx: tx.all("SELECT 1 FROM app_services")):
                    break
                await asyncio.sleep(0.01)
            await say(alice, room_id, "today")
            await service.until(lambda: bool(service.texts))
            assert service.texts == ["today"]
