"""Random rooms: forks, bans, promotions and lies, built from a stream of choices so that Hypothesis can shrink them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import RoomVersionRules
from p2pserver.meg.auth import auth_slots
from p2pserver.meg.state import StateSlot
from tests.meg.rooms import ALICE, BOB, CAROL, DAVE, JudgedRoom, pdu

USERS = (ALICE, BOB, CAROL, DAVE)


def event_id_of(*parts: object) -> str:
    """A made-up event ID: 43 characters, as unforeseeable as a hash."""
    return "$" + hashlib.sha256(repr(parts).encode()).hexdigest()[:43]


class RandomRoom:
    """A room that grows by random events of four users; about one in ten is backdated or cites old permissions."""

    def __init__(self, rules: RoomVersionRules, rng: random.Random, *, seed: int = 0, lies: float = 0.1) -> None:
        self.rules = rules
        self.rng = rng
        self.lies = lies
        self.order: list[Pdu] = []
        self.judged = JudgedRoom(rules)
        create_id = event_id_of(seed, rules.version, "create")
        self.room_id = "!" + create_id[1:] if rules.room_id_is_create_hash else "!room:a.example"
        content: dict[str, Any] = {"room_version": rules.version}
        if rules.creator_in_content:
            content["creator"] = ALICE
        create = pdu(
            rules,
            create_id,
            "m.room.create",
            sender=ALICE,
            content=content,
            state_key="",
            prev_events=(),
            room_id=self.room_id,
        )
        self._add(create)
        self.grow(ALICE, "m.room.member", ALICE, {"membership": "join"}, [create_id])
        users = {BOB: 50} if rules.creators_privileged else {ALICE: 100, BOB: 50}
        self.grow(ALICE, "m.room.power_levels", "", {"users": users, "invite": 0}, self.leaves())
        self.grow(ALICE, "m.room.join_rules", "", {"join_rule": "public"}, self.leaves())

    def leaves(self) -> list[str]:
        """All accepted events that no accepted event cites."""
        accepted = [event for event in self.order if not self.judged.is_rejected(event.event_id)]
        cited = {parent for event in accepted for parent in event.prev_events}
        return [event.event_id for event in accepted if event.event_id not in cited]

    def grow(
        self, sender: str, event_type: str, state_key: str | None, content: Mapping[str, Any], parents: list[str]
    ) -> None:
        """Add an event with these parents, with the auth events that the state after them asks for."""
        before = self.judged.state_after(parents)
        if self.rng.random() < self.lies:
            before = self.judged.after[self.rng.choice(self.order).event_id]
        slots = auth_slots(event_type=event_type, sender=sender, state_key=state_key, content=content, rules=self.rules)
        event = pdu(
            self.rules,
            event_id_of(len(self.order), sender, event_type, state_key, content, parents),
            event_type,
            sender=sender,
            content=content,
            state_key=state_key,
            prev_events=parents,
            auth_events=[before[slot] for slot in slots if slot in before],
            ts=1_700_000_000_000 + self.rng.randrange(4),
            room_id=self.room_id,
        )
        self._add(event)

    def _add(self, event: Pdu) -> None:
        self.order.append(event)
        self.judged.add(event)

    def step(self) -> None:
        """One more random event on top of some leaves, or on top of any event, which forks the room."""
        rng = self.rng
        leaves = self.leaves()
        if rng.random() < 0.4:
            parents = [rng.choice(self.order).event_id]
        else:
            parents = rng.sample(leaves, rng.randint(1, min(3, len(leaves))))
        sender, target = rng.choice(USERS), rng.choice(USERS)
        kind = rng.choice(
            ("join", "join", "leave", "kick", "ban", "invite", "levels", "levels", "rule", "topic", "text")
        )
        if kind in ("join", "leave"):
            self.grow(sender, "m.room.member", sender, {"membership": kind}, parents)
        elif kind in ("kick", "ban", "invite"):
            membership = "leave" if kind == "kick" else kind
            self.grow(sender, "m.room.member", target, {"membership": membership}, parents)
        elif kind == "levels":
            self.grow(sender, "m.room.power_levels", "", {"users": self.some_levels(), "invite": 0}, parents)
        elif kind == "rule":
            rule = rng.choice(("public", "invite", "knock"))
            self.grow(sender, "m.room.join_rules", "", {"join_rule": rule}, parents)
        elif kind == "topic":
            self.grow(sender, "m.room.topic", "", {"topic": str(len(self.order))}, parents)
        else:
            self.grow(sender, "m.room.message", None, {"body": str(len(self.order))}, parents)

    def some_levels(self) -> dict[str, int]:
        first = () if self.rules.creators_privileged else (ALICE,)
        levels = {user: self.rng.choice((0, 50, 50, 100)) for user in (BOB, CAROL, DAVE)}
        return {**dict.fromkeys(first, 100), **levels}

    def random_states(self, most: int = 4) -> list[Mapping[StateSlot, str]]:
        """States of the room as a fork, or a liar with old state, would put them side by side."""
        chosen = self.rng.sample(self.order, min(len(self.order), self.rng.randint(2, most)))
        return [self.judged.after[event.event_id] for event in chosen]


def random_room(rules: RoomVersionRules, seed: int, steps: int) -> RandomRoom:
    room = RandomRoom(rules, random.Random(seed), seed=seed)
    for _ in range(steps):
        room.step()
    return room
