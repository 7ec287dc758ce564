"""Restricted rooms across nodes: who tells that a user is in the space, who vouches for him, who signs."""

from typing import Any

import pytest

from p2pserver.errors import MatrixError
from p2pserver.events.build import build_event
from p2pserver.rooms.s2s import s2s_handlers
from tests.client_api.harness import Client, Node
from tests.client_api.talk import at, invite_and_join, join, joined, new_room, say, set_state, sync, texts
from tests.client_api.wire import Wire, wired_nodes

VOUCHED = "join_authorised_via_users_server"


async def _restricted(host: Client, space: str, *, rule: str = "restricted", version: str = "12") -> str:
    rules = {"join_rule": rule, "allow": [{"type": "m.room_membership", "room_id": space}]}
    return await new_room(
        host,
        initial_state=[{"type": "m.room.join_rules", "content": rules}],
        room_version=version,
        power_level_content_override={"invite": 50},
    )


async def _space_of_two(wire: Wire, north: Node, south: Node) -> tuple[Client, Client, str]:
    """Somebody of each node, both in one space."""
    alice, bob = await north.register("alice"), await south.register("bob")
    space = await new_room(alice, preset="public_chat", creation_content={"type": "m.space"})
    assert (await bob.post(f"/join/{space}?via={north.server_name}")).status == 200
    await wire.deliver()
    return alice, bob, space


@pytest.mark.parametrize(("version", "rule"), [("8", "restricted"), ("12", "knock_restricted")])
async def test_a_member_of_the_space_is_let_in_through_another_node(version: str, rule: str) -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob, space = await _space_of_two(wire, north, south)
        carol = await south.register("carol")
        room_id = await _restricted(alice, space, rule=rule, version=version)
        await say(alice, room_id, "welcome")
        refused = await carol.post(f"/join/{room_id}?via={north.server_name}")
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN"), "she is not in the space"
        assert (await bob.post(f"/join/{room_id}?via={north.server_name}")).status == 200
        assert [name for _, _, name in wire.asked[-2:]] == ["join", "sign_join"]
        await wire.deliver()
        member = await alice.get(at(room_id, "state", "m.room.member", bob.user_id), format="event")
        assert member["content"][VOUCHED] == alice.user_id
        await say(bob, room_id, "here I am")
        await wire.deliver()
        assert "here I am" in texts(joined(await sync(alice), room_id)["timeline"]["events"])
        await wire.backfill(south, room_id, north)
        assert await south.database.read(lambda tx: south.rooms.is_complete(tx, room_id))

        assert (await carol.post(f"/join/{space}")).status == 200
        await wire.deliver()
        assert (await carol.post(f"/join/{room_id}")).status == 200, "nobody here may invite, but the other node may"
        assert wire.asked[-1] == (south.server_name, north.server_name, "sign_join")
        await wire.deliver()
        assert (await alice.get(at(room_id, "state", "m.room.member", carol.user_id)))["membership"] == "join"


async def test_a_node_whose_user_may_invite_needs_nobody_else() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob, space = await _space_of_two(wire, north, south)
        carol = await south.register("carol")
        room_id = await _restricted(alice, space)
        assert (await bob.post(f"/join/{room_id}?via={north.server_name}")).status == 200
        await wire.deliver()
        levels = (await alice.get(at(room_id, "state", "m.room.power_levels"))).body
        await set_state(alice, room_id, "m.room.power_levels", {**levels, "users": {bob.user_id: 50}})
        await wire.deliver()
        await wire.backfill(south, room_id, north)
        wire.separate(north, south)
        await join(carol, space)
        await join(carol, room_id)
        member = await bob.get(at(room_id, "state", "m.room.member", carol.user_id))
        assert member[VOUCHED] == bob.user_id
        wire.rejoin(north, south)
        await wire.deliver()
        assert (await alice.get(at(room_id, "state", "m.room.member", carol.user_id)))["membership"] == "join"


async def test_a_node_that_cannot_tell_or_cannot_vouch_says_which() -> None:
    async with wired_nodes(3) as (wire, (north, south, east)):
        alice, bob, space = await _space_of_two(wire, north, south)
        dora = await east.register("dora")
        room_id = await _restricted(alice, space)
        await invite_and_join(alice, room_id)
        await alice.post(at(room_id, "invite"), {"user_id": dora.user_id})
        await wire.deliver()
        await join(dora, room_id)
        await wire.deliver()
        await wire.backfill(east, room_id, north)
        question = {"room_id": room_id, "user_id": bob.user_id, "versions": ["12"]}

        async def asked(node: Node) -> str:
            handler = s2s_handlers(node.rooms, private=False)["join"]
            with pytest.raises(MatrixError) as refusal:
                await node.database.write(lambda tx: handler(tx, south.server_name, question))
            return refusal.value.errcode

        assert await asked(east) == "M_UNABLE_TO_AUTHORISE_JOIN", "it is not in the space"
        assert (await dora.post(f"/join/{space}?via={north.server_name}")).status == 200
        await wire.deliver()
        await wire.backfill(east, space, north)
        assert await asked(east) == "M_UNABLE_TO_GRANT_JOIN", "its user may not invite"
        found = await bob.post(f"/join/{room_id}?via={east.server_name}&via={north.server_name}")
        assert found.status == 200, "the next server is asked"


async def test_nothing_is_signed_that_is_not_a_join_this_node_would_allow() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob, space = await _space_of_two(wire, north, south)
        room_id = await _restricted(alice, space)
        handlers = s2s_handlers(north.rooms, private=False)
        question = {"room_id": room_id, "user_id": bob.user_id, "versions": ["12"]}
        offer = await north.database.read(lambda tx: handlers["join"](tx, south.server_name, question))
        drafted = await south.database.write(
            lambda tx: south.rooms.draft_join(tx, user_id=bob.user_id, offer=offer, content={})
        )
        assert drafted is not None
        genuine = drafted[1]
        for lie in ("stranger", "nobody", "other sender", "unsigned", "no object", "not a join"):
            user = f"@mallory:{south.server_name}" if lie == "stranger" else bob.user_id
            content = {"membership": "leave" if lie == "not a join" else "join", VOUCHED: alice.user_id}
            if lie == "nobody":
                content[VOUCHED] = f"@ghost:{north.server_name}"
            event: Any = dict(
                build_event(
                    rules=genuine.rules,
                    room_id=room_id,
                    sender=user,
                    event_type="m.room.member",
                    state_key=f"@other:{south.server_name}" if lie == "other sender" else user,
                    content=content,
                    prev_events=genuine.prev_events,
                    auth_events=genuine.auth_events,
                    depth=genuine.depth,
                    origin_server_ts=genuine.origin_server_ts,
                    signer=south.rooms.context.signer,
                ).raw
            )
            if lie == "unsigned":
                event["signatures"] = {}
            if lie == "no object":
                event = ["event"]
            body = {"room_id": room_id, "event": event}
            with pytest.raises(MatrixError):
                await north.database.write(lambda tx, body=body: handlers["sign_join"](tx, south.server_name, body))
        honest = {"room_id": room_id, "event": dict(genuine.raw)}
        answer = await north.database.write(lambda tx: handlers["sign_join"](tx, south.server_name, honest))
        assert set(answer["event"]["signatures"]) == {north.server_name, south.server_name}
