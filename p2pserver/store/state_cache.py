"""State maps in memory: whole maps, and others as changes to them, bounded together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import ItemsView, Iterator, Mapping, Sequence
from typing import Any

from p2pserver.meg.state import StateSlot
from p2pserver.store.lru import Lru

DIFFERENCES_MAX = 20_000
"""Slots, in the noted differences between whole maps."""


class LayeredState(Mapping[StateSlot, str]):
    """A state as changes (None: the slot is empty) to a whole map that it shares with others. Not to be changed."""

    __slots__ = ("base", "base_group", "changes")

    def __init__(
        self, base_group: int, base: dict[StateSlot, str], changes: Mapping[StateSlot, str | None] | None = None
    ) -> None:
        self.base_group, self.base = base_group, base
        self.changes: Mapping[StateSlot, str | None] = {} if changes is None else changes

    def with_changes(self, changed: Mapping[StateSlot, str | None]) -> LayeredState:
        return LayeredState(self.base_group, self.base, {**self.changes, **changed})

    def get(self, slot: StateSlot, default: Any = None) -> Any:
        if slot in self.changes:
            found = self.changes[slot]
            return default if found is None else found
        return self.base.get(slot, default)

    def __getitem__(self, slot: StateSlot) -> str:
        found: str | None = self.get(slot)
        if found is None:
            raise KeyError(slot)
        return found

    def __contains__(self, slot: object) -> bool:
        return self.changes[slot] is not None if slot in self.changes else slot in self.base  # type: ignore[index]

    def __iter__(self) -> Iterator[StateSlot]:
        return iter(self.whole()) if self.changes else iter(self.base)

    def __len__(self) -> int:
        added = 0
        for slot, event_id in self.changes.items():
            added += int(event_id is not None) - int(slot in self.base)
        return len(self.base) + added

    def items(self) -> ItemsView[StateSlot, str]:
        return self.whole().items() if self.changes else self.base.items()

    def whole(self) -> dict[StateSlot, str]:
        """A copy as a plain dictionary."""
        state = dict(self.base)
        for slot, event_id in self.changes.items():
            if event_id is None:
                state.pop(slot, None)
            else:
                state[slot] = event_id
        return state


class StateCache:
    """Layered states by their group. What was used longest ago goes first: a whole map with all that rests on it."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._families: OrderedDict[int, dict[int, LayeredState]] = OrderedDict()
        self._base_of: dict[int, int] = {}
        self._differences: Lru[tuple[int, int], frozenset[StateSlot]] = Lru(
            DIFFERENCES_MAX, lambda slots: len(slots) + 1
        )
        self.entries = 0

    def get(self, group_id: int) -> LayeredState | None:
        base_group = self._base_of.get(group_id)
        if base_group is None:
            return None
        self._families.move_to_end(base_group)
        return self._families[base_group][group_id]

    def put(self, group_id: int, state: LayeredState) -> None:
        if group_id in self._base_of:
            return
        family = self._families.get(state.base_group)
        if family is None:
            family = self._families[state.base_group] = {}
            self.entries += len(state.base) + 1
        family[group_id] = state
        self._base_of[group_id] = state.base_group
        self._families.move_to_end(state.base_group)
        self.entries += _cost(state)
        while self.entries > self._entries_max and len(self._families) > 1:
            self._forget_family()
        while self.entries > self._entries_max and len(family) > 1:
            self._forget(family, next(iter(family)))

    def differing(self, states: Sequence[LayeredState]) -> set[StateSlot]:
        """All slots in which some of the states may differ: their changes, and what differs between their bases."""
        found: set[StateSlot] = set()
        first = states[0]
        bases: dict[int, LayeredState] = {}
        for state in states:
            found.update(state.changes)
            if state.base is not first.base:
                bases.setdefault(state.base_group, state)
        for state in bases.values():
            pair = (first.base_group, state.base_group)
            known = self._differences.get(pair)
            if known is None:
                known = frozenset(slot for slot, _ in first.base.items() ^ state.base.items())
                self._differences.put(pair, known)
            found |= known
        return found

    def _forget_family(self) -> None:
        _, family = self._families.popitem(last=False)
        self.entries -= len(next(iter(family.values())).base) + 1
        for group_id in list(family):
            self._forget(family, group_id)

    def _forget(self, family: dict[int, LayeredState], group_id: int) -> None:
        self.entries -= _cost(family.pop(group_id))
        del self._base_of[group_id]


def _cost(state: LayeredState) -> int:
    return len(state.changes) + 1
