"""`/createRoom`: presets, the order of the first events, overrides, and what is refused."""

from typing import Any

import pytest

from tests.client_api.harness import Client, running_node
from tests.client_api.talk import at, history, join, new_room, slots, sync


async def _state(client: Client, room_id: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {slot: event["content"] for slot, event in slots((await client.get(at(room_id, "state"))).body).items()}


@pytest.mark.parametrize(
    ("preset", "join_rule", "guest_access"),
    [
        ("private_chat", "invite", "can_join"),
        ("trusted_private_chat", "invite", "can_join"),
        ("public_chat", "public", "forbidden"),
    ],
)
@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_presets(version: str, preset: str, join_rule: str, guest_access: str) -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset=preset, room_version=version, invite=[bob.user_id])
        state = await _state(alice, room_id)
        assert state["m.room.join_rules", ""] == {"join_rule": join_rule}
        assert state["m.room.history_visibility", ""] == {"history_visibility": "shared"}
        assert state["m.room.guest_access", ""] == {"guest_access": guest_access}
        assert state["m.room.member", bob.user_id]["membership"] == "invite"
        create, levels = state["m.room.create", ""], state["m.room.power_levels", ""]
        assert create["room_version"] == version
        assert create.get("creator") == (alice.user_id if version == "10" else None)
        trusted = preset == "trusted_private_chat"
        if version == "12":
            assert levels["users"] == {}
            assert levels["events"]["m.room.tombstone"] == 150 > levels["state_default"]
            assert create.get("additional_creators") == ([bob.user_id] if trusted else None)
            assert ":" not in room_id
        else:
            expected = {alice.user_id: 100, bob.user_id: 100} if trusted else {alice.user_id: 100}
            assert levels["users"] == expected
            assert "additional_creators" not in create
            assert room_id.endswith(f":{node.server_name}")


async def test_the_first_events_come_in_the_order_of_the_specification() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(
            alice,
            preset="private_chat",
            room_alias_name="hut",
            name="Hut",
            topic="Mountains",
            invite=[bob.user_id],
            is_direct=True,
            initial_state=[
                {"type": "m.room.name", "content": {"name": "overridden"}},
                {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}},
                {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "public"}},
            ],
        )
        events = await history(alice, room_id, direction="f")
        assert [event["type"] for event in events] == [
            "m.room.create",
            "m.room.member",
            "m.room.power_levels",
            "m.room.canonical_alias",
            "m.room.history_visibility",
            "m.room.guest_access",
            "m.room.encryption",
            "m.room.join_rules",
            "m.room.name",
            "m.room.topic",
            "m.room.member",
        ]
        state = await _state(alice, room_id)
        assert state["m.room.name", ""] == {"name": "Hut"}
        assert state["m.room.topic", ""]["topic"] == "Mountains"
        assert state["m.room.join_rules", ""] == {"join_rule": "public"}
        assert state["m.room.canonical_alias", ""] == {"alias": f"#hut:{node.server_name}"}
        assert state["m.room.member", bob.user_id]["is_direct"] is True


async def test_overrides_and_creation_content() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(
            alice,
            room_version="11",
            creation_content={"type": "m.space", "creator": "@liar:x", "room_version": "1", "m.federate": False},
            power_level_content_override={"invite": 77, "users": {alice.user_id: 100, "@z:z": 5}},
        )
        state = await _state(alice, room_id)
        assert state["m.room.create", ""] == {"type": "m.space", "room_version": "11", "m.federate": False}
        assert state["m.room.power_levels", ""]["invite"] == 77
        assert state["m.room.power_levels", ""]["users"] == {alice.user_id: 100, "@z:z": 5}


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"room_version": "99"}, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"room_version": 11}, "M_BAD_JSON"),
        ({"preset": "secret_chat"}, "M_INVALID_PARAM"),
        ({"visibility": "maybe"}, "M_INVALID_PARAM"),
        ({"invite": "@bob:x"}, "M_BAD_JSON"),
        ({"invite": ["bob"]}, "M_INVALID_PARAM"),
        ({"invite": [5]}, "M_INVALID_PARAM"),
        ({"initial_state": [{"type": "m.room.name"}]}, "M_BAD_JSON"),
        ({"initial_state": ["m.room.name"]}, "M_BAD_JSON"),
        ({"initial_state": [{"type": "t", "content": {"a": 1.5}}]}, "M_BAD_JSON"),
        ({"creation_content": []}, "M_BAD_JSON"),
        ({"creation_content": {"additional_creators": "me"}}, "M_INVALID_PARAM"),
        ({"name": 5}, "M_BAD_JSON"),
        ({"room_alias_name": "a:b"}, "M_INVALID_PARAM"),
        ({"room_alias_name": ""}, "M_INVALID_PARAM"),
        ({"invite_3pid": [{"medium": "email"}]}, "M_INVALID_PARAM"),
        ({"power_level_content_override": {"users": {"@bob:x": "much"}}}, "M_INVALID_ROOM_STATE"),
        ({"power_level_content_override": {"users_default": -1, "state_default": "x"}}, "M_INVALID_ROOM_STATE"),
        ({"room_version": "11", "power_level_content_override": {"users": {}}, "name": "x"}, "M_INVALID_ROOM_STATE"),
    ],
)
async def test_what_cannot_be_made_is_refused_and_leaves_nothing(body: dict[str, Any], errcode: str) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        answer = await alice.post("/createRoom", body)
        assert (answer.status, answer.errcode) == (400, errcode), answer.body
        assert (await alice.get("/joined_rooms"))["joined_rooms"] == []
        assert await node.database.read(lambda tx: tx.one("SELECT COUNT(*) FROM events")) == (0,)


async def test_creators_of_version_12_are_not_listed() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        body = {"power_level_content_override": {"users": {alice.user_id: 100}}}
        answer = await alice.post("/createRoom", body)
        assert (answer.status, answer.errcode) == (400, "M_INVALID_ROOM_STATE")


async def test_a_taken_alias_is_refused() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        await new_room(alice, room_alias_name="hut")
        answer = await alice.post("/createRoom", {"room_alias_name": "hut"})
        assert (answer.status, answer.errcode) == (400, "M_ROOM_IN_USE")
        assert len((await alice.get("/joined_rooms"))["joined_rooms"]) == 1


async def test_the_profile_is_in_the_member_events() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        await alice.put(f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
        await bob.put(f"/profile/{bob.user_id}/displayname", {"displayname": "Bob"})
        room_id = await new_room(alice, preset="public_chat", invite=[bob.user_id])
        state = await _state(alice, room_id)
        assert state["m.room.member", alice.user_id] == {"membership": "join", "displayname": "Alice"}
        assert state["m.room.member", bob.user_id] == {"membership": "invite", "displayname": "Bob"}
        await join(bob, room_id)
        state = await _state(alice, room_id)
        assert state["m.room.member", bob.user_id] == {"membership": "join", "displayname": "Bob"}


async def test_a_public_room_is_listed() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        listed = await new_room(alice, visibility="public", name="Open")
        await new_room(alice)
        rooms = (await alice.get("/publicRooms"))["chunk"]
        assert [room["room_id"] for room in rooms] == [listed]
        assert rooms[0]["join_rule"] == "public"
        assert list((await sync(alice))["rooms"]["join"]).count(listed) == 1
