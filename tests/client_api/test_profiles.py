"""Profiles, the user directory, typing, receipts: here and on the node next door."""

import asyncio
from typing import Any

import pytest

from p2pserver.client_api import profiles, user_directory
from p2pserver.store import profiles as stored_profiles
from tests.client_api.harness import Client, Node, running_node
from tests.client_api.neighbors import carry, two_nodes
from tests.client_api.talk import at, invite_and_join, join, new_room, say, set_state, sync


@pytest.fixture(autouse=True)
def _quick_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "SPREAD_PAUSE_S", 0.0)


async def spread(node: Node) -> None:
    """Waits until no member event is behind."""
    for _ in range(500):
        if not await node.database.read(lambda tx: tx.all("SELECT 1 FROM profile_spreads")):
            return
        await asyncio.sleep(0.005)
    raise AssertionError("profiles were not spread")


async def member(client: Client, room: str, user_id: str) -> Any:
    return (await client.get(at(room, "state", "m.room.member", user_id))).body


async def test_a_profile_is_set_read_and_removed() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        path = f"/profile/{alice.user_id}"
        assert (await bob.get(path)).body == {"displayname": "alice"}
        assert (await alice.put(f"{path}/displayname", {"displayname": "Alice 😀"})).body == {}
        assert (await alice.put(f"{path}/avatar_url", {"avatar_url": "mxc://x/y"})).body == {}
        assert (await node.stranger().get(path)).body == {"displayname": "Alice 😀", "avatar_url": "mxc://x/y"}
        assert (await bob.get(f"{path}/displayname")).body == {"displayname": "Alice 😀"}
        assert (await bob.get(f"{path}/org.example.tz")).errcode == "M_NOT_FOUND"
        assert (await alice.put(f"{path}/displayname", {"displayname": None})).body == {}
        assert (await alice.delete(f"{path}/avatar_url")).body == {}
        assert (await bob.get(path)).body == {}
        assert (await bob.get(f"{path}/displayname")).body == {}


REFUSED: list[tuple[str, Any, int, str]] = [
    ("displayname", {"displayname": 7}, 400, "M_BAD_JSON"),
    ("displayname", {"displayname": "x" * 257}, 413, "M_TOO_LARGE"),
    ("avatar_url", {"avatar_url": "x" * 1001}, 413, "M_TOO_LARGE"),
    ("avatar_url", {"avatar_url": []}, 400, "M_BAD_JSON"),
    ("avatar_url", {"avatar_url": "https://example.org/me.png"}, 400, "M_INVALID_PARAM"),
    ("m.tz", {"m.tz": 7}, 400, "M_BAD_JSON"),
    ("m.tz", {}, 400, "M_MISSING_PARAM"),
    ("org.example.tz", {"org.example.other": 1}, 400, "M_MISSING_PARAM"),
    ("nonsense", {"nonsense": 1}, 400, "M_INVALID_PARAM"),
    ("Org.Example", {"Org.Example": 1}, 400, "M_INVALID_PARAM"),
    ("org." + "x" * 252, {"org." + "x" * 252: 1}, 400, "M_KEY_TOO_LARGE"),
    ("org.example.big", {"org.example.big": "x" * 65_536}, 400, "M_PROFILE_TOO_LARGE"),
]


async def test_profile_fields_that_are_refused() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        for field, body, status, errcode in REFUSED:
            answer = await alice.put(f"/profile/{alice.user_id}/{field}", body)
            assert (answer.status, answer.errcode) == (status, errcode), field
        half = "x" * 40_000
        assert (await alice.put(f"/profile/{alice.user_id}/org.example.a", {"org.example.a": half})).status == 200
        answer = await alice.put(f"/profile/{alice.user_id}/org.example.b", {"org.example.b": half})
        assert answer.errcode == "M_PROFILE_TOO_LARGE", "all fields together"
        assert (await alice.put(f"/profile/{alice.user_id}/org.example.a", {"org.example.a": half})).status == 200


async def test_a_profile_has_any_fields_also_on_another_node_and_while_that_is_away() -> None:
    async with two_nodes() as (here, there, wire, _):
        alice, bob = await here.register("alice"), await there.register("bob")
        path = f"/profile/{bob.user_id}"
        fields: dict[str, Any] = {"m.tz": "Europe/Paris", "org.example.pronouns": ["they", {"n": 1.5}], "org.a": None}
        for name, value in fields.items():
            assert (await bob.put(f"{path}/{name}", {name: value})).body == {}
        whole = {"displayname": "bob", **fields}
        assert (await bob.get(path)).body == whole
        assert (await alice.get(path)).body == whole
        assert (await alice.get(f"{path}/m.tz")).body == {"m.tz": "Europe/Paris"}
        old = f"/_matrix/client/unstable/uk.tcpip.msc4133/profile/{bob.user_id}"
        assert (await bob.delete(f"{old}/org.a")).body == {}
        assert (await bob.put(f"{old}/m.tz", {"m.tz": "UTC"})).body == {}
        assert (await alice.put(f"{path}/m.tz", {"m.tz": "UTC"})).errcode == "M_FORBIDDEN"
        assert (await alice.delete(f"{path}/m.tz")).errcode == "M_FORBIDDEN"
        del whole["org.a"]
        whole["m.tz"] = "UTC"
        assert (await alice.get(old)).body == whole
        wire.plugged = False
        assert (await alice.get(path)).body == whole
        assert (await alice.get(f"{path}/org.a")).errcode == "M_NOT_FOUND"
        assert (await alice.get(f"/profile/@nobody:{there.server_name}")).errcode == "M_NOT_FOUND"
        wire.plugged = True
        wire.answers["profile"] = {"displayname": 7, "Bad Name": 1, "org." + "x" * 300: 1, "org.good": {}}
        assert (await alice.get(path)).body == {"org.good": {}}
        wire.answers["profile"] = {"displayname": "Bob", "org.big": "x" * 70_000}
        assert (await alice.get(path)).body == {"displayname": "Bob"}


async def test_answers_about_profiles_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_profiles, "CACHED_MAX", 3)
    async with running_node() as node:
        for number in range(5):
            await node.database.write(lambda tx, number=number: stored_profiles.cache_profile(tx, f"@{number}:x", {}))
        known = await node.database.read(
            lambda tx: [number for number in range(5) if stored_profiles.cached_profile(tx, f"@{number}:x") is not None]
        )
        assert known == [2, 3, 4]


async def test_profiles_of_others_and_of_nobody() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        assert (await bob.put(f"/profile/{alice.user_id}/displayname", {"displayname": "x"})).errcode == "M_FORBIDDEN"
        assert (await bob.delete(f"/profile/{alice.user_id}/displayname")).errcode == "M_FORBIDDEN"
        assert (await bob.get(f"/profile/@none:{node.server_name}")).errcode == "M_NOT_FOUND"
        assert (await bob.get("/profile/@none:elsewhere.example")).errcode == "M_NOT_FOUND"
        assert (await bob.get("/profile/none")).errcode == "M_INVALID_PARAM"


async def test_a_change_goes_into_every_joined_room_and_only_there() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        rooms = [await new_room(alice) for _ in range(5)]
        for room in rooms[:3]:
            await invite_and_join(alice, room, bob)
        await bob.post(at(rooms[2], "leave"))
        await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Robert"})
        await spread(node)
        for room in rooms[:2]:
            assert await member(alice, room, bob.user_id) == {"membership": "join", "displayname": "Robert"}
        assert (await member(alice, rooms[2], bob.user_id))["membership"] == "leave"
        await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": ""})
        await spread(node)
        assert await member(alice, rooms[0], bob.user_id) == {"membership": "join"}


async def test_a_change_keeps_what_else_the_member_event_says_but_the_voucher() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room = await new_room(alice)
        content = {"membership": "join", "org.example.mark": 1}
        await set_state(alice, room, "m.room.member", content, alice.user_id)
        await alice.put(f"/profile/{alice.user_id}/avatar_url", {"avatar_url": "mxc://a/b"})
        await spread(node)
        assert await member(alice, room, alice.user_id) == {
            **content,
            "displayname": "alice",
            "avatar_url": "mxc://a/b",
        }


async def test_what_was_not_spread_before_a_restart_is_spread_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        rooms = [await new_room(alice) for _ in range(3)]
        monkeypatch.setattr(node.api, "spawn", lambda work, name: work.close())
        await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    async with running_node(disk=node.disk) as again:
        client = Client(again.http, alice.token)
        assert (await member(client, rooms[0], alice.user_id))["displayname"] == "alice"
        again.api.start()
        await spread(again)
        for room in rooms:
            assert (await member(client, room, alice.user_id))["displayname"] == "Alice"


async def test_the_profile_of_somebody_on_another_node() -> None:
    async with two_nodes() as (here, there, wire, _):
        alice, bob = await here.register("alice"), await there.register("bob")
        await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Bob"})
        path = f"/profile/{bob.user_id}"
        assert (await alice.get(path)).body == {"displayname": "Bob"}
        wire.answers["profile"] = {"displayname": 7, "avatar_url": "mxc://a/b", "other": "x"}
        assert (await alice.get(path)).body == {"avatar_url": "mxc://a/b"}
        wire.answers.clear()
        wire.plugged = False
        assert (await alice.get(path)).body == {"avatar_url": "mxc://a/b"}, "what was last told"
        wire.plugged = True
        room = await new_room(alice, preset="public_chat")
        assert (await bob.ask("POST", f"/join/{room}", {}, via=here.server_name)).status == 200
        await carry(there, here)
        wire.plugged = False
        assert (await alice.get(path)).body == {"displayname": "Bob"}


async def found(client: Client, term: str, **fields: Any) -> Any:
    answer = await client.post("/user_directory/search", {"search_term": term, **fields})
    return [(user["user_id"], user.get("display_name")) for user in answer["results"]], answer["limited"]


async def test_people_are_found_here_and_next_door() -> None:
    async with two_nodes() as (here, there, wire, _):
        alice, bob = await here.register("alice"), await there.register("bob")
        bobby = await here.register("bobby")
        await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Robert Überall"})
        assert await found(alice, "bob") == ([(bobby.user_id, "bobby"), (bob.user_id, "Robert Überall")], False)
        assert await found(alice, "übERALL") == ([(bob.user_id, "Robert Überall")], False)
        assert await found(alice, "alice") == ([], False)
        assert await found(alice, "bob", limit=1) == ([(bobby.user_id, "bobby")], True)
        wire.private = True
        assert await found(alice, "robert") == ([], False)
        wire.private, wire.plugged = False, False
        assert await found(alice, "robert") == ([], False)


async def test_room_mates_are_found_while_their_node_is_away() -> None:
    async with two_nodes() as (here, there, wire, _):
        alice, bob = await here.register("alice"), await there.register("bob")
        await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Bob"})
        room = await new_room(alice, preset="public_chat")
        assert (await bob.ask("POST", f"/join/{room}", {}, via=here.server_name)).status == 200
        await carry(there, here)
        wire.plugged = False
        assert await found(alice, "bob") == ([(bob.user_id, "Bob")], False)
        stranger = await here.register("carol")
        assert await found(stranger, "bob") == ([], False)


async def test_a_node_names_its_own_users_only() -> None:
    async with two_nodes() as (here, there, wire, _):
        alice = await here.register("alice")
        user = f"@x:{there.server_name}"
        wire.answers["users"] = {
            "results": [
                {"user_id": "@x:elsewhere.example"},
                {"user_id": alice.user_id},
                {"user_id": 7},
                "text",
                {"user_id": user, "display_name": 7, "avatar_url": []},
            ]
        }
        assert await found(alice, "x") == ([(user, None)], False)
        wire.answers["users"] = {"results": "text"}
        assert await found(alice, "x") == ([], False)


@pytest.mark.parametrize("body", [{}, {"search_term": 7}, {"search_term": "x", "limit": "y"}])
async def test_searches_that_are_refused(body: Any) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        assert (await alice.post("/user_directory/search", body)).status == 400


async def test_typing_receipts_and_markers_need_membership() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room = await new_room(alice)
        event_id = await say(alice, room, "hello")
        typing, receipt = at(room, "typing", alice.user_id), at(room, "receipt", "m.read", event_id)
        assert (await alice.put(typing, {"typing": True, "timeout": 1000})).body == {}
        assert (await alice.put(typing, {})).errcode == "M_BAD_JSON"
        assert (await alice.put(at(room, "typing", bob.user_id), {"typing": True})).errcode == "M_FORBIDDEN"
        assert (await bob.put(at(room, "typing", bob.user_id), {"typing": True})).errcode == "M_FORBIDDEN"
        assert (await alice.post(receipt)).body == {}
        assert (await bob.post(receipt)).errcode == "M_FORBIDDEN"
        assert (await alice.post(at(room, "receipt", "m.unread", event_id))).errcode == "M_INVALID_PARAM"
        assert (await alice.post(at(room, "receipt", "m.read", "event"))).errcode == "M_INVALID_PARAM"
        since = (await sync(alice))["next_batch"]
        assert (await alice.post(at(room, "read_markers"), {"m.fully_read": event_id, "m.read": event_id})).body == {}
        answer = await sync(alice, since)
        assert answer["rooms"]["join"][room]["account_data"]["events"] == [
            {"type": "m.fully_read", "content": {"event_id": event_id}}
        ]
        assert (await alice.post(at(room, "read_markers"), {"m.read": 7})).errcode == "M_BAD_JSON"


async def test_the_rooms_that_two_people_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_directory, "MUTUAL_ROOMS_MAX", 2)
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        rooms = [await new_room(alice, preset="public_chat") for _ in range(4)]
        for room_id in rooms[:3]:
            await join(bob, room_id)
        await alice.post(at(rooms[3], "invite"), {"user_id": bob.user_id})
        for path in (
            "/_matrix/client/v1/mutual_rooms",
            "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms",
        ):
            first = await alice.get(path, user_id=bob.user_id)
            second = await alice.get(path, user_id=bob.user_id, **{"from": first["next_batch"]})
            assert first["count"] == second["count"] == 3
            assert sorted(first["joined"] + second["joined"]) == sorted(rooms[:3]), "an invite is no membership"
            assert "next_batch" not in second.body
        assert (await alice.get(path, user_id=carol.user_id)).body == {"joined": [], "count": 0}
        assert (await alice.get(path, user_id="@who:nowhere.example")).body == {"joined": [], "count": 0}
        for query in ({"user_id": alice.user_id}, {"user_id": "bob"}, {"user_id": bob.user_id, "from": "x"}):
            assert (await alice.get(path, **query)).errcode == "M_INVALID_PARAM"
        assert (await alice.get(path)).errcode == "M_MISSING_PARAM"
