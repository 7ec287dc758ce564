"""`/upgrade`: what the new room has, what becomes of the old one, in every version; and creation in every version."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from p2pserver.events.versions import ROOM_VERSIONS
from tests.client_api.harness import Client, running_node
from tests.client_api.talk import at, invite_and_join, join, joined, new_room, say, set_state, slots, sync, texts

VERSIONS = list(ROOM_VERSIONS)
ENCRYPTION = {"algorithm": "m.megolm.v1.aes-sha2"}
ACL = {"allow": ["*"], "deny": ["bad.example"], "allow_ip_literals": True}


async def state_of(client: Client, room_id: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {slot: event["content"] for slot, event in slots((await client.get(at(room_id, "state"))).body).items()}


async def upgrade(client: Client, room_id: str, version: str, **more: Any) -> str:
    answer = await client.post(at(room_id, "upgrade"), {"new_version": version, **more})
    assert answer.status == 200, answer.body
    new_id: str = answer["replacement_room"]
    return new_id


async def test_capabilities_list_every_version() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        versions = (await alice.get("/capabilities"))["capabilities"]["m.room_versions"]
        assert versions == {"default": "12", "available": dict.fromkeys(VERSIONS, "stable")}


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_room_of_every_version_is_made_joined_talked_in_and_redacted(version: str) -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(
            alice,
            room_version=version,
            preset="public_chat",
            creation_content={
                "predecessor": {"room_id": "!old:example.org", "event_id": "$x:example.org"},
                "m.federate": False,
            },
            power_level_content_override={"events": {"m.room.topic": 0}, "invite": 7},
        )
        await join(bob, room_id)
        by_alice, by_bob = await say(alice, room_id, "one"), await say(bob, room_id, "two")
        await set_state(bob, room_id, "m.room.topic", {"topic": "by bob"})
        state = await state_of(alice, room_id)
        create, levels = state["m.room.create", ""], state["m.room.power_levels", ""]
        assert create["room_version"] == version
        assert create["predecessor"] == {"room_id": "!old:example.org", "event_id": "$x:example.org"}
        assert create["m.federate"] is False
        assert create.get("creator") == (alice.user_id if int(version) < 11 else None)
        assert levels["users"] == ({} if version == "12" else {alice.user_id: 100})
        assert (levels["invite"], levels["events"]) == (7, {"m.room.topic": 0})
        assert state["m.room.topic", ""]["topic"] == "by bob"
        # IDs of version 3 have slashes, those of 1 and 2 colons.
        for client, event_id in ((bob, by_alice), (alice, by_bob)):
            event = await client.get(at(room_id, "event", event_id))
            assert event["event_id"] == event_id
            context = await client.get(at(room_id, "context", event_id))
            assert context["event"]["event_id"] == event_id
            assert (await client.post(at(room_id, "receipt", "m.read", event_id))).status == 200
        redaction = await alice.put(at(room_id, "redact", by_bob, "t1"), {})
        assert redaction.status == 200
        shown = (await bob.get(at(room_id, "event", by_bob))).body
        assert shown["content"] == {}
        assert shown["unsigned"]["redacted_because"]["event_id"] == redaction["event_id"]
        assert texts(joined(await sync(bob), room_id)["timeline"]["events"]) == ["one"]


async def furnished(alice: Client, bob: Client, carol: Client, version: str, alias: str) -> str:
    """A room with everything that an upgrade takes over, bob as a moderator, carol banned although she was an admin."""
    users: dict[str, int] = {bob.user_id: 50, carol.user_id: 100}
    if version != "12":
        users[alice.user_id] = 100
    room_id = await new_room(
        alice,
        room_version=version,
        preset="private_chat",
        visibility="public",
        room_alias_name=alias,
        name="Hut",
        topic="Mountains",
        creation_content={"type": "m.space"},
        power_level_content_override={"users": users, "invite": 0, "ban": 60, "notifications": {"room": 20}},
        initial_state=[
            {"type": "m.room.encryption", "content": ENCRYPTION},
            {"type": "m.room.server_acl", "content": ACL},
            {"type": "m.room.avatar", "content": {"url": "mxc://x/y"}},
            {"type": "m.space.child", "state_key": "!a:b.example", "content": {"via": ["b.example"]}},
            {"type": "m.space.child", "state_key": "!gone:b.example", "content": {}},
            {"type": "org.example.other", "content": {"n": 1}},
        ],
    )
    await invite_and_join(alice, room_id, bob)
    assert (await alice.post(at(room_id, "ban"), {"user_id": carol.user_id, "reason": "noise"})).status in (200, 403)
    return room_id


@pytest.mark.parametrize(
    ("old", "new"), [*((version, "12") for version in VERSIONS), *(("12", version) for version in VERSIONS[:-1])]
)
async def test_an_upgrade(old: str, new: str) -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        old_id = await furnished(alice, bob, carol, old, "hut")
        before = await state_of(alice, old_id)
        new_id = await upgrade(alice, old_id, new)
        state, buried = await state_of(alice, new_id), await state_of(alice, old_id)

        create = state["m.room.create", ""]
        assert create["room_version"] == new
        assert create["type"] == "m.space"
        assert create["predecessor"]["room_id"] == old_id
        tombstone = slots((await alice.get(at(old_id, "state"))).body)["m.room.tombstone", ""]
        if new == "12":
            named = await alice.get(at(old_id, "event", create["predecessor"]["event_id"]))
            assert named.status == 200
        else:
            assert create["predecessor"]["event_id"] == tombstone["event_id"]
        assert tombstone["content"]["replacement_room"] == new_id
        assert tombstone["content"]["body"]

        for slot in before:
            if slot[0].startswith("m.room.") and slot[0] not in (
                "m.room.create", "m.room.member", "m.room.power_levels", "m.room.canonical_alias"
            ):  # fmt: skip
                assert state[slot] == before[slot], slot
        assert state["m.space.child", "!a:b.example"] == {"via": ["b.example"]}
        assert ("m.space.child", "!gone:b.example") not in state
        assert ("org.example.other", "") not in state
        assert {slot[1] for slot in state if slot[0] == "m.room.member"} <= {alice.user_id, carol.user_id}

        levels, old_levels = state["m.room.power_levels", ""], before["m.room.power_levels", ""]
        # A creator of version 12 has no level in the list; out of it he comes with what a tombstone there takes.
        assert levels["users"].get(alice.user_id) == (None if new == "12" else 150 if old == "12" else 100)
        assert levels["users"][bob.user_id] == 50
        assert {key: value for key, value in levels.items() if key != "users"} == {
            key: value for key, value in old_levels.items() if key != "users"
        }

        muted = buried["m.room.power_levels", ""]
        assert (muted["events_default"], muted["invite"]) == (50, 50)
        assert muted["users"] == old_levels["users"]
        alias = f"#hut:{node.server_name}"
        assert (await alice.get("/directory/room/" + quote(alias, safe="")))["room_id"] == new_id
        assert state["m.room.canonical_alias", ""]["alias"] == alias
        assert buried["m.room.canonical_alias", ""] == {}
        assert [room["room_id"] for room in (await bob.get("/publicRooms"))["chunk"]] == [new_id]


async def test_a_banned_admin_stays_banned_and_the_upgrader_has_his_old_level() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        old_id = await new_room(alice, room_version="11", preset="public_chat")
        levels = (await state_of(alice, old_id))["m.room.power_levels", ""]
        await join(bob, old_id)
        await join(carol, old_id)
        assert (await alice.post(at(old_id, "ban"), {"user_id": carol.user_id, "reason": "noise"})).status == 200
        levels["users"] = {alice.user_id: 100, bob.user_id: 50, carol.user_id: 90}
        levels["events"]["m.room.tombstone"] = 40
        await set_state(alice, old_id, "m.room.power_levels", levels)
        new_id = await upgrade(bob, old_id, "10")
        state = await state_of(bob, new_id)
        assert state["m.room.member", carol.user_id] == {"membership": "ban", "reason": "noise"}
        assert state["m.room.power_levels", ""] == levels
        assert state["m.room.create", ""]["creator"] == bob.user_id


async def test_levels_that_are_text_become_integers() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        old_id = await new_room(alice, room_version="9")
        levels = {"users": {alice.user_id: " +100 ", bob.user_id: "50"}, "ban": "60", "events": {"m.room.name": "40"}}
        await set_state(alice, old_id, "m.room.power_levels", levels)
        new_id = await upgrade(alice, old_id, "10")
        assert (await state_of(alice, new_id))["m.room.power_levels", ""] == {
            "users": {alice.user_id: 100, bob.user_id: 50},
            "ban": 60,
            "events": {"m.room.name": 40},
        }


async def test_what_the_new_version_cannot_express() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        loose = await new_room(alice, room_version="5", name="Loose")
        await set_state(alice, loose, "m.room.topic", {"topic": "numbers", "n": 1.5})
        state = await state_of(alice, await upgrade(alice, loose, "6"))
        assert ("m.room.topic", "") not in state
        assert state["m.room.name", ""] == {"name": "Loose"}
        for rule, version, expected in (
            ("knock_restricted", "9", "restricted"),
            ("knock_restricted", "7", "invite"),
            ("restricted", "7", "invite"),
            ("knock", "6", "invite"),
            ("knock", "7", "knock"),
            ("public", "1", "public"),
        ):
            old_id = await new_room(alice, room_version="11")
            allow = [{"type": "m.room_membership", "room_id": loose}]
            await set_state(alice, old_id, "m.room.join_rules", {"join_rule": rule, "allow": allow})
            state = await state_of(alice, await upgrade(alice, old_id, version))
            assert state["m.room.join_rules", ""]["join_rule"] == expected


async def test_creators_of_the_new_room() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        old_id = await new_room(alice, room_version="12", creation_content={"additional_creators": [carol.user_id]})
        levels = (await state_of(alice, old_id))["m.room.power_levels", ""]
        await set_state(alice, old_id, "m.room.power_levels", {**levels, "users": {bob.user_id: 50}})
        twelfth = await upgrade(alice, old_id, "12", additional_creators=[bob.user_id, alice.user_id])
        state = await state_of(alice, twelfth)
        assert state["m.room.create", ""]["additional_creators"] == [bob.user_id]
        # Who was a creator and is none any more keeps as much as anything can need.
        assert state["m.room.power_levels", ""]["users"] == {carol.user_id: 150}
        eleventh = await upgrade(alice, twelfth, "11", additional_creators=[carol.user_id])
        state = await state_of(alice, eleventh)
        assert "additional_creators" not in state["m.room.create", ""]
        assert state["m.room.power_levels", ""]["users"] == dict.fromkeys(
            (alice.user_id, bob.user_id, carol.user_id), 150
        )


async def test_what_users_keep_about_a_room() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        old_id = await new_room(alice, preset="public_chat")
        await join(bob, old_id)
        own = f"/user/{quote(bob.user_id)}"
        await bob.put(f"{own}/rooms/{quote(old_id)}/tags/m.favourite", {"order": 0.5})
        await bob.put(f"{own}/account_data/m.direct", {alice.user_id: [old_id], "@other:b.example": ["!x:b.example"]})
        await bob.put(f"/pushrules/global/room/{quote(old_id)}", {"actions": []})
        new_id = await upgrade(alice, old_id, "11")
        assert (await bob.get(f"{own}/rooms/{quote(new_id)}/tags"))["tags"] == {"m.favourite": {"order": 0.5}}
        direct = (await bob.get(f"{own}/account_data/m.direct")).body
        assert direct == {alice.user_id: [old_id, new_id], "@other:b.example": ["!x:b.example"]}
        assert (await bob.get(f"/pushrules/global/room/{quote(new_id, safe='')}"))["actions"] == []
        assert (await alice.get(f"/user/{quote(alice.user_id)}/rooms/{quote(new_id)}/tags"))["tags"] == {}


async def test_who_may_not_upgrade_and_what_is_refused() -> None:
    async with running_node() as node:
        alice, bob, eve = [await node.register(name) for name in ("alice", "bob", "eve")]
        room_id = await new_room(alice, preset="public_chat", room_alias_name="hut")
        await join(bob, room_id)
        before = await state_of(alice, room_id)
        for client, body, errcode in (
            (bob, {"new_version": "11"}, "M_FORBIDDEN"),
            (eve, {"new_version": "11"}, "M_FORBIDDEN"),
            (alice, {"new_version": "13"}, "M_UNSUPPORTED_ROOM_VERSION"),
            (alice, {}, "M_MISSING_PARAM"),
            (alice, {"new_version": 11}, None),
            (alice, {"new_version": "12", "additional_creators": ["bob"]}, "M_INVALID_PARAM"),
            (alice, {"new_version": "12", "additional_creators": bob.user_id}, None),
        ):
            answer = await client.post(at(room_id, "upgrade"), body)
            assert answer.status in (400, 403)
            assert errcode is None or answer.errcode == errcode, body
        assert (await eve.post(at("!nowhere:b.example", "upgrade"), {"new_version": "11"})).status == 403
        assert await state_of(alice, room_id) == before
        rooms = (await bob.get("/joined_rooms"))["joined_rooms"]
        assert rooms == [room_id]
