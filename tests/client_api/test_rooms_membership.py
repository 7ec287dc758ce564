"""Joining, inviting, leaving, forgetting, kicking, banning and unbanning on one node."""

import asyncio

import pytest

from tests.client_api.harness import Client, running_node
from tests.client_api.talk import at, join, new_room, say, set_state


async def _membership(client: Client, room_id: str, user_id: str) -> str:
    membership: str = (await client.get(at(room_id, "state", "m.room.member", user_id)))["membership"]
    return membership


async def test_who_may_join() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        public = await new_room(alice, preset="public_chat", room_alias_name="open")
        private = await new_room(alice, preset="private_chat")
        assert (await bob.post(f"/join/{public}"))["room_id"] == public
        assert (await bob.post(f"/join/%23open:{node.server_name}"))["room_id"] == public
        refused = await bob.post(f"/join/{private}")
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
        await alice.post(at(private, "invite"), {"user_id": bob.user_id, "reason": "come"})
        invite = await alice.get(at(private, "state", "m.room.member", bob.user_id))
        assert (invite["membership"], invite["reason"]) == ("invite", "come")
        await bob.post(at(private, "join"), {"reason": "thanks"})
        member = await alice.get(at(private, "state", "m.room.member", bob.user_id))
        assert (member["membership"], member["reason"]) == ("join", "thanks")
        assert sorted((await bob.get("/joined_rooms"))["joined_rooms"]) == sorted([public, private])


@pytest.mark.parametrize(
    ("target", "status", "errcode"),
    [
        ("nonsense", 400, "M_INVALID_PARAM"),
        ("!" + "a" * 43, 404, "M_NOT_FOUND"),
        ("!gone:other.example", 502, "M_UNREACHABLE"),
        ("%23nobody:other.example", 502, "M_UNREACHABLE"),
        ("%23nobody", 400, "M_INVALID_PARAM"),
    ],
)
async def test_joining_what_is_not_there(target: str, status: int, errcode: str) -> None:
    async with running_node() as node:
        bob = await node.register("bob")
        answer = await bob.post(f"/join/{target}")
        assert (answer.status, answer.errcode) == (status, errcode)


async def test_joining_twice_makes_one_event() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        answers = await asyncio.gather(*(bob.post(at(room_id, "join")) for _ in range(5)))
        assert [answer.status for answer in answers] == [200] * 5
        count = await node.database.read(
            lambda tx: tx.one("SELECT COUNT(*) FROM events WHERE room_id = ? AND sender = ?", (room_id, bob.user_id))
        )
        assert count == (1,)


async def test_a_restricted_room_opens_to_members_of_another() -> None:
    async with running_node() as node:
        alice, bob, carol = [await node.register(name) for name in ("alice", "bob", "carol")]
        space = await new_room(alice, preset="public_chat")
        allow = [{"type": "m.room_membership", "room_id": space}, {"type": "m.room_membership", "room_id": []}]
        rules = {"join_rule": "restricted", "allow": allow}
        room_id = await new_room(
            alice, initial_state=[{"type": "m.room.join_rules", "content": rules}], room_version="11"
        )
        await join(bob, space)
        await join(bob, room_id)
        member = await alice.get(at(room_id, "state", "m.room.member", bob.user_id))
        assert member["join_authorised_via_users_server"] == alice.user_id
        refused = await carol.post(at(room_id, "join"))
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")


async def test_kick_ban_unban() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await join(bob, room_id)
        who = {"user_id": bob.user_id, "reason": "noise"}
        assert (await bob.post(at(room_id, "kick"), {"user_id": alice.user_id})).errcode == "M_FORBIDDEN"
        assert (await alice.post(at(room_id, "kick"), who)).status == 200
        member = await alice.get(at(room_id, "state", "m.room.member", bob.user_id))
        assert (member["membership"], member["reason"]) == ("leave", "noise")
        assert (await alice.post(at(room_id, "kick"), who)).status == 403, "he is not in the room"
        assert (await alice.post(at(room_id, "unban"), who)).status == 403, "he is not banned"
        assert (await alice.post(at(room_id, "ban"), who)).status == 200
        assert (await alice.post(at(room_id, "ban"), who)).status == 200
        assert (await alice.post(at(room_id, "kick"), who)).status == 403, "a kick does not lift a ban"
        assert (await bob.post(at(room_id, "join"))).errcode == "M_FORBIDDEN"
        assert (await bob.post(at(room_id, "leave"))).errcode == "M_FORBIDDEN"
        assert (await alice.post(at(room_id, "invite"), who)).errcode == "M_FORBIDDEN"
        assert (await alice.post(at(room_id, "unban"), who)).status == 200
        assert await _membership(alice, room_id, bob.user_id) == "leave"
        await join(bob, room_id)


@pytest.mark.parametrize("what", ["invite", "kick", "ban", "unban"])
@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"user_id": 5}, "M_BAD_JSON"),
        ({"user_id": "bob"}, "M_INVALID_PARAM"),
        ({"user_id": "@bob:x", "reason": 5}, "M_BAD_JSON"),
    ],
)
async def test_bad_bodies(what: str, body: dict[str, object], errcode: str) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        answer = await alice.post(at(room_id, what), body)
        assert (answer.status, answer.errcode) == (400, errcode)


@pytest.mark.parametrize("what", ["invite", "kick", "ban", "unban"])
async def test_outsiders_change_nothing(what: str) -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        for target in (room_id, "!" + "b" * 43):
            answer = await bob.post(at(target, what), {"user_id": alice.user_id})
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_leaving_and_forgetting() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        assert (await bob.post(at(room_id, "leave"))).status == 404
        assert (await bob.post(at(room_id, "forget"))).status == 403
        await join(bob, room_id)
        assert (await bob.post(at(room_id, "forget"))).errcode == "M_UNKNOWN"
        assert (await bob.post(at(room_id, "leave"), {"reason": "bye"})).status == 200
        assert (await alice.get(at(room_id, "state", "m.room.member", bob.user_id)))["reason"] == "bye"
        assert (await bob.post(at(room_id, "leave"))).status == 200, "once more does no harm"
        assert (await bob.get(at(room_id, "messages"), dir="b")).status == 200
        assert (await bob.post(at(room_id, "forget"))).status == 200
        assert (await bob.get(at(room_id, "messages"), dir="b")).status == 403
        await join(bob, room_id)
        assert (await bob.get(at(room_id, "messages"), dir="b")).status == 200


async def test_a_room_that_everybody_left_can_be_joined_again_by_its_rules() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        public, private = await new_room(alice, preset="public_chat"), await new_room(alice)
        for room_id in (public, private):
            await alice.post(at(room_id, "leave"))
        await join(alice, public)
        await say(alice, public, "alone")
        assert (await alice.post(at(private, "join"))).errcode == "M_FORBIDDEN"


async def test_membership_by_state_event_follows_the_same_rules() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice)
        await set_state(alice, room_id, "m.room.member", {"membership": "invite"}, bob.user_id)
        path = at(room_id, "state", "m.room.member", bob.user_id)
        assert (await bob.put(path, {"membership": "join"})).status == 200
        assert await _membership(alice, room_id, bob.user_id) == "join"
        assert (await bob.put(path, {"membership": "king"})).errcode == "M_INVALID_PARAM"
        assert (await bob.put(at(room_id, "state", "m.room.member", "bob"), {"membership": "join"})).status == 400
        other = at(room_id, "state", "m.room.member", alice.user_id)
        assert (await bob.put(other, {"membership": "leave"})).errcode == "M_FORBIDDEN"


async def test_third_party_invites_are_refused() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        room_id = await new_room(alice)
        body = {"id_server": "x", "medium": "email", "address": "a@b", "id_access_token": "t"}
        assert (await alice.post(at(room_id, "invite"), body)).errcode == "M_INVALID_PARAM"
