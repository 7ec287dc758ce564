"""A text to all neighbors on one radio channel, broadcast or sent to each alone.

    python -m benchmarks.shared_medium                   # five nodes, 0 to 30 % loss, five seeds
    python -m benchmarks.shared_medium --short           # one seed

Whole nodes on a simulated half-duplex channel (docs/simulation.md, docs/shared-medium.md). They join a room while the
channel is fast, then start again on the slow one, meet there, and one user writes. Where nothing is to be broadcast
each node has a network of its own. Counted is all that is on the air from the first text until minutes after the last
one. Exit status 0: everybody got everything, and
every sender knows that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.machine import machine
from p2pserver.link.network_key import NetworkKey
from p2pserver.node.simulation import RoomActions, SimulatedMesh
from p2pserver.node.timers import NodeTimers
from p2pserver.store.inline import InlineDatabase
from p2pserver.store.networks import import_network
from transports.sim import ChannelConditions, run_virtual
from transports.sim.channel import ChannelCounts

TEXTS = 5
LIMIT_S = 1_000_000.0
NAMES = "abcde"
FAST = ChannelConditions(bit_rate=1_000_000, preamble_ms=0.1, turnaround_ms=0.0, backoff_ms=1.0)
SLOW = ChannelConditions(bit_rate=1_200)


@dataclass
class Village:
    """Nodes on one channel whose users share a room; `rooms` by node."""

    mesh: SimulatedMesh
    rooms: dict[str, RoomActions]

    @property
    def room(self) -> RoomActions:
        return self.rooms["a"]

    def database(self, name: str) -> InlineDatabase:
        database = self.mesh.nodes[name].database
        assert database is not None
        return database

    def counts(self) -> ChannelCounts:
        assert self.mesh.network.channel is not None
        return replace(self.mesh.network.channel.counts)

    async def owed(self) -> dict[str, int]:
        """How much each node owes to others."""
        return {
            name: (await self.database(name).read(lambda tx: tx.one("SELECT count(*) FROM outbox")) or (0,))[0]
            for name in self.mesh.nodes
        }

    async def holds(self, name: str, event_id: str) -> bool:
        row = await self.database(name).read(lambda tx: tx.one("SELECT 1 FROM events WHERE event_id = ?", (event_id,)))
        return row is not None

    async def pdu(self, name: str, event_id: str) -> dict[str, Any]:
        row = await self.database(name).read(
            lambda tx: tx.one("SELECT raw FROM events WHERE event_id = ?", (event_id,))
        )
        assert row is not None
        pdu: dict[str, Any] = json.loads(row[0])
        return pdu

    async def equal(self, within_s: float = 2_000.0) -> float:
        took_s = await self.mesh.until_equal(self.room.room_id, within_s=within_s)
        assert took_s is not None, await self.mesh.digests(self.room.room_id)
        return took_s

    async def change_channel(self, conditions: ChannelConditions) -> None:
        """All nodes start again on another channel, and meet there."""
        for name in self.mesh.nodes:
            await self.mesh.crash(name)
        assert self.mesh.network.channel is not None
        self.mesh.network.channel.conditions = conditions
        for name in self.mesh.nodes:
            await self.mesh.boot(name)
        await self.all_connected()

    async def all_connected(self) -> None:
        nodes = self.mesh.nodes
        for _ in range(5_000):
            if all(len(node.running.mesh.connected()) == len(nodes) - 1 for node in nodes.values()):
                break
            await asyncio.sleep(1)
        else:
            raise TimeoutError("the nodes did not meet")
        await asyncio.sleep(120)


async def village(names: str = NAMES, *, seed: int = 1, timers: NodeTimers | None = None) -> Village:
    mesh = SimulatedMesh(list(names), seed=seed, channel=FAST, timers=timers)
    await mesh.start()
    await asyncio.sleep(10)
    users = {name: await mesh.user(name, name) for name in names}
    rooms = {"a": await RoomActions.create(users["a"], name="harbor", preset="public_chat")}
    await asyncio.sleep(1)
    for name in names[1:]:
        rooms[name] = await RoomActions.join(users[name], rooms["a"].room_id, via=mesh.nodes["a"].server_name)
        await asyncio.sleep(40)
    made = Village(mesh, rooms)
    await made.equal()
    await asyncio.sleep(200)
    return made


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one text: octets and airtime of everything on the channel, and seconds until the last node had the slowest."""

    octets: int
    airtime_s: float
    slowest_s: float
    is_complete: bool
    """Every text is at every node."""
    unacknowledged: int
    """Rows that are left in outboxes an hour after the last text."""
    acknowledged_s: int
    """After the last text, until nobody owed anything; looked at after four minutes, and then every ten seconds."""


async def cost_of_texts(*, loss: float, broadcast: bool, seed: int = 1, texts: int = TEXTS) -> Cost:
    """At 1,200 bit/s, from one node to all others."""
    here = await village(seed=seed)
    if not broadcast:
        for name in NAMES:
            own = NetworkKey(network_id=name.encode() * 8, name=name, epoch=1, key=name.encode() * 32)
            await here.database(name).write(lambda tx, own=own: import_network(tx, own))  # type: ignore[misc]
    await here.change_channel(replace(SLOW, loss=loss))
    before, slowest_s = here.counts(), 0.0
    for number in range(texts):
        await here.room.send(f"a text of 20 letters{number}")
        slowest_s = max(slowest_s, await here.equal())
        await asyncio.sleep(240)
    after = here.counts()
    unacknowledged, acknowledged_s = 1, 230
    while unacknowledged and acknowledged_s < 3_600:
        acknowledged_s += 10
        await asyncio.sleep(10)
        unacknowledged = sum((await here.owed()).values())
    is_complete = all([len(await here.rooms[name].messages()) == texts for name in NAMES])
    await here.mesh.stop()
    return Cost(
        octets=(after.octets - before.octets) // texts,
        airtime_s=(after.airtime_s - before.airtime_s) / texts,
        slowest_s=slowest_s,
        is_complete=is_complete,
        unacknowledged=unacknowledged,
        acknowledged_s=acknowledged_s,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A text to all neighbors on one radio channel.")
    parser.add_argument("--short", action="store_true", help="one seed")
    chosen = parser.parse_args(arguments)
    seeds = range(1, 2 if chosen.short else 6)
    print(machine())
    print(f"{len(NAMES)} nodes, {SLOW.bit_rate} bit/s, {TEXTS} texts of 21 characters, medians of {len(seeds)} seeds")
    print(
        "| loss | | octets a text | airtime a text | until all have the slowest | until all are acknowledged | never |"
    )
    print("|---|---|---|---|---|---|---|")
    is_complete = True
    for loss in (0.0, 0.1, 0.2, 0.3):
        for broadcast in (True, False):
            costs = [
                run_virtual(cost_of_texts(loss=loss, broadcast=broadcast, seed=seed), limit_s=LIMIT_S) for seed in seeds
            ]
            is_complete &= all(cost.is_complete and not cost.unacknowledged for cost in costs)
            octets = statistics.median(cost.octets for cost in costs)
            airtime_s = statistics.median(cost.airtime_s for cost in costs)
            slowest_s = statistics.median(cost.slowest_s for cost in costs)
            how = "broadcast" if broadcast else "pairwise"
            left, longest_s = sum(cost.unacknowledged for cost in costs), max(cost.acknowledged_s for cost in costs)
            known = "under 240 s" if longest_s <= 240 else f"{longest_s} s at most"
            row = f"| {loss:.0%} | {how} | {octets:,.0f} | {airtime_s:.1f} s | {slowest_s:.0f} s | {known} | {left} |"
            print(row, flush=True)
    return 0 if is_complete else 1


if __name__ == "__main__":
    sys.exit(main())
