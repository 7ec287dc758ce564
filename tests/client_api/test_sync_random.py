"""Random talk on two nodes that part and meet: plain clients lose nothing, see nothing twice, end with the state."""

import random

import pytest

from p2pserver.client_api.stream_token import StreamToken
from tests.client_api.harness import Client, Node
from tests.client_api.talk import Reader, at, history, ids, join, new_room, slots
from tests.client_api.wire import Wire, wired_nodes

STEPS = 60


class Talk:
    """Two people who may do anything, a third who is invited, thrown out and given power; each with a client."""

    def __init__(self, rng: random.Random, wire: Wire, nodes: list[Node], people: list[Client], carol: Client) -> None:
        self.rng, self.wire, self.nodes, self.people, self.carol = rng, wire, nodes, people, carol
        self.room_id = ""
        self.number = 0

    async def begin(self) -> list[Reader]:
        (north, south), (alice, bob) = self.nodes, self.people
        version = self.rng.choice(["10", "11", "12"])
        self.room_id = await new_room(alice, preset="public_chat", room_version=version)
        await bob.post(f"/join/{self.room_id}?via={north.server_name}")
        await self.wire.deliver()
        await self.wire.backfill(south, self.room_id, north)
        levels = (await alice.get(at(self.room_id, "state", "m.room.power_levels"))).body
        levels["users"][bob.user_id] = 100
        await alice.put(at(self.room_id, "state", "m.room.power_levels"), levels)
        await join(self.carol, self.room_id)
        await self.wire.deliver()
        limits = (self.rng.choice([1, 2, 5]), self.rng.choice([3, 50]))
        readers = [
            Reader(client, filter={"room": {"timeline": {"limit": limit}}})
            for client, limit in zip(self.people, limits, strict=True)
        ]
        for reader in readers:
            reader.query, query = {"filter": {"room": {"timeline": {"limit": 1000}}}}, reader.query
            await reader.sync()
            reader.query = query
        return readers

    async def step(self, reader: Reader) -> None:
        rng, who = self.rng, self.rng.choice([*self.people, self.carol])
        path = at(self.room_id, "state")
        self.number += 1
        match rng.choice(["say", "say", "say", "name", "topic", "levels", "member", "redact", "sync", "part", "meet"]):
            case "say":
                await who.put(at(self.room_id, "send", "m.room.message", str(self.number)), {"body": str(self.number)})
            case "name" | "topic" as what:
                await who.put(f"{path}/m.room.{what}", {what: f"{self.number}"})
            case "levels":
                levels = (await who.get(f"{path}/m.room.power_levels")).body
                if "users" in levels:
                    levels["users"][self.carol.user_id] = rng.choice([0, 50])
                    await who.put(f"{path}/m.room.power_levels", levels)
            case "member":
                what = rng.choice(["kick", "ban", "unban", "invite", "join", "leave"])
                if what in ("join", "leave"):
                    await self.carol.post(at(self.room_id, what))
                else:
                    await rng.choice(self.people).post(at(self.room_id, what), {"user_id": self.carol.user_id})
            case "redact":
                events = (await who.get(at(self.room_id, "messages"), dir="b", limit=5)).body.get("chunk", [])
                if events:
                    await who.put(at(self.room_id, "redact", rng.choice(events)["event_id"], str(self.number)))
            case "sync":
                await reader.sync()
            case "part":
                self.wire.separate(*self.nodes)
            case "meet":
                await self.meet()

    async def meet(self) -> None:
        north, south = self.nodes
        self.wire.rejoin(north, south)
        await self.wire.deliver()
        await self.wire.backfill(south, self.room_id, north)
        await self.wire.backfill(north, self.room_id, south)


@pytest.mark.parametrize("seed", range(12))
async def test_plain_clients_agree_with_their_nodes(seed: int) -> None:
    rng = random.Random(seed)
    async with wired_nodes(2) as (wire, nodes):
        people = [await nodes[0].register("alice"), await nodes[1].register("bob")]
        talk = Talk(rng, wire, nodes, people, await nodes[1].register("carol"))
        readers = await talk.begin()
        for _ in range(STEPS):
            await talk.step(rng.choice(readers))
        await talk.meet()
        for reader in readers:
            for _ in range(5):
                await reader.sync()
            assert StreamToken.parse(reader.token or "").settle_from is None
            assert reader.repeated == []
            everything = ids(await history(reader.client, talk.room_id, limit=9))
            assert len(everything) == len(set(everything))
            assert set(reader.timeline[talk.room_id]) == set(everything)
            present = slots((await reader.client.get(at(talk.room_id, "state"))).body)
            held = reader.state[talk.room_id]
            differing = {slot for slot in present if held[slot]["event_id"] != present[slot]["event_id"]}
            assert not differing
        counts = await nodes[0].database.read(lambda tx: tx.one("SELECT COUNT(*) FROM events WHERE outlier = 0"))
        assert counts is not None
        assert counts[0] > STEPS / 4
