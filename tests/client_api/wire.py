"""Nodes that reach each other, or not: questions by the real S2S handlers, deliveries out of the real outbox.

Peering proper has its own tests; here a delivery is one function call, so that a test decides what arrives when.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from p2pserver.errors import PeerUnreachable
from p2pserver.rooms.s2s import s2s_handlers
from p2pserver.store import outbox
from tests.client_api.harness import Node, running_node


class Wire:
    """What connects some nodes. Cut and mend it as you like."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.cut: set[frozenset[str]] = set()
        self.asked: list[tuple[str, str, str]] = []
        self.answers_take_s = 0.0

    def reaches(self, here: str, there: str) -> bool:
        return there in self.nodes and here != there and frozenset((here, there)) not in self.cut

    def separate(self, one: Node, other: Node) -> None:
        self.cut.add(frozenset((one.server_name, other.server_name)))

    def rejoin(self, one: Node, other: Node) -> None:
        self.cut.discard(frozenset((one.server_name, other.server_name)))

    async def deliver(self) -> None:
        """Brings everything that is owed to whoever can be reached, until nothing is left to bring."""
        while await self._deliver_once():
            pass

    async def _deliver_once(self) -> bool:
        moved = False
        for here in list(self.nodes.values()):
            for there in await here.database.read(outbox.destinations):
                if self.reaches(here.server_name, there):
                    moved |= await self._bring(here, self.nodes[there])
        return moved

    async def _bring(self, here: Node, there: Node) -> bool:
        items = await here.database.read(lambda tx: outbox.page(tx, there.server_name))
        for item in items:
            await there.database.write(lambda tx, item=item: self._receive(there, here.server_name, tx, item))
            numbers = [item.number]
            await here.database.write(lambda tx, numbers=numbers: outbox.forget_numbers(tx, there.server_name, numbers))
        return bool(items)

    def _receive(self, there: Node, origin: str, tx: Any, item: outbox.OutboxItem) -> None:
        if item.kind == "invite":
            there.rooms.receive_invite(tx, origin=origin, payload=item.payload)
        elif item.kind == "pdu":
            there.rooms.receive(tx, room_id=item.room_id or "", raws=[item.payload], source=origin)

    async def backfill(
        self, there: Node, room_id: str, source: Node, *, octets_max: int = 10**6, most: int = 10**6
    ) -> None:
        """Lets `there` ask `source` for what it lacks, as peering does on contact; at most `most` batches.

        An answer with nothing that did not come before is the last: for a redacted event nobody may have a genuine copy
        any more, and it is still asked for.
        """
        have: list[str] = []
        seen: set[str] = set()
        for _ in range(most):
            got = await self._batch(there, room_id, source, have, octets_max)
            if seen.issuperset(got):
                return
            seen.update(got)
            have = got[-64:]

    async def _batch(self, there: Node, room_id: str, source: Node, have: list[str], octets_max: int) -> list[str]:
        """One question and its answer; returns the IDs of what came."""
        wanted = await there.database.read(lambda tx: there.rooms.wanted(tx, room_id))
        if not wanted:
            return []
        pdus, _ = await source.database.read(
            lambda tx: source.rooms.missing_for(
                tx, room_id=room_id, want=wanted, have=have, octets_max=octets_max, origin=there.server_name
            )
        )
        report = await there.database.write(
            lambda tx: there.rooms.receive(tx, room_id=room_id, raws=pdus, source=source.server_name, backfill=True)
        )
        return [result.event_id for result in report.results if result.event_id is not None]


class Door:
    """The RemoteServers of one node on a wire."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.here = ""

    def connected(self) -> list[str]:
        return sorted(name for name in self.wire.nodes if self.wire.reaches(self.here, name))

    async def ask(
        self, server: str, name: str, body: dict[str, Any], *, timeout_s: float, progress: Any = None
    ) -> dict[str, Any]:
        self.wire.asked.append((self.here, server, name))
        if not self.wire.reaches(self.here, server):
            raise PeerUnreachable(f"{server} is not connected")
        node = self.wire.nodes[server]
        handler = s2s_handlers(node.rooms, private=False)[name]
        answer: dict[str, Any] = await node.database.write(lambda tx: handler(tx, self.here, body))
        await asyncio.sleep(self.wire.answers_take_s)
        return answer


@asynccontextmanager
async def wired_nodes(count: int) -> AsyncIterator[tuple[Wire, list[Node]]]:
    """Some nodes, all of which reach each other."""
    wire = Wire()
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(count):
            door = Door(wire)
            node = await stack.enter_async_context(running_node(seed=100 + number, remote=door))
            door.here = node.server_name
            wire.nodes[node.server_name] = node
            nodes.append(node)
        yield wire, nodes
