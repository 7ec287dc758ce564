"""Ignored users and blocked invites: what of them reaches whom."""

from tests.client_api.harness import Client, running_node
from tests.client_api.neighbors import carry, two_nodes
from tests.client_api.talk import at, history, invite_and_join, joined, new_room, say, set_state, sync, texts


async def _ignore(client: Client, *users: str) -> None:
    path = f"/user/{client.user_id}/account_data/m.ignored_user_list"
    assert (await client.put(path, {"ignored_users": {user: {} for user in users}})).status == 200


async def _block_invites(client: Client) -> None:
    path = f"/user/{client.user_id}/account_data/m.invite_permission_config"
    assert (await client.put(path, {"default_action": "block"})).status == 200


async def test_messages_of_an_ignored_user_are_shown_nowhere_but_his_state_is() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await invite_and_join(alice, room_id, bob)
        levels = (await alice.get(at(room_id, "state", "m.room.power_levels"))).body
        await set_state(alice, room_id, "m.room.power_levels", {**levels, "users": {bob.user_id: 50}})
        root = await say(alice, room_id, "root")
        reply = {"msgtype": "m.text", "body": "noise", "m.relates_to": {"rel_type": "m.thread", "event_id": root}}
        await bob.put(at(room_id, "send", "m.room.message", "r1"), reply)
        await set_state(bob, room_id, "m.room.topic", {"topic": "by bob"})
        await say(alice, room_id, "last")
        assert "noise" in texts(await history(alice, room_id))
        await _ignore(alice, bob.user_id, alice.user_id)
        for events in (
            joined(await sync(alice), room_id)["timeline"]["events"],
            await history(alice, room_id),
            await history(alice, room_id, direction="f"),
            (await alice.get(at(room_id, "context", root)))["events_after"],
        ):
            assert "noise" not in texts(events)
            assert "m.room.topic" in [event["type"] for event in events]
        related = f"/_matrix/client/v1{at(room_id, 'relations', root)}"
        assert (await alice.get(related))["chunk"] == []
        assert len((await bob.get(related))["chunk"]) == 1
        await _ignore(alice)
        assert "noise" in texts(await history(alice, room_id))


async def test_who_blocks_invites_gets_none() -> None:
    async with two_nodes() as (here, there, _, _):
        alice, bob, carol = await here.register("alice"), await here.register("bob"), await there.register("carol")
        room_id = await new_room(alice)
        await _block_invites(bob)
        await _block_invites(carol)
        refused = await alice.post(at(room_id, "invite"), {"user_id": bob.user_id})
        assert (refused.status, refused.errcode) == (403, "M_INVITE_BLOCKED")
        assert (await alice.post(at(room_id, "invite"), {"user_id": carol.user_id})).status == 200
        assert await carry(here, there) > 0
        assert (await sync(carol))["rooms"]["invite"] == {}
        assert (await sync(bob))["rooms"]["invite"] == {}
