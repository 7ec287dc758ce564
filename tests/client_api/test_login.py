"""Registering, logging in and out, devices, passwords, user-interactive authentication."""

import pytest

from p2pserver.client_api.app import ClientApiConfig
from p2pserver.errors import InvalidUsername, NotFound, UserInUse
from p2pserver.store.accounts import hash_password, password_matches, register_user, set_password
from tests.client_api.harness import Client, Node, running_node

DUMMY = {"type": "m.login.dummy"}


async def test_register_log_in_and_ask_who_one_is() -> None:
    async with running_node() as node:
        alice = await node.register("Alice")
        assert alice.user_id == f"@alice:{node.server_name}"
        assert (await alice.get("/account/whoami")).body == {
            "user_id": alice.user_id,
            "device_id": alice.device_id,
            "is_guest": False,
        }
        again = await node.log_in("alice")
        assert again.device_id != alice.device_id
        by_full_id = await node.log_in(alice.user_id, device_id="PHONE")
        assert by_full_id.device_id == "PHONE"
        old_style = {"type": "m.login.password", "user": "alice", "password": "secret"}
        answer = await node.stranger().post("/login", old_style)
        assert answer["well_known"] == {"m.homeserver": {"base_url": "http://node.test:8008"}}
        assert (await node.stranger().get("/login")).body == {
            "flows": [{"type": "m.login.password"}, {"type": "m.login.token", "get_login_token": True}]
        }


async def test_both_versions_of_every_path() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        for path in ("/account/whoami", "/login", "/capabilities", "/devices", "/pushrules/", "/voip/turnServer"):
            new, old = await alice.ask("GET", path), await alice.ask("GET", path, version="r0")
            assert (new.status, new.body) == (200, old.body)


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.sso"}, 400, "M_UNKNOWN"),
        ({"type": "m.login.token", "token": "x"}, 403, "M_FORBIDDEN"),
        ({"type": 7}, 400, "M_BAD_JSON"),
        ({"type": "m.login.password", "password": "secret"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "user": "alice"}, 400, "M_MISSING_PARAM"),
        ({"type": "m.login.password", "user": "alice", "password": 1}, 400, "M_BAD_JSON"),
        ({"type": "m.login.password", "user": "alice", "password": "Secret"}, 403, "M_FORBIDDEN"),
        ({"type": "m.login.password", "user": "nobody", "password": "secret"}, 403, "M_FORBIDDEN"),
        ({"type": "m.login.password", "user": "@alice:elsewhere", "password": "secret"}, 403, "M_FORBIDDEN"),
        ({"type": "m.login.password", "user": "alice", "password": "x" * 600}, 403, "M_FORBIDDEN"),
        ({"type": "m.login.password", "identifier": "alice", "password": "secret"}, 400, "M_BAD_JSON"),
        (
            {"type": "m.login.password", "identifier": {"type": "m.id.phone", "user": "alice"}, "password": "secret"},
            403,
            "M_FORBIDDEN",
        ),
        ({"type": "m.login.password", "user": "alice", "password": "secret", "device_id": 3}, 400, "M_BAD_JSON"),
        (
            {"type": "m.login.password", "user": "alice", "password": "secret", "device_id": "a\nb"},
            400,
            "M_INVALID_PARAM",
        ),
    ],
)
async def test_logins_that_fail(body: dict[str, object], status: int, errcode: str) -> None:
    async with running_node() as node:
        await node.register("alice")
        answer = await node.stranger().post("/login", body)
        assert (answer.status, answer.errcode) == (status, errcode)


async def test_a_device_that_logs_in_again_loses_its_old_token_and_keeps_its_name() -> None:
    async with running_node() as node:
        first = await node.register("alice", device_id="PHONE", initial_device_display_name="Alice's phone")
        second = await node.log_in("alice", device_id="PHONE", initial_device_display_name="other")
        assert (await first.get("/account/whoami")).errcode == "M_UNKNOWN_TOKEN"
        devices = (await second.get("/devices"))["devices"]
        assert [(device["device_id"], device["display_name"]) for device in devices] == [("PHONE", "Alice's phone")]
        assert type(devices[0]["last_seen_ts"]) is int


async def test_registration_asks_for_a_stage_and_accepts_it_with_or_without_session() -> None:
    async with running_node() as node:
        stranger = node.stranger()
        first = await stranger.post("/register", {})
        assert first.status == 401
        assert first.errcode is None
        assert first.body["flows"] == [{"stages": ["m.login.dummy"]}]
        session = first.body["session"]
        body = {"username": "alice", "password": "secret", "auth": {**DUMMY, "session": session}}
        assert (await stranger.post("/register", body)).status == 200
        # The session is used up, and another node's or last run's session is answered with a new one.
        stale = await stranger.post("/register", {**body, "username": "bob"})
        assert stale.status == 401
        assert stale.body["session"] != session
        wrong = await stranger.post("/register", {"username": "bob", "auth": {"type": "m.login.recaptcha"}})
        assert (wrong.status, wrong.errcode) == (401, "M_FORBIDDEN")
        assert wrong.body["flows"]


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({"username": "alice", "password": "x"}, 400, "M_USER_IN_USE"),
        ({"username": "ALICE", "password": "x"}, 400, "M_USER_IN_USE"),
        ({"username": "a b", "password": "x"}, 400, "M_INVALID_USERNAME"),
        ({"username": "a:b", "password": "x"}, 400, "M_INVALID_USERNAME"),
        ({"username": "é", "password": "x"}, 400, "M_INVALID_USERNAME"),
        ({"username": "", "password": "x"}, 400, "M_INVALID_USERNAME"),
        ({"username": "x" * 250, "password": "x"}, 400, "M_INVALID_USERNAME"),
        ({"username": ["bob"], "password": "x"}, 400, "M_BAD_JSON"),
        ({"username": "bob", "password": 7}, 400, "M_BAD_JSON"),
        ({"username": "bob"}, 400, "M_MISSING_PARAM"),
        ({"username": "bob", "password": ""}, 400, "M_WEAK_PASSWORD"),
        ({"username": "bob", "password": "x" * 600}, 400, "M_INVALID_PARAM"),
        ({"username": "bob", "password": "x", "inhibit_login": "yes"}, 400, "M_BAD_JSON"),
        ({"username": "bob", "password": "x", "auth": "dummy"}, 400, "M_BAD_JSON"),
        ({"username": "bob", "password": "x", "auth": {"type": "m.login.dummy", "session": 4}}, 400, "M_BAD_JSON"),
    ],
)
async def test_registrations_that_fail(body: dict[str, object], status: int, errcode: str) -> None:
    async with running_node() as node:
        await node.register("alice")
        answer = await node.stranger().post("/register", {"auth": DUMMY, **body})
        assert (answer.status, answer.errcode) == (status, errcode)
        assert len(await node.database.read(lambda tx: tx.all("SELECT user_id FROM users"))) == 1


async def test_kinds_of_registration() -> None:
    async with running_node() as node:
        guest = await node.stranger().ask("POST", "/register", {}, kind="guest")
        assert (guest.status, guest.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")
        assert (await node.stranger().ask("POST", "/register", {}, kind="bot")).errcode == "M_INVALID_PARAM"
        unnamed = await node.stranger().post("/register", {"password": "x", "auth": DUMMY})
        assert unnamed["user_id"].startswith("@user")
        body = {"username": "bob", "password": "x", "auth": DUMMY, "inhibit_login": True}
        assert "access_token" not in (await node.stranger().post("/register", body)).body
        assert (await node.stranger().get("/register/available", username="bob")).errcode == "M_USER_IN_USE"
        assert (await node.stranger().get("/register/available", username="carol")).body == {"available": True}
        assert (await node.stranger().get("/register/available")).errcode == "M_MISSING_PARAM"


async def test_registration_by_token_and_closed() -> None:
    config = ClientApiConfig(registration="token", registration_token="letmein", rate_limits=False)
    async with running_node(config=config) as node:
        stranger = node.stranger()
        body = {"username": "alice", "password": "x"}
        first = await stranger.post("/register", body)
        assert first.body["flows"] == [{"stages": ["m.login.registration_token"]}]
        assert (await stranger.post("/register", {**body, "auth": DUMMY})).status == 401
        auth = {"type": "m.login.registration_token", "session": first.body["session"]}
        wrong = await stranger.post("/register", {**body, "auth": {**auth, "token": "guess"}})
        assert (wrong.status, wrong.errcode, wrong.body["session"]) == (401, "M_FORBIDDEN", first.body["session"])
        assert (await stranger.post("/register", {**body, "auth": {**auth, "token": "letmein"}})).status == 200
        check = "/_matrix/client/v1/register/m.login.registration_token/validity"
        assert (await stranger.get(check, token="letmein")).body == {"valid": True}
        assert (await stranger.get(check, token="other")).body == {"valid": False}
    async with running_node(config=ClientApiConfig(registration="closed")) as node:
        answer = await node.stranger().post("/register", {"username": "alice", "password": "x", "auth": DUMMY})
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_logout_ends_one_device_and_logout_all_every_one() -> None:
    async with running_node() as node:
        first = await node.register("alice")
        second, third = await node.log_in("alice"), await node.log_in("alice")
        assert (await first.post("/logout")).body == {}
        assert (await first.get("/account/whoami")).errcode == "M_UNKNOWN_TOKEN"
        assert len((await second.get("/devices"))["devices"]) == 2
        assert (await second.post("/logout/all")).body == {}
        assert (await third.get("/account/whoami")).errcode == "M_UNKNOWN_TOKEN"


async def test_devices_are_named_and_deleted_with_the_password() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        other = await node.log_in("alice", device_id="A/B?")
        path = "/devices/A%2FB%3F"
        assert (await alice.put(path, {"display_name": "Laptop"})).body == {}
        assert (await alice.get(path))["display_name"] == "Laptop"
        assert (await alice.get("/devices/none")).errcode == "M_NOT_FOUND"
        assert (await alice.put("/devices/none", {"display_name": "x"})).errcode == "M_NOT_FOUND"
        asked = await alice.delete(path)
        assert (asked.status, asked.errcode) == (401, None)
        auth = {
            "type": "m.login.password",
            "session": asked.body["session"],
            "identifier": {"type": "m.id.user", "user": alice.user_id},
            "password": "wrong",
        }
        refused = await alice.delete(path, {"auth": auth})
        assert (refused.status, refused.errcode) == (401, "M_FORBIDDEN")
        assert (await other.get("/account/whoami")).status == 200
        # The session was opened for this path: it opens no other.
        elsewhere = await alice.delete(f"/devices/{alice.device_id}", {"auth": {**auth, "password": "secret"}})
        assert elsewhere.status == 401
        assert (await alice.delete(path, {"auth": {**auth, "password": "secret"}})).body == {}
        assert (await other.get("/account/whoami")).errcode == "M_UNKNOWN_TOKEN"
        many = {"devices": [alice.device_id], "auth": {"type": "m.login.password", "password": "secret"}}
        assert (await alice.post("/delete_devices", many)).body == {}
        assert (await alice.get("/account/whoami")).errcode == "M_UNKNOWN_TOKEN"


async def test_nobody_passes_with_the_password_of_another_user() -> None:
    async with running_node() as node:
        alice = await node.register("alice", "wonder")
        await node.register("bob", "builder")
        auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bob"}, "password": "builder"}
        answer = await alice.post("/account/password", {"new_password": "x", "auth": auth})
        assert (answer.status, answer.errcode) == (401, "M_FORBIDDEN")


async def password_changed(client: Client, **fields: object) -> int:
    auth = {"type": "m.login.password", "user": client.user_id, "password": "secret"}
    return (await client.post("/account/password", {"new_password": "new", "auth": auth, **fields})).status


async def login_status(node: Node, password: str) -> int:
    body = {"type": "m.login.password", "user": "alice", "password": password}
    return (await node.stranger().post("/login", body)).status


async def test_a_new_password_logs_the_other_devices_out() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        other = await node.log_in("alice")
        assert await password_changed(alice) == 200
        assert (await alice.get("/account/whoami")).status == 200
        assert (await other.get("/account/whoami")).errcode == "M_UNKNOWN_TOKEN"
        assert [await login_status(node, password) for password in ("secret", "new")] == [403, 200]


async def test_a_new_password_may_keep_the_other_devices() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        other = await node.log_in("alice")
        assert await password_changed(alice, logout_devices=False) == 200
        assert (await other.get("/account/whoami")).status == 200


async def test_accounts_survive_a_restart() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
    async with running_node(disk=node.disk) as again:
        assert again.server_name == node.server_name
        assert (await Client(again.http, alice.token).get("/account/whoami"))["user_id"] == alice.user_id


async def test_the_command_line_makes_accounts_with_the_same_functions() -> None:
    async with running_node() as node:
        user_id = f"@alice:{node.server_name}"
        await node.database.write(lambda tx: register_user(tx, user_id, hash_password("first")))
        alice = await node.log_in("alice", "first")
        with pytest.raises(UserInUse):
            await node.database.write(lambda tx: register_user(tx, user_id, None))
        with pytest.raises(InvalidUsername):
            await node.database.write(lambda tx: register_user(tx, f"@Al ice:{node.server_name}", None))
        with pytest.raises(NotFound):
            await node.database.write(lambda tx: set_password(tx, f"@bob:{node.server_name}", "x"))
        await node.database.write(lambda tx: set_password(tx, user_id, hash_password("second"), log_out=True))
        assert (await alice.get("/account/whoami")).errcode == "M_UNKNOWN_TOKEN"
        await node.log_in("alice", "second")


@pytest.mark.usefixtures("real_passwords")
def test_passwords_are_argon2id_with_19_mebibytes() -> None:
    hashed = hash_password("secret")
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert hashed != hash_password("secret")
    assert password_matches(hashed, "secret")
    assert not password_matches(hashed, "Secret")
    assert not password_matches("no hash", "secret")
    assert not password_matches(None, "the password of nobody")
