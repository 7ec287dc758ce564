"""Two nodes side by side: real handlers and a real outbox, with a wire that can be unplugged between them."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from p2pserver.errors import PeerUnreachable
from p2pserver.rooms.edus import receive_edu
from p2pserver.rooms.s2s import s2s_handlers
from p2pserver.store import outbox
from p2pserver.store.tx import Tx
from tests.client_api.harness import Node, running_node


class Wire:
    """RemoteServers of one node: the other node's handlers, while the wire is plugged in."""

    def __init__(self) -> None:
        self.own: Node
        self.other: Node
        self.plugged = True
        self.private = False
        """Whether the other node opts out of searches."""
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {}
        """What is answered to a question instead of the other node's answer: a liar."""

    def connected(self) -> list[str]:
        return [self.other.server_name] if self.plugged else []

    async def ask(
        self, server: str, name: str, body: dict[str, Any], *, timeout_s: float, progress: Any = None
    ) -> dict[str, Any]:
        if not self.plugged or server != self.other.server_name:
            raise PeerUnreachable(f"{server} is not connected")
        self.asked.append(name)
        if name in self.answers:
            forged: dict[str, Any] = self.answers[name]
            return forged
        handler = s2s_handlers(self.other.rooms, private=self.private)[name]
        origin, question = self.own.server_name, json.loads(json.dumps(body))
        answer = await self.other.database.write(lambda tx: handler(tx, origin, question))
        received: dict[str, Any] = json.loads(json.dumps(answer))
        return received


async def carry(source: Node, target: Node, *, twice: bool = False) -> int:
    """Brings what `source` owes to `target` and clears it; returns how many items. `twice`: an answer was lost."""

    def owed(tx: Tx) -> list[outbox.OutboxItem]:
        return outbox.page(tx, target.server_name, most=1000, octets_max=10_000_000)

    def receive(tx: Tx, item: outbox.OutboxItem) -> None:
        if item.kind == "edu":
            receive_edu(tx, source.server_name, item.payload["edu_type"], item.payload["content"])
        elif item.kind == "invite":
            target.rooms.receive_invite(tx, origin=source.server_name, payload=item.payload)
        else:
            assert item.room_id is not None
            target.rooms.receive(tx, room_id=item.room_id, raws=[item.payload], source=source.server_name)

    items = await source.database.read(owed)
    for item in items * (2 if twice else 1):
        await target.database.write(lambda tx, item=item: receive(tx, item))
    numbers = [item.number for item in items]
    await source.database.write(lambda tx: outbox.forget_numbers(tx, target.server_name, numbers))
    return len(items)


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Node, Node, Wire, Wire]]:
    """(here, there, here's wire to there, there's wire to here)."""
    here_wire, there_wire = Wire(), Wire()
    async with running_node(seed=1, remote=here_wire) as here, running_node(seed=2, remote=there_wire) as there:
        here_wire.own, here_wire.other = here, there
        there_wire.own, there_wire.other = there, here
        yield here, there, here_wire, there_wire
