"""Dehydrated devices (MSC3814): they take messages while nobody is logged in, also from another node."""

import json
from typing import Any

from tests.client_api.harness import Answer, Client, running_node
from tests.client_api.neighbors import carry, two_nodes
from tests.client_api.talk import invite_and_join, join, new_room, sync
from tests.client_api.test_keys import device_keys, one_time_keys

PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


def upload_of(client: Client, device_id: str = "DRIED", *, key: str = "", **changes: Any) -> dict[str, Any]:
    stand_in = Client(client.http)
    stand_in.user_id, stand_in.device_id = client.user_id, device_id
    keys = device_keys(stand_in, dehydrated=True, **({"algorithms": [key]} if key else {}))
    return {
        "device_id": device_id,
        "device_data": {"algorithm": "org.matrix.msc3814.v2", "device_pickle": "x", "nonce": "y"},
        "initial_device_display_name": "Dehydrated device",
        "device_keys": keys,
        "one_time_keys": one_time_keys("A", "B", salt=key),
        "fallback_keys": one_time_keys("F", salt=key),
        **changes,
    }


async def events(client: Client, device_id: str = "DRIED", body: dict[str, Any] | None = None, **query: Any) -> Answer:
    return await client.ask("POST", f"{PATH}/{device_id}/events", body or {}, **query)


async def write_to(sender: Client, user_id: str, device_id: str, text: str) -> None:
    body = {"messages": {user_id: {device_id: {"text": text}}}}
    assert (await sender.put(f"/sendToDevice/m.test/{text}", body)).status == 200


def texts(answer: Answer) -> list[str]:
    return [message["content"]["text"] for message in answer["events"]]


async def test_what_is_written_while_nobody_is_logged_in_is_read_by_the_next_device() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        assert (await alice.get("/_matrix/client/versions"))["unstable_features"]["org.matrix.msc3814"]
        assert (await alice.get(PATH)).errcode == "M_NOT_FOUND"
        upload = upload_of(alice)
        assert (await alice.put(PATH, upload))["device_id"] == "DRIED"
        assert (await alice.get(PATH)).body == {"device_id": "DRIED", "device_data": upload["device_data"]}
        assert "DRIED" in [device["device_id"] for device in (await alice.get("/devices"))["devices"]]
        await alice.post("/logout/all")

        query = (await bob.post("/keys/query", {"device_keys": {alice.user_id: []}}))["device_keys"][alice.user_id]
        assert query == {
            "DRIED": {**upload["device_keys"], "unsigned": {"device_display_name": "Dehydrated device"}},
        }
        assert query["DRIED"]["dehydrated"] is True
        ask = {"one_time_keys": {alice.user_id: {"DRIED": "signed_curve25519"}}}
        claimed = [(await bob.post("/keys/claim", ask))["one_time_keys"][alice.user_id]["DRIED"] for _ in range(4)]
        expected = [*upload["one_time_keys"].items(), *2 * [*upload["fallback_keys"].items()]]
        assert claimed == [dict([each]) for each in expected]
        for text in ("one", "two", "three"):
            await write_to(bob, alice.user_id, "DRIED" if text == "two" else "*", text)

        again = await node.log_in("alice")
        for _ in range(2):
            first = await events(again, limit=2)
            second = await events(again, body={"next_batch": first["next_batch"]})
            last = await events(again, body={"next_batch": second["next_batch"]})
            assert [texts(each) for each in (first, second, last)] == [["one", "two"], ["three"], []]
            assert first["events"][0] == {"type": "m.test", "sender": bob.user_id, "content": {"text": "one"}}
        assert (await sync(again))["to_device"]["events"] == []


async def test_a_new_one_takes_the_place_of_the_old_one_at_once_and_a_repeat_changes_nothing() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        await invite_and_join(alice, await new_room(alice), bob)
        await alice.put(PATH, upload_of(alice, "FIRST"))
        await write_to(bob, alice.user_id, "FIRST", "for the first")
        since = (await sync(bob))["next_batch"]
        repeated = upload_of(alice, "FIRST", device_data={"algorithm": "other"})
        assert (await alice.put(PATH, repeated)).status == 200
        assert texts(await events(alice, "FIRST")) == ["for the first"]
        assert (await alice.get(PATH))["device_data"] == {"algorithm": "other"}
        assert not (await sync(bob, since))["device_lists"].get("changed")

        assert (await alice.put(PATH, upload_of(alice, "SECOND"))).status == 200
        assert (await sync(bob, since))["device_lists"]["changed"] == [alice.user_id]
        query = await bob.post("/keys/query", {"device_keys": {alice.user_id: []}})
        assert list(query["device_keys"][alice.user_id]) == ["SECOND"]
        assert (await events(alice, "FIRST")).errcode == "M_FORBIDDEN"
        assert texts(await events(alice, "SECOND")) == []
        await write_to(bob, alice.user_id, "SECOND", "for the second")
        assert (await alice.put(PATH, upload_of(alice, "SECOND", key="other keys"))).status == 200
        assert texts(await events(alice, "SECOND")) == []

        refused = upload_of(alice, "THIRD", one_time_keys=one_time_keys(*map(str, range(1001))))
        assert (await alice.put(PATH, refused)).errcode == "M_INVALID_PARAM"
        assert (await alice.get(PATH))["device_id"] == "SECOND"


async def test_it_ends_by_delete_by_device_deletion_by_another_password_and_with_the_account() -> None:
    password = {"type": "m.login.password", "password": "secret"}
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")

        async def devices() -> list[str]:
            answer = await bob.post("/keys/query", {"device_keys": {alice.user_id: []}})
            return list(answer["device_keys"].get(alice.user_id, {}))

        for method, path, body in (
            ("DELETE", PATH, None),
            ("DELETE", "/devices/DRIED", {"auth": password}),
            ("POST", "/account/password", {"auth": password, "new_password": "secret"}),
            ("POST", "/account/deactivate", {"auth": password}),
        ):
            await alice.put(PATH, upload_of(alice))
            assert await devices() == ["DRIED"]
            assert (await alice.ask(method, path, body)).status == 200
            assert await devices() == []
            if path == PATH:
                assert (await alice.ask(method, path)).errcode == "M_NOT_FOUND"
        tables = (
            "dehydrated_devices",
            "one_time_keys",
            "fallback_keys",
            "to_device",
            "devices WHERE user_id LIKE '@a%'",
        )
        for table in tables:
            count = await node.database.read(lambda tx, table=table: tx.one(f"SELECT COUNT(*) FROM {table}"))
            assert count == (0,), table


async def test_who_logs_in_by_its_id_makes_it_an_ordinary_device() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        await alice.put(PATH, upload_of(alice))
        other = await node.log_in("alice", device_id="DRIED")
        assert other.device_id == "DRIED"
        assert (await alice.get(PATH)).errcode == "M_NOT_FOUND"
        assert (await alice.put(PATH, upload_of(alice))).errcode == "M_INVALID_PARAM"


async def test_the_other_node_learns_of_it_and_its_messages_wait() -> None:
    async with two_nodes() as (here, there, *_):
        alice, bob = await here.register("alice"), await there.register("bob")
        room = await new_room(alice, invite=[bob.user_id])
        await carry(here, there)
        await join(bob, room)
        await carry(there, here)
        since = (await sync(bob))["next_batch"]
        await alice.put(PATH, upload_of(alice))
        await alice.post("/logout")
        await carry(here, there)
        assert (await sync(bob, since))["device_lists"]["changed"] == [alice.user_id]
        query = await bob.post("/keys/query", {"device_keys": {alice.user_id: []}})
        assert query["device_keys"][alice.user_id] == {"DRIED": json.loads(json.dumps(upload_of(alice)["device_keys"]))}
        await write_to(bob, alice.user_id, "*", "from far")
        await carry(there, here)
        assert texts(await events(await here.log_in("alice"))) == ["from far"]


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"device_id": ""}, 400, "M_INVALID_PARAM"),
    ({"device_id": "x" * 256}, 400, "M_INVALID_PARAM"),
    ({"device_id": None}, 400, "M_MISSING_PARAM"),
    ({"device_id": "ANOTHER"}, 400, "M_INVALID_PARAM"),
    ({"device_keys": None}, 400, "M_MISSING_PARAM"),
    ({"device_data": None}, 400, "M_MISSING_PARAM"),
    ({"device_data": {}}, 400, "M_MISSING_PARAM"),
    ({"device_data": {"algorithm": "x" * 70_000}}, 413, "M_TOO_LARGE"),
    ({"initial_device_display_name": "x" * 300}, 413, "M_TOO_LARGE"),
    ({"one_time_keys": {"A": {}}}, 400, "M_INVALID_PARAM"),
    ({"fallback_keys": []}, 400, "M_BAD_JSON"),
]


async def test_what_is_refused_changes_nothing() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        await alice.put(PATH, upload_of(alice, "HELD"))
        for changes, status, errcode in REFUSED:
            answer = await alice.put(PATH, upload_of(alice) | changes)
            assert (answer.status, answer.errcode) == (status, errcode), changes
        for next_batch in ("1", "d", "d-1", "dx", "d" + "9" * 30, 7):
            answer = await events(alice, "HELD", {"next_batch": next_batch})
            assert answer.errcode == ("M_BAD_JSON" if next_batch == 7 else "M_INVALID_PARAM")
        assert (await alice.get(PATH))["device_id"] == "HELD"
