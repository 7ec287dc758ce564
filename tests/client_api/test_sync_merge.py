"""What a plain client makes of two histories that merge: nothing lost, nothing twice, and the state of the room."""

import pytest

from p2pserver.client_api.stream_token import StreamToken
from tests.client_api.harness import Client, Node
from tests.client_api.talk import Reader, at, history, ids, join, joined, new_room, say, set_state, slots, sync, texts
from tests.client_api.wire import Wire, wired_nodes


async def _room_of_two(wire: Wire, north: Node, south: Node, alice: Client, bob: Client) -> str:
    room_id = await new_room(alice, preset="public_chat")
    await bob.post(f"/join/{room_id}?via={north.server_name}")
    await wire.deliver()
    await wire.backfill(south, room_id, north)
    levels = (await alice.get(at(room_id, "state", "m.room.power_levels"))).body
    await set_state(alice, room_id, "m.room.power_levels", {**levels, "users": {bob.user_id: 100}})
    await wire.deliver()
    assert await _digest(north, room_id) == await _digest(south, room_id)
    return room_id


async def _digest(node: Node, room_id: str) -> bytes:
    digest = await node.database.read(lambda tx: node.rooms.digest(tx, room_id))
    return digest.sec


async def _heal(wire: Wire, north: Node, south: Node, room_id: str) -> None:
    wire.rejoin(north, south)
    await wire.deliver()
    await wire.backfill(south, room_id, north)
    await wire.backfill(north, room_id, south)
    assert await _digest(north, room_id) == await _digest(south, room_id)


@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize("winner_is_late", [False, True])
async def test_a_plain_client_ends_with_the_name_of_the_room_on_both_sides(limit: int, winner_is_late: bool) -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await _room_of_two(wire, north, south, alice, bob)
        query = {"filter": {"room": {"timeline": {"limit": limit}}}}
        readers = [Reader(alice, **query), Reader(bob, **query)]
        for reader in readers:
            await reader.sync()
        wire.separate(north, south)
        sides = [(alice, "north"), (bob, "south")]
        for client, side in sides if winner_is_late else sides[::-1]:
            for number in range(4):
                await say(client, room_id, f"{side} {number}")
                await set_state(client, room_id, "m.room.name", {"name": f"{side} {number}"})
            await set_state(client, room_id, "m.room.topic", {"topic": side})
        for reader in readers:
            await reader.sync()
        await _heal(wire, north, south, room_id)
        names = {(await client.get(at(room_id, "state", "m.room.name")))["name"] for client, _ in sides}
        assert len(names) == 1
        for reader, other in zip(readers, ("south", "north"), strict=True):
            before = reader.token
            answer = await reader.sync()
            assert room_id in answer["rooms"]["join"], f"{other}'s messages are new"
            while (token := StreamToken.parse(reader.token or "")).settle_from is not None:
                before = reader.token
                await reader.sync()
            assert token.settle_from is None
            assert reader.token != before
            assert {reader.name(room_id)} == names
            assert reader.repeated == []
            topic = reader.state[room_id]["m.room.topic", ""]["content"]
            assert topic == (await reader.client.get(at(room_id, "state", "m.room.topic"))).body
        assert set(readers[0].timeline[room_id]) >= set(readers[1].timeline[room_id])
        sent = {f"{side} {number}" for side in ("north", "south") for number in range(4)}
        for client, _ in sides:
            found = texts(await history(client, room_id))
            assert sorted(found) == sorted(sent)


async def test_the_winner_is_told_in_an_answer_of_its_own_which_does_not_wait_and_comes_once() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await _room_of_two(wire, north, south, alice, bob)
        tokens = {client: (await sync(client))["next_batch"] for client in (alice, bob)}
        wire.separate(north, south)
        for client, name in ((alice, "A"), (bob, "B")):
            await set_state(client, room_id, "m.room.name", {"name": name})
            tokens[client] = (await sync(client, tokens[client]))["next_batch"]
        await _heal(wire, north, south, room_id)
        settled = 0
        for client in (alice, bob):
            winner = (await client.get(at(room_id, "state", "m.room.name")))["name"]
            first = await sync(client, tokens[client], wait_ms=20_000)
            events = joined(first, room_id)["timeline"]["events"]
            assert [event["type"] for event in events] == ["m.room.name"]
            if events[0]["content"]["name"] == winner:
                assert StreamToken.parse(first["next_batch"]).settle_from is None
                continue
            settled += 1
            assert StreamToken.parse(first["next_batch"]).settle_from is not None
            second = await sync(client, first["next_batch"], wait_ms=20_000)
            room = joined(second, room_id)
            assert slots(room["state"]["events"])["m.room.name", ""]["content"] == {"name": winner}
            assert room["timeline"]["events"] == []
            assert StreamToken.parse(second["next_batch"]).settle_from is None
            third = await sync(client, second["next_batch"], wait_ms=100)
            assert third["rooms"]["join"] == {}
        assert settled == 1, "one of the two had the winner already"


async def test_a_settling_answer_takes_new_messages_along() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await _room_of_two(wire, north, south, alice, bob)
        readers = [Reader(alice), Reader(bob)]
        for reader in readers:
            await reader.sync()
        wire.separate(north, south)
        for client, name in ((alice, "A"), (bob, "B")):
            await set_state(client, room_id, "m.room.name", {"name": name})
        for reader in readers:
            await reader.sync()
        await _heal(wire, north, south, room_id)
        for reader in readers:
            await reader.sync()
            await say(reader.client, room_id, "after the merge")
            answer = await reader.sync()
            assert texts(joined(answer, room_id)["timeline"]["events"])[-1] == "after the merge"
            name = (await reader.client.get(at(room_id, "state", "m.room.name")))["name"]
            assert reader.name(room_id) == name
            assert reader.repeated == []


async def test_a_ban_that_undoes_what_the_banned_did_is_told() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await _room_of_two(wire, north, south, alice, bob)
        carol = await south.register("carol")
        levels = (await alice.get(at(room_id, "state", "m.room.power_levels"))).body
        await join(carol, room_id)
        await wire.deliver()
        levels["users"][carol.user_id] = 60
        await set_state(alice, room_id, "m.room.power_levels", levels)
        await set_state(alice, room_id, "m.room.name", {"name": "Hut"})
        await wire.deliver()
        reader, theirs = Reader(bob), Reader(carol)
        await reader.sync()
        await theirs.sync()
        wire.separate(north, south)
        await alice.post(at(room_id, "ban"), {"user_id": carol.user_id})
        await set_state(carol, room_id, "m.room.name", {"name": "Carol's"})
        await say(carol, room_id, "still here")
        await reader.sync()
        assert reader.name(room_id) == "Carol's"
        await _heal(wire, north, south, room_id)
        for _ in range(3):
            await reader.sync()
        state = slots((await bob.get(at(room_id, "state"))).body)
        assert state["m.room.member", carol.user_id]["content"]["membership"] == "ban"
        assert reader.state[room_id]["m.room.member", carol.user_id]["content"]["membership"] == "ban"
        assert state["m.room.name", ""]["content"] == {"name": "Hut"}
        assert reader.name(room_id) == "Hut", "an old event is current again, and no event says so"
        gone = await sync(carol, theirs.token)
        assert room_id in gone["rooms"]["leave"]
        assert room_id not in gone["rooms"]["join"]


async def test_paging_through_a_merged_room_is_the_same_both_ways_and_complete() -> None:
    async with wired_nodes(2) as (wire, (north, south)):
        alice, bob = await north.register("alice"), await south.register("bob")
        room_id = await _room_of_two(wire, north, south, alice, bob)
        for turn in range(3):
            wire.separate(north, south)
            for number in range(5):
                await say(alice, room_id, f"n{turn}{number}")
                await say(bob, room_id, f"s{turn}{number}")
            await _heal(wire, north, south, room_id)
        pages = [await history(client, room_id, limit=4) for client in (alice, bob)]
        for client, page in zip((alice, bob), pages, strict=True):
            assert len(ids(page)) == len(set(ids(page)))
            assert ids(await history(client, room_id, direction="f", limit=3)) == ids(page)[::-1]
        assert set(ids(pages[0])) == set(ids(pages[1]))
        assert len(texts(pages[0])) == 30
