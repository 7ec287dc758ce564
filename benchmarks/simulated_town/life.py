"""A week in the town: who is in reach of whom, what people do in their room, what the hostile third does meanwhile.

Everything follows from one seed. See docs/simulation.md.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.simulated_town.lies import LIES, POWERFUL, Plot
from benchmarks.simulated_town.people import DAY_S, HOUR_S, INDOORS, Town, draw_times
from p2pserver.events.signing import Signer
from p2pserver.federation.limits import PeeringTimers
from p2pserver.identifiers import KEY_ID
from p2pserver.link import LinkTimers
from p2pserver.node.shared_verdicts import SharedVerdicts
from p2pserver.node.simulation import RequestFailed, RoomActions, Sabotage, SimulatedMesh
from p2pserver.node.timers import NodeTimers
from p2pserver.rooms.values import RoomDigest
from p2pserver.store import events
from p2pserver.store.events import HEALING_TYPE
from p2pserver.store.tx import Tx
from tests.byzantine.liar import Arsenal, Liar
from tests.byzantine.watch import Watch
from transports.sim import LinkConditions, run_virtual

TIMERS = NodeTimers(
    link=LinkTimers(
        idle_ping_s=1_800,
        dead_after_s=1_860,
        answer_s=60,
        ack_delay_s=0.05,
        timeout_min_s=0.3,
        handshake_retry_s=0.5,
    ),
    peering=PeeringTimers(compare_all_s=4 * HOUR_S, quiet_s=15, recheck_s=1, offer_s=(0.2, 1.5)),
    blocks_s=DAY_S,
    seen_s=HOUR_S,
)
"""Of a device on a battery: a silent link costs next to nothing, and says itself when it is down."""
DOWN_AFTER_S = 20.0
TICK_S = 600.0
"""How often it is looked who is in reach."""
MEETING_S = 2.0
"""At the beginning people join one after the other, so long for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large a town, and how long."""

    people: int = 100
    hostile: int = 33
    days: int = 7
    user_events: int = 2_300
    lies: int = 420
    cuts: int = 20
    guests: int = 15
    bans: int = 8
    more_days_max: int = 6

    def for_days(self, days: int) -> Scale:
        """As much on each day, for another number of days."""
        share = days / self.days
        return replace(
            self,
            days=days,
            user_events=round(self.user_events * share),
            lies=round(self.lies * share),
            cuts=max(1, round(self.cuts * share)),
        )


FULL = Scale()
SHORT = Scale(people=15, hostile=5, days=1, user_events=60, lies=42, cuts=3, guests=3, bans=2)


class Disagreement(AssertionError):
    """The honest nodes do not hold the same room at the end."""


@dataclass(slots=True)
class Outcome:
    """What a town came to. All but the last four fields follow from the seed."""

    scale: Scale
    seed: int
    users_did: Counter[str] = field(default_factory=Counter)
    users_refused: Counter[str] = field(default_factory=Counter)
    lies_told: Counter[str] = field(default_factory=Counter)
    hostile_verdicts: dict[str, Counter[str]] = field(default_factory=dict)
    events: int = 0
    events_by_verdict: Counter[str] = field(default_factory=Counter)
    widest: int = 0
    contacts: int = 0
    cuts: int = 0
    datagrams: int = 0
    datagrams_lost: int = 0
    octets: int = 0
    agreed_after_s: list[float] = field(default_factory=list)
    healing_events: int = 0
    sec: str = ""
    operational: str = ""
    errors: list[str] = field(default_factory=list)
    checks: tuple[int, int] = (0, 0)
    cpu_s: float = 0.0
    wall_s: float = 0.0
    memory_mib: int = 0

    @property
    def hostile_events(self) -> int:
        return sum(counts.total() for counts in self.hostile_verdicts.values())

    def repeatable(self) -> tuple[Any, ...]:
        """What two runs of one seed have in common."""
        return (
            self.sec,
            self.operational,
            self.events,
            self.contacts,
            self.datagrams,
            self.octets,
            tuple(self.agreed_after_s),
            sorted(self.users_did.items()),
        )


class Life:
    """One town from its founding to agreement. `sabotage` breaks one honest node."""

    def __init__(
        self,
        scale: Scale = FULL,
        *,
        seed: int = 1,
        share: bool = True,
        sabotage: Sabotage | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.scale, self.seed, self.tell = scale, seed, tell
        self.rng = random.Random(f"life {seed}")
        names = [f"p{number:03}" for number in range(scale.people)]
        chosen = random.Random(f"hostile {seed}").sample(names[1:], scale.hostile)
        self.hostile = [name for name in names if name in chosen]
        self.honest = [name for name in names if name not in chosen]
        self.town = Town.of(names, seed=seed, district_people=max(3, scale.people // 5))
        self.shared = SharedVerdicts() if share else None
        self.sabotage = sabotage
        self.watch = Watch()
        self.outcome = Outcome(scale, seed)
        self.rooms: dict[str, RoomActions] = {}
        self.guests: dict[str, RoomActions] = {}
        self.liars: dict[str, Liar] = {}
        self.up: dict[tuple[str, str], LinkConditions] = {}
        self.own: list[tuple[str, str]] = []
        """(name, event ID) of what people sent, for redactions."""
        self.made: dict[str, list[str]] = {}
        """Hostile events by kind of lie."""
        self.moderators: list[str] = []

    def run(self) -> Outcome:
        """Raises: Disagreement."""
        cpu, wall = time.process_time(), time.perf_counter()
        if self.shared is None:
            run_virtual(self.live())
        else:
            with self.shared.in_use():
                run_virtual(self.live())
            self.outcome.checks = (self.shared.checks, self.shared.checks_found)
        self.outcome.cpu_s, self.outcome.wall_s = time.process_time() - cpu, time.perf_counter() - wall
        self.outcome.memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return self.outcome

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def room_id(self) -> str:
        return self.rooms[self.honest[0]].room_id

    async def live(self) -> None:
        logger = logging.getLogger("p2pserver")
        logger.addHandler(self.watch)
        asyncio.get_running_loop().set_exception_handler(self.watch.loop_error)
        names = [*self.town.people]
        self.mesh = SimulatedMesh(sorted(names), seed=self.seed, conditions=INDOORS, timers=TIMERS, shared=self.shared)
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
            self.outcome.errors = self.watch.errors
            await self.mesh.stop()

    # The first hour

    async def meet(self) -> None:
        """Everybody comes by at the founder's and joins there; of those who join later each hears from others."""
        names = sorted(self.town.people)
        founder = self.honest[0]
        assert names[0] == founder
        clients = {name: await self.mesh.user(name, "resident") for name in names}
        self.moderators = self.honest[1:6]
        powerful = self.hostile[: max(1, len(self.hostile) // 6)]
        levels = {
            **{clients[name].user_id: 50 for name in self.moderators},
            **{clients[name].user_id: 100 for name in self.moderators[:2]},
            **{clients[name].user_id: 50 for name in powerful},
        }
        override = {"users": levels, "events": {"m.room.name": 0, "m.room.topic": 0, "m.room.avatar": 0}, "invite": 0}
        self.rooms[founder] = await RoomActions.create(
            clients[founder],
            name="town",
            preset="public_chat",
            room_version="12",
            power_level_content_override=override,
        )
        arsenal = Arsenal()
        for name in names[1:]:
            self.link(founder, name, INDOORS)
            await asyncio.sleep(MEETING_S)
            self.rooms[name] = await self.join(clients[name], founder)
            await asyncio.sleep(MEETING_S)
            self.mesh.network.set_link(founder, name, up=False)
            del self.up[founder, name]
        for name in self.hostile:
            liar = self.liars[name] = Liar(self.mesh, name, arsenal)
            liar.room = self.rooms[name]
            liar.client = liar.room.client
        for name in self.honest[: self.scale.guests]:
            self.guests[name] = await self.join(await self.mesh.user(name, "guest"), name)
        self.plot = Plot(
            random.Random(f"plot {self.seed}"),
            self.room_id,
            Signer("stranger", KEY_ID, bytes(range(32))),
            powerful=set(powerful),
        )
        self.tell(f"{len(names)} nodes joined within {self.now_s:.0f} s, {time.process_time():.0f} s of CPU time")
        self.outcome.contacts = self.mesh.network.counts.dials

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

        def plan(at_s: float, deed: Callable[[], Awaitable[None]]) -> None:
            heapq.heappush(moments, (at_s, len(moments), deed))

        number = 0
        for times, deed in (
            (draw_times(self.rng, self.scale.user_events, begins_s=begins_s, ends_s=self.ends_s), self.user_act),
            (draw_times(self.rng, self.scale.lies, begins_s=begins_s, ends_s=self.ends_s), self.lie),
            (draw_times(self.rng, self.scale.bans, begins_s=begins_s, ends_s=self.ends_s * 0.7), self.ban_a_liar),
        ):
            for at_s in times:
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

    def tell_day(self, day: int) -> None:
        counts = self.mesh.network.counts
        self.tell(
            f"day {day} is over: {self.outcome.users_did.total()} user events, {self.outcome.lies_told.total()} lies, "
            f"{self.outcome.contacts} contacts, {counts.sent:,} datagrams, {time.process_time():.0f} s of CPU time"
        )

    async def look(self) -> None:
        """Brings links up and down as people have moved."""
        now = {(one, other): conditions for one, other, conditions in self.town.links(self.now_s)}
        network = self.mesh.network
        for pair in [pair for pair in self.up if pair not in now]:
            network.set_link(*pair, up=False)
            del self.up[pair]
        for pair, conditions in now.items():
            if pair not in self.up:
                self.outcome.contacts += 1
                self.link(*pair, conditions)
        for liar in self.liars.values():
            liar.heard.clear()

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
        name = self.rng.choice(self.awake(self.honest))
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

    async def come_and_go(self, name: str) -> None:
        guest = self.rng.choice([*self.guests.values()])
        try:
            await guest.leave()
        except RequestFailed:
            await RoomActions.join(guest.client, self.room_id)

    async def kick_or_ban_a_guest(self, name: str) -> None:
        moderator = self.rng.choice(self.moderators)
        guest = self.guests[self.rng.choice([*self.guests])]
        await self.rooms[moderator].membership(self.rng.choice(("kick", "ban")), guest.client.user_id)

    async def bring_back_a_guest(self, name: str) -> None:
        moderator = self.rng.choice(self.moderators)
        guest = self.guests[self.rng.choice([*self.guests])]
        try:
            await self.rooms[moderator].membership("unban", guest.client.user_id)
        except RequestFailed:
            await RoomActions.join(guest.client, self.room_id)

    async def change_level(self, name: str) -> None:
        moderator = self.rng.choice((self.honest[0], *self.moderators))
        whom = self.rooms[self.rng.choice(self.honest)].client.user_id
        if whom != self.rooms[self.honest[0]].client.user_id:
            await self.rooms[moderator].set_level(whom, self.rng.choice((0, 0, 10, 25, 50)))

    async def redact(self, name: str) -> bool:
        mine = [event_id for who, event_id in self.own if who == name]
        if not mine:
            return False
        await self.rooms[name].redact(self.rng.choice(mine))
        return True

    async def ban_a_liar(self) -> None:
        free = [name for name in self.hostile if name not in self.plot.banned and name not in self.plot.powerful]
        if not free:
            return
        name = self.plot.rng.choice(free)
        self.plot.before_ban[name] = await self.liars[name].leaves()
        try:
            await self.rooms[self.honest[0]].membership("ban", self.liars[name].user_id)
        except RequestFailed:
            return
        self.plot.banned.add(name)
        self.outcome.users_did["ban_a_liar"] += 1

    # The hostile third

    async def lie(self) -> None:
        kinds = sorted(LIES, key=lambda kind: (self.outcome.lies_told[kind], kind))
        for kind in kinds[:6]:
            number, told = LIES[kind]
            for name in self.plot.rng.sample(self.hostile, len(self.hostile)):
                if kind in POWERFUL and name not in self.plot.powerful:
                    continue
                if (number == "B22") != (name in self.plot.banned):
                    continue
                liar = self.liars[name]
                connected = set(self.mesh.nodes[name].running.mesh.connected())
                victims = [each for each in self.honest if self.mesh.nodes[each].server_name in connected]
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
        began_s = self.now_s
        held: dict[str, tuple[object, float]] = {}
        until_s = began_s + self.scale.more_days_max * DAY_S
        while self.now_s < until_s:
            await self.look()
            for _ in range(4):
                await asyncio.sleep(TICK_S / 4)
                for name in self.honest:
                    leaves = await self.leaves(name)
                    if name not in held or held[name][0] != leaves:
                        held[name] = (leaves, self.now_s)
            if len({leaves for leaves, _ in held.values()}) == 1 and await self.all_equal():
                break
        else:
            raise Disagreement(f"no agreement in {self.scale.more_days_max} days: {await self.describe()}")
        self.outcome.agreed_after_s = sorted(at_s - began_s for _, at_s in held.values())

    async def all_equal(self) -> bool:
        """Whether all honest nodes have one SEC digest and, once the nodes have healed it, one current state."""
        digests = await self.digests()
        if None in digests.values() or len({digest.sec for digest in digests.values() if digest}) != 1:
            if len({digest.events for digest in digests.values() if digest}) == 1:
                raise Disagreement(f"the same events and another digest: {await self.describe()}")
            return False
        return len({digest.operational for digest in digests.values() if digest}) == 1

    async def digests(self) -> dict[str, RoomDigest | None]:
        return {name: await self.mesh.digest(name, self.room_id) for name in self.honest}

    async def read(self, name: str, query: Callable[[Tx], Any]) -> Any:
        database = self.mesh.nodes[name].database
        assert database is not None
        return await database.read(query)

    async def leaves(self, name: str) -> tuple[str, ...]:
        return await self.read(name, lambda tx: tuple(sorted(events.leaves(tx, self.room_id))))  # type: ignore[no-any-return]

    async def count(self) -> None:
        outcome, counts = self.outcome, self.mesh.network.counts
        digests = await self.digests()
        digest = digests[self.honest[0]]
        assert digest is not None
        outcome.sec, outcome.operational, outcome.events = digest.sec.hex(), digest.operational.hex(), digest.events
        outcome.datagrams, outcome.datagrams_lost = counts.sent, counts.lost + counts.vanished
        outcome.octets = counts.sent_octets
        sql = "SELECT verdict, count(*) FROM events WHERE room_id = ? AND outlier = 0 GROUP BY verdict"
        outcome.events_by_verdict.update(dict(await self.read(self.honest[0], lambda tx: tx.all(sql, (self.room_id,)))))
        healing = "SELECT count(*) FROM events WHERE room_id = ? AND type = ? AND outlier = 0"
        [outcome.healing_events] = await self.read(
            self.honest[0], lambda tx: tx.one(healing, (self.room_id, HEALING_TYPE))
        )
        for kind, event_ids in self.made.items():
            found = outcome.hostile_verdicts.setdefault(kind, Counter())
            for event_id in event_ids:
                found.update([await self.verdict(event_id)])

    async def verdict(self, event_id: str) -> str:
        """What the event earned at the honest nodes."""
        sql = "SELECT verdict FROM events WHERE event_id = ? AND outlier = 0"
        found = {await self.read(name, lambda tx: tx.one(sql, (event_id,))) for name in self.honest}
        names = sorted("dropped" if row is None else str(row[0]) for row in found)
        return " or ".join(names)

    async def describe(self) -> str:
        digests = await self.digests()
        shown = Counter(
            "not complete" if digest is None else f"{digest.events} events {digest.sec.hex()[:8]}"
            for digest in digests.values()
        )
        return ", ".join(f"{count} nodes with {what}" for what, count in shown.most_common(6))
