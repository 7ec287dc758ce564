"""Judging a room's events again, one after the other, from nothing but the events.

This is what the receipt of an event does (rooms/judging.py), less everything that makes it fast: no state groups, no
verdicts, index or caches that somebody kept. Two ways to one result can be compared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import RoomVersionRules
from p2pserver.meg.auth import NotAllowed, authorize, check_auth_events, state_of_auth_events
from p2pserver.meg.auth_index import AuthNode, NotIndexed, node_for
from p2pserver.meg.chains import EventFacts, ResolutionNotes
from p2pserver.meg.power import PowerLevels
from p2pserver.meg.resolution import resolve
from p2pserver.meg.state import StateMap, StateSlot

RESOLUTIONS_KEPT = 64
POWER_LEVELS_KEPT = 256
NOTES_KEPT = 20_000
EMPTY: StateMap = {}


@dataclass(frozen=True, slots=True)
class Replayed:
    """What an event earns by its past alone: `rejection` is None, or why it is rejected.

    A state that does not change is the same object as before, so that whoever keeps many pays for the changes.
    """

    rejection: str | None
    before: StateMap
    after: StateMap


class Replay:
    """The events of one room so far. Also the `EventSource` of its resolutions.

    `find` gives a held event by its ID, or None. Whoever replays hands the events over parents and auth events first,
    and keeps the states after them as long as a child is to come.
    """

    def __init__(
        self, rules: RoomVersionRules, find: Callable[[str], Pdu | None], *, create_event_id: str | None = None
    ) -> None:
        self.rules = rules
        self.rejected: set[str] = set()
        self.create_event_id = create_event_id
        self._find = find
        self._levels: dict[tuple[str, str | None], PowerLevels] = {}
        self._resolved: OrderedDict[frozenset[int], tuple[list[StateMap], StateMap]] = OrderedDict()
        self._index = _Index()
        self._notes = ResolutionNotes(facts=_Notes(), allowed=_Notes(), levels=_Notes())

    # The source of events

    def event(self, event_id: str) -> Pdu:
        found = self._find(event_id)
        if found is None:
            raise KeyError(event_id)
        return found

    def is_rejected(self, event_id: str) -> bool:
        return event_id in self.rejected

    # Judging

    def judge(self, event: Pdu, after_parents: Sequence[StateMap], *, foreign_parent: bool = False) -> Replayed:
        """The next event. `after_parents` are the states after its parents, of those that have one."""
        before = self.resolved(after_parents)
        self.note(event)
        rejection = "by its prev_events: one is of another room" if foreign_parent else self.rejection(event, before)
        if rejection is not None:
            self.rejected.add(event.event_id)
            return Replayed(rejection, before, before)
        if event.type == "m.room.create" and self.create_event_id is None:
            self.create_event_id = event.event_id
        slot = event.state_slot
        after = before if slot is None or before.get(slot) == event.event_id else {**before, slot: event.event_id}
        return Replayed(None, before, after)

    def note(self, event: Pdu) -> None:
        """Of an event that is not judged here: it may be in a state, or in the auth chain of one."""
        if event.is_state:
            self._index.add(event)

    def auth_node(self, event_id: str) -> AuthNode | None:
        """The place of an event so far in the auth graph; None of a message, and where the chain is not known."""
        try:
            return self._index.node(event_id)
        except NotIndexed:
            return None

    def rejection(self, event: Pdu, before: StateMap) -> str | None:
        """Checks 4 and 5 of the receipt. Source: server-server API, "Checks performed on receipt of a PDU"."""
        return self.rejection_by_auth_events(event) or self._rejection_by_state(event, before)

    def rejection_by_auth_events(self, event: Pdu) -> str | None:
        """Check 4 alone: all that can be said of an event whose parents are not known."""
        create = self._create_for(event)
        cited = [found for found in map(self._find, event.auth_events) if found is not None]
        try:
            check_auth_events(event, cited, rejected=self.rejected.intersection(event.auth_events), create=create)
            if event.type != "m.room.create":
                authorize(event, state_of_auth_events(cited, create), power_levels_of=self._power_levels_of)
        except NotAllowed as error:
            return f"by its auth events: {error.reason}"
        return None

    def resolved(self, states: Sequence[StateMap]) -> StateMap:
        """One state out of several; one of them, if the result is equal to it."""
        distinct = list({id(state): state for state in states}.values())
        if len(distinct) < 2:
            return distinct[0] if distinct else EMPTY
        key = frozenset(map(id, distinct))
        known = self._resolved.get(key)
        if known is not None:
            self._resolved.move_to_end(key)
            return known[1]
        made: StateMap = resolve(distinct, self, self.rules, index=self._index, notes=self._notes)
        made = next((state for state in distinct if state == made), made)
        self._resolved[key] = (distinct, made)  # the states themselves too: their ids are theirs as long as they live
        if len(self._resolved) > RESOLUTIONS_KEPT:
            self._resolved.popitem(last=False)
        return made

    def _rejection_by_state(self, event: Pdu, before: StateMap) -> str | None:
        if event.type == "m.room.create":
            return None
        try:
            authorize(event, _View(self, before), power_levels_of=self._power_levels_of)
        except NotAllowed as error:
            return f"by the state before it: {error.reason}"
        return None

    def _create_for(self, event: Pdu) -> Pdu | None:
        if self.create_event_id is None:
            return None
        return event if event.event_id == self.create_event_id else self._find(self.create_event_id)

    def _power_levels_of(self, create: Pdu, power_levels: Pdu | None) -> PowerLevels:
        pair = (create.event_id, None if power_levels is None else power_levels.event_id)
        known = self._levels.get(pair)
        if known is None:
            if len(self._levels) >= POWER_LEVELS_KEPT:
                self._levels.clear()
            known = self._levels[pair] = PowerLevels.of(create, power_levels)
        return known


class _Index:
    """The `AuthIndex` of the events so far, made from them and kept in memory."""

    def __init__(self) -> None:
        self._nodes: dict[str, AuthNode] = {}
        self._slots: dict[str, StateSlot] = {}
        self._cited_by: dict[str, list[str]] = {}

    def add(self, event: Pdu) -> None:
        facts = EventFacts.of(event)
        if facts.slot is None or event.event_id in self._slots:
            return
        self._slots[event.event_id] = facts.slot
        for cited in dict.fromkeys(event.auth_events):
            self._cited_by.setdefault(cited, []).append(event.event_id)
        with suppress(NotIndexed):
            spine = next((each for each in facts.auth_ids if self._slots.get(each) == facts.slot), None)
            self._nodes[event.event_id] = node_for(self, facts.auth_ids, spine)

    def node(self, event_id: str) -> AuthNode:
        found = self._nodes.get(event_id)
        if found is None:
            raise NotIndexed(event_id)
        return found

    def citing(self, event_id: str) -> Iterator[tuple[str, StateSlot]]:
        return ((each, self._slots[each]) for each in self._cited_by.get(event_id, ()))


class _Notes(dict[Any, Any]):
    """Forgets everything at once when it is full."""

    def put(self, key: Any, value: Any) -> None:
        if len(self) >= NOTES_KEPT:
            self.clear()
        self[key] = value


class _View(Mapping[StateSlot, Pdu]):
    """A state whose events are looked up when the auth rules ask for them."""

    def __init__(self, replay: Replay, state: StateMap) -> None:
        self._replay, self._state = replay, state

    def __getitem__(self, slot: StateSlot) -> Pdu:
        return self._replay.event(self._state[slot])

    def __iter__(self) -> Iterator[StateSlot]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)
