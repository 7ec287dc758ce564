"""Auth chains: closures over `auth_events`, what they differ in, and what lies between conflicted events.

Everything is iterative and visits an event once, so that a chain of any length costs linear time and no stack. These
are the definitions; `auth_index` answers the same questions without walking whole chains.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias, TypeVar

from p2pserver.events.pdu import Pdu
from p2pserver.meg.auth import auth_slots_of, case_of, create_id_of, is_ban_of_another
from p2pserver.meg.auth_state import membership_by
from p2pserver.meg.power import Creators, Level, LevelTables, PowerLevels
from p2pserver.meg.state import CREATE, POWER_LEVELS, EventSource, StateSlot

K = TypeVar("K")
V = TypeVar("V")
K_contra = TypeVar("K_contra", contravariant=True)


class Notes(Protocol[K_contra, V]):
    """A dictionary that may forget."""

    def get(self, key: K_contra) -> V | None: ...

    def put(self, key: K_contra, value: V) -> None: ...


class Kept(dict[K, V]):
    """Notes for the time of one resolution: nothing is forgotten."""

    def put(self, key: K, value: V) -> None:
        self[key] = value


@dataclass(frozen=True, slots=True)
class EventFacts:
    """What resolution looks at in an event all the time; it follows from what the event ID covers, so it never changes.

    `auth_ids` are the auth events as the event lists them; in version 12 the create event, which is implied, comes
    last. `auth_slots` are the slots of a state that the auth rules look at, `view_slots` these and that of the implied
    create event. `membership` is what a member event makes of its user, None of other events. `case`: the same states
    let in all events of one case (`case_of`). `is_ban`: of somebody else, whose membership the auth rules then do not
    look at.
    """

    slot: StateSlot | None
    type: str
    sender: str
    origin_server_ts: int
    membership: str | None
    auth_ids: tuple[str, ...]
    auth_slots: tuple[StateSlot, ...]
    view_slots: tuple[StateSlot, ...]
    create_implied: bool
    case: tuple[str, str, bool] | None
    is_ban: bool

    @classmethod
    def of(cls, event: Pdu) -> EventFacts:
        listed = event.auth_events
        create_implied = event.rules.room_id_is_create_hash and event.type != "m.room.create"
        if create_implied:
            listed = (*listed, create_id_of(event.room_id))
        slot = event.state_slot
        is_ban = is_ban_of_another(event)
        auth_slots = tuple(_interned(each) for each in auth_slots_of(event) if not is_ban or each != slot)
        return cls(
            slot=None if slot is None else _interned(slot),
            type=sys.intern(event.type),
            sender=sys.intern(event.sender),
            origin_server_ts=event.origin_server_ts,
            membership=membership_by(event) if event.type == "m.room.member" else None,
            auth_ids=listed,
            auth_slots=auth_slots,
            view_slots=(*auth_slots, CREATE) if create_implied else auth_slots,
            create_implied=create_implied,
            case=case_of(event),
            is_ban=is_ban,
        )


def _interned(slot: StateSlot) -> StateSlot:
    """Slots are compared all the time; their strings are the same objects in all events."""
    return sys.intern(slot[0]), sys.intern(slot[1])


Seen: TypeAlias = tuple[StateSlot | None, str | None]
"""What the auth rules see of an event in a state: the slot that it fills, and there of a member the membership, of
others the event by its ID. A rejected event fills none."""

NOTHING_SEEN: Final = (None, None)

Verdicts: TypeAlias = Notes[tuple[object, tuple[str | None, ...]], bool]


@dataclass(frozen=True, slots=True)
class ResolutionNotes:
    """What one resolution leaves to the next of the same room, so that many forks do not cost the same again and again.

    `facts` by event; `tables`: what a power levels event sets; `rejected`: whether an event is; `allowed`: whether the
    auth rules let an event into a state that holds certain events in its `auth_slots`; `levels`: the power of its
    sender. To be forgotten when an event becomes rejected, or stops being so, or is not held any more.
    """

    facts: Notes[str, EventFacts] = field(default_factory=Kept[str, EventFacts])
    allowed: Verdicts = field(default_factory=Kept[tuple[object, tuple[str | None, ...]], bool])
    rejected: Notes[str, bool] = field(default_factory=Kept[str, bool])
    levels: Notes[str, Level] = field(default_factory=Kept[str, Level])
    tables: Notes[str, LevelTables] = field(default_factory=Kept[str, LevelTables])


class AuthGraph:
    """The auth events of one room as a graph, with what was looked up kept for the time of one resolution.

    In version 12 every event but the create event also has an implied edge to the create event.
    An auth event that the source does not know counts as not cited: in a complete room there is none.
    """

    def __init__(self, source: EventSource, notes: ResolutionNotes | None = None) -> None:
        self._source = source
        self.notes = ResolutionNotes() if notes is None else notes
        self._events: dict[str, Pdu] = {}
        self.known_facts: dict[str, EventFacts | None] = {}
        """What `facts` was asked for already; None of an event that the source does not know."""
        self.known_auth_ids: dict[str, tuple[str, ...]] = {}
        """What `auth_ids` was asked for already."""
        self._incomplete: set[str] = set()
        self._seen: dict[str, Seen] = {}
        self._power: dict[tuple[str | None, str | None], PowerLevels] = {}
        self._creators: dict[str | None, Creators] = {}

    def event(self, event_id: str) -> Pdu:
        """Raises: KeyError, if the source does not know it."""
        event = self._events.get(event_id)
        if event is None:
            event = self._events[event_id] = self._source.event(event_id)
        return event

    def facts(self, event_id: str) -> EventFacts:
        """Raises: KeyError, if the source does not know it."""
        found = self.known_facts.get(event_id)
        if found is None:
            found = self.find_facts(event_id)
            if found is None:
                raise KeyError(event_id)
        return found

    def find_facts(self, event_id: str) -> EventFacts | None:
        if event_id in self.known_facts:
            return self.known_facts[event_id]
        known = self.notes.facts.get(event_id)
        if known is None:
            with suppress(KeyError):
                known = EventFacts.of(self.event(event_id))
                self.notes.facts.put(event_id, known)
        self.known_facts[event_id] = known
        return known

    def slot_of(self, event_id: str) -> StateSlot | None:
        return (self.known_facts.get(event_id) or self.facts(event_id)).slot

    def auth_ids(self, event_id: str) -> tuple[str, ...]:
        """The known auth events of an event, as it lists them; in version 12 the create event comes last."""
        known = self.known_auth_ids.get(event_id)
        if known is None:
            facts = self.known_facts
            known = (facts.get(event_id) or self.facts(event_id)).auth_ids
            if not all(map(facts.get, known)) and not all(map(self.find_facts, known)):
                known = tuple(filter(self.find_facts, known))
                self._incomplete.add(event_id)
            self.known_auth_ids[event_id] = known
        return known

    def knows_auth_events(self, event_id: str) -> bool:
        """Whether the source knows everything that an event cites, so that what follows from it is final."""
        if event_id not in self.known_auth_ids:
            self.auth_ids(event_id)
        return event_id not in self._incomplete

    def cited(self, event_id: str, slot: StateSlot) -> str | None:
        """The first auth event of an event that holds the given slot."""
        facts = self.known_facts
        for auth_id in self.known_auth_ids.get(event_id) or self.auth_ids(event_id):
            if (facts.get(auth_id) or self.facts(auth_id)).slot == slot:
                return auth_id
        return None

    def auth_ids_outside(self, event_id: str, slot: StateSlot) -> tuple[str, ...]:
        """The known auth events of an event that do not hold the given slot."""
        facts = self.known_facts
        auth_ids = self.known_auth_ids.get(event_id) or self.auth_ids(event_id)
        return tuple([each for each in auth_ids if (facts.get(each) or self.facts(each)).slot != slot])

    def cited_power_levels(self, event_id: str) -> str | None:
        """The ID of the power levels event among the auth events of an event."""
        facts = self.known_facts
        for auth_id in self.known_auth_ids.get(event_id) or self.auth_ids(event_id):
            if (facts.get(auth_id) or self.facts(auth_id)).slot == POWER_LEVELS:
                return auth_id
        return None

    def see(self, event_ids: Iterable[str]) -> list[Seen]:
        """What the auth rules see of each of some events."""
        known, facts_of, noted = self._seen, self.known_facts, self.notes.rejected
        found: list[Seen] = []
        for event_id in event_ids:
            seen = known.get(event_id)
            if seen is None:
                facts = facts_of.get(event_id) or self.facts(event_id)
                is_rejected = noted.get(event_id)
                if is_rejected is None:
                    is_rejected = self._source.is_rejected(event_id)
                    noted.put(event_id, is_rejected)
                if is_rejected:
                    seen = NOTHING_SEEN
                else:
                    seen = facts.slot, event_id if facts.membership is None else facts.membership
                known[event_id] = seen
            found.append(seen)
        return found

    def see_the_rest(self, view: list[str | None], slots: Sequence[StateSlot], event_id: str) -> None:
        """What a view of these slots lacks is taken from the state that an event's auth events make."""
        known = self._seen
        for auth_id in reversed(self.known_auth_ids.get(event_id) or self.auth_ids(event_id)):
            slot, seen = known.get(auth_id) or self.see((auth_id,))[0]
            if slot in slots:
                place = slots.index(slot)
                if view[place] is None:
                    view[place] = seen

    def power_levels_of(self, create_id: str | None, power_levels_id: str | None) -> PowerLevels:
        """`PowerLevels.of`, once for each pair of events."""
        pair = (create_id, power_levels_id)
        known = self._power.get(pair)
        if known is None:
            tables = None if power_levels_id is None else self.levels_of(power_levels_id)
            creators = self._creators.get(create_id)
            if creators is None:
                creators = self._creators[create_id] = Creators.of(None if create_id is None else self.event(create_id))
            known = self._power[pair] = PowerLevels.by(tables, creators)
        return known

    def levels_of(self, event_id: str) -> LevelTables:
        """What a power levels event sets, read once."""
        known = self.notes.tables.get(event_id)
        if known is None:
            known = LevelTables.of(self.event(event_id))
            self.notes.tables.put(event_id, known)
        return known

    def closure(self, roots: Iterable[str]) -> list[str]:
        """The roots and all events in their auth chains; each after all of its own auth events."""
        order: list[str] = []
        seen: set[str] = set()
        for root in roots:
            if root in seen:
                continue
            seen.add(root)
            path = [(root, iter(self.auth_ids(root)))]
            while path:
                event_id, remaining = path[-1]
                for cited in remaining:
                    if cited not in seen:
                        seen.add(cited)
                        path.append((cited, iter(self.auth_ids(cited))))
                        break
                else:
                    order.append(event_id)
                    path.pop()
        return order


def conflicted_subgraph(graph: AuthGraph, chain: Iterable[str], conflicted: Collection[str]) -> set[str]:
    """All events on a path of auth events from one conflicted event to another, ends included (MSC4297).

    `chain` is the closure of the conflicted events, each event after its auth events.
    """
    leads_to_conflicted: set[str] = set()
    for event_id in chain:
        if event_id in conflicted or any(cited in leads_to_conflicted for cited in graph.auth_ids(event_id)):
            leads_to_conflicted.add(event_id)
    return leads_to_conflicted


def auth_difference(
    graph: AuthGraph,
    chain: list[str],
    conflicted: Mapping[str, int],
    unconflicted: Collection[str],
    every_set: int,
    *,
    complete: bool,
) -> set[str]:
    """The events that are in the auth chain of some, but not of all state sets; a set's own events count as its chain.

    State sets are bits: `conflicted` maps each conflicted event to the sets that hold it, `every_set` has all bits.
    `chain` is the closure of the conflicted events, each event after its auth events. `unconflicted` are the events
    that all sets hold. Unless `complete`, conflicted events may be missing from the answer: whoever wants the full
    conflicted set adds them anyway, and seldom has to walk the auth chains of the whole state then.
    """
    reached_from = dict(conflicted)
    reached_from.update((event_id, every_set) for event_id in chain if event_id in unconflicted)
    for event_id in reversed(chain):
        mask = reached_from[event_id]
        for cited in graph.auth_ids(event_id):
            reached_from[cited] = reached_from.get(cited, 0) | mask
    difference = {event_id for event_id, mask in reached_from.items() if mask != every_set}
    if complete or any(event_id not in conflicted for event_id in difference):
        difference.difference_update(graph.closure(unconflicted))
    return difference if complete else difference.difference(conflicted)
