"""Accounts by the admin API: listing, making, changing, devices, tokens, registration by shared secret."""

import asyncio
import hashlib
import hmac
from typing import Any

from p2pserver.client_api.app import ClientApiConfig
from tests.admin_api.harness import SECRET, AdminNode, running_admin_node
from tests.client_api.harness import Client


async def logs_in(at: AdminNode, name: str, password: str) -> int:
    body = {"type": "m.login.password", "user": name, "password": password}
    return (await at.node.stranger().post("/login", body)).status


async def test_accounts_are_listed_filtered_and_paged() -> None:
    async with running_admin_node() as at:
        for name in ("alice", "bob", "carol"):
            await at.put(f"/v2/users/@{name}:{at.node.server_name}", {"password": "x", "displayname": name.upper()})
        await at.put(f"/v2/users/@bob:{at.node.server_name}", {"deactivated": True})
        await at.put(f"/v2/users/@carol:{at.node.server_name}", {"locked": True, "user_type": "bot"})

        async def names(version: str = "v2", **query: str) -> list[str]:
            answer = await at.get(f"/{version}/users", **query)
            assert answer["total"] >= len(answer["users"])
            return [user["name"][1:].partition(":")[0] for user in answer["users"]]

        assert await names() == ["alice", "root"]
        assert await names(deactivated="true", locked="true") == ["alice", "bob", "carol", "root"]
        assert await names("v3", locked="true") == ["alice", "bob", "carol", "root"]
        assert await names("v3", deactivated="true") == ["bob"]
        assert await names(dir="b") == ["root", "alice"]
        assert await names(name="LIC") == ["alice"]
        assert await names(user_id="@ROO") == ["root"]
        assert await names(admins="true") == ["root"]
        assert await names(admins="false", locked="true", not_user_type="bot") == ["alice"]
        first = await at.get("/v2/users", limit="1")
        assert first["next_token"] == "1"
        rest = await at.get("/v2/users", limit="1", **{"from": first["next_token"]})
        assert "next_token" not in rest
        assert (await at.ask("GET", "/v2/users", order_by="password")).errcode == "M_INVALID_PARAM"


async def test_an_account_is_made_changed_closed_and_opened_again() -> None:
    async with running_admin_node() as at:
        path = f"/v2/users/@alice:{at.node.server_name}"
        assert (await at.ask("GET", path)).errcode == "M_NOT_FOUND"
        made = await at.ask("PUT", path, {"password": "first", "displayname": "Alice", "admin": False})
        assert made.status == 201
        assert (made.body["displayname"], made.body["admin"], made.body["threepids"]) == ("Alice", False, [])
        assert await logs_in(at, "alice", "first") == 200
        changed = await at.ask("PUT", path, {"password": "second", "admin": True})
        assert (changed.status, changed.body["admin"], changed.body["displayname"]) == (200, True, "Alice")
        assert [await logs_in(at, "alice", password) for password in ("first", "second")] == [403, 200]
        assert (await at.get(f"/v1/users/@alice:{at.node.server_name}/admin")) == {"admin": True}
        assert (await at.put(f"/v1/users/@alice:{at.node.server_name}/admin", {"admin": False})) == {}
        assert await at.post(f"/v1/reset_password/@alice:{at.node.server_name}", {"new_password": "third"}) == {}
        assert await logs_in(at, "alice", "third") == 200
        await at.post(f"/v1/deactivate/@alice:{at.node.server_name}", {"erase": True})
        details = await at.get(path)
        assert (details["deactivated"], details["erased"], details["displayname"]) == (True, True, None)
        assert (await at.ask("PUT", path, {"deactivated": False})).status == 400
        opened = await at.put(path, {"deactivated": False, "password": "fourth"})
        assert (opened["deactivated"], opened["erased"]) == (False, False)
        assert await logs_in(at, "alice", "fourth") == 200


async def test_what_an_admin_cannot_do() -> None:
    async with running_admin_node() as at:
        root = f"/v2/users/{at.root.user_id}"
        assert (await at.ask("PUT", root, {"deactivated": True})).errcode == "M_FORBIDDEN"
        assert (await at.ask("PUT", root, {"admin": False})).errcode == "M_FORBIDDEN"
        alice = f"/v2/users/@alice:{at.node.server_name}"
        wrong: list[tuple[str, str, Any]] = [
            ("PUT", "/v2/users/@alice:elsewhere", {"password": "x"}),
            ("PUT", f"/v2/users/@Ali ce:{at.node.server_name}", {"password": "x"}),
            ("PUT", f"/v2/users/@server-notices:{at.node.server_name}", {"password": "x"}),
            ("PUT", alice, {"password": "x", "threepids": [{"medium": "email", "address": "a@b"}]}),
            ("PUT", alice, {"password": "x", "admin": "yes"}),
            ("POST", f"/v1/users/{at.root.user_id}/login", {}),
        ]
        for method, path, body in wrong:
            assert (await at.ask(method, path, body)).status == 400, path
        assert (await at.ask("GET", alice)).status == 404


async def test_devices_of_others() -> None:
    async with running_admin_node() as at:
        alice = await at.node.register("alice", device_id="PHONE")
        await at.node.log_in("alice", device_id="LAPTOP")
        third = await at.node.log_in("alice")
        path = f"/v2/users/{alice.user_id}/devices"
        listed = await at.get(path)
        assert listed["total"] == 3
        assert {device["user_id"] for device in listed["devices"]} == {alice.user_id}
        assert all(device["last_seen_ts"] is not None for device in listed["devices"])
        await at.put(f"{path}/PHONE", {"display_name": "lost"})
        assert (await at.get(f"{path}/PHONE"))["display_name"] == "lost"
        await at.delete(f"{path}/PHONE")
        assert (await at.ask("GET", f"{path}/PHONE")).errcode == "M_NOT_FOUND"
        assert (await alice.get("/account/whoami")).status == 401
        await at.post(f"/v2/users/{alice.user_id}/delete_devices", {"devices": ["LAPTOP"]})
        assert (await at.get(path))["total"] == 1
        shown = await at.get(f"/v1/whois/{alice.user_id}")
        assert list(shown["devices"]) == [third.device_id]
        await at.post(f"/v1/users/{alice.user_id}/logout")
        assert (await third.get("/account/whoami")).status == 401


async def test_acting_as_a_user_makes_no_device_and_ends() -> None:
    async with running_admin_node() as at:
        alice = await at.node.register("alice")
        until_ms = at.node.now_ms[0] + 60_000
        given = await at.post(f"/v1/users/{alice.user_id}/login", {"valid_until_ms": until_ms})
        acting = Client(at.node.http, given["access_token"])
        room_id = (await acting.post("/createRoom", {}))["room_id"]
        assert (await at.get(f"/v1/users/{alice.user_id}/joined_rooms")) == {"joined_rooms": [room_id], "total": 1}
        assert (await at.get(f"/v1/users/{alice.user_id}/memberships")) == {"memberships": {room_id: "join"}}
        assert len((await alice.get("/devices"))["devices"]) == 1
        at.node.now_ms[0] = until_ms
        assert (await acting.get("/account/whoami")).body["soft_logout"] is True
        again = Client(at.node.http, (await at.post(f"/v1/users/{alice.user_id}/login"))["access_token"])
        assert (await again.post("/logout")).status == 200
        assert (await again.get("/account/whoami")).status == 401
        assert (await alice.get("/account/whoami")).status == 200
        rows = await at.node.database.read(
            lambda tx: tx.all("SELECT 1 FROM access_tokens WHERE user_id = ?", (alice.user_id,))
        )
        assert len(rows) == 1


async def test_standing_by_the_admin_api() -> None:
    async with running_admin_node() as at:
        alice = await at.node.register("alice")
        path = f"/v2/users/{alice.user_id}"
        assert await at.put(f"/v1/suspend/{alice.user_id}", {"suspend": True}) == {
            f"user_{alice.user_id}_suspended": True
        }
        assert await at.post(f"/v1/users/{alice.user_id}/shadow_ban") == {}
        shown = await at.get(path)
        assert (shown["suspended"], shown["shadow_banned"], shown["locked"]) == (True, True, False)
        await at.delete(f"/v1/users/{alice.user_id}/shadow_ban")
        await at.put(f"/v1/suspend/{alice.user_id}", {"suspend": False})
        await at.put(path, {"locked": True})
        assert (await alice.get("/account/whoami")).errcode == "M_USER_LOCKED"
        await at.put(path, {"locked": False})
        assert (await alice.get("/account/whoami")).status == 200
        assert (await at.get("/v1/username_available", username="bob")) == {"available": True}
        assert (await at.ask("GET", "/v1/username_available", username="alice")).errcode == "M_USER_IN_USE"


def mac_of(nonce: str, name: str, password: str, *, admin: bool, secret: str = SECRET) -> str:
    text = f"{nonce}\0{name}\0{password}\0{'admin' if admin else 'notadmin'}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha1).hexdigest()


async def test_registration_by_shared_secret() -> None:
    async with running_admin_node() as at:
        stranger = at.node.stranger()

        async def tried(name: str, *, secret: str = SECRET, nonce: str | None = None, said: bool = True) -> Any:
            nonce = nonce or (await at.ask("GET", "/v1/register", by=stranger))["nonce"]
            body = {"nonce": nonce, "username": name, "password": "x", "admin": True}
            body["mac"] = mac_of(nonce, name, "x", admin=said, secret=secret)
            return await at.ask("POST", "/v1/register", body, by=stranger)

        made = await tried("alice")
        assert made["user_id"] == f"@alice:{at.node.server_name}"
        assert (await at.get(f"/v1/users/{made['user_id']}/admin")) == {"admin": True}
        assert (await Client(at.node.http, made["access_token"]).get("/account/whoami")).status == 200
        assert (await tried("bob", secret="a guess")).errcode == "M_FORBIDDEN"
        assert (await tried("bob", said=False)).errcode == "M_FORBIDDEN"
        assert (await tried("alice")).errcode == "M_USER_IN_USE"
        nonce = (await at.ask("GET", "/v1/register", by=stranger))["nonce"]
        assert (await tried("bob", nonce=nonce)).status == 200
        assert (await tried("carol", nonce=nonce)).status == 400
        late = (await at.ask("GET", "/v1/register", by=stranger))["nonce"]
        at.node.now_ms[0] += 60_000
        assert (await tried("carol", nonce=late)).status == 400
        at.admin.registration_shared_secret = None
        assert (await at.ask("GET", "/v1/register", by=stranger)).status == 400


async def test_a_bot_gets_a_rate_of_its_own() -> None:
    async with running_admin_node(config=ClientApiConfig()) as at:
        bot = await at.node.register("bot")
        path = f"/v1/users/{bot.user_id}/override_ratelimit"
        assert await at.get(path) == {}
        assert await at.post(path, {"messages_per_second": 1, "burst_count": 2}) == {
            "messages_per_second": 1,
            "burst_count": 2,
        }
        statuses = [(await bot.get("/account/whoami")).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        await at.post(path, {"messages_per_second": 0})
        assert {(await bot.get("/account/whoami")).status for _ in range(5)} == {200}
        assert await at.delete(path) == {}
        assert await at.get(path) == {}
        at.node.clock_s[0] += 60
        assert (await at.ask("POST", path, {"messages_per_second": -1})).errcode == "M_INVALID_PARAM"
        assert await at.get(f"/v1/users/{bot.user_id}/pushers") == {"pushers": [], "total": 0}
        pusher = {"kind": "http", "app_id": "org.example", "pushkey": "key", "app_display_name": "A", "lang": "en"}
        pusher |= {"device_display_name": "D", "data": {"url": "https://push.example/_matrix/push/v1/notify"}}
        assert (await bot.post("/pushers/set", pusher)).status == 200
        assert (await at.get(f"/v1/users/{bot.user_id}/pushers"))["pushers"][0]["pushkey"] == "key"
        await bot.put(f"/user/{bot.user_id}/account_data/org.example", {"a": 1})
        kept = await at.get(f"/v1/users/{bot.user_id}/accountdata")
        assert kept["account_data"]["global"]["org.example"] == {"a": 1}
        assert kept["account_data"]["rooms"] == {}


async def test_registration_tokens() -> None:
    async with running_admin_node() as at:
        made = await at.post("/v1/registration_tokens/new", {"token": "abcd", "uses_allowed": 1})
        assert made == {"token": "abcd", "uses_allowed": 1, "pending": 0, "completed": 0, "expiry_time": None}
        drawn = await at.post("/v1/registration_tokens/new", {"length": 20, "uses_allowed": None})
        assert len(drawn["token"]) == 20
        assert len((await at.get("/v1/registration_tokens"))["registration_tokens"]) == 2
        changed = await at.put("/v1/registration_tokens/abcd", {"uses_allowed": 0})
        assert changed["uses_allowed"] == 0
        valid = await at.get("/v1/registration_tokens", valid="true")
        assert [each["token"] for each in valid["registration_tokens"]] == [drawn["token"]]
        assert await at.delete("/v1/registration_tokens/abcd") == {}
        for method in ("GET", "PUT", "DELETE"):
            answer = await at.ask(method, "/v1/registration_tokens/abcd", {} if method == "PUT" else None)
            assert answer.errcode == "M_NOT_FOUND"
        wrong = [{"token": "a b"}, {"length": 65}, {"uses_allowed": -1}, {"uses_allowed": True}, {"expiry_time": 1}]
        for body in [*wrong, {"token": drawn["token"]}]:
            answer = await at.ask("POST", "/v1/registration_tokens/new", body)
            assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


async def test_the_node_itself() -> None:
    async with running_admin_node() as at:
        assert (await at.get("/v1/server_version"))["server_version"].startswith("p2pserver ")
        assert (await at.get("/v1/background_updates/status")) == {"enabled": True, "current_updates": {}}
        await at.node.database.write(
            lambda tx: (
                tx.execute(
                    "INSERT INTO peers (key, server_name, agent, link, connected, met_ms, last_seen_ms)"
                    " VALUES (X'00', 'other.example', '', 'lan', 0, 1, 2)"
                )
                and None
            )
        )
        listed = await at.get("/v1/federation/destinations")
        assert (listed["total"], listed["destinations"][0]["failure_ts"]) == (1, 2)
        assert (await at.get("/v1/federation/destinations/other.example"))["destination"] == "other.example"
        assert (await at.get("/v1/federation/destinations/other.example/rooms")) == {"rooms": [], "total": 0}
        assert (await at.ask("GET", "/v1/federation/destinations/nobody")).errcode == "M_NOT_FOUND"


async def test_deactivation_by_an_admin_leaves_the_rooms() -> None:
    async with running_admin_node() as at:
        alice, bob = await at.node.register("alice"), await at.node.register("bob")
        room_id = (await bob.post("/createRoom", {"invite": [alice.user_id]}))["room_id"]
        await at.post(f"/v1/deactivate/{alice.user_id}", {"erase": False})
        for _ in range(1000):
            member = await bob.get(f"/rooms/{room_id}/state/m.room.member/{alice.user_id}")
            if member["membership"] == "leave":
                break
            await asyncio.sleep(0.01)
        assert member["membership"] == "leave"
