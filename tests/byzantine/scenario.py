"""The stage of the catalogue: correct nodes and liars in one room, an attack, and what must hold after it.

    @case
    async def test_b04_equivocation(scene: Scenario) -> None:
        liar = scene.liars[0]
        this, that = await liar.make(body="this"), await liar.make(body="that")
        liar.push("a", this)
        liar.push("b", that)
        await scene.pass_time(5)

`case` runs the story twice, with one liar among four nodes and with all nodes but a pair lying, and checks the four
invariants of docs/byzantine.md after it.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import pytest

from p2pserver.errors import Verdict
from p2pserver.events.receipt import check_on_receipt
from p2pserver.events.signing import SelfCertifyingKeys
from p2pserver.node.in_process_client import InProcessClient
from p2pserver.node.simulation import RoomActions, Sabotage, SimulatedMesh
from p2pserver.rooms.sending import room_of
from p2pserver.rooms.values import RoomDigest
from p2pserver.store import events, graph_ends
from p2pserver.store.events import StoredEvent
from p2pserver.store.tx import Tx
from tests.byzantine.liar import Arsenal, Liar
from tests.byzantine.watch import BLOCKED_S, Budget, Growth, Violation, Watch, growth
from transports.sim import LinkConditions, run_virtual

Story = Callable[..., Awaitable[None]]

AGREE_S = 300.0
"""Virtual time that correct nodes have to agree after an attack, once they can reach each other."""


@dataclass(frozen=True, slots=True)
class Crowd:
    honest: tuple[str, ...]
    liars: tuple[str, ...]

    def __str__(self) -> str:
        return f"f={len(self.liars)}"


ONE_LIAR = Crowd(("a", "b", "c"), ("x",))
ALL_BUT_A_PAIR = Crowd(("a", "b"), ("x", "y", "z"))
"""n - 1 liars for one correct node, and one more correct node to compare it with."""
CROWDS = (ONE_LIAR, ALL_BUT_A_PAIR)


@dataclass(kw_only=True)
class Scenario:
    """A room that is shared by correct nodes and liars. Its creator is a user of the first correct node."""

    crowd: Crowd
    seed: int = 1
    version: str = "12"
    conditions: LinkConditions | None = None
    sabotage: Mapping[str, Sabotage] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    may_be_partial: bool = False
    """A case that takes events from everybody for ever leaves gaps, and a room is not complete then."""
    rejoin: bool = False
    """At the end a new node joins through each correct node alone."""

    def __post_init__(self) -> None:
        self.watch = Watch()
        self.mesh = SimulatedMesh([*self.crowd.honest, *self.crowd.liars], seed=self.seed, conditions=self.conditions)
        self.arsenal = Arsenal()
        self.liars: list[Liar] = []
        self.rooms: dict[str, RoomActions] = {}
        """What the user of each node does in the room, by node."""
        self.grown_before: dict[str, Growth] = {}
        self.sent_first = ""
        """The ID of a message of the creator that everybody holds."""

    @property
    def honest(self) -> tuple[str, ...]:
        return self.crowd.honest

    @property
    def room_id(self) -> str:
        return self.rooms["a"].room_id

    @property
    def creator(self) -> RoomActions:
        return self.rooms["a"]

    @property
    def liar(self) -> Liar:
        return self.liars[0]

    @property
    def creator_id(self) -> str:
        return self.creator.client.user_id

    async def begin(self) -> None:
        for name in self.honest:
            self.mesh.nodes[name].sabotage = self.watch.attach(self.sabotage.get(name))
        await self.mesh.start()
        self.liars = [Liar(self.mesh, name, self.arsenal) for name in self.crowd.liars]
        await asyncio.sleep(2)
        self.rooms["a"] = await RoomActions.create(
            await self.mesh.user("a", "alice"), preset="public_chat", room_version=self.version
        )
        via = self.mesh.nodes["a"].server_name
        for name in [*self.honest[1:], *self.crowd.liars]:
            client = await self.mesh.user(name, f"user-{name}")
            self.rooms[name] = await RoomActions.join(client, self.room_id, via=via)
        await self.until_same_events(names=list(self.mesh.nodes))
        self.sent_first = await self.creator.send("before the attack")
        for liar in self.liars:
            liar.room = self.rooms[liar.name]
            liar.client = liar.room.client
        await self.until_held(self.sent_first, names=list(self.mesh.nodes))
        self.grown_before = {name: growth(self.mesh.nodes[name], self.room_id) for name in self.honest}

    # What happens

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def split(self, *groups: Collection[str]) -> None:
        """Correct nodes of different groups stop hearing each other; the liars still hear everybody."""
        group_of = {name: number for number, group in enumerate(groups) for name in group}
        for one in self.honest:
            for other in self.honest:
                if one < other:
                    self.mesh.network.set_link(one, other, group_of[one] == group_of[other])

    def split_all(self) -> None:
        self.split(*({name} for name in self.honest))

    def heal(self) -> None:
        self.split(self.honest)
        self.mesh.heal()

    async def give_power(self, user_id: str, level: int) -> str:
        event_id = await self.creator.set_level(user_id, level)
        await self.until_same_events(names=list(self.mesh.nodes))
        return event_id

    async def make_room(self, **options: Any) -> RoomActions:
        """Another room, of the first correct node's user."""
        return await RoomActions.create(self.creator.client, preset="public_chat", **options)

    # What a correct node holds

    async def read(self, name: str, query: Callable[[Tx], Any]) -> Any:
        database = self.mesh.nodes[name].database
        assert database is not None
        return await database.read(query)

    async def stored(self, name: str, event_id: str) -> StoredEvent | None:
        found = await self.read(name, lambda tx: events.stored(tx, event_id))
        return None if found is None or found.outlier else found  # type: ignore[no-any-return]

    async def verdict(self, name: str, event_id: str) -> Verdict | None:
        found = await self.stored(name, event_id)
        return None if found is None else found.verdict

    async def verdicts(self, event_id: str) -> set[Verdict | None]:
        return {await self.verdict(name, event_id) for name in self.honest}

    async def content(self, name: str, event_id: str) -> Mapping[str, Any] | None:
        found = await self.stored(name, event_id)
        return None if found is None else found.pdu.content

    async def is_parked(self, name: str, event_id: str) -> bool:
        sql = "SELECT 1 FROM parked_pdus WHERE event_id = ?"
        return bool(await self.read(name, lambda tx: tx.one(sql, (event_id,)) is not None))

    async def is_nowhere(self, event_id: str) -> bool:
        """No correct node holds the event in any form: graph, outlier, parked, owed."""
        sql = (
            "SELECT 1 FROM events WHERE event_id = :id UNION ALL SELECT 1 FROM parked_pdus WHERE event_id = :id"
            " UNION ALL SELECT 1 FROM outbox WHERE event_id = :id"
        )
        found = [await self.read(name, lambda tx: tx.one(sql, {"id": event_id})) for name in self.honest]
        return not any(found)

    async def state(self, name: str, room_id: str | None = None) -> dict[tuple[str, str], str]:
        """The operational current state."""
        rooms = self.mesh.nodes[name].running.rooms
        found: dict[tuple[str, str], str] = await self.read(
            name, lambda tx: rooms.current_state(tx, room_id or self.room_id)
        )
        return found

    async def texts(self, name: str) -> list[str]:
        """All texts that the client at this node is shown."""
        return await self.rooms[name].messages()

    # Agreement

    async def digest(self, name: str, room_id: str | None = None) -> RoomDigest:
        rooms = self.mesh.nodes[name].running.rooms
        digest: RoomDigest = await self.read(name, lambda tx: rooms.digest(tx, room_id or self.room_id))
        return digest

    async def until_same_events(
        self, *, within_s: float = AGREE_S, names: Collection[str] | None = None, room_id: str | None = None
    ) -> None:
        """Raises: Violation."""
        names = self.honest if names is None else names
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while True:
            leaves = {name: await self._leaves(name, room_id or self.room_id) for name in names}
            if len(set(leaves.values())) == 1:
                return
            if loop.time() > until:
                raise Violation(f"not the same events after {within_s} s: {await self._differences(names)}")
            await asyncio.sleep(0.5)

    async def until_held(self, *event_ids: str, within_s: float = 60, names: Collection[str] | None = None) -> None:
        """Until the (named) correct nodes have the events in their graphs. Raises: Violation."""
        names = self.honest if names is None else names
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while True:
            lacking = [(name, each) for name in names for each in event_ids if await self.stored(name, each) is None]
            if not lacking:
                return
            if loop.time() > until:
                raise Violation(f"not held after {within_s} s: {lacking[:3]}")
            await asyncio.sleep(0.25)

    async def _leaves(self, name: str, room_id: str) -> tuple[Any, ...]:
        def read(tx: Tx) -> tuple[Any, ...]:
            count = tx.one("SELECT count(*) FROM events WHERE room_id = ? AND outlier = 0", (room_id,))
            return count, tuple(sorted(graph_ends.leaves(tx, room_id)))

        found: tuple[Any, ...] = await self.read(name, read)
        return found

    async def _differences(self, names: Collection[str]) -> dict[str, str]:
        held = {name: set(await self._ids(name)) for name in names}
        everything = set().union(*held.values())
        return {name: f"{len(ids)} events, lacks {sorted(everything - ids)[:3]}" for name, ids in held.items()}

    async def _ids(self, name: str) -> list[str]:
        sql = "SELECT event_id FROM events WHERE room_id = ? AND outlier = 0"
        return [row[0] for row in await self.read(name, lambda tx: tx.all(sql, (self.room_id,)))]

    # The invariants

    async def check_invariants(self) -> None:
        """Raises: Violation. The liars go on lying meanwhile."""
        self.heal()
        await self._agree()
        await self._say_and_hear()
        await self._agree()
        operational = {name: (await self.digest(name)).operational for name in self.honest}
        if len(set(operational.values())) != 1:
            raise Violation(f"after a healing round the current states differ: {operational}")
        for name in self.honest:
            await self._serves_all(name)
        if self.rejoin:
            for name in self.honest:
                await self._join_through(name)
        self._check_health()

    async def _agree(self) -> None:
        await self.until_same_events()
        digests = {name: (await self.digest(name)).sec.hex()[:12] for name in self.honest}
        if len(set(digests.values())) != 1:
            raise Violation(f"same events, different SEC digests: {digests}")
        complete = "SELECT complete FROM rooms WHERE room_id = ?"
        for name in self.honest:
            row = await self.read(name, lambda tx: tx.one(complete, (self.room_id,)))
            if not row[0] and not self.may_be_partial:
                raise Violation(f"the room is not complete at {name}")

    async def _say_and_hear(self) -> None:
        """One message of each correct node, in turn, reaches the clients of all: by /sync and by /messages."""
        since = {name: await self._sync(name) for name in self.honest}
        said = {}
        for name in self.honest:
            said[name] = f"after the attack, {name}"
            await self.rooms[name].send(said[name])
            await self.until_same_events()
        for name in self.honest:
            await self._shows(name, since[name]["next_batch"], set(said.values()))

    async def _shows(self, name: str, since: str, wanted: set[str]) -> None:
        """/sync brings the texts, and /messages has them: what came altered, once its genuine copy is there."""
        loop = asyncio.get_running_loop()
        until, missing = loop.time() + AGREE_S, wanted
        while True:
            synced = await self._sync(name, since)
            since = synced["next_batch"]
            joined = synced.get("rooms", {}).get("join", {}).get(self.room_id, {})
            missing = missing - {event["content"].get("body") for event in joined.get("timeline", {}).get("events", [])}
            if not missing:
                break
            if loop.time() > until:
                raise Violation(f"{name} does not show in /sync: {missing}")
            await asyncio.sleep(0.5)
        page = await self.rooms[name].client.request("GET", self.rooms[name]._path("messages"), dir="b", limit="30")
        if missing := wanted - {event["content"].get("body") for event in page["chunk"]}:
            raise Violation(f"{name} does not show in /messages: {missing}")

    async def _sync(self, name: str, since: str | None = None) -> dict[str, Any]:
        query = {"filter": json.dumps({"room": {"timeline": {"limit": 30}}}), "timeout": "0"}
        if since is not None:
            query["since"] = since
        found: dict[str, Any] = await self.rooms[name].client.request("GET", "/sync", **query)
        return found

    async def _serves_all(self, name: str) -> None:
        """The node holds every ancestor of every leaf, and gives all of it to another member, in a form that counts."""
        rooms = self.mesh.nodes[name].running.rooms
        [asker] = [self.mesh.nodes[other].server_name for other in self.honest if other != name][:1]

        def read(tx: Tx) -> tuple[set[str], set[str], set[str]]:
            room = room_of(tx, self.room_id)
            held = {
                row[0]
                for row in tx.execute("SELECT event_id FROM events WHERE room_id = ? AND outlier = 0", (self.room_id,))
            }
            cited = {
                row[0]
                for row in tx.execute(
                    "SELECT prev_event_id FROM event_edges AS e JOIN events AS v ON v.event_id = e.event_id"
                    " WHERE v.room_id = ? AND v.outlier = 0",
                    (self.room_id,),
                )
            }
            gaps = {
                row[0] for row in tx.execute("SELECT missing_event_id FROM gaps WHERE room_id = ?", (self.room_id,))
            }
            raws, more = rooms.missing_for(
                tx,
                room_id=self.room_id,
                want=graph_ends.leaves(tx, self.room_id),
                have=[],
                octets_max=10**9,
                origin=asker,
            )
            assert not more
            keys = SelfCertifyingKeys()
            served = {check_on_receipt(raw, room.rules, keys, limit_references=False).event_id for raw in raws}
            return held, cited - gaps, served

        held, cited, served = await self.read(name, read)
        if cited - held:
            raise Violation(f"{name} cites and does not hold {sorted(cited - held)[:3]}")
        if held - served:
            raise Violation(f"{name} holds and does not serve {sorted(held - served)[:3]}")

    async def _join_through(self, name: str) -> None:
        """A node that knows nothing joins through this one alone, and comes to the same digest."""
        newcomer = f"new-{name}"
        await self.mesh.add(newcomer)
        self.mesh.partition({name, newcomer}, set(self.mesh.nodes) - {name, newcomer})
        await asyncio.sleep(5)
        client = await self.mesh.user(newcomer, "newcomer")
        await RoomActions.join(client, self.room_id, via=self.mesh.nodes[name].server_name)
        await self.until_same_events(names=[name, newcomer])
        await asyncio.sleep(1)
        if (await self.digest(newcomer)).sec != (await self.digest(name)).sec:
            raise Violation(f"who joins through {name} comes to another digest")
        self.mesh.heal()
        await self.until_same_events()

    def _check_health(self) -> None:
        if self.watch.errors:
            raise Violation(f"errors: {self.watch.errors[:3]}")
        if self.watch.longest_s > BLOCKED_S:
            raise Violation(f"the writer was blocked for {self.watch.longest_s:.2f} s by {self.watch.longest_unit}")
        for name in self.honest:
            node = self.mesh.nodes[name]
            missing = {self.mesh.nodes[other].server_name for other in self.honest if other != name} - set(
                node.running.mesh.connected()
            )
            if missing:
                raise Violation(f"{name} does not talk to another correct node any more")
            self.budget.check(name, self.grown_before[name], growth(node, self.room_id))


OPTIONS = {each.name for each in fields(Scenario)} - {"crowd"}


def play(crowd: Crowd, story: Story, *, limit_s: float = 200_000, **options: Any) -> None:
    """One story with its invariants. `options` are those of `Scenario`. Raises: Violation, AssertionError."""

    async def live() -> None:
        scene = Scenario(crowd=crowd, **options)
        logger = logging.getLogger("p2pserver")
        logger.addHandler(scene.watch)
        asyncio.get_running_loop().set_exception_handler(scene.watch.loop_error)
        try:
            await scene.begin()
            await story(scene)
            await scene.check_invariants()
        finally:
            logger.removeHandler(scene.watch)
            await scene.mesh.stop()

    run_virtual(live(), limit_s=limit_s)


def case(
    story: Story | None = None, *, crowds: tuple[Crowd, ...] = CROWDS, name: str | None = None, **options: Any
) -> Any:
    """Makes a test of a story: once for each crowd, and for each value of what `pytest.mark.parametrize` adds.

    A parameter of the story with the name of an option of `Scenario` is one, too: `version`. `name` is that of the
    test, where it is not that of the story. The test has the story as `story` and the options as
    `options`, for whoever plays it in another way.
    """
    if story is None:
        return partial(case, crowds=crowds, name=name, **options)
    told = story

    def test(crowd: Crowd, **arguments: Any) -> None:
        given = {key: value for key, value in arguments.items() if key in OPTIONS}
        play(crowd, partial(told, **arguments), **{**options, **given})

    parameters = list(inspect.signature(told).parameters.values())[1:]
    crowd_parameter = inspect.Parameter("crowd", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    test.__signature__ = inspect.Signature([crowd_parameter, *parameters])  # type: ignore[attr-defined]
    test.__name__, test.__doc__ = name or told.__name__, told.__doc__  # type: ignore[attr-defined]
    test.__module__ = told.__module__
    test.pytestmark = list(getattr(told, "pytestmark", []))  # type: ignore[attr-defined]
    test.story, test.options = told, options  # type: ignore[attr-defined]
    return pytest.mark.parametrize("crowd", crowds, ids=str)(test)


__all__ = ["ALL_BUT_A_PAIR", "CROWDS", "ONE_LIAR", "Crowd", "InProcessClient", "Scenario", "Violation", "case", "play"]
