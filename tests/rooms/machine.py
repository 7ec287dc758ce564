"""A state machine that searches for a history after which replicas disagree, or after which something is gone.

Replicas (real rooms, real store, real receipt of signed events, only the network is missing) join, send, meet in whole
or in part and lose their power in the middle of a unit of work. Mallory, a member with a key of her own, builds on
whatever parents she likes, with auth events of other times, and shows each of her events to whom she likes, when she
likes. She holds everything the moment it exists, so her own store is the result that everybody must come to.

What is checked after each step, of whoever took part in it:

- what was acknowledged is held;
- of an event whose whole ancestry is held, the verdict (rejected or not) and the states before and after it are the
  same on every replica and at every time;
- leaves and forward extremities are those that the graph has, recomputed from the raw events.

At the end all meet: the same SEC digest, first without and then with what Mallory has withheld. Then everybody posts
once, all meet again: the same operational state.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from p2pserver.errors import Forbidden, NotFound, Verdict
from p2pserver.events.build import build_event
from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import ROOM_VERSIONS, rules_of
from p2pserver.meg.state import StateMap
from p2pserver.rooms.sending import auth_events_for
from p2pserver.rooms.state import resolved_map
from p2pserver.rooms.values import ReceiveReport
from p2pserver.store import events, graph_ends, outbox, state_groups
from p2pserver.store.inline import SimulatedDisk
from p2pserver.store.tx import Tx
from tests.rooms.replicas import Disk, Replica, Sabotage
from tests.rooms.servers import START_MS, fetch, leaves, power_levels, unknown_of
from tests.store.integrity import ancestors_of
from transports.sim import VirtualTimeLoop

FOUNDERS = ("a", "b", "c")
LATE = ("d", "e")
MALLORY = "mallory"
BROKEN = "b"
VERSIONS = sorted(ROOM_VERSIONS, key=int, reverse=True)
LEVELS = (0, 50, 99, 100)
KINDS = (
    *("message", "message", "name", "topic", "levels", "levels", "join rules", "redaction"),
    *("ban", "leave", "invite", "join"),
)
TIMESTAMPS = (0, START_MS, START_MS + 1000, START_MS + 10**6, 2**53 - 1)

HEALING_ROUNDS = 2
"""Whose own state has lost him cannot post; when he has heard the posts of the others, he can."""

seeds = st.integers(0, 2**20)
which = st.integers(0, 11)


class RoomMachine(RuleBasedStateMachine):
    """`sabotage` breaks one replica each time it starts."""

    sabotage: ClassVar[Sabotage | None] = None
    versions: ClassVar[list[str]] = VERSIONS

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.replicas: list[Replica] = []
        self.known: dict[str, Pdu] = {}
        self.forged: list[str] = []
        self.withheld: dict[str, None] = {}
        self.facts: dict[str, tuple[bool, str, str]] = {}
        self.checked: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.acknowledged: dict[str, set[str]] = {}
        self.said = 0

    def disk(self, name: str) -> Disk:
        """Where a replica keeps its database."""
        return SimulatedDisk()

    def replica(self, name: str, disk: Disk) -> Replica:
        broken = type(self).sabotage if name == BROKEN else None
        made = Replica(name, self.loop, disk=disk, sabotage=broken)
        self.acknowledged[made.name] = set()
        return made

    # Rules

    @initialize(version=st.sampled_from(VERSIONS), levels=st.tuples(*[st.sampled_from(LEVELS)] * 4))
    def found(self, version: str, levels: tuple[int, ...]) -> None:
        self.found_room(version, levels)

    def found_room(self, version: str, levels: tuple[int, ...]) -> None:
        self.rules_of_room = rules_of(version)
        self.room_id, templates = founded(version)
        made: dict[str, Replica] = {}
        for name, template in templates.items():
            disk = self.disk(name)
            template.backup(disk.conn)
            made[name] = self.replica(name, disk)
        self.mallory = made.pop(MALLORY)
        self.replicas = list(made.values())
        users = dict(zip([self.mallory.user, *(each.guest for each in self.replicas)], levels, strict=True))
        users |= {each.user: 100 for each in self.replicas[1:]}
        founder = self.replicas[0]
        self.act(
            founder, founder.user, "m.room.power_levels", power_levels(founder, version, users=users), state_key=""
        )
        self.exchange(self.replicas)

    @rule(who=which, seed=seeds, times=st.integers(1, 3))
    def send(self, who: int, seed: int, times: int) -> None:
        rng = random.Random(seed)
        for _ in range(times):
            self.do_something(self.pick(who), rng)

    @rule(who=which, through=which)
    def join_late(self, who: int, through: int) -> None:
        """Another server joins through a replica, on its word; the history comes when they meet."""
        names = {each.short for each in self.replicas}
        waiting = [name for name in LATE if name not in names]
        if not waiting:
            return
        name = waiting[who % len(waiting)]
        newcomer = self.replica(name, self.disk(name))
        try:
            join = newcomer.join(self.room_id, self.pick(through))
        except (Forbidden, NotFound):
            return
        self.replicas.append(newcomer)
        self.sent(newcomer, join)

    @rule(seed=seeds, times=st.integers(1, 3))
    def forge(self, seed: int, times: int) -> None:
        """Mallory signs events on parents that she chose, of any age, and keeps them to herself for now."""
        rng = random.Random(seed)
        for _ in range(times):
            event = self.hostile_event(rng)
            self.give(self.mallory, [event.event_id], {event.event_id: dict(event.raw)})
            self.forged.append(event.event_id)
            self.withheld[event.event_id] = None

    @precondition(lambda self: self.withheld)
    @rule(who=which, seed=seeds, most=st.integers(1, 4))
    def show(self, who: int, seed: int, most: int) -> None:
        """Mallory shows a replica some of what only she has, parents or not."""
        some = random.Random(seed).sample(sorted(self.withheld), min(most, len(self.withheld)))
        replica = self.pick(who)
        self.give(replica, some, self.mallory.graph(self.room_id), source=self.mallory.name)
        self.check(replica)

    @rule(one=which, other=which)
    def meet(self, one: int, other: int) -> None:
        """All that either lacks."""
        first, second = self.pair(one, other)
        self.exchange([first, second])
        self.check(first)
        self.check(second)
        if set(leaves(first, self.room_id)) == set(leaves(second, self.room_id)):
            self.compare(first, second)

    @rule(one=which, other=which, seed=seeds, share=st.sampled_from([0.3, 0.6, 1.0]), copies=st.integers(1, 2))
    def pass_on_some(self, one: int, other: int, seed: int, share: float, copies: int) -> None:
        """Some of all that the one holds, in any order, some of it twice: parents come late or not at all."""
        rng = random.Random(seed)
        giver, taker = self.pair(one, other)
        graph = giver.graph(self.room_id)
        unknown = [event_id for event_id in graph if taker.stored(event_id) is None]
        some = [event_id for event_id in unknown if rng.random() < share] * copies
        some += rng.sample(sorted(graph), min(2, len(graph)))
        rng.shuffle(some)
        self.give(taker, some, graph, source=giver.name)
        self.check(taker)

    @rule(one=which, other=which, octets=st.sampled_from([1, 2000, 6000]))
    def fetch_a_little(self, one: int, other: int, octets: int) -> None:
        """One answer of a link that breaks then, oldest events first."""
        giver, taker = self.pair(one, other)
        want = unknown_of(self.room_id, giver, taker)
        have = taker.run(lambda tx: taker.rooms.have_sample(tx, self.room_id))
        raws = giver.serve(self.room_id, want, have, octets_max=octets, origin=taker.name)
        self.received(taker, taker.receive(self.room_id, raws, giver.name))
        self.check(taker)

    @rule(who=which, statements=st.one_of(st.none(), st.integers(0, 60)))
    def power_cut_while_sending(self, who: int, statements: int | None) -> None:
        replica = self.pick(who)
        content = {"msgtype": "m.text", "body": self.fresh()}

        def unit(tx: Tx) -> Pdu:
            return replica.rooms.send(
                tx, room_id=self.room_id, sender=replica.user, event_type="m.room.message", content=content
            )

        told = replica.power_cut(unit, statements=statements)
        if told is not None:
            self.acknowledged[replica.name].add(told.event_id)
        self.check(replica)

    @rule(one=which, other=which, seed=seeds, statements=st.one_of(st.none(), st.integers(0, 150)))
    def power_cut_while_receiving(self, one: int, other: int, seed: int, statements: int | None) -> None:
        giver, taker = self.pair(one, other)
        graph = giver.graph(self.room_id)
        unknown = [event_id for event_id in graph if taker.stored(event_id) is None]
        raws = [graph[event_id] for event_id in [*unknown, *random.Random(seed).sample(sorted(graph), 1)]]

        def unit(tx: Tx) -> ReceiveReport:
            return taker.rooms.receive(tx, room_id=self.room_id, raws=raws, source=giver.name)

        told = taker.power_cut(unit, statements=statements)
        if told is not None:
            self.received(taker, told)
        self.check(taker)

    # The end

    def teardown(self) -> None:
        try:
            if self.replicas:
                self.finish()
        finally:
            for each in (*self.replicas, *([self.mallory] if self.replicas else [])):
                each.conn.close()
            end(self.loop)

    def finish(self) -> None:
        self.exchange(self.replicas)
        self.exchange(self.replicas)
        self.compare_all()
        graph = self.mallory.graph(self.room_id)
        self.give(self.members()[0], list(graph), graph, source=self.mallory.name)
        self.exchange([*self.replicas, self.mallory])
        self.compare_all(self.mallory)
        for _ in range(HEALING_ROUNDS):
            for each in self.members():
                self.act(each, each.user, "m.room.message", {"msgtype": "m.text", "body": self.fresh()})
            self.exchange([*self.replicas, self.mallory])
            self.compare_all(self.mallory)
            states = {each.operational(self.room_id) for each in self.members()}
            if len(states) == 1:
                break
        assert len(states) == 1, "the operational states differ after everybody has posted"
        self.check_groups()

    def members(self) -> list[Replica]:
        """Those whom every other one takes for a member: they are owed everything."""

        def sees(one: Replica, other: Replica) -> bool:
            return one is other or other.name in one.run(lambda tx: one.rooms.member_servers(tx, self.room_id))

        return [each for each in self.replicas if all(sees(other, each) for other in self.replicas)]

    def compare_all(self, *more: Replica) -> None:
        first, *rest = [*self.members(), *more]
        for each in rest:
            self.compare(first, each)
        promised = set().union(*(self.acknowledged[each.name] for each in (first, *rest)))
        for each in (first, *rest):
            self.check(each)
            assert each.complete(self.room_id), f"{each.short} is not complete"
            lost = promised - each.graph(self.room_id).keys()
            assert not lost, f"{each.short} never got {sorted(lost)}"

    def compare(self, one: Replica, other: Replica) -> None:
        if not (one.complete(self.room_id) and other.complete(self.room_id)):
            return
        mine, theirs = one.graph(self.room_id).keys(), other.graph(self.room_id).keys()
        assert mine == theirs, f"{one.short} and {other.short} have met and hold different events"
        assert one.digest(self.room_id) == other.digest(self.room_id), f"{one.short} and {other.short} disagree"

    # What the rules are made of

    def pick(self, number: int) -> Replica:
        return self.replicas[number % len(self.replicas)]

    def pair(self, one: int, other: int) -> tuple[Replica, Replica]:
        first = one % len(self.replicas)
        second = (first + 1 + other % (len(self.replicas) - 1)) % len(self.replicas)
        return self.replicas[first], self.replicas[second]

    def fresh(self) -> str:
        self.said += 1
        return f"{self.said}"

    def someone(self, number: int) -> str:
        """Whom things are done to: never the residents, whose servers must stay in the room to be told of it."""
        users = [*(each.guest for each in self.replicas), self.mallory.user]
        return users[number % len(users)]

    def do_something(self, replica: Replica, rng: random.Random) -> None:
        """One thing that a user of the replica might do; what the room forbids him is not done."""
        as_guest, who, kind = rng.random() < 0.5, self.someone(rng.randrange(12)), rng.choice(KINDS)
        redacts = rng.choice(sorted(replica.graph(self.room_id))) if kind == "redaction" else None
        if kind == "join":
            as_guest, who = True, replica.guest
        event_type, state_key, content = self.content(kind, who, rng)
        if kind == "levels":
            now = replica.run(lambda tx: replica.rooms.current_event(tx, self.room_id, event_type))
            content = with_level({} if now is None else now.content, who, rng.choice(LEVELS))
        sender = replica.guest if as_guest else replica.user
        self.act(replica, sender, event_type, content, state_key=state_key, redacts=redacts)

    def act(
        self,
        replica: Replica,
        sender: str,
        event_type: str,
        content: dict[str, Any],
        *,
        state_key: str | None = None,
        redacts: str | None = None,
    ) -> None:
        try:
            event = replica.run(
                lambda tx: replica.rooms.send(
                    tx,
                    room_id=self.room_id,
                    sender=sender,
                    event_type=event_type,
                    content=content,
                    state_key=state_key,
                    redacts=redacts,
                )
            )
        except (Forbidden, NotFound):
            return
        self.sent(replica, event)

    def sent(self, replica: Replica, event: Pdu) -> None:
        self.acknowledged[replica.name].add(event.event_id)
        self.give(self.mallory, [event.event_id], replica.graph(self.room_id))
        self.fetch_for_mallory(replica)

    def fetch_for_mallory(self, replica: Replica) -> None:
        """A replica may cite what Mallory has not seen: what it sent just before a power cut, for one."""
        if self.mallory.run(lambda tx: self.mallory.rooms.wanted(tx, self.room_id)):
            graph = replica.graph(self.room_id)
            self.give(self.mallory, list(graph), graph)

    def give(
        self, taker: Replica, event_ids: list[str], graph: dict[str, dict[str, Any]], source: str | None = None
    ) -> None:
        raws = [graph[event_id] for event_id in event_ids]
        self.received(taker, taker.receive(self.room_id, raws, source or self.replicas[0].name))

    def received(self, taker: Replica, report: ReceiveReport) -> None:
        """The taker says `Stored` of these."""
        self.acknowledged[taker.name].update(
            receipt.event_id
            for receipt in (*report.results, *report.released)
            if receipt.event_id is not None and receipt.verdict not in (None, Verdict.DROPPED)
        )

    def exchange(self, replicas: Sequence[Replica]) -> None:
        """All meet, the first with each other one, until nothing new comes of it."""
        hub, *others = replicas
        for _ in range(10):
            before = [each.position() for each in replicas]
            for one, other in [(each, hub) for each in others] + [(hub, each) for each in others]:
                self.deliver_owed(one, other)
                fetch(self.room_id, one, other, octets_max=100_000)
            if [each.position() for each in replicas] == before:
                return
        raise AssertionError("the exchange does not end")

    def deliver_owed(self, giver: Replica, taker: Replica) -> None:
        owed = giver.owed_to(taker.name)
        items = [item for item in owed if item.kind == "pdu" and item.room_id == self.room_id]
        if not items:
            return
        report = taker.receive(self.room_id, [item.payload for item in items], giver.name)
        self.received(taker, report)
        stored = self.acknowledged[taker.name]
        done = [item.number for item in items if item.event_id in stored]
        giver.run(lambda tx: outbox.forget_numbers(tx, taker.name, done))

    def state_after(self, event_ids: list[str]) -> StateMap:
        """What the state after some events is, by Mallory's honest arithmetic."""

        def read(tx: Tx) -> StateMap:
            facts = events.facts(tx, event_ids)
            groups = [fact.state_after for fact in facts.values() if fact.state_after]
            return resolved_map(tx, self.room_id, self.rules_of_room, groups)

        return self.mallory.run(read)

    def hostile_event(self, rng: random.Random) -> Pdu:
        graph, kind, mine = sorted(self.mallory.graph(self.room_id)), rng.choice(KINDS), self.mallory.user
        recent = [*self.forged[-3:], *leaves(self.mallory, self.room_id)]
        parents = list(dict.fromkeys(rng.choice(rng.choice((graph, recent))) for _ in range(rng.choice((1, 1, 2, 3)))))
        state = self.state_after(parents if rng.random() < 0.7 else [rng.choice(graph)])
        who = mine if kind == "join" or rng.random() < 0.2 else self.someone(rng.randrange(12))
        event_type, state_key, content = self.content(kind, who, rng)
        if kind == "levels":
            now = self.pdu_of(state.get((event_type, "")))
            content = with_level({} if now is None else now.content, who, rng.choice(LEVELS))
        cited = auth_events_for(self.rules_of_room, state, mine, event_type, state_key, content)
        if cited and rng.random() < 0.1:
            cited.remove(rng.choice(cited))
        return build_event(
            rules=self.rules_of_room,
            room_id=self.room_id,
            sender=mine,
            event_type=event_type,
            state_key=state_key,
            content=content,
            prev_events=parents,
            auth_events=cited,
            depth=rng.choice((1, len(graph), 2**53 - 1)),
            origin_server_ts=rng.choice(TIMESTAMPS),
            signer=self.mallory.signer,
            redacts=rng.choice(graph) if kind == "redaction" else None,
        )

    def pdu_of(self, event_id: str | None) -> Pdu | None:
        return None if event_id is None else self.mallory.run(lambda tx: events.pdu(tx, event_id))

    def content(self, kind: str, who: str, rng: random.Random) -> tuple[str, str | None, dict[str, Any]]:
        """(type, state_key, content)"""
        match kind:
            case "message":
                return "m.room.message", None, {"msgtype": "m.text", "body": self.fresh()}
            case "name" | "topic":
                return f"m.room.{kind}", "", {kind: self.fresh()}
            case "levels":
                return "m.room.power_levels", "", {}
            case "join rules":
                return "m.room.join_rules", "", {"join_rule": rng.choice(("public", "invite"))}
            case "redaction":
                return "m.room.redaction", None, {}
        content = {"membership": kind, "displayname": self.fresh()} if kind == "join" else {"membership": kind}
        return "m.room.member", who, content

    # Checks

    def check(self, replica: Replica) -> None:
        rows = replica.run(self.rows)
        held = {row[0] for row in rows}
        lost = self.acknowledged[replica.name] - held
        assert not lost, f"{replica.short} acknowledged {sorted(lost)} and has not got them"
        self.check_facts(replica, rows)
        if replica.complete(self.room_id):
            self.check_ends(replica, rows)

    def rows(self, tx: Tx) -> list[tuple[Any, ...]]:
        return tx.all(
            "SELECT event_id, verdict, grounded, state_before, state_after FROM events"
            " WHERE room_id = ? AND outlier = 0",
            (self.room_id,),
        )

    def check_facts(self, replica: Replica, rows: list[tuple[Any, ...]]) -> None:
        def fact(tx: Tx, row: tuple[Any, ...]) -> tuple[bool, str, str]:
            return row[1] == "rejected", map_digest(tx, row[3]), map_digest(tx, row[4])

        complete = replica.complete(self.room_id)
        for row in rows:
            event_id, verdict, grounded, *_ = row
            before = self.checked.get((replica.name, event_id))
            if not grounded or before == row:
                continue
            assert before is None or before[1] == verdict, f"{replica.short} changed its mind on {event_id}"
            if complete:
                self.checked[replica.name, event_id] = row
            found = replica.run(lambda tx, row=row: fact(tx, row))  # type: ignore[misc]
            known = self.facts.setdefault(event_id, found)
            assert known == found, f"{replica.short} judges {event_id} otherwise"

    def check_groups(self) -> None:
        """A state group that somebody saw means the same to the end, read without any cache."""
        for replica in self.members():
            tx = Tx(replica.conn, {})
            for row in self.rows(tx):
                found = (row[1] == "rejected", map_digest(tx, row[3]), map_digest(tx, row[4]))
                assert self.facts[row[0]] == found, f"{replica.short} has changed what is before or after {row[0]}"

    def check_ends(self, replica: Replica, rows: list[tuple[Any, ...]]) -> None:
        verdicts = {row[0]: row[1] for row in rows}
        parents = {event_id: self.parents(replica, event_id) for event_id in verdicts}
        cited = {parent for each in parents.values() for parent in each}
        accepted = {event_id for event_id, verdict in verdicts.items() if verdict == "accepted"}
        uncovered = accepted - ancestors_of(accepted, parents)
        extremities = replica.run(lambda tx: graph_ends.extremities(tx, self.room_id))
        assert set(extremities) == uncovered, f"{replica.short} has other extremities than its graph"
        assert set(leaves(replica, self.room_id)) == verdicts.keys() - cited, f"{replica.short} has other leaves"

    def parents(self, replica: Replica, event_id: str) -> tuple[str, ...]:
        if event_id not in self.known:
            found = replica.run(lambda tx: events.pdu(tx, event_id))
            assert found is not None
            self.known[event_id] = found
        return self.known[event_id].prev_events


@functools.cache
def founded(version: str) -> tuple[str, dict[str, sqlite3.Connection]]:
    """A room that all founders and Mallory have joined, and their databases, to be copied."""
    loop = VirtualTimeLoop()
    founder, *others = [Replica(name, loop, disk=SimulatedDisk()) for name in (*FOUNDERS, MALLORY)]
    room_id = founder.create(version=version)
    for each in others:
        each.join(room_id, founder)
        fetch(room_id, each, founder)
    for each in (founder, *others):
        if each.short != MALLORY:
            each.member(room_id, each.guest, "join", sender=each.guest)
        fetch(room_id, each, founder)
    for each in others:
        fetch(room_id, founder, each)
    everybody = (founder, *others)
    assert len({each.digest(room_id) for each in everybody}) == 1
    for each in everybody:
        each.run(lambda tx: tx.execute("DELETE FROM outbox"))
    end(loop)
    return room_id, {each.short: each.conn for each in everybody}


def end(loop: VirtualTimeLoop) -> None:
    """Closes a loop on which a broken replica may have left work behind."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True)) if tasks else None
    loop.close()


def with_level(content: Mapping[str, Any], user_id: str, level: int) -> dict[str, Any]:
    return {**content, "users": {**content.get("users", {}), user_id: level}}


def map_digest(tx: Tx, group_id: int) -> str:
    state = state_groups.state_map(tx, group_id)
    return hashlib.sha256(repr(sorted(state.items())).encode()).hexdigest()
