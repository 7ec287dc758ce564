"""The iterative auth checks of state resolution: event after event is put into a state, if the state lets it in.

Source: room version 2, "State resolution", "Iterative auth checks".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from p2pserver.events.pdu import Pdu
from p2pserver.meg.auth import NotAllowed, authorize_in
from p2pserver.meg.auth_state import join_rule_by, membership_by
from p2pserver.meg.chains import AuthGraph, EventFacts
from p2pserver.meg.state import CREATE, JOIN_RULES, POWER_LEVELS, StateMap, StateSlot


class Overlay(Mapping[StateSlot, str]):
    """A state in the making: what was put into it, over what it started from."""

    def __init__(self, start: StateMap) -> None:
        self.start = start
        self.put: dict[StateSlot, str] = {}

    def get(self, slot: StateSlot, default: Any = None) -> Any:
        found = self.put.get(slot)
        return self.start.get(slot, default) if found is None else found

    def __getitem__(self, slot: StateSlot) -> str:
        found = self.put.get(slot)
        return self.start[slot] if found is None else found

    def __iter__(self) -> Iterator[StateSlot]:
        yield from self.put
        yield from (slot for slot in self.start if slot not in self.put)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Usable(dict[StateSlot, str | None]):
    """What a state holds in the slots that were asked about, less rejected events."""

    def __init__(self, graph: AuthGraph, state: Overlay) -> None:
        self._graph, self._state = graph, state

    def __missing__(self, slot: StateSlot) -> str | None:
        held: str | None = self._state.get(slot)
        if held is not None and self._graph.is_rejected(held):
            held = None
        self[slot] = held
        return held


def apply(graph: AuthGraph, order: Iterable[str], state: Overlay) -> None:
    """Iterative auth checks: put each event into the state if the state lets it, else pass it over.

    What the state lacks for the check is taken from the event's own auth events. Rejected events never take part.
    """
    noted, put = graph.notes.allowed, state.put
    usable = _Usable(graph, state)
    held_in = usable.__getitem__
    for event_id in order:
        facts = graph.facts(event_id)
        slot = facts.slot
        if slot is None or graph.is_rejected(event_id):
            continue
        seen: tuple[str | None, ...] = tuple(map(held_in, facts.auth_slots))
        if facts.create_implied or None in seen:
            cited = graph.cited_slots(event_id)
            seen = tuple([held or cited.get(wanted) for held, wanted in zip(seen, facts.auth_slots, strict=True)])
            if facts.create_implied:
                seen = (*seen, cited.get(CREATE))
        case = facts.case or event_id
        is_allowed = noted.get((case, seen))
        if is_allowed is None:
            is_allowed = allows(graph, event_id, facts, seen)
            if graph.knows_auth_events(event_id):
                noted.put((case, seen), is_allowed)
        if is_allowed:
            put[slot] = usable[slot] = event_id


def allows(graph: AuthGraph, event_id: str, facts: EventFacts, seen: tuple[str | None, ...]) -> bool:
    """Whether a state with these events in the event's `auth_slots` lets it in; an implied create event comes last."""
    slots = (*facts.auth_slots, CREATE) if facts.create_implied else facts.auth_slots
    view = None
    if CREATE in slots:
        create_id = seen[slots.index(CREATE)]
        if create_id is not None:
            view = _StateSeen(graph, slots, seen, create_id)
    try:
        authorize_in(graph.event(event_id), view)
    except NotAllowed:
        return False
    return True


class _StateSeen:
    """The `AuthState` of a few events by their IDs, for slots in which the auth rules look."""

    __slots__ = ("_graph", "_held", "_slots", "create", "power")

    def __init__(
        self, graph: AuthGraph, slots: tuple[StateSlot, ...], held: tuple[str | None, ...], create_id: str
    ) -> None:
        self._graph, self._slots, self._held = graph, slots, held
        self.create = graph.event(create_id)
        self.power = graph.power_levels_of(create_id, held[slots.index(POWER_LEVELS)])

    def _held_in(self, slot: StateSlot) -> str | None:
        return self._held[self._slots.index(slot)] if slot in self._slots else None

    def event(self, slot: StateSlot) -> Pdu | None:
        held = self._held_in(slot)
        return None if held is None else self._graph.event(held)

    def membership(self, user_id: str) -> str:
        held = self._held_in(("m.room.member", user_id))
        return membership_by(None if held is None else self._graph.facts(held).membership)

    def join_rule(self) -> str:
        return join_rule_by(self.event(JOIN_RULES))
