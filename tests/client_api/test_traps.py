"""What other servers got wrong and clients notice: each trap of `traps.tsv` has a test, those without another here."""

import asyncio
import csv
import re
from pathlib import Path
from typing import Any

import pytest

from p2pserver.client_api.app import ClientApiConfig
from tests.client_api.harness import Client, Node, running_node
from tests.client_api.neighbors import carry, two_nodes
from tests.client_api.talk import at, ids, invite_and_join, join, joined, new_room, say, set_state, slots, sync

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).parent / "traps.tsv"
STRIPPED = {"type", "state_key", "sender", "content"}
EVENT_OCTETS_MAX = 65_536


def traps() -> list[dict[str, str]]:
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def missing(rows: list[dict[str, str]]) -> list[str]:
    """Tests that the table names and that are not there."""
    found = []
    for row in rows:
        for test in row["tests"].split():
            path, _, name = test.partition("::")
            file = ROOT / "tests" / path
            if not file.exists() or not re.search(rf"^(async )?def {name}\(", file.read_text(), re.MULTILINE):
                found.append(test)
    return found


def test_each_trap_has_a_test_that_is_there() -> None:
    rows = traps()
    assert missing(rows) == []
    assert all(row["tests"] for row in rows)
    numbers = [row["number"] for row in rows]
    assert len(set(numbers)) == len(numbers)
    for part, count in (("basics", 11), ("clients", 31), ("traps", 48)):
        assert sum(number.startswith(f"{part}.") for number in numbers) == count, part


def test_a_test_that_is_gone_is_noticed() -> None:
    assert missing([{"tests": "client_api/test_traps.py::test_of_nothing nowhere/test_x.py::test_y"}]) == [
        "client_api/test_traps.py::test_of_nothing",
        "nowhere/test_x.py::test_y",
    ]


# What clients ask before they log in


async def test_versions_have_no_holes_and_flags_are_of_what_works() -> None:
    async with running_node() as node:
        answer = await node.stranger().get("/_matrix/client/versions")
        listed = [version for version in answer["versions"] if version.startswith("v1.")]
        assert listed == [f"v1.{minor}" for minor in range(1, len(listed) + 1)]
        assert len(listed) >= 11, "Nheko and Element Web ask for v1.1 to v1.10, media with a token is v1.11"
        flags = answer["unstable_features"]
        assert flags["org.matrix.simplified_msc3575"] is True, "Element X does not log in without"
        for absent in ("org.matrix.msc4108", "org.matrix.msc4306", "org.matrix.msc4354", "org.matrix.msc3881"):
            assert absent not in flags, "nothing is claimed that is not there"


async def test_well_known_files_are_json_or_404() -> None:
    async with running_node(config=ClientApiConfig(rate_limits=False)) as node:
        client = await node.stranger().get("/.well-known/matrix/client")
        assert client["m.homeserver"] == {"base_url": "http://node.test:8008"}
        assert "m.identity_server" not in client.body
        for name in ("server", "support", "policy_server"):
            answer = await node.stranger().get(f"/.well-known/matrix/{name}")
            assert answer.status == 404
            assert answer.errcode in ("M_NOT_FOUND", "M_UNRECOGNIZED")
            assert answer.headers["access-control-allow-origin"] == "*"


async def test_capabilities_say_what_can_be_changed() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        found = (await alice.get("/capabilities"))["capabilities"]
        for name in ("m.change_password", "m.set_displayname", "m.set_avatar_url", "m.profile_fields"):
            assert found[name] == {"enabled": True}
        assert found["m.3pid_changes"] == {"enabled": False}
        assert found["m.room_versions"]["default"] in found["m.room_versions"]["available"]


async def test_the_flows_of_a_login_begin_with_the_password() -> None:
    async with running_node() as node:
        flows = (await node.stranger().get("/login"))["flows"]
        assert {"type": "m.login.password"} in flows
        assert not [flow for flow in flows if flow["type"] in ("m.login.sso", "m.login.cas")]
        guest = await node.stranger().ask("POST", "/register", {}, kind="guest")
        assert (guest.status, guest.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")
        for name in ("UPPER", "upper"):
            body = {"username": name, "password": "x", "auth": {"type": "m.login.dummy"}}
            answer = await node.stranger().post("/register", body)
            assert answer.status == (200 if name == "UPPER" else 400)
            assert name == "upper" or answer["user_id"].startswith("@upper:")


async def test_a_room_that_nobody_may_know_of_is_forbidden_whether_it_is_there_or_not() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        hidden = await new_room(alice)
        absent = "!" + "A" * 43
        answers = [await bob.get(at(room, "state", "m.room.name")) for room in (hidden, absent)]
        assert {(answer.status, answer.errcode) for answer in answers} == {(403, "M_FORBIDDEN")}


# Sync


async def test_a_rejoined_room_comes_whole() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room = await new_room(alice, preset="public_chat", name="Harbor", topic="ships")
        await join(bob, room)
        token = (await sync(bob))["next_batch"]
        assert (await bob.post(at(room, "leave"))).status == 200
        token = (await sync(bob, token))["next_batch"]
        await join(bob, room)
        answer = joined(await sync(bob, token), room)
        known = slots(answer["state"]["events"]) | slots(answer["timeline"]["events"])
        wanted = {("m.room.create", ""), ("m.room.name", ""), ("m.room.topic", ""), ("m.room.power_levels", "")}
        assert wanted | {("m.room.member", alice.user_id), ("m.room.member", bob.user_id)} <= known.keys()


async def test_lazily_loaded_members_come_again_to_who_begins_anew() -> None:
    lazy = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room = await new_room(alice, preset="public_chat")
        await join(bob, room)

        def members(answer: dict[str, Any]) -> set[str]:
            events = joined(answer, room)["state"]["events"]
            return {key for kind, key in slots(events) if kind == "m.room.member"}

        await say(bob, room, "one")
        first = await sync(alice, filter=lazy)
        assert bob.user_id in members(first)
        await say(bob, room, "two")
        later = await sync(alice, first["next_batch"], filter=lazy)
        assert bob.user_id not in members(later), "sent before"
        assert bob.user_id in members(await sync(alice, filter=lazy)), "a client without a token knows nobody"
        again = await node.log_in("alice")
        assert bob.user_id in members(await sync(again, filter=lazy)), "nor does another device"


async def test_an_invite_from_elsewhere_is_stripped_and_has_what_clients_show() -> None:
    async with two_nodes() as (north, south, _, _):
        alice, bob = await north.register("alice"), await south.register("bob")
        room = await new_room(alice, name="Harbor", invite=[bob.user_id])
        await carry(north, south)
        invite = (await sync(bob))["rooms"]["invite"][room]["invite_state"]["events"]
        assert all(set(event) == STRIPPED for event in invite)
        assert {"m.room.create", "m.room.name"} <= {event["type"] for event in invite}
        member = slots(invite)[("m.room.member", bob.user_id)]
        assert member["sender"] == alice.user_id


async def test_an_answer_says_its_length_before_it_begins() -> None:
    """No part of it is sent while nothing is known yet, so that no proxy holds half of it back."""
    async with running_node() as node:
        alice = await node.register("alice")
        token = (await sync(alice))["next_batch"]
        waiting = asyncio.create_task(alice.get("/sync", since=token, timeout=30_000))
        await asyncio.sleep(0)
        await new_room(alice)
        answer = await waiting
        assert int(answer.headers["content-length"]) > 100
        assert "transfer-encoding" not in answer.headers


# Sending


async def refreshed(node: Node, client: Client, token: str) -> Client:
    answer = await node.stranger().post("/refresh", {"refresh_token": token})
    other = Client(node.http, answer["access_token"])
    other.user_id, other.device_id = client.user_id, client.device_id
    return other


async def test_a_transaction_outlives_a_refreshed_token_and_is_the_devices_own() -> None:
    async with running_node() as node:
        await node.register("alice")
        body = {"type": "m.login.password", "user": "alice", "password": "secret", "refresh_token": True}
        login = (await node.stranger().post("/login", body)).body
        alice = Client(node.http, login["access_token"])
        alice.user_id, alice.device_id = login["user_id"], login["device_id"]
        room = await new_room(alice)
        sent = await say(alice, room, "once", txn="t")
        after = await refreshed(node, alice, login["refresh_token"])
        assert after.token != alice.token
        assert await say(after, room, "once", txn="t") == sent
        assert await say(await node.log_in("alice"), room, "once", txn="t") != sent


async def test_the_transaction_id_is_shown_on_every_path_to_its_device_alone() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        tablet = await node.log_in("alice")
        room = await new_room(alice)
        event_id = await say(alice, room, "hello", txn="mine")
        context = at(room, "context", event_id)
        for client, expected in ((alice, "mine"), (tablet, None)):
            shown = [
                *(await client.get(at(room, "messages"), dir="b", limit=1))["chunk"],
                (await client.get(context))["event"],
                (await client.get(at(room, "event", event_id))).body,
                *joined(await sync(client), room)["timeline"]["events"][-1:],
            ]
            assert ids(shown) == [event_id] * 4
            assert [event["unsigned"].get("transaction_id") for event in shown] == [expected] * 4


async def test_the_size_of_an_event_is_that_of_its_signed_form() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room = await new_room(alice)

        async def send(octets: int, txn: str) -> int:
            path = at(room, "send", "m.room.message", txn)
            answer = await alice.put(path, {"msgtype": "m.text", "body": "é" * (octets // 2)})
            assert answer.status == 200 or (answer.status, answer.errcode) == (413, "M_TOO_LARGE")
            return answer.status

        low, high = 60_000, EVENT_OCTETS_MAX
        assert await send(low, "low") == 200
        assert await send(high, "high") == 413, "the octets of the body leave nothing for the rest"
        while high - low > 64:
            middle = (low + high) // 2
            low, high = (middle, high) if await send(middle, f"m{middle}") == 200 else (low, middle)
        newest = (await alice.get(at(room, "messages"), dir="b", limit=1))["chunk"][0]
        raw = await node.database.read(lambda tx: node.rooms.event(tx, newest["event_id"]).raw)
        assert raw["signatures"]
        assert EVENT_OCTETS_MAX - 1_500 < low < EVENT_OCTETS_MAX - 300, "signature, hash and references count"


# Relations


async def react(client: Client, room: str, event_id: str, key: str, txn: str) -> Any:
    relation = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
    return await client.put(at(room, "send", "m.reaction", txn), {"m.relates_to": relation})


async def test_nobody_reacts_twice_in_the_same_way_while_the_first_stands() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room = await new_room(alice)
        await invite_and_join(alice, room, bob)
        event_id, other = await say(alice, room, "hello"), await say(alice, room, "again")
        first = await react(alice, room, event_id, "👍", "1")
        twice = await react(alice, room, event_id, "👍", "2")
        assert (twice.status, twice.errcode) == (400, "M_DUPLICATE_ANNOTATION")
        assert (await react(alice, room, event_id, "👍", "1"))["event_id"] == first["event_id"], "a repeat is none"
        for client, target, key in ((alice, event_id, "❤"), (alice, other, "👍"), (bob, event_id, "👍")):
            assert (await react(client, room, target, key, "3" + key + target)).status == 200
        assert (await alice.put(at(room, "redact", first["event_id"], "r"))).status == 200
        assert (await react(alice, room, event_id, "👍", "4")).status == 200


async def test_the_same_state_again_is_the_same_event() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room = await new_room(alice)
        first = await set_state(alice, room, "m.room.topic", {"topic": "x"})
        assert await set_state(alice, room, "m.room.topic", {"topic": "x"}) == first
        assert await set_state(alice, room, "m.room.topic", {"topic": "y"}) != first


@pytest.mark.parametrize("path", ["/keys/upload", "/sync"])
async def test_counts_of_one_time_keys_are_there_when_there_are_none(path: str) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        if path == "/sync":
            assert (await sync(alice))["device_one_time_keys_count"] == {"signed_curve25519": 0}
        else:
            assert (await alice.post(path))["one_time_key_counts"] == {"signed_curve25519": 0}
