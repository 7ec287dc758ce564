"""Refresh tokens, login tokens, throttling, deactivation and erasure, suspension, locks, shadow bans, OpenID."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from p2pserver.client_api.account_standing import LOCKED_MAY, SHADOWED, SUSPENDED_MAY_NOT
from p2pserver.client_api.app import ClientApiConfig
from p2pserver.client_api.endpoints import all_routes
from p2pserver.client_api.login import LOGIN_TOKEN_MS
from p2pserver.client_api.rate_limits import FAILED_LOGINS, RateLimits
from p2pserver.http_api.password_checks import WAITING_MAX
from p2pserver.node.http import HttpServer
from p2pserver.rooms.departures import depart_once
from p2pserver.store import accounts
from p2pserver.store.account_status import Flag, close_account, set_flag
from p2pserver.store.accounts import register_user
from p2pserver.store.registration_tokens import put_registration_token, registration_token
from p2pserver.store.tokens import add_token
from tests.client_api.harness import Client, Node, running_node

PASSWORD = "secret"
HOUR_MS = 3_600_000


def with_password(client: Client, **fields: Any) -> dict[str, Any]:
    return {**fields, "auth": {"type": "m.login.password", "user": client.user_id, "password": PASSWORD}}


async def flag(node: Node, client: Client, name: Flag, value: bool = True) -> None:
    await node.database.write(lambda tx: set_flag(tx, client.user_id, name, value))


async def a_room(client: Client, *invited: Client) -> str:
    room_id: str = (await client.post("/createRoom", {"invite": [each.user_id for each in invited]}))["room_id"]
    for each in invited:
        assert (await each.post(f"/join/{room_id}")).status == 200
    return room_id


# Tokens


async def test_a_refreshed_token_replaces_the_old_one_as_soon_as_it_is_shown() -> None:
    async with running_node() as node:
        await node.register("alice")
        body = {"type": "m.login.password", "user": "alice", "password": PASSWORD, "refresh_token": True}
        first = (await node.stranger().post("/login", body)).body
        assert first["expires_in_ms"] == HOUR_MS
        old = Client(node.http, first["access_token"])
        lost = (await node.stranger().post("/refresh", {"refresh_token": first["refresh_token"]})).body
        # The answer was lost on the way: the old pair still holds, and what was in it is void afterwards.
        assert (await old.get("/account/whoami")).status == 200
        second = (await node.stranger().post("/refresh", {"refresh_token": first["refresh_token"]})).body
        assert (await Client(node.http, lost["access_token"]).get("/account/whoami")).errcode == "M_UNKNOWN_TOKEN"
        assert (await node.stranger().post("/refresh", {"refresh_token": lost["refresh_token"]})).status == 401
        new = Client(node.http, second["access_token"])
        assert (await new.get("/account/whoami"))["device_id"] == first["device_id"]
        await until_refused(old)
        stale = await node.stranger().post("/refresh", {"refresh_token": first["refresh_token"]})
        assert (stale.status, stale.errcode) == (401, "M_UNKNOWN_TOKEN")
        # Showing the refresh token proves as much as showing the access token.
        third = (await node.stranger().post("/refresh", {"refresh_token": second["refresh_token"]})).body
        assert (await Client(node.http, third["access_token"]).get("/account/whoami")).status == 200


async def until_refused(client: Client) -> None:
    """The old token goes in a unit of work of its own, beside the request that showed the new one."""
    for _ in range(1000):
        if (await client.get("/account/whoami")).status == 401:
            return
        await asyncio.sleep(0)
    raise AssertionError("the old token still holds")


async def test_an_expired_token_is_a_soft_logout_and_can_be_refreshed() -> None:
    async with running_node() as node:
        alice = await node.register("alice", refresh_token=True)
        answer = await node.stranger().post(
            "/login", {"type": "m.login.password", "user": "alice", "password": PASSWORD, "refresh_token": True}
        )
        node.now_ms[0] += HOUR_MS + 1
        expired = await alice.get("/account/whoami")
        assert (expired.status, expired.errcode, expired.body["soft_logout"]) == (401, "M_UNKNOWN_TOKEN", True)
        fresh = await node.stranger().post("/refresh", {"refresh_token": answer["refresh_token"]})
        assert (await Client(node.http, fresh["access_token"]).get("/account/whoami")).status == 200
        # Without `refresh_token` a token does not expire.
        plain = await node.log_in("alice")
        node.now_ms[0] += 1000 * HOUR_MS
        assert (await plain.get("/account/whoami")).status == 200
        unknown = await Client(node.http, "nobody's").get("/account/whoami")
        assert unknown.body["soft_logout"] is False


async def test_no_token_is_in_the_database() -> None:
    async with running_node() as node:
        alice = await node.register("alice", refresh_token=True)
        answers = [
            await alice.ask("POST", "/login/get_token", with_password(alice), version="v1"),
            await alice.post(f"/user/{alice.user_id}/openid/request_token"),
        ]
        tokens = [alice.token, answers[0]["login_token"], answers[1]["access_token"]]
        dump = await node.database.read(lambda tx: "\n".join(tx.conn.iterdump()))
        for token in tokens:
            assert token is not None
            assert token not in dump


async def test_a_login_token_logs_in_once_and_soon() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        asked = await alice.ask("POST", "/login/get_token", {}, version="v1")
        assert (asked.status, asked.errcode) == (401, None)
        got = await alice.ask("POST", "/login/get_token", with_password(alice), version="v1")
        assert got["expires_in_ms"] == LOGIN_TOKEN_MS
        body = {"type": "m.login.token", "token": got["login_token"]}
        second = await node.stranger().post("/login", body)
        assert second["user_id"] == alice.user_id
        assert second["device_id"] != alice.device_id
        assert (await node.stranger().post("/login", body)).errcode == "M_FORBIDDEN"
        late = await alice.ask("POST", "/login/get_token", with_password(alice), version="v1")
        node.now_ms[0] += LOGIN_TOKEN_MS
        again = await node.stranger().post("/login", {**body, "token": late["login_token"]})
        assert again.errcode == "M_FORBIDDEN"


async def test_another_password_voids_every_other_way_in() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        got = await alice.ask("POST", "/login/get_token", with_password(alice), version="v1")
        await node.database.write(lambda tx: add_token(tx, alice.user_id, "no device", token="an operator's"))
        assert (await alice.post("/account/password", with_password(alice, new_password="new"))).status == 200
        assert (await alice.get("/account/whoami")).status == 200
        assert (await Client(node.http, "an operator's").get("/account/whoami")).status == 401
        login = {"type": "m.login.token", "token": got["login_token"]}
        assert (await node.stranger().post("/login", login)).errcode == "M_FORBIDDEN"


async def test_an_openid_token_tells_who_one_is() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        path = f"/user/{alice.user_id}/openid/request_token"
        assert (await bob.post(path)).errcode == "M_FORBIDDEN"
        given = (await alice.post(path)).body
        assert (given["token_type"], given["matrix_server_name"]) == ("Bearer", node.server_name)
        ask = "/_matrix/federation/v1/openid/userinfo"
        told = await node.stranger().get(ask, access_token=given["access_token"])
        assert told.body == {"sub": alice.user_id}
        assert (await node.stranger().get(ask, access_token="x")).status == 401
        assert (await node.stranger().get(ask)).errcode == "M_MISSING_TOKEN"
        node.now_ms[0] += given["expires_in"] * 1000
        assert (await node.stranger().get(ask, access_token=given["access_token"])).status == 401


# Throttling


async def guess(node: Node, password: str = "wrong", name: str = "alice") -> int:
    body = {"type": "m.login.password", "user": name, "password": password}
    return (await node.stranger().post("/login", body)).status


async def test_guesses_that_are_sent_at_once_are_counted_one_by_one() -> None:
    async with running_node(config=ClientApiConfig()) as node:
        await node.register("alice")
        answers = await asyncio.gather(*(guess(node) for _ in range(20)))
        assert answers.count(403) == FAILED_LOGINS.burst
        assert answers.count(429) == 20 - FAILED_LOGINS.burst
        assert await guess(node, PASSWORD) == 429
        node.clock_s[0] += 1 / FAILED_LOGINS.per_second
        assert await guess(node, PASSWORD) == 200


async def test_guesses_that_are_not_counted_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RateLimits, "note_failed_login", lambda self, user_id: None)
    async with running_node(config=ClientApiConfig()) as node:
        await node.register("alice")
        answers = await asyncio.gather(*(guess(node) for _ in range(20)))
        assert answers.count(403) == 20, "so the test above would fail"


async def test_one_address_cannot_try_one_password_on_everybody() -> None:
    async with running_node(config=ClientApiConfig()) as node:
        answers = [await guess(node, name=f"user{number}") for number in range(70)]
        assert answers.count(429) == 10


async def test_a_storm_of_logins_with_rate_limits_off_fails_nobody() -> None:
    async with running_node() as node:
        await node.register("alice")
        answers = await asyncio.gather(*(guess(node, PASSWORD) for _ in range(WAITING_MAX * 3)))
        assert set(answers) == {200}


@pytest.mark.long
@pytest.mark.usefixtures("real_passwords")
async def test_a_storm_of_500_logins_with_real_hashes() -> None:
    async with running_node() as node:
        await node.register("alice")
        server = HttpServer(node.api.asgi_app(), host="127.0.0.1", port=0)
        await server.start()
        try:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as node.http:
                began_s, cpu_s = time.monotonic(), time.process_time()
                answers = await asyncio.gather(*(guess(node, PASSWORD) for _ in range(500)))
                wall_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
        finally:
            await server.stop()
        assert set(answers) == {200}
        print(f"500 logins in {wall_s:.1f} s, {cpu_s:.1f} s of CPU time for both sides")


# Registration


async def test_an_operators_registration_token_is_used_as_often_as_it_allows() -> None:
    config = ClientApiConfig(registration="token", registration_token="settings", rate_limits=False)
    async with running_node(config=config) as node:
        expires_ms = node.now_ms[0] + HOUR_MS
        await node.database.write(lambda tx: put_registration_token(tx, "twice", uses_allowed=2, expires_ms=expires_ms))
        auth = {"type": "m.login.registration_token", "token": "twice"}
        bodies = [{"username": f"user{number}", "password": PASSWORD, "auth": auth} for number in range(3)]
        answers = await asyncio.gather(*(node.stranger().post("/register", body) for body in bodies))
        assert sorted(answer.status for answer in answers)[:2] == [200, 200]
        assert [answer.errcode for answer in answers if answer.status != 200] == ["M_FORBIDDEN"]
        found = await node.database.read(lambda tx: registration_token(tx, "twice"))
        assert found is not None
        assert found.completed == 2
        check = "/_matrix/client/v1/register/m.login.registration_token/validity"
        assert (await node.stranger().get(check, token="twice")).body == {"valid": False}
        await node.database.write(
            lambda tx: put_registration_token(tx, "twice", uses_allowed=None, expires_ms=expires_ms)
        )
        assert (await node.stranger().get(check, token="twice")).body == {"valid": True}
        node.now_ms[0] = expires_ms
        assert (await node.stranger().get(check, token="twice")).body == {"valid": False}
        late = await node.stranger().post("/register", {**bodies[0], "username": "late"})
        assert late.status == 401


async def test_the_name_of_the_nodes_own_user_is_exclusive() -> None:
    async with running_node() as node:
        body = {"username": "server-notices", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        assert (await node.stranger().post("/register", body)).errcode == "M_EXCLUSIVE"
        taken = await node.stranger().get("/register/available", username="Server-Notices")
        assert (taken.status, taken.errcode) == (400, "M_EXCLUSIVE")


# Deactivation


async def deactivate(node: Node, client: Client, *, erase: bool) -> None:
    asked = await client.post("/account/deactivate", {"erase": erase})
    assert (asked.status, asked.errcode) == (401, None)
    answer = await client.post("/account/deactivate", with_password(client, erase=erase))
    assert answer.body == {"id_server_unbind_result": "no-support"}
    while await node.database.write(lambda tx: depart_once(node.rooms, tx)):
        pass


async def test_a_deactivated_account_is_gone_and_its_name_used_up() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await a_room(alice, bob)
        invited_to = (await bob.post("/createRoom", {"invite": [alice.user_id]}))["room_id"]
        await alice.put(f"/user/{alice.user_id}/account_data/org.example", {"private": True})
        await deactivate(node, alice, erase=False)
        assert (await alice.get("/account/whoami")).errcode == "M_UNKNOWN_TOKEN"
        login = {"type": "m.login.password", "user": "alice", "password": PASSWORD}
        assert (await node.stranger().post("/login", login)).errcode == "M_USER_DEACTIVATED"
        body = {"username": "alice", "password": "x", "auth": {"type": "m.login.dummy"}}
        assert (await node.stranger().post("/register", body)).errcode == "M_USER_IN_USE"
        assert (await node.stranger().get("/register/available", username="alice")).errcode == "M_USER_IN_USE"
        for room in (room_id, invited_to):
            member = await bob.get(f"/rooms/{room}/state/m.room.member/{alice.user_id}")
            assert member["membership"] == "leave"
        found = await bob.post("/user_directory/search", {"search_term": "alice"})
        assert found["results"] == []
        await alice.post("/logout")
        for table in ("devices", "access_tokens", "account_data", "departures", "filters", "profile_fields"):
            rows = await node.database.read(
                lambda tx, table=table: tx.all(f"SELECT * FROM {table} WHERE user_id = ?", (alice.user_id,))
            )
            assert rows == [], table


async def test_a_deactivation_goes_on_after_a_restart() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await a_room(alice, bob)
        await node.database.write(lambda tx: close_account(tx, alice.user_id, erase=False))
    async with running_node(disk=node.disk) as again:
        again.api.start()
        bob = Client(again.http, bob.token)
        for _ in range(1000):
            member = await bob.get(f"/rooms/{room_id}/state/m.room.member/{alice.user_id}")
            if member["membership"] == "leave":
                break
            await asyncio.sleep(0.01)
        assert member["membership"] == "leave"


async def test_erased_messages_are_shown_to_those_who_were_there() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        room_id = await a_room(alice, bob)
        sent = await alice.put(f"/rooms/{room_id}/send/m.room.message/1", {"msgtype": "m.text", "body": "hello"})
        own = await bob.put(f"/rooms/{room_id}/send/m.room.message/1", {"msgtype": "m.text", "body": "mine"})
        await bob.post(f"/rooms/{room_id}/invite", {"user_id": carol.user_id})
        assert (await carol.post(f"/join/{room_id}")).status == 200
        path = f"/rooms/{room_id}/event/{sent['event_id']}"
        assert (await carol.get(path))["content"]["body"] == "hello"
        await deactivate(node, alice, erase=True)
        assert (await bob.get(path))["content"]["body"] == "hello"
        assert (await carol.get(path))["content"] == {}
        assert (await carol.get(f"/rooms/{room_id}/event/{own['event_id']}"))["content"]["body"] == "mine"
        page = await carol.get(f"/rooms/{room_id}/messages", dir="b", limit="50")
        shown = [event["content"] for event in page["chunk"] if event["event_id"] == sent["event_id"]]
        assert shown == [{}]
        assert (await bob.get(f"/profile/{alice.user_id}")).body == {}
        for words, count in (("hello", 0), ("mine", 1)):
            search = {"search_categories": {"room_events": {"search_term": words}}}
            assert (await bob.post("/search", search))["search_categories"]["room_events"]["count"] == count
        # What another server is given is judged in the same way.
        here = node.server_name
        raws = await node.database.read(lambda tx: _copies(tx, here, sent["event_id"]))
        assert raws == ["hello", None]


def _copies(tx: Any, here: str, event_id: str) -> list[str | None]:
    """The message as a server gets it that was there, and one that came later."""
    from p2pserver.rooms.server_visibility import _is_erased_for
    from p2pserver.store import events

    found = events.stored(tx, event_id)
    assert found is not None
    assert found.state_before is not None
    hidden = [_is_erased_for(tx, server, found.pdu, found.state_before) for server in (here, "later.example")]
    return [None if each else found.pdu.content["body"] for each in hidden]


# Standing


async def test_a_locked_account_keeps_its_devices_and_can_only_log_out() -> None:
    async with running_node() as node:
        alice = await node.register("alice", refresh_token=True)
        other = await node.log_in("alice")
        await flag(node, alice, "locked")
        answer = await alice.get("/account/whoami")
        assert (answer.status, answer.errcode, answer.body["soft_logout"]) == (401, "M_USER_LOCKED", True)
        login = {"type": "m.login.password", "user": "alice", "password": PASSWORD}
        assert (await node.stranger().post("/login", login)).errcode == "M_USER_LOCKED"
        assert (await other.post("/logout")).status == 200
        await flag(node, alice, "locked", False)
        assert len((await alice.get("/devices"))["devices"]) == 1


async def test_a_suspended_account_may_read_leave_and_take_back_what_it_said() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await a_room(bob, alice)
        own = await alice.put(f"/rooms/{room_id}/send/m.room.message/1", {"msgtype": "m.text", "body": "hello"})
        other = await bob.put(f"/rooms/{room_id}/send/m.room.message/1", {"msgtype": "m.text", "body": "hi"})
        await flag(node, alice, "suspended")
        refused = [
            await alice.put(f"/rooms/{room_id}/send/m.room.message/2", {"msgtype": "m.text", "body": "more"}),
            await alice.put(f"/rooms/{room_id}/state/m.room.topic", {"topic": "x"}),
            await alice.put(f"/rooms/{room_id}/redact/{other['event_id']}/1", {}),
            await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "x"}),
            await alice.post("/createRoom", {}),
            await alice.post(f"/join/{room_id}"),
        ]
        assert {(answer.status, answer.errcode) for answer in refused} == {(403, "M_USER_SUSPENDED")}
        assert (await alice.get(f"/rooms/{room_id}/messages", dir="b")).status == 200
        assert (await alice.put(f"/rooms/{room_id}/redact/{own['event_id']}/2", {})).status == 200
        assert (await alice.post(f"/rooms/{room_id}/leave")).status == 200


async def test_what_a_shadow_banned_user_says_goes_nowhere() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        room_id = await a_room(bob, alice)
        await flag(node, alice, "shadow_banned")
        path, body = f"/rooms/{room_id}/send/m.room.message/1", {"msgtype": "m.text", "body": "buy"}
        first, again = await alice.put(path, body), await alice.put(path, body)
        assert first["event_id"] == again["event_id"]
        assert first["event_id"] != (await alice.put(path[:-1] + "2", body))["event_id"]
        assert (await bob.get(f"/rooms/{room_id}/event/{first['event_id']}")).errcode == "M_NOT_FOUND"
        assert (await alice.post(f"/rooms/{room_id}/invite", {"user_id": carol.user_id})).body == {}
        own = await alice.post("/createRoom", {"invite": [carol.user_id]})
        assert own.status == 200
        await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Buy!"})
        for _ in range(20):
            await asyncio.sleep(0.01)
        synced = (await carol.get("/sync"))["rooms"]
        assert synced.get("invite", {}) == {}
        member = await bob.get(f"/rooms/{room_id}/state/m.room.member/{alice.user_id}")
        assert member["displayname"] == "alice"
        upgraded = await alice.post(f"/rooms/{own['room_id']}/upgrade", {"new_version": "11"})
        assert upgraded["replacement_room"].startswith("!")
        assert (await alice.get("/joined_rooms"))["joined_rooms"] == sorted([room_id, own["room_id"]])
        # Where he is not, he is told the truth.
        elsewhere = (await bob.post("/createRoom", {}))["room_id"]
        refused = await alice.put(f"/rooms/{elsewhere}/send/m.room.message/1", body)
        assert refused.errcode == "M_FORBIDDEN"
        await flag(node, alice, "shadow_banned", False)
        heard = await alice.put(path[:-1] + "3", body)
        assert (await bob.get(f"/rooms/{room_id}/event/{heard['event_id']}")).status == 200


async def test_admins_suspend_and_lock_by_the_client_api() -> None:
    async with running_node() as node:
        await node.database.write(
            lambda tx: register_user(tx, f"@root:{node.server_name}", accounts.hash_password(PASSWORD), admin=True)
        )
        root, alice = await node.log_in("root"), await node.register("alice")
        for what, flag_name in (("suspend", "suspended"), ("lock", "locked")):
            path = f"/admin/{what}/{alice.user_id}"
            assert (await alice.ask("PUT", path, {flag_name: True}, version="v1")).errcode == "M_FORBIDDEN"
            assert (await alice.ask("GET", f"/admin/{what}/@x:y", version="v1")).errcode == "M_FORBIDDEN"
            assert (await root.ask("GET", path, version="v1")).body == {flag_name: False}
            assert (await root.ask("PUT", path, {flag_name: True}, version="v1")).body == {flag_name: True}
            assert (await root.ask("GET", path, version="v1")).body == {flag_name: True}
            assert (await root.ask("PUT", path, {flag_name: False}, version="v1")).status == 200
            assert (await root.ask("PUT", path, {}, version="v1")).errcode == "M_MISSING_PARAM"
            own = await root.ask("PUT", f"/admin/{what}/{root.user_id}", {flag_name: True}, version="v1")
            assert own.errcode == "M_FORBIDDEN"
            nobody = await root.ask("GET", f"/admin/{what}/@nobody:{node.server_name}", version="v1")
            assert nobody.errcode == "M_NOT_FOUND"
            assert (await root.ask("GET", f"/admin/{what}/@x:y", version="v1")).errcode == "M_INVALID_PARAM"
        shown = (await alice.get(f"/admin/whois/{alice.user_id}")).body
        assert list(shown["devices"]) == [alice.device_id]
        assert (await alice.get(f"/admin/whois/{root.user_id}")).errcode == "M_FORBIDDEN"
        capabilities = [(await each.get("/capabilities"))["capabilities"] for each in (root, alice)]
        assert [each.get("m.account_moderation") for each in capabilities] == [{"suspend": True, "lock": True}, None]
        assert capabilities[1]["m.get_login_token"] == {"enabled": True}


def test_each_route_that_standing_names_exists() -> None:
    served = {(route.method, route.path) for route in all_routes()}
    assert served >= LOCKED_MAY | SUSPENDED_MAY_NOT | SHADOWED
