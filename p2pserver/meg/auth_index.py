"""An index over the auth graph of a room: what resolution asks of whole auth chains, answered without walking them.

Of each state event it keeps a *level* (more than that of everything it cites), its *spine* (the cited event of the same
slot: the power levels before these, a member's event before this one) with a jump back on it, and, the other way
round, the state events that cite it. All of that follows from the event's own auth events, so it is written once, when
the event is, and never changes.

- Walks from high levels to low ones meet an event after everything that leads to it, so they end where the state sets
  have come together, not at the create event.
- Whether a state reaches an event is asked upwards: from the event to what cites it, to an event of the state.
- A place on a spine of n events is found in about log n steps (jumps as in Myers, "An applicative random-access
  stack", 1983).

Where an event is not indexed (`NotIndexed`), the caller walks the chains instead; the answers are the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from p2pserver.meg.state import CREATE, StateSlot


class NotIndexed(LookupError):
    """The index does not know an event that it was asked about."""


@dataclass(frozen=True, slots=True)
class AuthNode:
    """The place of one state event in the auth graph. The create event, and whoever cites nothing, has level 0."""

    level: int
    spine: str | None
    depth: int
    """How many events are before it on its spine."""
    jump: str | None
    """An earlier event of the spine; None for the first."""


class AuthIndex(Protocol):
    """Where resolution finds the index of one room; what implements it keeps the nodes at hand."""

    def node(self, event_id: str) -> AuthNode:
        """Raises: NotIndexed."""
        ...

    def citing(self, event_id: str) -> Iterator[tuple[str, StateSlot]]:
        """The state events that list it among their auth events, each with its slot, in any order."""
        ...


def node_for(index: AuthIndex, auth_ids: Iterable[str], spine: str | None) -> AuthNode:
    """The node of an event that cites these events (the create event of version 12 included), all of them indexed.

    Raises: NotIndexed.
    """
    level = max((index.node(cited).level + 1 for cited in auth_ids), default=0)
    if spine is None:
        return AuthNode(level, None, 0, None)
    before = index.node(spine)
    jump = spine
    if before.jump is not None:
        over = index.node(before.jump)
        if over.jump is not None and before.depth - over.depth == over.depth - index.node(over.jump).depth:
            jump = over.jump
    return AuthNode(level, spine, before.depth + 1, jump)


def on_spine(index: AuthIndex, event_id: str, depth: int) -> str:
    """The event of that depth on the spine of an event that is at least as deep."""
    node = index.node(event_id)
    while node.depth > depth:
        jump = node.jump
        if jump is not None and index.node(jump).depth >= depth:
            event_id = jump
        elif node.spine is not None:
            event_id = node.spine
        node = index.node(event_id)
    return event_id


def where_spines_meet(index: AuthIndex, one: str, other: str) -> str | None:
    """The last event that two spines have in common, ends included."""
    depth = min(index.node(one).depth, index.node(other).depth)
    one, other = on_spine(index, one, depth), on_spine(index, other, depth)
    while one != other:
        here, there = index.node(one), index.node(other)
        if here.spine is None or there.spine is None:
            return None
        if here.jump is not None and there.jump is not None and here.jump != there.jump:
            one, other = here.jump, there.jump
        else:
            one, other = here.spine, there.spine
    return one


class Reach:
    """Which events are in the auth chain of a state, or of some events more that all state sets reach.

    `shared` gives the state's event of a slot. Answers are kept: what was found not to be reached never will be, as
    long as events are asked about, and added, from high levels to low ones.
    """

    def __init__(
        self, index: AuthIndex, shared: Callable[[StateSlot], str | None], *, slot_of: Callable[[str], StateSlot | None]
    ) -> None:
        self._index = index
        self._shared = shared
        self._slot_of = slot_of
        self._known: dict[str, bool] = {}

    def add(self, event_id: str) -> None:
        self._known[event_id] = True

    def contains(self, event_id: str) -> bool:
        """Depth first, up the graph; all that was looked at without success is noted as not reached.

        Raises: NotIndexed, of a create event that not all sets hold: in version 12 it is cited without being listed.
        """
        answers, citing = self._known, self._index.citing
        slot = self._slot_of(event_id)
        known = self._at_once(event_id, slot)
        if known is not None:
            return known
        if slot == CREATE:
            raise NotIndexed("the state has another create event, or none")
        path: list[tuple[str, Iterator[tuple[str, StateSlot]]]] = []
        remaining = citing(event_id)
        while True:
            for other, slot in remaining:
                known = answers.get(other)
                if known is None:
                    known = self._at_once(other, slot)
                    if known is None:
                        path.append((event_id, remaining))
                        event_id, remaining = other, citing(other)
                        break
                if known:
                    answers.update((passed, True) for passed, _ in path)
                    answers[event_id] = True
                    return True
            else:
                answers[event_id] = False
                if not path:
                    return False
                event_id, remaining = path.pop()

    def _at_once(self, event_id: str, slot: StateSlot | None) -> bool | None:
        known = self._known.get(event_id)
        if known is not None or slot is None:
            return known
        current = self._shared(slot)
        if current is None or (current != event_id and not self._is_before(event_id, current)):
            return None
        self._known[event_id] = True
        return True

    def _is_before(self, event_id: str, current: str) -> bool:
        depth = self._index.node(event_id).depth
        return depth < self._index.node(current).depth and on_spine(self._index, current, depth) == event_id


def difference_by_index(
    index: AuthIndex,
    conflicted: Mapping[str, int],
    every_set: int,
    reach: Reach,
    auth_ids: Callable[[str], Iterable[str]],
) -> set[str]:
    """The events in the auth chains of some, but not of all state sets, less conflicted events.

    State sets are bits: `conflicted` maps each conflicted event to the sets that hold it. `reach` is the auth chain of
    what all sets share. Raises: NotIndexed.
    """
    reached_from = dict(conflicted)
    at_level: dict[int, list[str]] = {}
    for event_id in reached_from:
        at_level.setdefault(index.node(event_id).level, []).append(event_id)
    levels = [-level for level in at_level]
    heapq.heapify(levels)
    difference: set[str] = set()
    while levels:
        for event_id in at_level.pop(-heapq.heappop(levels)):
            mask = reached_from[event_id]
            if mask == every_set:
                reach.add(event_id)
                continue
            if event_id not in conflicted:
                if reach.contains(event_id):
                    continue
                difference.add(event_id)
            for cited in auth_ids(event_id):
                known = reached_from.get(cited)
                if known is None:
                    level = index.node(cited).level
                    if level in at_level:
                        at_level[level].append(cited)
                    else:
                        at_level[level] = [cited]
                        heapq.heappush(levels, -level)
                    known = 0
                reached_from[cited] = known | mask
    return difference


def subgraph_by_index(
    index: AuthIndex, conflicted: Mapping[str, object], auth_ids: Callable[[str], Iterable[str]]
) -> set[str]:
    """All events on a path of auth events from one conflicted event to another, ends included (MSC4297).

    Looked for from the newer ends down and from the older ends up at once; whichever is done first decides, so that an
    old event with few followers costs as little as two new ones. Raises: NotIndexed.
    """
    levels = [index.node(event_id).level for event_id in conflicted]
    lowest, highest = min(levels), max(levels)
    down, up = dict(conflicted), dict(conflicted)
    going_down = _spread(down, auth_ids, index, lambda level: level >= lowest)
    if lowest == 0:
        for _ in going_down:  # what has no auth event may be the create event, which everything cites
            pass
        return _leading_to(conflicted, down, index, auth_ids)
    going_up = _spread(
        up, lambda event_id: (other for other, _ in index.citing(event_id)), index, lambda level: level <= highest
    )
    while True:
        if next(going_down, None) is None:
            return _leading_to(conflicted, down, index, auth_ids)
        if next(going_up, None) is None:
            return _reached_from(conflicted, up, auth_ids)


def _spread(
    found: dict[str, object],
    neighbors: Callable[[str], Iterable[str]],
    index: AuthIndex,
    within: Callable[[int], bool],
) -> Iterator[bool]:
    """Adds what is reached over `neighbors` to `found`; one step for each that is looked at."""
    waiting = list(found)
    while waiting:
        for other in neighbors(waiting.pop()):
            if other not in found and within(index.node(other).level):
                found[other] = None
                waiting.append(other)
            yield True


def _leading_to(
    conflicted: Mapping[str, object],
    found: Iterable[str],
    index: AuthIndex,
    auth_ids: Callable[[str], Iterable[str]],
) -> set[str]:
    leading: set[str] = set()
    for event_id in sorted(found, key=lambda each: index.node(each).level):
        if event_id in conflicted or any(cited in leading for cited in auth_ids(event_id)):
            leading.add(event_id)
    return leading


def _reached_from(
    conflicted: Mapping[str, object], found: Mapping[str, object], auth_ids: Callable[[str], Iterable[str]]
) -> set[str]:
    reached = set(conflicted)
    waiting = list(conflicted)
    while waiting:
        for cited in auth_ids(waiting.pop()):
            if cited in found and cited not in reached:
                reached.add(cited)
                waiting.append(cited)
    return reached
