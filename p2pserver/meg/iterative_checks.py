"""The iterative auth checks of state resolution: event after event is put into a state, if the state lets it in.

Source: room version 2, "State resolution", "Iterative auth checks".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from p2pserver.events.pdu import Pdu
from p2pserver.meg.auth import NotAllowed, authorize_in, level_below_which_bans
from p2pserver.meg.auth_state import NO_MEMBER, join_rule_by
from p2pserver.meg.chains import AuthGraph, EventFacts
from p2pserver.meg.power import Level, LevelTables, PowerLevels
from p2pserver.meg.state import CREATE, JOIN_RULES, POWER_LEVELS, StateMap, StateSlot

View: TypeAlias = tuple[str | None, ...]
"""What is seen in the `view_slots` of an event."""


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


class _StateSeen(dict[StateSlot, str | None]):
    """What the auth rules see of a state where they have looked (`chains.Seen`)."""

    def __init__(self, graph: AuthGraph, state: Overlay) -> None:
        self._graph, self._state = graph, state

    def __missing__(self, slot: StateSlot) -> str | None:
        held: str | None = self._state.get(slot)
        seen = self[slot] = None if held is None else self._graph.see((held,))[0][1]
        return seen


def apply(graph: AuthGraph, order: Sequence[str], state: Overlay) -> None:
    """Iterative auth checks: put each event into the state if the state lets it, else pass it over.

    What the state lacks for the check is taken from the event's own auth events. Rejected events never take part.
    """
    noted, put, facts_of = graph.notes.allowed, state.put, graph.known_facts
    seen = _StateSeen(graph, state)
    see = seen.__getitem__
    alike: dict[tuple[object, tuple[str, ...]], bool] = {}  # by case and auth events, until something else is seen
    bans: dict[tuple[str, tuple[str, ...]], Bans] = {}  # by sender and auth events, likewise

    def view_of(event_id: str, facts: EventFacts) -> View:
        view = list(map(see, facts.auth_slots))
        if facts.create_implied:
            view.append(None)
        if None in view:
            graph.see_the_rest(view, facts.view_slots, event_id)
        return tuple(view)

    for event_id, (slot, becomes) in zip(order, graph.see(order), strict=True):
        if slot is None:
            continue
        facts = facts_of.get(event_id) or graph.facts(event_id)
        membership, case = facts.membership, facts.case
        is_allowed = kind = None
        if facts.is_ban:
            banned_by = (facts.sender, graph.auth_ids_outside(event_id, slot))
            known = bans.get(banned_by)
            if known is None:
                known = bans[banned_by] = bans_of(graph, event_id, facts, view_of(event_id, facts))
            is_allowed = known.include(slot[1])
        elif membership is None and case is not None:
            kind = (case, facts.auth_ids)
            is_allowed = alike.get(kind)
        if is_allowed is None:
            view = view_of(event_id, facts)
            question = (case or event_id, view)
            is_allowed = noted.get(question)
            if is_allowed is None:
                is_allowed = allows(graph, event_id, facts, view)
                if graph.knows_auth_events(event_id):
                    noted.put(question, is_allowed)
            if kind is not None:
                alike[kind] = is_allowed
        if is_allowed:
            put[slot] = event_id
            if slot in seen and seen[slot] != becomes:
                seen[slot] = becomes
                alike.clear()
                bans.clear()


def allows(graph: AuthGraph, event_id: str, facts: EventFacts, view: View) -> bool:
    """Whether a state lets an event in, seen in the event's `auth_slots`; an implied create event comes last."""
    try:
        authorize_in(graph.event(event_id), _state_of(graph, facts, view))
    except NotAllowed:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Bans:
    """Whom somebody may ban in a state: those below a level by some power levels; nobody, where these are None."""

    below: Level
    power: PowerLevels | None

    def include(self, user_id: str) -> bool:
        return self.power is not None and self.power.of_user(user_id) < self.below


def bans_of(graph: AuthGraph, event_id: str, facts: EventFacts, view: View) -> Bans:
    """What `allows` says of any ban by the sender of this one, by the target."""
    state = _state_of(graph, facts, view)
    try:
        below = level_below_which_bans(graph.event(event_id), state)
    except NotAllowed:
        return Bans(0, None)
    assert state is not None
    return Bans(below, state.power)


def _state_of(graph: AuthGraph, facts: EventFacts, view: View) -> _StateViewed | None:
    seen = dict(zip(facts.view_slots, view))  # noqa: B905  # asking whether both are as long takes half as long again
    create_id = seen.get(CREATE)
    return None if create_id is None else _StateViewed(graph, seen, create_id)


class _StateViewed:
    """The `AuthState` that is seen in the slots where the auth rules look."""

    __slots__ = ("_graph", "_seen", "create", "power")

    def __init__(self, graph: AuthGraph, seen: Mapping[StateSlot, str | None], create_id: str) -> None:
        self._graph, self._seen = graph, seen
        self.create = graph.event(create_id)
        self.power = graph.power_levels_of(create_id, seen.get(POWER_LEVELS))

    def event(self, slot: StateSlot) -> Pdu | None:
        held = self._seen.get(slot)
        return None if held is None else self._graph.event(held)

    def levels_of(self, event: Pdu) -> LevelTables:
        return self._graph.levels_of(event.event_id)

    def membership(self, user_id: str) -> str:
        return self._seen.get(("m.room.member", user_id)) or NO_MEMBER

    def join_rule(self) -> str:
        return join_rule_by(self.event(JOIN_RULES))
