"""Rooms of real, signed events for the benchmarks: with forks and merges, and single conflicts of a given size."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pserver.events.build import build_event
from p2pserver.events.pdu import Pdu
from p2pserver.events.signing import Signer
from p2pserver.events.versions import RoomVersionRules
from p2pserver.identifiers import KEY_ID, server_name_of
from p2pserver.meg.auth import auth_slots
from p2pserver.meg.auth_index import AuthNode, node_for
from p2pserver.meg.chains import EventFacts, Kept, ResolutionNotes
from p2pserver.meg.power import LevelTables
from p2pserver.meg.resolution import resolve
from p2pserver.meg.state import StateMap, StateSlot

START_MS = 1_700_000_000_000


def signer_of(name: str) -> Signer:
    seed = hashlib.sha256(b"benchmarks|" + name.encode()).digest()
    return Signer(server_name_of(Signer("-", KEY_ID, seed).verify_key), KEY_ID, seed)


class DictIndex:
    """The index over auth chains that the store keeps in tables, in dictionaries."""

    def __init__(self) -> None:
        self.nodes: dict[str, AuthNode] = {}
        self.cited_by: dict[str, list[tuple[str, StateSlot]]] = {}

    def add(self, event_id: str, known: Mapping[str, EventFacts]) -> None:
        facts = known[event_id]
        if facts.slot is None:
            return
        for cited in facts.auth_ids:
            self.cited_by.setdefault(cited, []).append((event_id, facts.slot))
        spine = next((each for each in facts.auth_ids if known[each].slot == facts.slot), None)
        self.nodes[event_id] = node_for(self, facts.auth_ids, spine)

    def node(self, event_id: str) -> AuthNode:
        return self.nodes[event_id]

    def citing(self, event_id: str) -> Iterator[tuple[str, StateSlot]]:
        return iter(self.cited_by.get(event_id, ()))


@dataclass
class ForkedRoom:
    """A room of one version whose events are built, hashed and signed like everybody's. Nothing is rejected in it."""

    rules: RoomVersionRules
    members: int = 50
    signers: list[Signer] = field(default_factory=lambda: [signer_of(f"server{number}") for number in range(5)])
    events: dict[str, Pdu] = field(default_factory=dict)
    before: dict[str, StateMap] = field(default_factory=dict)
    after: dict[str, StateMap] = field(default_factory=dict)
    depth: dict[str, int] = field(default_factory=dict)
    resolutions: list[list[StateMap]] = field(default_factory=list)
    room_id: str = ""
    index: DictIndex = field(default_factory=DictIndex)
    facts: Kept[str, EventFacts] = field(default_factory=Kept[str, EventFacts])
    tables: Kept[str, LevelTables] = field(default_factory=Kept[str, LevelTables])

    def __post_init__(self) -> None:
        creator = self.user(0)
        content: dict[str, Any] = {"room_version": self.rules.version}
        if self.rules.creator_in_content:
            content["creator"] = creator
        if not self.rules.room_id_is_create_hash:
            self.room_id = f"!benchmark:{self.signers[0].server_name}"
        tip = self.add([], creator, "m.room.create", "", content)
        self.room_id = self.events[tip].room_id
        tip = self.add([tip], creator, "m.room.member", creator, {"membership": "join"})
        tip = self.add([tip], creator, "m.room.power_levels", "", {"users": self.levels()})
        tip = self.add([tip], creator, "m.room.join_rules", "", {"join_rule": "public"})
        for number in range(1, self.members):
            tip = self.add([tip], self.user(number), "m.room.member", self.user(number), {"membership": "join"})
        self.start = tip

    def user(self, number: int) -> str:
        return f"@user{number}:{self.signers[number % len(self.signers)].server_name}"

    def levels(self, **more: int) -> dict[str, int]:
        """The first users are admins; the creator too, where the version does not make that so by itself."""
        admins = {self.user(number): 100 for number in range(1, 4)}
        return {**({} if self.rules.creators_privileged else {self.user(0): 100}), **admins, **more}

    def is_rejected(self, event_id: str) -> bool:
        return False

    def event(self, event_id: str) -> Pdu:
        return self.events[event_id]

    def add(
        self, parents: Sequence[str], sender: str, event_type: str, state_key: str | None, content: Mapping[str, Any]
    ) -> str:
        state = self.state_before(parents)
        slots = auth_slots(event_type=event_type, sender=sender, state_key=state_key, content=content, rules=self.rules)
        number = int(sender[5 : sender.index(":")])
        event = build_event(
            rules=self.rules,
            room_id=self.room_id or None,
            sender=sender,
            event_type=event_type,
            state_key=state_key,
            content=content,
            prev_events=list(parents),
            auth_events=[state[slot] for slot in slots if slot in state],
            depth=1 + max((self.depth[each] for each in parents), default=0),
            origin_server_ts=START_MS + len(self.events) * 100,
            signer=self.signers[number % len(self.signers)],
        )
        self.events[event.event_id] = event
        self.facts[event.event_id] = EventFacts.of(event)
        if event.type == "m.room.power_levels":
            self.tables[event.event_id] = LevelTables.of(event)
        self.index.add(event.event_id, self.facts)
        self.depth[event.event_id] = event.depth
        self.before[event.event_id] = state
        slot = event.state_slot
        self.after[event.event_id] = state if slot is None else {**state, slot: event.event_id}
        return event.event_id

    def state_before(self, parents: Sequence[str]) -> StateMap:
        states = [self.after[each] for each in parents]
        distinct = [state for number, state in enumerate(states) if not any(state is one for one in states[:number])]
        if len(distinct) < 2:
            return distinct[0] if distinct else {}
        self.resolutions.append(distinct)
        return self.resolve(distinct)

    def resolve(self, sets: Sequence[StateMap]) -> dict[StateSlot, str]:
        """By the index, as the store does it; of earlier resolutions only the parsed events are at hand."""
        return resolve(
            sets, self, self.rules, index=self.index, notes=ResolutionNotes(facts=self.facts, tables=self.tables)
        )

    def random_event(self, parents: Sequence[str], rng: random.Random) -> str:
        """Mostly messages and profile changes; now and then topics, joins, kicks, bans and power levels by admins."""
        number, admin = rng.randrange(self.members), self.user(rng.randrange(4))
        user, kind, text = self.user(number), rng.random(), f"{len(self.events)}"
        state = self.state_of(parents)
        if kind < 0.06:
            return self.add(parents, admin, "m.room.topic", "", {"topic": text})
        if kind < 0.10 and number >= 4:
            return self.add(parents, admin, "m.room.power_levels", "", {"users": self.levels(**{user: number % 50})})
        if kind < 0.16 and number >= 4:
            membership = rng.choice(("leave", "ban", "leave"))
            return self.add(parents, admin, "m.room.member", user, {"membership": membership, "reason": text})
        member = self.events[state["m.room.member", user]].content["membership"]
        if member == "ban":
            return self.add(parents, admin, "m.room.member", user, {"membership": "leave"})
        if member == "leave" or kind < 0.4:
            return self.add(parents, user, "m.room.member", user, {"membership": "join", "displayname": text})
        return self.add(parents, user, "m.room.message", None, {"msgtype": "m.text", "body": f"message {text}, hello"})

    def state_of(self, parents: Sequence[str]) -> StateMap:
        return self.after[parents[0]] if len(parents) == 1 else self.resolve([self.after[p] for p in parents])


def room_with_forks(rules: RoomVersionRules, events: int, *, seed: int = 1, members: int = 200) -> ForkedRoom:
    """A room that splits into two to six branches again and again, each with some events of its own, and merges."""
    room, rng = ForkedRoom(rules, members), random.Random(seed)
    tip = room.start
    while len(room.events) < events:
        branches = [tip] * rng.randint(2, 6)
        for _ in range(rng.randint(8, 24)):
            which = rng.randrange(len(branches))
            branches[which] = room.random_event([branches[which]], rng)
        merged = sorted(set(branches))
        tip = room.add(merged, room.user(0), "m.room.message", None, {"msgtype": "m.text", "body": "merged"})
    return room


def members_conflict(rules: RoomVersionRules, conflicted: int) -> tuple[ForkedRoom, list[StateMap]]:
    """Two branches in each of which the same half as many members change their profile."""
    room = ForkedRoom(rules, conflicted // 2 + 4)
    tips = [room.start, room.start]
    for number in range(4, room.members):
        for side in (0, 1):
            user = room.user(number)
            content = {"membership": "join", "displayname": f"{number} in {side}"}
            tips[side] = room.add([tips[side]], user, "m.room.member", user, content)
    return room, [room.after[tip] for tip in tips]


def topics_conflict(rules: RoomVersionRules, conflicted: int, branches: int) -> tuple[ForkedRoom, list[StateMap]]:
    """Several branches that each fill the same slots with events of their own."""
    room = ForkedRoom(rules, 10)
    tips = [room.start] * branches
    for number in range(conflicted // branches):
        for side in range(branches):
            content = {"value": f"{number} in {side}"}
            tips[side] = room.add([tips[side]], room.user(side % 4), "m.example.setting", f"{number}", content)
    return room, [room.after[tip] for tip in tips]


def power_duel(rules: RoomVersionRules, conflicted: int) -> tuple[ForkedRoom, list[StateMap]]:
    """Two admins who change the power levels half as many times each, in two branches."""
    room = ForkedRoom(rules, 10)
    tips = [room.start, room.start]
    for number in range(conflicted // 2):
        for side in (0, 1):
            levels = {"users": room.levels(**{f"@guest{number % 20}:x.example": 1 + number % 40})}
            tips[side] = room.add([tips[side]], room.user(1 + side), "m.room.power_levels", "", levels)
    return room, [room.after[tip] for tip in tips]


def bans_and_rejoins(rules: RoomVersionRules, conflicted: int) -> tuple[ForkedRoom, list[StateMap]]:
    """Members whom one branch bans and who change their profile in the other; the bans are power events."""
    room = ForkedRoom(rules, conflicted // 2 + 4)
    tips = [room.start, room.start]
    for number in range(4, room.members):
        user = room.user(number)
        tips[0] = room.add([tips[0]], room.user(1), "m.room.member", user, {"membership": "ban"})
        content = {"membership": "join", "displayname": f"{number}"}
        tips[1] = room.add([tips[1]], user, "m.room.member", user, content)
    return room, [room.after[tip] for tip in tips]
