"""Rooms for the tests: PDUs from vector files, and a room that is judged event by event as a node would do it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import load_pdu
from p2pserver.events.versions import RoomVersionRules
from p2pserver.meg import auth
from p2pserver.meg.digest import DigestEntry, sec_digest
from p2pserver.meg.resolution import resolve
from p2pserver.meg.state import CREATE, NotAllowed, StateSlot

ALICE, BOB, CAROL, DAVE = (f"@{name}:{name[0]}.example" for name in ("alice", "bob", "carol", "dave"))


def pdu(
    rules: RoomVersionRules,
    event_id: str,
    event_type: str,
    *,
    sender: str,
    content: Mapping[str, Any],
    state_key: str | None = None,
    prev_events: Sequence[str] = ("$before",),
    auth_events: Sequence[str] = (),
    ts: int = 1_700_000_000_000,
    room_id: str = "!room:a.example",
    raw: Mapping[str, Any] | None = None,
    depth: int = 1,
) -> Pdu:
    """A PDU with an event ID of our choice: nothing in this folder looks at hashes."""
    return Pdu(
        event_id=event_id,
        room_id=room_id,
        rules=rules,
        raw=raw if raw is not None else {},
        type=event_type,
        sender=sender,
        state_key=state_key,
        content=content,
        depth=depth,
        origin_server_ts=ts,
        prev_events=tuple(prev_events),
        auth_events=tuple(auth_events),
    )


@dataclass
class JudgedRoom:
    """A complete room: verdicts and the state before and after each event, computed from the graph alone."""

    rules: RoomVersionRules
    events: dict[str, Pdu] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    before: dict[str, Mapping[StateSlot, str]] = field(default_factory=dict)
    after: dict[str, Mapping[StateSlot, str]] = field(default_factory=dict)
    create: Pdu | None = None

    def event(self, event_id: str) -> Pdu:
        return self.events[event_id]

    def is_rejected(self, event_id: str) -> bool:
        return self.verdicts[event_id] != "accepted"

    def state_after(self, parents: Iterable[str]) -> dict[StateSlot, str]:
        """The state before an event with these parents."""
        return resolve([self.after[parent] for parent in parents], self, self.rules)

    def add(self, event: Pdu) -> None:
        """Judge an event whose prev_events and auth_events are all here."""
        self.events[event.event_id] = event
        before = self.state_after(event.prev_events)
        verdict = self.judge(event, before)
        after = before
        if verdict == "accepted":
            if event.state_slot is not None:
                after = {**before, event.state_slot: event.event_id}
            if event.type == "m.room.create":
                self.create = event
        self.verdicts[event.event_id] = verdict
        self.before[event.event_id], self.after[event.event_id] = before, after

    def judge(self, event: Pdu, before: Mapping[StateSlot, str]) -> str:
        cited = [self.events[event_id] for event_id in event.auth_events]
        rejected = [event_id for event_id in event.auth_events if self.is_rejected(event_id)]
        try:
            auth.check_auth_events(event, cited, rejected=rejected, create=self.create)
            auth.authorize(event, auth.state_of_auth_events(cited, self.create))
        except NotAllowed:
            return "rejected_by_auth_events"
        state = {slot: self.events[event_id] for slot, event_id in before.items()}
        if self.create is not None:
            state[CREATE] = self.create
        try:
            auth.authorize(event, state)
        except NotAllowed:
            return "rejected_by_state_before"
        return "accepted"

    def can_add(self, event: Pdu) -> bool:
        return all(event_id in self.events for event_id in (*event.prev_events, *event.auth_events)) and (
            self.create is not None or event.type == "m.room.create"
        )

    def add_all(self, events: Iterable[Pdu]) -> None:
        """Events in any order: what has to wait for others waits."""
        waiting = list(events)
        while waiting:
            parked = []
            for event in waiting:
                if self.can_add(event):
                    self.add(event)
                else:
                    parked.append(event)
            if len(parked) == len(waiting):
                raise AssertionError("events that nothing leads to")
            waiting = parked

    def digest(self) -> bytes:
        """The SEC digest over all events, with the resolution over all accepted leaves."""
        accepted = [event for event_id, event in self.events.items() if not self.is_rejected(event_id)]
        cited = {parent for event in accepted for parent in event.prev_events}
        leaves = [event.event_id for event in accepted if event.event_id not in cited]
        entries = [
            DigestEntry(
                event_id, self.is_rejected(event_id), self.before[event_id], self.after[event_id], event.prev_events
            )
            for event_id, event in self.events.items()
        ]
        return sec_digest(entries, self.state_after(leaves))


def load(entry: Mapping[str, Any], rules: RoomVersionRules) -> Pdu:
    """The PDU of a vector file's entry, with the event ID computed anew."""
    event = load_pdu(entry["pdu"], rules)
    if event.event_id != entry["event_id"]:
        raise AssertionError(f"{entry['event_id']} is not its hash")
    return event
