"""What a service may do: register, log in, act as its users, give events a time; and that its names are its own."""

from __future__ import annotations

from typing import Any

import pytest

from p2pserver.client_api.app import ClientApiConfig
from p2pserver.client_api.rate_limits import RATES, Rate
from p2pserver.http_api.routing import Pace
from tests.admin_api.harness import running_admin_node
from tests.app_services.service import AS_TOKEN, Asked, Bridge, bridged_node, ghost, running_service
from tests.client_api.harness import Client, running_node
from tests.client_api.talk import at, invite_and_join, new_room, say

APP_SERVICE = "m.login.application_service"


async def test_it_registers_users_in_every_mode_of_registration() -> None:
    async with bridged_node(config=ClientApiConfig(registration="closed")) as (_, node):
        made = await Bridge(node).post("/register", {"type": APP_SERVICE, "username": "irc_nick"})
        nick = Client(node.http, made["access_token"])
        assert (await nick.get("/account/whoami"))["user_id"] == f"@irc_nick:{node.server_name}"
        again = await Bridge(node).post("/register", {"type": APP_SERVICE, "username": "irc_nick"})
        assert again.errcode == "M_USER_IN_USE"
        bot = await Bridge(node).post("/register", {"type": APP_SERVICE, "username": "ircbot", "inhibit_login": True})
        assert bot.body == {"user_id": f"@ircbot:{node.server_name}", "home_server": node.server_name}
        other = await Bridge(node).post("/register", {"type": APP_SERVICE, "username": "alice"})
        assert (other.status, other.errcode) == (400, "M_EXCLUSIVE")
        assert (await Bridge(node).post("/register", {"type": APP_SERVICE})).errcode == "M_MISSING_PARAM"
        without = await node.stranger().post("/register", {"type": APP_SERVICE, "username": "irc_x"})
        assert (without.status, without.errcode) == (401, "M_MISSING_TOKEN")
        wrong = await Client(node.http, "guess").post("/register", {"type": APP_SERVICE, "username": "irc_x"})
        assert (wrong.status, wrong.errcode) == (401, "M_UNKNOWN_TOKEN")
        rows = await node.database.read(lambda tx: tx.all("SELECT user_id, app_service FROM users ORDER BY user_id"))
        assert rows == [(f"@irc_nick:{node.server_name}", "irc"), (f"@ircbot:{node.server_name}", "irc")]


async def test_it_logs_its_users_in() -> None:
    async with bridged_node() as (_, node):
        assert {"type": APP_SERVICE} in (await node.stranger().get("/login"))["flows"]
        await ghost(node, "irc_nick")
        login = {"type": APP_SERVICE, "identifier": {"type": "m.id.user", "user": "irc_nick"}}
        logged_in = await Bridge(node).post("/login", {**login, "device_id": "D"})
        assert (logged_in["device_id"], logged_in["user_id"]) == ("D", f"@irc_nick:{node.server_name}")
        await node.register("alice")
        alice = {"type": APP_SERVICE, "identifier": {"type": "m.id.user", "user": "alice"}}
        assert (await Bridge(node).post("/login", alice)).errcode == "M_EXCLUSIVE"
        nobody = {"type": APP_SERVICE, "identifier": {"type": "m.id.user", "user": "irc_nobody"}}
        assert (await Bridge(node).post("/login", nobody)).errcode == "M_FORBIDDEN"
        assert (await node.stranger().post("/login", login)).errcode == "M_MISSING_TOKEN"
        by_password = {"type": "m.login.password", "password": "", "identifier": login["identifier"]}
        assert (await node.stranger().post("/login", by_password)).errcode == "M_FORBIDDEN"
    async with running_node() as node:
        assert {"type": APP_SERVICE} not in (await node.stranger().get("/login"))["flows"]


async def test_it_acts_as_its_users_and_as_nobody_else() -> None:
    async with bridged_node() as (_, node):
        whoami = "/account/whoami"
        assert (await Bridge(node).get(whoami)).body == {
            "user_id": f"@ircbot:{node.server_name}",
            "is_guest": False,
        }
        nick = await ghost(node, "irc_nick")
        assert (await nick.get(whoami))["user_id"] == nick.user_id
        old = await node.stranger().get(whoami, access_token=AS_TOKEN, user_id=nick.user_id)
        assert old["user_id"] == nick.user_id
        await node.register("alice")
        for name in ("alice", "irc_unregistered"):
            answer = await Bridge(node, name).get(whoami)
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN"), name
        elsewhere = await Client(node.http, AS_TOKEN).get(whoami, user_id="@irc_nick:elsewhere.example")
        assert elsewhere.errcode == "M_FORBIDDEN"
        for parameter in ("device_id", "org.matrix.msc3202.device_id"):
            answer = await Bridge(node, "irc_nick", **{parameter: "NONE"}).get(whoami)
            assert (answer.status, answer.errcode) == (400, "M_UNKNOWN_DEVICE")
        alice = await node.log_in("alice")
        assert (await alice.get(whoami, user_id=nick.user_id))["user_id"] == alice.user_id, "of users it is ignored"


async def test_a_user_that_an_operator_locks_is_locked_for_his_service_too() -> None:
    async with bridged_node() as (_, node):
        nick = await ghost(node, "irc_nick")
        await node.database.write(lambda tx: tx.execute("UPDATE users SET locked = 1"))
        assert (await nick.get("/account/whoami")).errcode == "M_USER_LOCKED"


async def test_names_in_exclusive_namespaces_are_refused_to_others() -> None:
    async with bridged_node() as (_, node):
        body = {"password": "x", "auth": {"type": "m.login.dummy"}}
        for name in ("irc_nick", "IRC_nick", "ircbot"):
            answer = await node.stranger().post("/register", {"username": name, **body})
            assert (answer.status, answer.errcode) == (400, "M_EXCLUSIVE"), name
            assert (await node.stranger().get("/register/available", username=name)).errcode == "M_EXCLUSIVE"
        alice = await node.register("alice")
        room_id = await new_room(alice)
        taken = f"/directory/room/%23irc_x:{node.server_name}"
        assert (await alice.put(taken, {"room_id": room_id})).errcode == "M_EXCLUSIVE"
        assert (await alice.post("/createRoom", {"room_alias_name": "irc_x"})).errcode == "M_EXCLUSIVE"
        nick = await ghost(node, "irc_nick")
        await invite_and_join(alice, room_id, nick)
        assert (await nick.put(taken, {"room_id": room_id})).status == 200
        assert (await alice.delete(taken)).errcode == "M_EXCLUSIVE"
        assert (await Bridge(node).delete(taken)).status == 200, "its own, whoever of it made it"
        assert (await nick.post("/createRoom", {"room_alias_name": "irc_x"})).status == 200


async def test_names_that_are_not_exclusive_are_free() -> None:
    fields = {"namespaces": {"users": [{"regex": "@irc_.*", "exclusive": False}]}}
    async with bridged_node(fields=fields) as (_, node):
        await node.register("irc_nick")
        assert (await Bridge(node, "irc_nick").get("/account/whoami")).status == 200


async def test_it_gives_events_their_time() -> None:
    async with bridged_node() as (_, node):
        nick, alice = await ghost(node, "irc_nick"), await node.register("alice")
        room_id = await new_room(nick, preset="public_chat")
        await alice.post(at(room_id, "join"))
        content = {"msgtype": "m.text", "body": "long ago"}
        sent = await nick.ask("PUT", at(room_id, "send", "m.room.message", "1"), content, ts=1_234_567)
        state = await nick.ask("PUT", at(room_id, "state", "m.room.topic"), {"topic": "old"}, ts=0)
        redaction = await nick.ask("PUT", at(room_id, "redact", sent["event_id"], "2"), {}, ts=2_345_678)

        async def time_of(event_id: str) -> int:
            time_ms: int = (await nick.get(at(room_id, "event", event_id)))["origin_server_ts"]
            return time_ms

        assert await time_of(sent["event_id"]) == 1_234_567
        assert await time_of(state["event_id"]) == 0
        assert await time_of(redaction["event_id"]) == 2_345_678
        for bad in ("x", "-1"):
            answer = await nick.ask("PUT", at(room_id, "send", "m.room.message", "3"), content, ts=bad)
            assert answer.errcode == "M_INVALID_PARAM"
        ordinary = await alice.ask("PUT", at(room_id, "send", "m.room.message", "4"), content, ts=1_234_567)
        assert await time_of(ordinary["event_id"]) > 1_600_000_000_000, "of users it is ignored"
        assert await time_of(await say(nick, room_id, "now")) > 1_600_000_000_000


@pytest.mark.parametrize("limited", [False, True])
async def test_it_is_slowed_down_only_if_it_says_so(limited: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def statuses(client: Client) -> set[int]:
        return {(await client.get("/account/whoami")).status for _ in range(8)}

    for pace in (Pace.ORDINARY, Pace.REGISTER):
        monkeypatch.setitem(RATES, pace, Rate(per_second=0.001, burst=6))
    config = ClientApiConfig(rate_limits=True)
    async with bridged_node(fields={"rate_limited": limited}, config=config) as (_, node):
        for number in range(8):
            made = await Bridge(node).post("/register", {"type": APP_SERVICE, "username": f"irc_{number}"})
            if made.status != 200:
                break
        assert made.status == (429 if limited else 200)
        assert await statuses(Bridge(node, "irc_1")) == ({200, 429} if limited else {200})
        assert (await Bridge(node).get("/account/whoami")).status == 200, "its sender never is"


async def test_it_makes_devices_without_logging_in() -> None:
    async with bridged_node() as (_, node):
        nick = await ghost(node, "irc_nick")
        assert (await nick.put("/devices/BRIDGE", {"display_name": "bridge"})).status == 200
        [device] = (await nick.get("/devices"))["devices"]
        assert (device["device_id"], device["display_name"]) == ("BRIDGE", "bridge")
        assert (await Bridge(node, "irc_nick", device_id="BRIDGE").get("/account/whoami"))["device_id"] == "BRIDGE"
        alice = await node.register("alice")
        assert (await alice.put("/devices/NEW", {"display_name": "x"})).status == 404


async def test_an_operator_may_make_it_an_admin() -> None:
    async with running_service() as service:
        registration = service.registration()
    async with running_admin_node(app_services=[registration]) as admin:
        node = admin.node
        bot, nick = await ghost(node, "ircbot"), await ghost(node, "irc_nick")
        path = f"/_synapse/admin/v1/users/{bot.user_id}/admin"
        assert (await bot.get(path)).errcode == "M_FORBIDDEN"
        await admin.put(f"/v1/users/{bot.user_id}/admin", {"admin": True})
        assert (await bot.get(path)).body == {"admin": True}
        assert (await nick.get(path)).errcode == "M_FORBIDDEN"
        assert (await admin.get(f"/v2/users/{nick.user_id}"))["appservice_id"] == "irc"
        assert (await admin.get(f"/v2/users/{admin.root.user_id}"))["appservice_id"] is None


async def test_its_users_need_no_password_where_others_are_asked_for_one() -> None:
    async with bridged_node() as (_, node):
        nick = await ghost(node, "irc_nick")
        login: dict[str, Any] = {"type": APP_SERVICE, "identifier": {"type": "m.id.user", "user": "irc_nick"}}
        await Bridge(node).post("/login", {**login, "device_id": "D"})
        assert (await nick.delete("/devices/D")).status == 200
        assert (await nick.get("/devices"))["devices"] == []


async def test_an_alias_that_is_not_there_is_asked_for() -> None:
    async with bridged_node() as (service, node):
        alice, nick = await node.register("alice"), await ghost(node, "irc_nick")
        alias = f"#irc_room:{node.server_name}"
        directory = f"/directory/room/{alias.replace('#', '%23')}"
        service.answer = lambda asked: (404 if "/rooms/" in asked.path else 200, {})
        assert (await alice.get(directory)).errcode == "M_NOT_FOUND"
        assert [asked.path for asked in service.asked if "/rooms/" in asked.path] == [f"/_matrix/app/v1/rooms/{alias}"]
        room_id = await new_room(nick, preset="public_chat")

        async def make_it(asked: Asked) -> tuple[int, Any]:
            if "/rooms/" in asked.path:
                assert (await nick.put(directory, {"room_id": room_id})).status == 200
            return 200, {}

        service.answer = make_it
        joined = await alice.post(f"/join/{alias.replace('#', '%23')}")
        assert joined["room_id"] == room_id
        assert (await alice.get("/directory/room/%23other:" + node.server_name)).errcode == "M_NOT_FOUND"
