"""Room state out of the store: events for the auth rules and for state resolution, and states resolved into groups."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import RoomVersionRules
from p2pserver.meg.chains import ResolutionNotes
from p2pserver.meg.power import PowerLevels
from p2pserver.meg.resolution import resolved_changes
from p2pserver.meg.state import CREATE, POWER_LEVELS, StateMap, StateSlot
from p2pserver.store import events, state_groups
from p2pserver.store.auth_index import StoredAuthIndex
from p2pserver.store.lru import Lru
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx

RESOLVED_GROUPS_KEPT = 50_000
"""Numbers of groups in the combinations whose resolution is remembered, all together, 60 octets each."""
NOTED_FACTS_MAX = 10_000
"""Events of which a resolution leaves a note to the next, about 1 kB each."""
NOTED_DECISIONS_MAX = 20_000
"""Answers of the auth rules that one resolution leaves to the next, about 500 octets each."""
NOTED_LEVELS_MAX = 200_000
"""Entries of the power levels events that one resolution leaves to the next, about 150 octets each."""
POWER_LEVELS_KEPT = 256


class StoredEvents:
    """The `EventSource` of state resolution: every event that is held, outliers included."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx

    def event(self, event_id: str) -> Pdu:
        found = events.pdu(self._tx, event_id)
        if found is None:
            raise KeyError(event_id)
        return found

    def is_rejected(self, event_id: str) -> bool:
        return events.is_rejected(self._tx, event_id)


class StateView(Mapping[StateSlot, Pdu]):
    """A state map whose events are read when they are asked for: the auth rules look at a handful of them."""

    def __init__(self, tx: Tx, state: StateMap) -> None:
        self._tx, self._state = tx, state

    def __getitem__(self, slot: StateSlot) -> Pdu:
        found = events.pdu(self._tx, self._state[slot])
        if found is None:
            raise KeyError(slot)
        return found

    def __iter__(self) -> Iterator[StateSlot]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def resolved_group(tx: Tx, room_id: str, rules: RoomVersionRules, groups: Collection[int]) -> int:
    """The group that holds the resolution of some groups; the same groups are resolved once."""
    distinct = frozenset(groups)
    if len(distinct) == 1:
        return next(iter(distinct))
    cache: Lru[frozenset[int], tuple[int, int]] | None = tx.caches.get("resolutions")
    if cache is None:
        cache = tx.caches["resolutions"] = Lru(RESOLVED_GROUPS_KEPT, lambda kept: kept[1])
    known = cache.get(distinct)
    if known is not None and state_groups.is_held(tx, known[0]):
        return known[0]
    resolved = _resolved_anew(tx, room_id, rules, sorted(distinct, reverse=True))
    cache.put(distinct, (resolved, len(distinct)))
    return resolved


def _resolved_anew(tx: Tx, room_id: str, rules: RoomVersionRules, groups: Sequence[int]) -> int:
    """One of the groups where the resolution is its state, else a delta on the first."""
    changes = resolution(tx, room_id, rules, groups, notes=_notes(tx))
    for group_id in groups:
        state = state_groups.state_map(tx, group_id)
        if all(state.get(slot) == event_id for slot, event_id in changes.items()):
            return group_id
    return state_groups.group_with(tx, room_id, groups[0], changes)


def resolution(
    tx: Tx, room_id: str, rules: RoomVersionRules, groups: Sequence[int], *, notes: ResolutionNotes | None = None
) -> Mapping[StateSlot, str | None]:
    """The resolution of some groups of a room as changes to any of them: each slot in which they differ is there."""
    states = [state_groups.state_map(tx, group_id) for group_id in groups]
    slots = state_groups.differing(tx, states)
    if not slots:
        return {}
    return resolved_changes(states, slots, StoredEvents(tx), rules, index=StoredAuthIndex(tx), notes=notes)


def _notes(tx: Tx) -> ResolutionNotes:
    """What resolutions of the writer note down; `events` forgets it when a verdict changes."""
    notes: ResolutionNotes | None = tx.caches.get(events.RESOLUTION_NOTES)
    if notes is None:
        notes = tx.caches[events.RESOLUTION_NOTES] = ResolutionNotes(
            facts=Lru(NOTED_FACTS_MAX),
            allowed=Lru(NOTED_DECISIONS_MAX),
            rejected=Lru(NOTED_FACTS_MAX),
            levels=Lru(NOTED_FACTS_MAX),
            tables=Lru(NOTED_LEVELS_MAX, weigh=lambda tables: 1 + tables.entries),
        )
    return notes


def forget_resolutions(tx: Tx) -> None:
    """Verdicts are about to change: what was resolved with rejected events left out may come out differently."""
    tx.caches.pop("resolutions", None)


def resolved_map(tx: Tx, room_id: str, rules: RoomVersionRules, groups: Collection[int]) -> StateMap:
    """The resolution of some groups, without keeping it: for those who only read."""
    distinct = sorted(set(groups))
    first = state_groups.state_map(tx, distinct[0])
    return first if len(distinct) == 1 else first.with_changes(resolution(tx, room_id, rules, distinct))


def power_levels_of(tx: Tx, create: Pdu, power_levels: Pdu | None) -> PowerLevels:
    """`PowerLevels.of`, once for each power levels event."""
    if power_levels is None:
        return PowerLevels.of(create, None)
    cache: Lru[str, tuple[Pdu, PowerLevels]] | None = tx.caches.get("power_levels")
    if cache is None:
        cache = tx.caches["power_levels"] = Lru(POWER_LEVELS_KEPT)
    known = cache.get(power_levels.event_id)
    if known is not None and known[0] is power_levels:
        return known[1]
    made = PowerLevels.of(create, power_levels)
    cache.put(power_levels.event_id, (power_levels, made))
    return made


def power_levels_in(tx: Tx, room: RoomRow, state: StateMap) -> PowerLevels:
    """The power levels of a state of a room."""
    view = StateView(tx, state)
    create = view.get(CREATE) or events.pdu(tx, room.create_event_id)
    return PowerLevels.of(None, None) if create is None else power_levels_of(tx, create, view.get(POWER_LEVELS))
