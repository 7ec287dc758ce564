"""Whole nodes in one process, on a simulated network and a virtual clock: for the demo and for tests that search.

A simulated node is the real one, link, peering, store, rooms and client API; only the transport, the clock, the random
numbers and the disk are simulated, and all of them follow from one seed. Its users are clients that call the node's
HTTP application. See docs/simulation.md.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2pserver.config import Config
from p2pserver.node.identity import Identity, identity_of
from p2pserver.node.in_process_client import InProcessClient, RequestFailed, segment
from p2pserver.node.node import Node
from p2pserver.node.shared_verdicts import SharedVerdicts
from p2pserver.node.timers import NodeTimers
from p2pserver.rooms.values import RoomDigest
from p2pserver.store.accounts import register_user
from p2pserver.store.devices import log_in_device
from p2pserver.store.inline import InlineDatabase, SimulatedDisk
from p2pserver.store.media_files import MediaFiles
from transports.contract import Transport
from transports.sim import ChannelConditions, LinkConditions, NetworkAcross, SimNetwork

WALL_START_MS = 1_790_000_000_000
"""The wall clock of all simulated nodes at virtual time 0."""

COMMIT_DELAY_S = 0.004

POLL_S = 0.25

Sabotage = Callable[[InlineDatabase], None]
"""Breaks a node on purpose through its database, each time it starts: see node/sabotage.py."""


@dataclass(slots=True)
class SimulatedNode:
    """A node and its disk. While it is crashed, `node` is None and the disk keeps what was committed."""

    name: str
    identity: Identity
    disk: SimulatedDisk
    seed: int
    database: InlineDatabase | None = None
    node: Node | None = None
    clients: dict[str, InProcessClient] = field(default_factory=dict)
    starts: int = 0
    sabotage: Sabotage | None = None

    @property
    def server_name(self) -> str:
        return self.identity.server_name

    @property
    def running(self) -> Node:
        """The node. Raises: RuntimeError while it is crashed."""
        if self.node is None:
            raise RuntimeError(f"{self.name} is down")
        return self.node


class SimulatedMesh:
    """Nodes within reach of each other, and everything that may happen to them. Use inside `run_virtual`."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        seed: int,
        conditions: LinkConditions | None = None,
        commit_delay_s: float = COMMIT_DELAY_S,
        timers: NodeTimers | None = None,
        shared: SharedVerdicts | None = None,
        channel: ChannelConditions | None = None,
        more_networks: Sequence[SimNetwork] = (),
        here: Collection[str] | None = None,
        across: NetworkAcross | None = None,
        wall_start_ms: int = WALL_START_MS,
    ) -> None:
        """`timers`: of every node; None: those of a node on a LAN. `shared`: pure verdicts that the nodes share; the
        caller puts it `in_use`. `channel`: one half-duplex radio channel in place of a link for each pair.
        `more_networks`: that every node is on besides the one that is made here. `here`: the nodes that this process
        simulates; another simulates the rest, and `across` leads there. None of them crashes then.
        `wall_start_ms`: what
        the nodes' wall clocks show when the loop's clock is at 0."""
        self.rng = random.Random(seed)
        self.more_networks = more_networks
        self._here = frozenset(names if here is None else here)
        self._across = across
        self._wall_start_ms = wall_start_ms
        self.network = SimNetwork(seed=seed, conditions=conditions or LinkConditions(), shared=channel)
        self._commit_delay_s = commit_delay_s
        self._timers = timers
        self._shared = shared
        self.nodes: dict[str, SimulatedNode] = {}
        for name in names:
            self._make(name)

    def _make(self, name: str) -> None:
        identity = identity_of(self.rng.randbytes(32))
        self.nodes[name] = SimulatedNode(name, identity, SimulatedDisk(), self.rng.getrandbits(32))

    async def start(self) -> None:
        for name in self.nodes:
            if name in self._here:
                await self.boot(name)

    async def add(self, name: str) -> None:
        """A node that nobody has met yet comes into reach of all."""
        self._make(name)
        await self.boot(name)

    async def boot(self, name: str) -> None:
        """Starts a node that is down, on what its disk holds."""
        simulated = self.nodes[name]
        simulated.starts += 1
        transports: list[Transport] = [
            network.restart(name) if name in network.crashed else network.transport(name)
            for network in (self.network, *self.more_networks)
        ]
        if self._across is not None:
            transports.append(self._across.transport(name))
        rng = random.Random(f"{simulated.seed} {simulated.starts}")
        simulated.database = InlineDatabase(simulated.disk, commit_delay_s=self._commit_delay_s)
        if simulated.sabotage is not None:
            simulated.sabotage(simulated.database)
            if self._shared is not None:
                self._shared.keep_out(simulated.database)
        loop = asyncio.get_running_loop()
        simulated.node = Node(
            Config(data_dir=Path("/nonexistent"), transports=(), rate_limits=False),
            identity=simulated.identity,
            database=simulated.database,
            transports=transports,
            wall_ms=lambda: self._wall_start_ms + int(loop.time() * 1000),
            monotonic_s=loop.time,
            rng=rng,
            random_bytes=rng.randbytes,
            timers=self._timers,
            media_files=MediaFiles(simulated.disk.media_folder, threads=False),
        )
        await simulated.node.start()
        for client in simulated.clients.values():
            client.app = simulated.node.asgi_app()

    async def crash(self, name: str) -> None:
        """The power goes: no goodbye, no last commit."""
        simulated = self.nodes[name]
        node, database = simulated.running, simulated.database
        assert database is not None
        for network in (self.network, *self.more_networks):
            network.crash(name)
        database.crash()
        simulated.node = simulated.database = None
        await node.abort()

    async def stop(self) -> None:
        for simulated in self.nodes.values():
            if simulated.node is not None:
                await simulated.node.stop()
                assert simulated.database is not None
                await simulated.database.close()
                simulated.node = simulated.database = None

    def partition(self, *groups: Collection[str]) -> None:
        self.network.partition(groups)

    def heal(self) -> None:
        self.network.heal()

    async def user(self, name: str, localpart: str) -> InProcessClient:
        """An account on a node, with one device that is logged in."""
        simulated = self.nodes[name]
        user_id = f"@{localpart}:{simulated.server_name}"
        token = self.rng.randbytes(16).hex()

        def make(tx: Any) -> None:
            register_user(tx, user_id, None)
            log_in_device(tx, user_id, "SIM", token=token, display_name=None, now_ms=WALL_START_MS, ip="")

        assert simulated.database is not None
        await simulated.database.write(make)
        client = InProcessClient(simulated.running.asgi_app(), user_id, token)
        simulated.clients[user_id] = client
        return client

    async def digest(self, name: str, room_id: str) -> RoomDigest | None:
        """What a node holds of a room; None while it is down or does not hold it."""
        simulated = self.nodes[name]
        if simulated.node is None or simulated.database is None:
            return None
        rooms = simulated.node.rooms

        def read(tx: Any) -> RoomDigest | None:
            if tx.one("SELECT 1 FROM rooms WHERE room_id = ? AND complete = 1", (room_id,)) is None:
                return None
            return rooms.digest(tx, room_id)

        return await simulated.database.read(read)

    async def digests(self, room_id: str, names: Collection[str] | None = None) -> dict[str, RoomDigest | None]:
        return {name: await self.digest(name, room_id) for name in (names or self.nodes)}

    async def until_equal(self, room_id: str, *, within_s: float, names: Collection[str] | None = None) -> float | None:
        """The virtual seconds until all (named) nodes hold the room complete and with the same SEC digest; None if
        the time is over before."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            found = await self.digests(room_id, names)
            if None not in found.values() and len({digest.sec for digest in found.values() if digest}) == 1:
                return loop.time() - began
            if loop.time() - began > within_s:
                return None
            await asyncio.sleep(POLL_S)


@dataclass(slots=True)
class RoomActions:
    """What a user does in one room, as requests that a client makes."""

    client: InProcessClient
    room_id: str
    transactions: int = 0

    @classmethod
    async def create(cls, client: InProcessClient, **options: Any) -> RoomActions:
        answer = await client.request("POST", "/createRoom", options)
        return cls(client, answer["room_id"])

    @classmethod
    async def join(cls, client: InProcessClient, room_id: str, *, via: str | None = None) -> RoomActions:
        query = {} if via is None else {"via": via}
        await client.request("POST", f"/join/{segment(room_id)}", {}, **query)
        return cls(client, room_id)

    def _path(self, rest: str) -> str:
        return f"/rooms/{segment(self.room_id)}/{rest}"

    async def send(self, body: str) -> str:
        """The event ID of a text message, once it is durable."""
        self.transactions += 1
        content = {"msgtype": "m.text", "body": body}
        path = self._path(f"send/m.room.message/t{self.transactions}")
        answer = await self.client.request("PUT", path, content)
        return str(answer["event_id"])

    async def state(self, event_type: str, content: dict[str, Any], state_key: str = "") -> str:
        path = self._path(f"state/{segment(event_type)}/{segment(state_key)}")
        answer = await self.client.request("PUT", path, content)
        return str(answer["event_id"])

    async def read_state(self, event_type: str, state_key: str = "") -> dict[str, Any]:
        path = self._path(f"state/{segment(event_type)}/{segment(state_key)}")
        answer: dict[str, Any] = await self.client.request("GET", path)
        return answer

    async def membership(self, action: str, user_id: str) -> None:
        """`action` is invite, kick, ban or unban."""
        await self.client.request("POST", self._path(action), {"user_id": user_id})

    async def redact(self, event_id: str) -> str:
        self.transactions += 1
        answer = await self.client.request("PUT", self._path(f"redact/{segment(event_id)}/t{self.transactions}"), {})
        return str(answer["event_id"])

    async def leave(self) -> None:
        await self.client.request("POST", self._path("leave"), {})

    async def set_level(self, user_id: str, level: int) -> str:
        content = await self.read_state("m.room.power_levels")
        users = {**content.get("users", {}), user_id: level}
        return await self.state("m.room.power_levels", {**content, "users": users})

    async def messages(self) -> list[str]:
        """All texts of the room that the user may see, oldest first."""
        texts: list[str] = []
        query = {"dir": "f", "limit": "500"}
        for _ in range(200):
            page = await self.client.request("GET", self._path("messages"), **query)
            texts += [event["content"].get("body", "") for event in page["chunk"] if event["type"] == "m.room.message"]
            if "end" not in page or not page["chunk"]:
                break
            query["from"] = page["end"]
        return texts


__all__ = ["RequestFailed", "RoomActions", "Sabotage", "SimulatedMesh", "SimulatedNode"]
