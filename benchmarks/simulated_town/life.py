"""A week in the town: who is in reach of whom, what people do in their room, what the hostile third does meanwhile.

Everything follows from one seed. See docs/simulation.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from benchmarks.simulated_town.lies import LIES, POWERFUL, Plot
from benchmarks.simulated_town.outcome import FULL, Disagreement, Outcome, Scale, describe
from benchmarks.simulated_town.people import DAY_S, HOUR_S, INDOORS, OUTDOORS, RIVER, Town, draw_times
from p2pserver.events.signing import Signer
from p2pserver.federation.limits import PeeringTimers
from p2pserver.identifiers import KEY_ID
from p2pserver.link import timers_for
from p2pserver.node.in_process_client import InProcessClient
from p2pserver.node.shared_verdicts import SharedVerdicts
from p2pserver.node.simulation import RequestFailed, RoomActions, Sabotage, SimulatedMesh
from p2pserver.node.timers import NodeTimers
from p2pserver.rooms.values import RoomDigest
from p2pserver.store import graph_ends
from p2pserver.store.events import HEALING_TYPE
from p2pserver.store.tx import Tx
from tests.byzantine.liar import Arsenal, Liar
from tests.byzantine.watch import Watch
from transports.sim import LinkConditions, NetworkAcross, Seam, run_beside, run_virtual

T = TypeVar("T")

SILENCE_S = 4 * HOUR_S
"""After so long it is asked whether a silent link is still there, and whether rooms are still equal."""
TIMERS = NodeTimers(
    link=replace(
        timers_for(OUTDOORS.profile()),
        idle_ping_s=SILENCE_S,
        dead_after_s=SILENCE_S + 60,
        answer_s=60,
        timeout_min_s=0.3,
        handshake_retry_s=0.5,
    ),
    peering=PeeringTimers(compare_all_s=SILENCE_S, quiet_s=15, recheck_s=1, offer_s=(0.2, 1.5)),
    blocks_s=DAY_S,
    seen_s=SILENCE_S,
    media_s=DAY_S,
)
"""Of a device on a battery: a silent link costs next to nothing, and says itself when it is down."""
DOWN_AFTER_S = 20.0
TICK_S = 600.0
"""How often it is looked who is in reach."""
MEETING_S = 2.0
"""At the beginning people join one after the other, so long for each."""
FOUNDED_BY_S = 5.0
ACROSS_BY_S = 180.0
"""Then the first one beyond the river has joined, through the founder."""
ALL_IN_BY_S = 600.0
LOOKAHEAD_S = 0.99 * (RIVER.delay_ms_mean - RIVER.jitter_ms) / 1000
"""Nothing comes over the river sooner."""
COUNT_EVERY_S = 3_600.0
"""How often the banks say how far they are, when the week is over."""
COUNTING_S = 30.0
"""So long they may talk of that."""


@dataclass(frozen=True, slots=True)
class Bank:
    """One of the two halves of a town that a river divides, and the way to the process that simulates the other."""

    number: int
    connection: Connection


class Life:
    """One town from its founding to agreement. `sabotage` breaks one honest node.

    `bank`: only what happens on that bank; another process runs the same town with the other.
    """

    def __init__(
        self,
        scale: Scale = FULL,
        *,
        seed: int = 1,
        share: bool = True,
        sabotage: Sabotage | None = None,
        tell: Callable[[str], None] = lambda line: None,
        bank: Bank | None = None,
    ) -> None:
        self.scale, self.seed, self.tell = scale, seed, tell
        self.banks, self.bank = (1, 0) if bank is None else (2, bank.number)
        self.rng = random.Random(f"life {seed}" if self.bank == 0 else f"life {seed} beyond the river")
        names = [f"p{number:03}" for number in range(scale.people)]
        chosen = random.Random(f"hostile {seed}").sample(names[1:], scale.hostile)
        self.hostile = [name for name in names if name in chosen]
        self.honest = [name for name in names if name not in chosen]
        self.founder = self.honest[0]
        districts = 5 if bank is None else 4
        self.town = Town.of(names, seed=seed, district_people=max(3, scale.people // districts), banks=self.banks)
        self.here = self.town.on_bank(self.bank)
        self.honest_here = [name for name in self.honest if name in self.here]
        self.hostile_here = [name for name in self.hostile if name in self.here]
        self.seam: Seam | None = None
        self.across: NetworkAcross | None = None
        if bank is not None:
            self.seam = Seam(bank.connection, half=bank.number, lookahead_s=LOOKAHEAD_S, quiet_until=self.quiet_until)
            self.across = NetworkAcross(self.seam, seed=seed, conditions=RIVER, down_after_s=DOWN_AFTER_S, kind="river")
        self.shared = SharedVerdicts() if share else None
        self.sabotage = sabotage
        self.watch = Watch()
        self.outcome = Outcome(scale, seed)
        self.rooms: dict[str, RoomActions] = {}
        self.guests: dict[str, RoomActions] = {}
        self.liars: dict[str, Liar] = {}
        self.up: dict[tuple[str, str], LinkConditions] = {}
        self.up_across: list[tuple[str, str]] = []
        self.own: list[tuple[str, str]] = []
        """(name, event ID) of what people sent, for redactions."""
        self.made: dict[str, list[str]] = {}
        """Hostile events by kind of lie."""
        self.moderators: list[str] = []

    def run(self) -> Outcome:
        """Raises: Disagreement; OtherHalfGone."""
        self.began_cpu_s, wall = time.process_time(), time.perf_counter()
        with contextlib.nullcontext() if self.shared is None else self.shared.in_use():
            if self.seam is None:
                run_virtual(self.live())
            else:
                run_beside(self.seam, self.live())
        self.outcome.wall_s = time.perf_counter() - wall
        return self.outcome

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self.now_s))

    def user_id(self, name: str) -> str:
        return f"@resident:{self.mesh.nodes[name].server_name}"

    # The two banks

    def quiet_until(self, at_s: float) -> float:
        """From when on something may go from bank to bank."""
        if at_s < ALL_IN_BY_S:
            return at_s
        quiet_s = self.town.quiet_until(at_s, after_s=DOWN_AFTER_S + COUNTING_S)
        if at_s < self.ends_s:
            return min(quiet_s, self.ends_s + COUNT_EVERY_S)
        since_s = at_s % COUNT_EVERY_S
        return at_s if since_s < COUNTING_S else min(quiet_s, at_s - since_s + COUNT_EVERY_S)

    async def of_all(self, word: T) -> list[T]:
        """What each bank says; the same on both."""
        return [word] if self.seam is None else await self.seam.gather(word)

    async def live(self) -> None:
        logger = logging.getLogger("p2pserver")
        logger.addHandler(self.watch)
        asyncio.get_running_loop().set_exception_handler(self.watch.loop_error)
        self.mesh = SimulatedMesh(
            sorted(self.town.people),
            seed=self.seed,
            conditions=INDOORS,
            timers=TIMERS,
            shared=self.shared,
            here=self.here,
            across=self.across,
        )
        self.mesh.network.connected = False
        self.mesh.network.down_after_s = DOWN_AFTER_S
        if self.sabotage is not None:
            self.mesh.nodes[self.honest[1]].sabotage = self.sabotage
        try:
            await self.mesh.start()
            await self.meet()
            await self.days()
            await self.come_together()
            await self.count()
        finally:
            logger.removeHandler(self.watch)
            await self.mesh.stop()

    # The first hour

    async def meet(self) -> None:
        """Everybody comes by at the founder's and joins there; of those who join later each hears from others. Beyond
        the river they come by at the one who joined first."""
        founder = self.founder
        assert min(self.town.people) == founder
        clients = {name: await self.mesh.user(name, "resident") for name in self.here}
        self.moderators = [name for name in self.honest[1:6] if name in self.here]
        powerful = self.hostile[: max(1, len(self.hostile) // 6)]
        if founder in self.here:
            self.rooms[founder] = await self.found(clients[founder], powerful)
        host = founder
        if self.across is not None:
            host = await self.cross(clients)
        else:
            self.room_id = self.rooms[founder].room_id
        for name in self.here:
            if name in self.rooms:
                continue
            pair = (host, name)
            self.link(*pair, INDOORS)
            await asyncio.sleep(MEETING_S)
            self.rooms[name] = await self.join(clients[name], host)
            await asyncio.sleep(MEETING_S)
            self.mesh.network.set_link(*pair, up=False)
            del self.up[pair]
        arsenal = Arsenal()
        for name in self.hostile_here:
            liar = self.liars[name] = Liar(self.mesh, name, arsenal)
            liar.room = self.rooms[name]
            liar.client = liar.room.client
        for name in self.honest[: self.scale.guests]:
            if name in self.here:
                self.guests[name] = await self.join(await self.mesh.user(name, "guest"), name)
        self.plot = Plot(
            random.Random(f"plot {self.seed}" if self.bank == 0 else f"plot {self.seed} beyond the river"),
            self.room_id,
            Signer("stranger", KEY_ID, bytes(range(32))),
            powerful=set(powerful),
        )
        self.tell(f"{len(self.here)} nodes joined within {self.now_s:.0f} s, {time.process_time():.0f} s of CPU time")
        self.outcome.contacts = self.mesh.network.counts.dials
        if self.across is not None:
            self.outcome.contacts += self.across.counts.dials
            assert self.now_s < ALL_IN_BY_S, "the banks look for each other before all have joined"

    async def found(self, client: InProcessClient, powerful: Sequence[str]) -> RoomActions:
        levels = {
            **{self.user_id(name): 50 for name in self.honest[1:6]},
            **{self.user_id(name): 100 for name in self.honest[1:3]},
            **{self.user_id(name): 50 for name in powerful},
        }
        override = {"users": levels, "events": {"m.room.name": 0, "m.room.topic": 0, "m.room.avatar": 0}, "invite": 0}
        return await RoomActions.create(
            client,
            name="town",
            preset="public_chat",
            room_version="12",
            power_level_content_override=override,
        )

    async def cross(self, clients: Mapping[str, InProcessClient]) -> str:
        """The first one beyond the river joins through the founder; who is to be joined through on this bank."""
        assert self.across is not None
        await self.until(FOUNDED_BY_S)
        founded = self.founder in self.here
        told = await self.of_all((self.rooms[self.founder].room_id, "") if founded else ("", self.honest_here[0]))
        [self.room_id] = [room_id for room_id, _ in told if room_id]
        [guide] = [name for _, name in told if name]
        near, far = (self.founder, guide) if founded else (guide, self.founder)
        self.across.set_link(near, far, up=True)
        await asyncio.sleep(MEETING_S)
        if not founded:
            self.rooms[guide] = await self.join(clients[guide], self.founder)
        await self.until(ACROSS_BY_S)
        self.across.set_link(near, far, up=False)
        return near

    async def join(self, client: Any, through: str) -> RoomActions:
        via = self.mesh.nodes[through].server_name
        room_id = self.room_id
        for _ in range(20):
            try:
                return await RoomActions.join(client, room_id, via=via)
            except RequestFailed as failed:
                if failed.status < 500:
                    raise
                await asyncio.sleep(5)
        raise Disagreement("a join did not succeed")

    def link(self, one: str, other: str, conditions: LinkConditions) -> None:
        self.mesh.network.set_conditions(one, other, conditions)
        self.mesh.network.set_link(one, other, up=True)
        self.up[one, other] = conditions

    # The week

    @property
    def ends_s(self) -> float:
        return float(self.scale.days * DAY_S)

    async def days(self) -> None:
        self.town.draw_cuts(self.scale.cuts, ends_s=self.ends_s)
        self.outcome.cuts = len(self.town.cuts)
        begins_s = 2 * HOUR_S
        moments: list[tuple[float, int, Callable[[], Awaitable[None]]]] = []
        number = 0
        for count, ends_s, deed in (
            (self.part_of(self.scale.user_events), self.ends_s, self.user_act),
            (self.part_of(self.scale.lies), self.ends_s, self.lie),
            (self.scale.bans if self.founder in self.here else 0, self.ends_s * 0.7, self.ban_a_liar),
        ):
            for at_s in draw_times(self.rng, count, begins_s=begins_s, ends_s=ends_s):
                moments.append((at_s, number, deed))
                number += 1
        tick_s = TICK_S
        while tick_s < self.ends_s:
            moments.append((tick_s, number, self.look))
            tick_s, number = tick_s + TICK_S, number + 1
        for cut in self.town.cuts:
            moments += [(cut.begins_s, number, self.look), (cut.ends_s - 1e-3, number + 1, self.look)]
            number += 2
        moments.sort(key=lambda moment: moment[:2])
        day = 0
        for at_s, _, act in moments:
            if at_s > self.now_s:
                await asyncio.sleep(at_s - self.now_s)
            await act()
            if self.now_s // DAY_S > day:
                day = int(self.now_s // DAY_S)
                self.tell_day(day)
        await asyncio.sleep(max(0.0, self.ends_s - self.now_s))

    def part_of(self, count: int) -> int:
        """How many of the town's are this bank's."""
        return count // self.banks + (self.bank < count % self.banks)

    def tell_day(self, day: int) -> None:
        counts = self.mesh.network.counts
        self.tell(
            f"day {day} is over: {self.outcome.users_did.total()} user events, {self.outcome.lies_told.total()} lies, "
            f"{self.outcome.contacts} contacts, {counts.sent:,} datagrams, {time.process_time():.0f} s of CPU time"
        )

    async def look(self) -> None:
        """Brings links up and down as people have moved."""
        links = self.town.links(self.now_s, [name for name in self.town.people if name in self.here])
        now = {(one, other): conditions for one, other, conditions in links}
        network = self.mesh.network
        for pair in [pair for pair in self.up if pair not in now]:
            network.set_link(*pair, up=False)
            del self.up[pair]
        for pair, conditions in now.items():
            if pair not in self.up:
                self.outcome.contacts += 1
                self.link(*pair, conditions)
        self.look_across()
        for liar in self.liars.values():
            liar.heard.clear()

    def look_across(self) -> None:
        if self.across is None:
            return
        now = [pair if self.bank == 0 else pair[::-1] for pair in self.town.links_across(self.now_s)]
        for pair in self.up_across:
            if pair not in now:
                self.across.set_link(*pair, up=False)
        for pair in now:
            if pair not in self.up_across:
                self.outcome.contacts += self.bank == 0
                self.across.set_link(*pair, up=True)
        self.up_across = now

    def awake(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self.town.place(name, self.now_s) is not None] or list(names)

    # People

    async def user_act(self) -> None:
        deeds: list[tuple[int, Callable[[str], Awaitable[object]]]] = [
            (100, self.say),
            (5, self.rename),
            (5, self.topic),
            (3, self.come_and_go),
            (2, self.kick_or_ban_a_guest),
            (2, self.bring_back_a_guest),
            (2, self.change_level),
            (5, self.redact),
        ]
        [(_, deed)] = self.rng.choices(deeds, weights=[weight for weight, _ in deeds])
        name = self.rng.choice(self.awake(self.honest_here))
        kind = deed.__name__
        try:
            if await deed(name) is not False:
                self.outcome.users_did[kind] += 1
        except RequestFailed as failed:
            if failed.status >= 500:
                raise Disagreement(f"a node broke down: {failed}") from failed
            self.outcome.users_refused[kind] += 1

    async def say(self, name: str) -> None:
        event_id = await self.rooms[name].send(f"{name} says no. {self.outcome.users_did['say']}")
        self.own.append((name, event_id))

    async def rename(self, name: str) -> None:
        await self.rooms[name].state("m.room.name", {"name": f"{name} {self.rng.random():.3f}"})

    async def topic(self, name: str) -> None:
        await self.rooms[name].state("m.room.topic", {"topic": f"{name} {self.rng.random():.3f}"})

    async def come_and_go(self, name: str) -> bool:
        if not self.guests:
            return False
        guest = self.rng.choice([*self.guests.values()])
        try:
            await guest.leave()
        except RequestFailed:
            await RoomActions.join(guest.client, self.room_id)
        return True

    async def kick_or_ban_a_guest(self, name: str) -> bool:
        if not self.guests or not self.moderators:
            return False
        moderator = self.rng.choice(self.moderators)
        guest = self.guests[self.rng.choice([*self.guests])]
        await self.rooms[moderator].membership(self.rng.choice(("kick", "ban")), guest.client.user_id)
        return True

    async def bring_back_a_guest(self, name: str) -> bool:
        if not self.guests or not self.moderators:
            return False
        moderator = self.rng.choice(self.moderators)
        guest = self.guests[self.rng.choice([*self.guests])]
        try:
            await self.rooms[moderator].membership("unban", guest.client.user_id)
        except RequestFailed:
            await RoomActions.join(guest.client, self.room_id)
        return True

    async def change_level(self, name: str) -> bool:
        powerful = [name for name in (self.founder, *self.moderators) if name in self.here]
        if not powerful:
            return False
        moderator = self.rng.choice(powerful)
        whom = self.rng.choice(self.honest)
        if whom == self.founder:
            return False
        await self.rooms[moderator].set_level(self.user_id(whom), self.rng.choice((0, 0, 10, 25, 50)))
        return True

    async def redact(self, name: str) -> bool:
        mine = [event_id for who, event_id in self.own if who == name]
        if not mine:
            return False
        await self.rooms[name].redact(self.rng.choice(mine))
        return True

    async def ban_a_liar(self) -> None:
        free = [name for name in self.hostile_here if name not in self.plot.banned and name not in self.plot.powerful]
        if not free:
            return
        name = self.plot.rng.choice(free)
        self.plot.before_ban[name] = await self.liars[name].leaves()
        try:
            await self.rooms[self.founder].membership("ban", self.liars[name].user_id)
        except RequestFailed:
            return
        self.plot.banned.add(name)
        self.outcome.users_did["ban_a_liar"] += 1

    # The hostile third

    async def lie(self) -> None:
        kinds = sorted(LIES, key=lambda kind: (self.outcome.lies_told[kind], kind))
        for kind in kinds[:6]:
            number, told = LIES[kind]
            for name in self.plot.rng.sample(self.hostile_here, len(self.hostile_here)):
                if kind in POWERFUL and name not in self.plot.powerful:
                    continue
                if (number == "B22") != (name in self.plot.banned):
                    continue
                liar = self.liars[name]
                connected = set(self.mesh.nodes[name].running.mesh.connected())
                victims = [each for each in self.honest_here if self.mesh.nodes[each].server_name in connected]
                if not victims:
                    continue
                try:
                    made = await told(self.plot, liar, victims)
                except KeyError:  # the victim went out of reach in the middle of it
                    continue
                self.outcome.lies_told[kind] += 1
                self.made.setdefault(kind, []).extend(made)
                return

    # The end

    async def come_together(self) -> None:
        """The last cut is over, nobody writes any more, people go on meeting."""
        held: dict[str, tuple[object, float]] = {}
        looked_at: dict[str, int] = {}
        tick_s = self.ends_s
        while True:
            await self.look()
            for quarter in range(1, 5):
                await self.until(tick_s + TICK_S * quarter / 4)
                for name in self.honest_here:
                    position = self.position(name)
                    if looked_at.get(name) == position and quarter < 4:
                        continue
                    looked_at[name] = position
                    leaves = await self.leaves(name)
                    if name not in held or held[name][0] != leaves:
                        held[name] = (leaves, self.now_s)
            tick_s += TICK_S
            if tick_s % COUNT_EVERY_S:
                continue
            found = await self.of_all({leaves for leaves, _ in held.values()})
            if len(set().union(*found)) == 1 and self.all_equal(await self.digests()):
                break
            if tick_s >= self.ends_s + self.scale.more_days_max * DAY_S:
                days = self.scale.more_days_max
                raise Disagreement(f"no agreement in {days} days: {describe(await self.digests())}")
        self.outcome.agreed_after_s = sorted(at_s - self.ends_s for _, at_s in held.values())

    def all_equal(self, digests: Sequence[RoomDigest | None]) -> bool:
        """Whether all honest nodes have one SEC digest and, once the nodes have healed it, one current state."""
        known = [digest for digest in digests if digest is not None]
        if len(known) != len(digests) or len({digest.sec for digest in known}) != 1:
            if len({digest.events for digest in known}) == 1:
                raise Disagreement(f"the same events and another digest: {describe(digests)}")
            return False
        return len({digest.operational for digest in known}) == 1

    async def digests(self) -> list[RoomDigest | None]:
        """Of the honest nodes, of both banks."""
        here = [await self.mesh.digest(name, self.room_id) for name in self.honest_here]
        return [digest for digests in await self.of_all(here) for digest in digests]

    def position(self, name: str) -> int:
        """It is another one when there is a new event, unless that is history from before a join."""
        database = self.mesh.nodes[name].database
        assert database is not None
        return database.position

    async def read(self, name: str, query: Callable[[Tx], Any]) -> Any:
        database = self.mesh.nodes[name].database
        assert database is not None
        return await database.read(query)

    async def leaves(self, name: str) -> tuple[str, ...]:
        return await self.read(name, lambda tx: tuple(sorted(graph_ends.leaves(tx, self.room_id))))  # type: ignore[no-any-return]

    async def count(self) -> None:
        outcome = self.outcome
        [digest, *_] = await self.digests()
        assert digest is not None
        outcome.sec, outcome.operational, outcome.events = digest.sec.hex(), digest.operational.hex(), digest.events
        for counts in (self.mesh.network.counts, *(() if self.across is None else (self.across.counts,))):
            outcome.datagrams += counts.sent
            outcome.datagrams_lost += counts.lost + counts.vanished
            outcome.octets += counts.sent_octets
        one = self.honest_here[0]
        sql = "SELECT verdict, count(*) FROM events WHERE room_id = ? AND outlier = 0 GROUP BY verdict"
        outcome.events_by_verdict.update(dict(await self.read(one, lambda tx: tx.all(sql, (self.room_id,)))))
        healing = "SELECT count(*) FROM events WHERE room_id = ? AND type = ? AND outlier = 0"
        [outcome.healing_events] = await self.read(one, lambda tx: tx.one(healing, (self.room_id, HEALING_TYPE)))
        await self.count_lies()
        if self.shared is not None:
            outcome.checks = self.shared.checks, self.shared.checks_found
            outcome.resolutions = self.shared.resolutions, self.shared.resolutions_found
        outcome.errors = self.watch.errors
        outcome.cpu_s = [time.process_time() - self.began_cpu_s]
        outcome.waited_s = [] if self.seam is None else [self.seam.waited_s]
        outcome.memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        for bank, other in enumerate(await self.of_all(outcome)):
            if bank != self.bank:
                outcome.add(other)

    async def count_lies(self) -> None:
        """What the hostile events earned at the honest nodes."""
        made = [(kind, event_ids) for of_bank in await self.of_all(self.made) for kind, event_ids in of_bank.items()]
        here = [[await self.verdicts(event_id) for event_id in event_ids] for _, event_ids in made]
        for (kind, _), *banks in zip(made, *await self.of_all(here), strict=True):
            counted = self.outcome.hostile_verdicts.setdefault(kind, Counter())
            counted.update(" or ".join(sorted(set().union(*each))) for each in zip(*banks, strict=True))

    async def verdicts(self, event_id: str) -> set[str]:
        sql = "SELECT verdict FROM events WHERE event_id = ? AND outlier = 0"
        rows = [await self.read(name, lambda tx: tx.one(sql, (event_id,))) for name in self.honest_here]
        return {"dropped" if row is None else str(row[0]) for row in rows}
