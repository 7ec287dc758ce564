"""Knocking, on this node and through another: the knock, and its three ends."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from p2pserver.client_api import joining
from p2pserver.errors import MatrixError, Verdict
from p2pserver.events.build import build_event
from p2pserver.events.versions import rules_of
from p2pserver.node.lines import lines_of_joins
from p2pserver.rooms.s2s import s2s_handlers
from p2pserver.store.inline import SimulatedDisk
from p2pserver.store.pending_joins import list_joins
from tests.client_api.harness import Client, Node, running_node
from tests.client_api.talk import at, join, joined, new_room, say, slots, sync, texts
from tests.client_api.wire import Door, wired_nodes

KNOCK = [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]


async def _membership(client: Client, room_id: str, user_id: str) -> str:
    membership: str = (await client.get(at(room_id, "state", "m.room.member", user_id)))["membership"]
    return membership


async def test_a_knock_on_this_node_is_seen_by_members_and_by_who_knocked() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        room_id = await new_room(alice, name="Hut", initial_state=KNOCK, room_alias_name="hut")
        token = (await sync(alice))["next_batch"]
        assert (await bob.post(f"/knock/%23hut:{node.server_name}", {"reason": "please"}))["room_id"] == room_id
        seen = joined(await sync(alice, token), room_id)["timeline"]["events"][-1]
        assert seen["content"] == {"membership": "knock", "reason": "please", "displayname": "bob"}
        own = await sync(bob)
        state = slots(own["rooms"]["knock"][room_id]["knock_state"]["events"])
        assert state["m.room.name", ""]["content"] == {"name": "Hut"}
        assert ("m.room.create", "") in state
        assert state["m.room.member", bob.user_id]["content"]["membership"] == "knock"
        assert (await bob.get(at(room_id, "messages"))).errcode == "M_FORBIDDEN"
        assert (await bob.post(at(room_id, "join"))).errcode == "M_FORBIDDEN"
        await alice.post(at(room_id, "invite"), {"user_id": bob.user_id})
        answer = await sync(bob, own["next_batch"])
        assert list(answer["rooms"]["invite"]) == [room_id]
        assert answer["rooms"]["knock"] == {}
        await join(bob, room_id)


async def test_who_may_not_knock() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        private = await new_room(alice)
        assert (await bob.post(f"/knock/{private}")).errcode == "M_FORBIDDEN", "the join rule is invite"
        room_id = await new_room(alice, initial_state=KNOCK)
        assert (await alice.post(f"/knock/{room_id}")).errcode == "M_FORBIDDEN", "she is in the room"
        await alice.post(at(room_id, "ban"), {"user_id": bob.user_id})
        assert (await bob.post(f"/knock/{room_id}")).errcode == "M_FORBIDDEN"
        assert (await bob.post("/knock/nonsense")).errcode == "M_INVALID_PARAM"
        assert (await bob.post(f"/knock/{room_id}", {"reason": 5})).errcode == "M_BAD_JSON"
        assert (await bob.post("/knock/!" + "a" * 43)).errcode == "M_NOT_FOUND"


@pytest.mark.parametrize("version", ["7", "12"])
async def test_a_knock_through_another_node_is_answered_by_an_invite(version: str) -> None:
    async with wired_nodes(3) as (wire, (north, south, east)):
        alice, bob, carol = [
            await n.register(name) for n, name in zip((north, south, east), ("a", "b", "c"), strict=True)
        ]
        room_id = await new_room(alice, name="Hut", initial_state=KNOCK, room_version=version, invite=[carol.user_id])
        await wire.deliver()
        await join(carol, room_id)
        await wire.deliver()
        await wire.backfill(east, room_id, north)
        token = (await sync(carol))["next_batch"]
        answer = await bob.post(f"/knock/{room_id}?via={north.server_name}", {"reason": "please"})
        assert answer["room_id"] == room_id
        own = await sync(bob)
        state = slots(own["rooms"]["knock"][room_id]["knock_state"]["events"])
        assert state["m.room.name", ""]["content"] == {"name": "Hut"}
        assert state["m.room.member", bob.user_id]["content"] == {
            "membership": "knock",
            "reason": "please",
            "displayname": "b",
        }
        assert all(event.keys() == {"type", "state_key", "sender", "content"} for event in state.values())
        assert await _membership(alice, room_id, bob.user_id) == "knock"
        await wire.deliver()
        seen = joined(await sync(carol, token), room_id)["timeline"]["events"][-1]
        assert (seen["sender"], seen["content"]["membership"]) == (bob.user_id, "knock"), "the other members hear of it"
        assert (await bob.post(f"/knock/{room_id}?via={north.server_name}")).status == 200, "knocking again is no harm"

        assert (await alice.post(at(room_id, "invite"), {"user_id": bob.user_id})).status == 200
        await wire.deliver()
        invited = await sync(bob, own["next_batch"])
        assert list(invited["rooms"]["invite"]) == [room_id]
        assert invited["rooms"]["knock"] == {}
        await join(bob, room_id)
        await wire.deliver()
        await say(bob, room_id, "thanks")
        await wire.deliver()
        assert "thanks" in texts(joined(await sync(alice), room_id)["timeline"]["events"])


async def _knocked(north: Node, south: Node) -> tuple[Client, Client, str, str]:
    """(host, knocker, room, the knocker's token)."""
    alice, bob = await north.register("alice"), await south.register("bob")
    room_id = await new_room(alice, initial_state=KNOCK)
    assert (await bob.post(f"/knock/{room_id}?via={north.server_name}")).status == 200
    return alice, bob, room_id, (await sync(bob))["next_batch"]


async def test_a_knock_is_refused_and_may_be_repeated() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob, room_id, token = await _knocked(north, south)
        assert (await alice.post(at(room_id, "kick"), {"user_id": bob.user_id, "reason": "no"})).status == 200
        await wire.deliver()
        answer = await sync(bob, token)
        room = answer["rooms"]["leave"][room_id]
        leave = slots([*room["state"]["events"], *room["timeline"]["events"]])["m.room.member", bob.user_id]
        assert (leave["sender"], leave["content"]["reason"]) == (alice.user_id, "no")
        assert answer["rooms"]["knock"] == {}
        assert (await bob.post(f"/knock/{room_id}?via={north.server_name}")).status == 200
        assert list((await sync(bob, answer["next_batch"]))["rooms"]["knock"]) == [room_id]


async def test_somebody_without_power_cannot_refuse_a_knock() -> None:
    async with wired_nodes(3) as (_, (north, south, east)):
        _, bob, room_id, token = await _knocked(north, south)
        leave = build_event(
            rules=rules_of("12"),
            room_id=room_id,
            sender=f"@mallory:{east.server_name}",
            event_type="m.room.member",
            state_key=bob.user_id,
            content={"membership": "leave"},
            prev_events=["$" + "a" * 43],
            auth_events=[],
            depth=9,
            origin_server_ts=1,
            signer=east.rooms.context.signer,
        )
        report = await south.database.write(
            lambda tx: south.rooms.receive(tx, room_id=room_id, raws=[dict(leave.raw)], source=east.server_name)
        )
        assert report.results[0].verdict is Verdict.DROPPED
        assert (await sync(bob, token))["rooms"]["leave"] == {}


async def test_a_knock_is_taken_back_while_the_other_node_is_away() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob, room_id, token = await _knocked(north, south)
        wire.separate(north, south)
        assert (await bob.post(at(room_id, "leave"), {"reason": "too cold"})).status == 200
        assert list((await sync(bob, token))["rooms"]["leave"]) == [room_id]
        assert await _membership(alice, room_id, bob.user_id) == "knock"
        wire.rejoin(north, south)
        await wire.deliver()
        member = await alice.get(at(room_id, "state", "m.room.member", bob.user_id))
        assert (member["membership"], member["reason"]) == ("leave", "too cold")


async def test_a_knock_that_nobody_can_take_is_made_when_somebody_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "LOOK_S", 0.02)
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        south.api.start()
        room_id = await new_room(alice, initial_state=KNOCK)
        wire.separate(north, south)
        answer = await bob.post(f"/knock/{room_id}?via={north.server_name}", {"reason": "please"})
        assert (answer.status, answer.errcode) == (502, "M_UNREACHABLE")
        [waiting] = await south.database.read(list_joins)
        assert (waiting["user_id"], waiting["room_id"], waiting["membership"]) == (bob.user_id, room_id, "knock")
        assert next(lines_of_joins([waiting])) == f"knocking for {bob.user_id}"
        token = (await sync(bob))["next_batch"]
        coming = asyncio.create_task(sync(bob, token, wait_ms=60_000))
        wire.rejoin(north, south)
        assert list((await asyncio.wait_for(coming, 60))["rooms"]["knock"]) == [room_id]
        assert (await alice.get(at(room_id, "state", "m.room.member", bob.user_id)))["reason"] == "please"
        assert await south.database.read(list_joins) == []


async def test_a_knock_that_waits_can_be_given_up_and_ends_when_it_is_refused() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        open_to_knocks, private = await new_room(alice, initial_state=KNOCK), await new_room(alice)
        wire.separate(north, south)
        for room_id in (open_to_knocks, private):
            answer = await bob.post(f"/knock/{room_id}?via={north.server_name}")
            assert answer.errcode == "M_UNREACHABLE"
        assert (await bob.post(at(open_to_knocks, "leave"))).status == 200
        wire.rejoin(north, south)
        with pytest.raises(MatrixError):
            await south.api.joins.attempt(south.api, bob.user_id, private)
        assert await south.database.read(list_joins) == []
        assert (await alice.get(at(open_to_knocks, "state", "m.room.member", bob.user_id))).status == 404


async def test_what_is_no_knock_of_the_asking_server_is_refused() -> None:
    changes: tuple[Callable[[dict[str, Any]], Any], ...] = (
        lambda event: event["content"].update(membership="join"),
        lambda event: event.update(sender="@somebody:else.example", state_key="@somebody:else.example"),
        lambda event: event.update(type="m.room.topic"),
        lambda event: event.update(signatures={}),
        lambda event: event.update(auth_events=[]),
    )
    async with wired_nodes(2) as (_, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await new_room(alice, initial_state=KNOCK)
        handlers = s2s_handlers(north.rooms, private=False)
        question = {"room_id": room_id, "user_id": bob.user_id, "versions": ["12"]}
        template = await north.database.read(lambda tx: handlers["make_knock"](tx, south.server_name, question))
        knock = south.rooms.make_knock(template, room_id=room_id, user_id=bob.user_id, content={})
        for change in changes:
            raw = {**knock.raw, "content": dict(knock.raw["content"])}
            change(raw)
            body = {"room_id": room_id, "event": raw}
            with pytest.raises(MatrixError):
                await north.database.write(lambda tx, body=body: handlers["send_knock"](tx, south.server_name, body))
        assert (await alice.get(at(room_id, "state", "m.room.member", bob.user_id))).status == 404


async def test_a_knock_outlives_a_restart() -> None:
    disk = SimulatedDisk()
    async with wired_nodes(1) as (wire, (north,)):
        alice = await north.register("alice")
        room_id = await new_room(alice, name="Hut", initial_state=KNOCK)
        door = Door(wire)
        async with running_node(seed=7, disk=disk, remote=door) as south:
            door.here = south.server_name
            wire.nodes[south.server_name] = south
            bob = await south.register("bob")
            assert (await bob.post(f"/knock/{room_id}?via={north.server_name}")).status == 200
        async with running_node(seed=7, disk=disk, remote=door) as south:
            bob = await south.log_in("bob")
            state = slots((await sync(bob))["rooms"]["knock"][room_id]["knock_state"]["events"])
            assert state["m.room.name", ""]["content"] == {"name": "Hut"}
