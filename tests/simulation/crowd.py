"""Many whole nodes with one room that all of them hold, made without saying a word over the network.

Joins go from node to node by hand, through the functions that the network calls; what the nodes do from then on goes
over simulated links, each to a few neighbors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from p2pserver.node.shared_verdicts import SharedVerdicts
from p2pserver.node.simulation import SimulatedMesh
from p2pserver.rooms.proof import digest_of_everything
from p2pserver.rooms.service import Rooms
from p2pserver.rooms.values import RoomDigest
from p2pserver.store.events import HEALING_TYPE
from p2pserver.store.tx import Tx
from transports.sim import LinkConditions

T = TypeVar("T")
CONDITIONS = LinkConditions(loss=0.02, duplication=0.0, delay_ms_mean=30, jitter_ms=20, bit_rate=2_000_000)


class Crowd:
    """`count` nodes; each is in reach of those whose number is `reach` steps away. Use inside `run_virtual`.

    They share the checks on receipt (`node/shared_verdicts.py`), which `shared` has in use.
    """

    def __init__(self, count: int, *, seed: int, shared: SharedVerdicts, reach: tuple[int, ...] = (1, 7)) -> None:
        self.names = [f"n{number:02}" for number in range(count)]
        self.mesh = SimulatedMesh(self.names, seed=seed, conditions=CONDITIONS, shared=shared)
        for one in range(count):
            for other in range(one + 1, count):
                if not {other - one, count + one - other} & set(reach):
                    self.mesh.network.set_link(self.names[one], self.names[other], up=False)
        self.room_id = ""
        self.apart()

    def apart(self) -> None:
        """Nobody reaches anybody."""
        self.mesh.partition(*({name} for name in self.names))

    def user(self, name: str) -> str:
        return f"@user:{self.mesh.nodes[name].server_name}"

    async def unit(self, name: str, do: Callable[[Rooms, Tx], T]) -> T:
        """One unit of work on a node."""
        node = self.mesh.nodes[name]
        assert node.database is not None
        return await node.database.write(lambda tx: do(node.running.rooms, tx))

    async def settle_in(self, *, version: str = "12", levels: dict[str, Any] | None = None) -> None:
        """Every node holds the whole room, with one user each, and owes nothing to anybody."""
        await self.mesh.start()
        for name in self.names:
            await self.mesh.user(name, "user")
        first = self.names[0]
        state = [("m.room.power_levels", "", levels or {}), ("m.room.join_rules", "", {"join_rule": "public"})]
        self.room_id = await self.unit(
            first,
            lambda rooms, tx: rooms.create(
                tx,
                version=version,
                creator=self.user(first),
                creation_content={},
                state=state,
                creator_profile={},
            ),
        )
        for name in self.names[1:]:
            await self._join(name)
        for name in self.names:
            await self._catch_up(name)
            await self.unit(name, lambda rooms, tx: tx.execute("DELETE FROM outbox"))

    async def _join(self, name: str) -> None:
        first, server = self.names[0], self.mesh.nodes[name].server_name
        offer = await self.unit(
            first,
            lambda rooms, tx: rooms.join_offer(
                tx, origin=server, room_id=self.room_id, user_id=self.user(name), versions=["10", "11", "12"]
            ),
        )
        join = await self.unit(
            name,
            lambda rooms, tx: rooms.join_with(
                tx, user_id=self.user(name), offer=offer, resident=self.mesh.nodes[first].server_name, content={}
            ),
        )
        await self.unit(
            first, lambda rooms, tx: rooms.receive(tx, room_id=self.room_id, raws=[join.raw], source=server)
        )

    async def _catch_up(self, name: str) -> None:
        first = self.names[0]
        raws = await self.unit(
            first, lambda rooms, tx: [rooms.event(tx, each).raw for each in _in_order(tx, self.room_id)]
        )
        source = self.mesh.nodes[first].server_name
        if name != first:
            await self.unit(
                name, lambda rooms, tx: rooms.receive(tx, room_id=self.room_id, raws=raws, source=source, backfill=True)
            )

    async def say(self, name: str, text: str = "hello") -> str:
        content = {"msgtype": "m.text", "body": text}
        return await self._post(name, "m.room.message", None, content)

    async def set_state(self, name: str, event_type: str, content: dict[str, Any]) -> str:
        return await self._post(name, event_type, "", content)

    async def _post(self, name: str, event_type: str, state_key: str | None, content: dict[str, Any]) -> str:
        event = await self.unit(
            name,
            lambda rooms, tx: rooms.send(
                tx,
                room_id=self.room_id,
                sender=self.user(name),
                event_type=event_type,
                content=content,
                state_key=state_key,
            ),
        )
        return event.event_id

    async def hand(self, name: str, given: Sequence[tuple[str, str]]) -> None:
        """Gives a node events that other nodes hold, in this order, without the network: (who holds it, event ID)."""
        for holder, event_id in given:
            raw = await self.unit(holder, lambda rooms, tx, event_id=event_id: rooms.event(tx, event_id).raw)  # type: ignore[misc]
            source = self.mesh.nodes[holder].server_name
            await self.unit(
                name,
                lambda rooms, tx, raw=raw, source=source: rooms.receive(  # type: ignore[misc]
                    tx, room_id=self.room_id, raws=[raw], source=source
                ),
            )

    async def digests(self) -> list[RoomDigest]:
        found = await self.mesh.digests(self.room_id)
        return [digest for digest in found.values() if digest is not None]

    async def until(self, reached: Callable[[list[RoomDigest]], bool], *, within_s: float) -> float:
        """The virtual seconds until all nodes have reached something.

        Raises: TimeoutError.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not reached(await self.digests()):
            if loop.time() - began > within_s:
                raise TimeoutError(f"not within {within_s} s: {await self.digests()}")
            await asyncio.sleep(1.0)
        return loop.time() - began

    async def check_everything(self, names: Sequence[str]) -> None:
        """What is kept of the digest is what every event and every state gives."""
        for name in names:
            kept = await self.unit(name, lambda rooms, tx: rooms.digest(tx, self.room_id))
            assert kept == await self.unit(name, lambda rooms, tx: digest_of_everything(Tx(tx.conn, {}), self.room_id))

    async def healing_events(self) -> int:
        """How many there are in the room, from whomever."""
        return await self.unit(
            self.names[0],
            lambda rooms, tx: tx.execute(
                "SELECT count(*) FROM events WHERE room_id = ? AND type = ?", (self.room_id, HEALING_TYPE)
            ).fetchone()[0],
        )


def _in_order(tx: Tx, room_id: str) -> list[str]:
    rows = tx.all("SELECT event_id FROM events WHERE room_id = ? AND outlier = 0 ORDER BY depth, position", (room_id,))
    return [event_id for (event_id,) in rows]


def agree(digests: list[RoomDigest], *, count: int) -> bool:
    """All nodes hold the same events, the same current state, and a graph that is not wide."""
    return (
        len(digests) == count
        and len({(digest.sec, digest.operational) for digest in digests}) == 1
        and all(digest.width <= 20 for digest in digests)
    )
