"""Random histories of whole nodes: who does what, and when the network breaks, follows from a seed.

Five nodes with two users each share a room. The first user of each node stays a member whatever happens, so that every
node keeps receiving the room; the second users are invited, kicked, banned, promoted and demoted. Everything goes
through the client API of the node concerned and through the real receive path of the others.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from p2pserver.node.simulation import RequestFailed, RoomActions, Sabotage, SimulatedMesh
from p2pserver.rooms.proof import digest_of_everything
from p2pserver.store.tx import Tx
from tests.store.integrity import graph_contradictions
from transports.sim import LinkConditions, run_virtual

NAMES = ("n0", "n1", "n2", "n3", "n4")
STEPS = 60
VERSIONS = tuple(str(number) for number in range(12, 0, -1))
CONDITIONS = LinkConditions(
    loss=0.2, duplication=0.05, delay_ms_mean=80, jitter_ms=75, bit_rate=2_000_000, datagram_octets_max=1_200
)


class Diverged(AssertionError):
    """The nodes do not hold the same room at the end, or something acknowledged is gone."""


@dataclass(slots=True)
class Outcome:
    """What a history came to: for the report of a test, and to compare two runs of one seed."""

    seed: int
    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    events: int = 0
    sec: str = ""
    operational: str = ""
    agreed_after_s: float = 0.0
    datagrams: int = 0


class History:
    """One run. `sabotage` breaks the node n2."""

    def __init__(
        self,
        seed: int,
        *,
        steps: int = STEPS,
        sabotage: Sabotage | None = None,
        patience_s: float = 3600,
    ) -> None:
        self.seed = seed
        self.steps = steps
        self.rng = random.Random(f"history {seed}")
        self.sabotage = sabotage
        self.patience_s = patience_s
        self.outcome = Outcome(seed)
        self.residents: dict[str, RoomActions] = {}
        self.guests: dict[str, RoomActions] = {}
        self.room_id = ""
        self.version = VERSIONS[seed % len(VERSIONS)]

    def run(self) -> Outcome:
        """Raises: Diverged."""
        return run_virtual(self.live())

    async def live(self) -> Outcome:
        self.mesh = SimulatedMesh(NAMES, seed=self.seed, conditions=CONDITIONS)
        if self.sabotage is not None:
            self.mesh.nodes["n2"].sabotage = self.sabotage
        await self.mesh.start()
        try:
            await self.settle_in()
            for number in range(self.steps):
                await self.step()
                await self.check_what_is_kept(NAMES[number % len(NAMES)], digest=number % 20 == 0)
                await asyncio.sleep(self.rng.choice((0.0, 0.0, 0.05, 0.5, 5.0, 40.0)))
            await self.come_together()
            await self.post_once_each()
        finally:
            await self.mesh.stop()
        return self.outcome

    async def settle_in(self) -> None:
        await asyncio.sleep(5)
        clients = {name: await self.mesh.user(name, f"resident-{name}") for name in NAMES}
        first = await RoomActions.create(clients["n0"], name="start", preset="public_chat", room_version=self.version)
        self.room_id = first.room_id
        self.residents["n0"] = first
        for name in NAMES[1:]:
            self.residents[name] = await self.join(clients[name])
        for name in NAMES:
            self.guests[name] = await self.join(await self.mesh.user(name, f"guest-{name}"))
        for name in NAMES[1:]:
            await first.set_level(self.residents[name].client.user_id, self.rng.choice((50, 100, 100)))
        for name in NAMES:
            await first.set_level(self.guests[name].client.user_id, self.rng.choice((0, 40, 60)))
        if await self.mesh.until_equal(self.room_id, within_s=min(900, self.patience_s)) is None:
            raise Diverged(f"seed {self.seed}: the nodes did not agree in peace: {await self.describe()}")

    async def join(self, client: object) -> RoomActions:
        """Joins through n0, trying again while the network loses what it loses."""
        via = self.mesh.nodes["n0"].server_name
        for _ in range(20):
            try:
                return await RoomActions.join(client, self.room_id, via=via)  # type: ignore[arg-type]
            except RequestFailed as failed:
                if failed.status < 500:
                    raise
                await asyncio.sleep(10)
        raise Diverged(f"seed {self.seed}: a join did not succeed")

    # One step

    async def step(self) -> None:
        up = [name for name in NAMES if self.mesh.nodes[name].node is not None]
        deeds: list[tuple[int, Callable[[str], object]]] = [
            (40, self.say),
            (8, self.rename),
            (6, self.topic),
            (7, self.ban),
            (5, self.kick),
            (4, self.unban),
            (5, self.invite),
            (6, self.come_back),
            (8, self.change_level),
            (5, self.change_join_rule),
            (3, self.redact),
            (6, self.part),
            (5, self.heal),
            (3, self.crash),
            (4, self.boot),
        ]
        [(_, deed)] = self.rng.choices(deeds, weights=[weight for weight, _ in deeds])
        kind = getattr(deed, "__name__", "?")
        try:
            if await deed(self.rng.choice(up)) is not False:  # type: ignore[misc]
                self.outcome.done[kind] += 1
        except RequestFailed as failed:
            if failed.status >= 500 and failed.status not in (502, 503, 504):
                raise Diverged(f"seed {self.seed}: a node broke down: {failed}") from failed
            self.outcome.refused[kind] += 1

    def actor(self, name: str) -> RoomActions:
        return self.rng.choice((self.residents[name], self.residents[name], self.guests[name]))

    def target(self) -> str:
        return self.guests[self.rng.choice(NAMES)].client.user_id

    def keep(self, event_id: str) -> None:
        """The node said that it has this event."""
        self.outcome.acknowledged.add(event_id)

    async def say(self, name: str) -> None:
        for n in range(self.rng.choice((1, 1, 1, 5))):
            self.keep(await self.actor(name).send(f"{name} says {self.outcome.done['say']}.{n}"))

    async def rename(self, name: str) -> None:
        self.keep(await self.actor(name).state("m.room.name", {"name": f"{name} {self.rng.random():.3f}"}))

    async def topic(self, name: str) -> None:
        self.keep(await self.actor(name).state("m.room.topic", {"topic": f"{name} {self.rng.random():.3f}"}))

    async def ban(self, name: str) -> None:
        await self.actor(name).membership("ban", self.target())

    async def kick(self, name: str) -> None:
        await self.actor(name).membership("kick", self.target())

    async def unban(self, name: str) -> None:
        await self.actor(name).membership("unban", self.target())

    async def invite(self, name: str) -> None:
        await self.actor(name).membership("invite", self.target())

    async def come_back(self, name: str) -> None:
        await RoomActions.join(self.guests[name].client, self.room_id)

    async def change_level(self, name: str) -> None:
        users = [actions.client.user_id for actions in (*self.guests.values(), *self.residents.values())]
        self.keep(await self.actor(name).set_level(self.rng.choice(users), self.rng.choice((0, 40, 50, 60, 99, 100))))

    async def change_join_rule(self, name: str) -> None:
        rule = self.rng.choice(("public", "invite", "knock"))
        self.keep(await self.actor(name).state("m.room.join_rules", {"join_rule": rule}))

    async def redact(self, name: str) -> bool:
        if not self.outcome.acknowledged:
            return False
        target = self.rng.choice(sorted(self.outcome.acknowledged))
        await self.actor(name).redact(target)
        return True

    async def part(self, name: str) -> None:
        groups: tuple[set[str], set[str]] = (set(), set())
        for other in NAMES:
            self.rng.choice(groups).add(other)
        self.mesh.partition(*groups)

    async def heal(self, name: str) -> None:
        self.mesh.heal()

    async def crash(self, name: str) -> bool:
        if sum(node.node is not None for node in self.mesh.nodes.values()) <= 2:
            return False
        work = asyncio.create_task(self.residents[name].send(f"{name} is about to fall"))
        await asyncio.sleep(self.rng.choice((0.0, 0.002, 0.0041, 0.02)))
        if work.done() and not work.cancelled() and work.exception() is None:
            self.keep(work.result())
        await self.mesh.crash(name)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return True

    async def boot(self, name: str) -> bool:
        down = [other for other in NAMES if self.mesh.nodes[other].node is None]
        if not down:
            return False
        await self.mesh.boot(self.rng.choice(down))
        return True

    # The end

    async def come_together(self) -> None:
        self.mesh.heal()
        for name in NAMES:
            if self.mesh.nodes[name].node is None:
                await self.mesh.boot(name)
        agreed = await self.mesh.until_equal(self.room_id, within_s=self.patience_s)
        if agreed is None:
            raise Diverged(f"seed {self.seed}: no agreement after healing: {await self.describe()}")
        await self.check_what_is_kept(NAMES[self.seed % len(NAMES)], digest=True)
        self.outcome.agreed_after_s = agreed
        await self.check_acknowledged()

    async def post_once_each(self) -> None:
        for name in NAMES:
            try:
                self.keep(await self.residents[name].send("here"))
            except RequestFailed:
                continue
            await self.mesh.until_equal(self.room_id, within_s=min(900, self.patience_s))
        digests = await self.mesh.digests(self.room_id)
        found = {(digest.sec, digest.operational) if digest else None for digest in digests.values()}
        if len(found) != 1 or None in found:
            raise Diverged(f"seed {self.seed}: states differ after everybody posted: {await self.describe()}")
        digest = digests["n0"]
        assert digest is not None
        self.outcome.sec, self.outcome.operational = digest.sec.hex(), digest.operational.hex()
        self.outcome.events = digest.events
        self.outcome.datagrams = self.mesh.network.counts.sent
        await self.check_acknowledged()

    async def check_acknowledged(self) -> None:
        for name in NAMES:
            database = self.mesh.nodes[name].database
            assert database is not None
            held = await database.read(
                lambda tx: {event_id for (event_id,) in tx.all("SELECT event_id FROM events WHERE outlier = 0")}
            )
            lost = self.outcome.acknowledged - held
            if lost:
                raise Diverged(f"seed {self.seed}: {name} lost {len(lost)} acknowledged events")

    async def check_what_is_kept(self, name: str, *, digest: bool) -> None:
        """Leaves, extremities and digest, kept event by event, are those of the whole graph, where it is held."""
        database, node = self.mesh.nodes[name].database, self.mesh.nodes[name].node
        if database is None or node is None:
            return

        def look(tx: Tx) -> list[str]:
            if not node.rooms.is_complete(tx, self.room_id):
                return []
            found = graph_contradictions(tx.conn, self.room_id)
            if digest and node.rooms.digest(tx, self.room_id) != digest_of_everything(Tx(tx.conn, {}), self.room_id):
                found.append("the digest is not that of all events and states")
            return found

        wrong = await database.read(look)
        if wrong:
            raise Diverged(f"seed {self.seed}: {name}: {wrong[0]}")

    async def describe(self) -> str:
        lines = []
        for name, digest in (await self.mesh.digests(self.room_id)).items():
            shown = "not complete" if digest is None else f"{digest.events} events {digest.sec.hex()[:8]}"
            lines.append(f"{name}: {shown}")
        return "; ".join(lines)
