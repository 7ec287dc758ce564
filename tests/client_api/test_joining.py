"""Rooms of other nodes: invites, joins in one round trip, joins that wait, refusals, and who is asked."""

import asyncio
from typing import Any

import pytest

from p2pserver.client_api import joining
from p2pserver.store.inline import SimulatedDisk
from p2pserver.store.pending_joins import pending_joins
from tests.client_api.harness import Node, running_node
from tests.client_api.talk import at, history, join, joined, new_room, say, slots, sync, texts
from tests.client_api.wire import Wire, wired_nodes


async def _pending(node: Node) -> list[tuple[str, str]]:
    rows = await node.database.read(pending_joins)
    return [(row.user_id, row.room_id) for row in rows]


@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_an_invite_is_answered_at_once_arrives_later_and_leads_in(version: str) -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        wire.separate(north, south)
        room_id = await new_room(alice, name="Hut", room_version=version, invite=[bob.user_id])
        await say(alice, room_id, "before")
        token = (await sync(bob))["next_batch"]
        await wire.deliver()
        assert (await sync(bob, token))["rooms"]["invite"] == {}
        wire.rejoin(north, south)
        waiting = asyncio.create_task(sync(bob, token, wait_ms=20_000))
        await asyncio.sleep(0.02)
        await wire.deliver()
        answer = await asyncio.wait_for(waiting, 5)
        invite = slots(answer["rooms"]["invite"][room_id]["invite_state"]["events"])
        assert invite["m.room.name", ""]["content"] == {"name": "Hut"}
        assert ("m.room.create", "") in invite
        assert invite["m.room.member", bob.user_id]["sender"] == alice.user_id
        assert all(event.keys() == {"type", "state_key", "sender", "content"} for event in invite.values())

        await join(bob, room_id)
        assert tuple({name for _, _, name in wire.asked}) == ("join",)
        room = joined(await sync(bob, answer["next_batch"]), room_id)
        assert slots(room["state"]["events"])["m.room.name", ""]["content"] == {"name": "Hut"}
        assert [event["type"] for event in room["timeline"]["events"]] == ["m.room.member"]
        assert room["timeline"]["limited"] is True, "there is history that is not here yet"
        await wire.deliver()
        await say(bob, room_id, "hello from the south")
        await wire.deliver()
        assert "hello from the south" in texts(joined(await sync(alice), room_id)["timeline"]["events"])


async def test_history_of_a_join_is_shown_when_all_of_it_is_here_and_lost_to_nobody() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        for number in range(40):
            await say(alice, room_id, str(number))
        await bob.post(f"/join/{room_id}?via={north.server_name}")
        await wire.deliver()
        await say(alice, room_id, "after")
        await wire.deliver()
        room = joined(await sync(bob), room_id)
        start = room["timeline"]["prev_batch"]
        path = at(room_id, "messages")
        page = await bob.get(path, **{"from": start, "dir": "b"})
        assert page["chunk"] == []
        assert page["end"] == start, "nothing yet, but go on"
        await wire.backfill(south, room_id, north, octets_max=6000, most=2)
        held = await south.database.read(lambda tx: tx.one("SELECT COUNT(*) FROM events WHERE position < 0"))
        assert held is not None
        assert 0 < held[0] < 40
        page = await bob.get(path, **{"from": start, "dir": "b"})
        assert (page["chunk"], page["end"]) == ([], start), "the oldest part does not come right before the join"
        await wire.backfill(south, room_id, north, octets_max=6000)
        found: list[Any] = []
        token: str | None = start
        while token is not None:
            page = await bob.get(path, **{"from": token, "dir": "b", "limit": 7})
            found += page["chunk"]
            token = page.body.get("end")
        assert texts(found) == [str(number) for number in reversed(range(40))]
        assert found[-1]["type"] == "m.room.create"
        forward = await history(bob, room_id, direction="f")
        assert texts(forward) == [*(str(number) for number in range(40)), "after"]
        assert [event["event_id"] for event in forward] == [
            e["event_id"] for e in await history(alice, room_id, direction="f")
        ]


async def test_a_join_that_nobody_can_answer_is_done_when_somebody_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "LOOK_S", 0.02)
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        south.api.start()
        room_id = await new_room(alice, preset="public_chat")
        wire.separate(north, south)
        answer = await bob.post(f"/join/{room_id}?server_name={north.server_name}")
        assert (answer.status, answer.errcode) == (502, "M_UNREACHABLE")
        assert await _pending(south) == [(bob.user_id, room_id)]
        token = (await sync(bob))["next_batch"]
        waiting = asyncio.create_task(sync(bob, token, wait_ms=20_000))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        wire.rejoin(north, south)
        answer = await asyncio.wait_for(waiting, 5)
        assert room_id in answer["rooms"]["join"]
        assert await _pending(south) == []


async def test_a_slow_answer_is_not_waited_for_and_not_wasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "ANSWER_S", 0.05)
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        token = (await sync(bob))["next_batch"]
        wire.answers_take_s = 0.4
        answer = await bob.post(f"/join/{room_id}?via={north.server_name}")
        assert (answer.status, answer.errcode) == (502, "M_UNREACHABLE")
        assert room_id in (await sync(bob, token, wait_ms=20_000))["rooms"]["join"]
        assert await _pending(south) == []
        assert [name for _, _, name in wire.asked] == ["join"], "asked once, whoever waits for it"


async def test_a_waiting_join_survives_a_restart() -> None:
    disk = SimulatedDisk()
    room_id = "!" + "w" * 43
    async with running_node(disk=disk) as node:
        bob = await node.register("bob")
        answer = await bob.post(f"/join/{room_id}?via=away.example")
        assert answer.errcode == "M_UNREACHABLE"
    async with running_node(disk=disk) as node:
        (waiting,) = await node.database.read(pending_joins)
        assert (waiting.room_id, waiting.via) == (room_id, ["away.example"])
        assert waiting.content == {"membership": "join", "displayname": "bob"}


async def test_a_waiting_join_can_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "LOOK_S", 0.02)
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        south.api.start()
        room_id = await new_room(alice, preset="public_chat")
        wire.separate(north, south)
        await bob.post(f"/join/{room_id}?via={north.server_name}")
        assert (await bob.post(at(room_id, "leave"))).status == 200
        assert await _pending(south) == []
        wire.rejoin(north, south)
        await asyncio.sleep(0.1)
        assert (await bob.get("/joined_rooms"))["joined_rooms"] == []


async def test_a_refusal_is_final_and_lets_nothing_behind() -> None:
    async with wired_nodes(2) as (_, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await new_room(alice, preset="private_chat")
        for target in (f"/join/{room_id}?via={north.server_name}", f"/join/{room_id}"):
            answer = await bob.post(target)
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        assert await _pending(south) == []
        nowhere = await bob.post(f"/join/!{'e' * 43}?via={north.server_name}")
        assert (nowhere.status, nowhere.errcode) == (404, "M_NOT_FOUND")
        assert await _pending(south) == []
        assert await south.database.read(lambda tx: tx.one("SELECT COUNT(*) FROM rooms")) == (0,)


async def test_an_invited_user_is_let_in_by_another_member_when_the_inviter_is_away() -> None:
    async with wired_nodes(3) as (wire, (north, south, east)):
        alice, bob, carol = await north.register("alice"), await south.register("bob"), await east.register("carol")
        room_id = await new_room(alice, preset="private_chat", invite=[carol.user_id])
        await wire.deliver()
        await join(carol, room_id)
        await wire.deliver()
        await wire.backfill(east, room_id, north)
        await alice.post(at(room_id, "invite"), {"user_id": bob.user_id})
        await wire.deliver()
        wire.separate(north, south)
        await join(bob, room_id)
        await wire.deliver()
        members = (await bob.get(at(room_id, "joined_members")))["joined"]
        assert set(members) == {alice.user_id, bob.user_id, carol.user_id}


async def test_joining_by_an_alias_of_another_node() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await new_room(alice, preset="public_chat", room_alias_name="hut")
        answer = await bob.post(f"/join/%23hut:{north.server_name}")
        assert answer["room_id"] == room_id
        assert (await bob.post(f"/join/%23nothing:{north.server_name}")).errcode == "M_NOT_FOUND"
        wire.separate(north, south)
        assert (await bob.post(f"/join/%23hut:{north.server_name}")).errcode == "M_UNREACHABLE"


async def test_refusing_an_invite_needs_nobody_and_is_told_later() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await new_room(alice, invite=[bob.user_id])
        await wire.deliver()
        answer = await sync(bob)
        assert room_id in answer["rooms"]["invite"]
        wire.separate(north, south)
        assert (await bob.post(at(room_id, "leave"))).status == 200
        refused = await sync(bob, answer["next_batch"])
        assert refused["rooms"]["invite"] == {}
        room = refused["rooms"]["leave"][room_id]
        (event,) = [*room["state"]["events"], *room["timeline"]["events"]]
        assert (event["state_key"], event["content"]["membership"]) == (bob.user_id, "leave")
        assert room_id not in (await sync(bob, refused["next_batch"]))["rooms"]["leave"]
        wire.rejoin(north, south)
        await wire.deliver()
        member = await alice.get(at(room_id, "state", "m.room.member", bob.user_id))
        assert member["membership"] == "leave"


async def test_an_invite_that_is_taken_back() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await new_room(alice, invite=[bob.user_id])
        await wire.deliver()
        answer = await sync(bob)
        await alice.post(at(room_id, "kick"), {"user_id": bob.user_id})
        await wire.deliver()
        room = (await sync(bob, answer["next_batch"]))["rooms"]["leave"][room_id]
        (event,) = [*room["state"]["events"], *room["timeline"]["events"]]
        assert (event["sender"], event["content"]["membership"]) == (alice.user_id, "leave")
        assert (await sync(bob))["rooms"]["invite"] == {}


async def test_a_room_we_have_left_is_joined_through_those_who_are_in_it() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await new_room(alice, preset="public_chat")
        await bob.post(f"/join/{room_id}?via={north.server_name}")
        await wire.deliver()
        await wire.backfill(south, room_id, north)
        await bob.post(at(room_id, "leave"))
        await wire.deliver()
        await say(alice, room_id, "meanwhile")
        await wire.deliver()
        wire.asked.clear()
        await join(bob, room_id)
        assert (south.server_name, north.server_name, "join") in wire.asked
        await wire.deliver()
        await say(alice, room_id, "welcome back")
        await wire.deliver()
        await wire.backfill(south, room_id, north)
        found = texts(await history(bob, room_id))
        assert "welcome back" in found
        assert "meanwhile" in found


async def test_an_answer_about_another_room_is_no_answer() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        wanted = await new_room(alice, preset="public_chat")
        other = await new_room(alice, preset="public_chat")
        offer = await north.database.write(
            lambda tx: north.rooms.join_offer(
                tx, origin=south.server_name, room_id=other, user_id=bob.user_id, versions=["12"]
            )
        )

        async def lie(server: str, name: str, body: dict[str, Any], *, timeout_s: float, **_: Any) -> dict[str, Any]:
            return offer

        south.api.remote.ask = lie  # type: ignore[method-assign]
        for bad in (offer, {"room_id": wanted}, {**offer, "room_id": wanted}, {}):
            offer = bad
            answer = await bob.post(f"/join/{wanted}?via={north.server_name}")
            assert answer.status in (400, 403), answer.body
        assert (await bob.get("/joined_rooms"))["joined_rooms"] == []
        assert isinstance(wire, Wire)
