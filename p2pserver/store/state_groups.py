"""State groups: the room state at an event, shared between events and kept as differences.

A group is a delta on another group, or a full map where the chain of deltas would get long. What a group means never
changes and its number is never used twice, so maps are cached by number, on reading connections too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from p2pserver.meg.digest import changed_sum, state_sum, sum_digest
from p2pserver.meg.state import StateMap, StateSlot
from p2pserver.store.lru import Lru
from p2pserver.store.state_cache import LayeredState, StateCache
from p2pserver.store.tx import Tx

HOPS_MAX = 50
"""Length of a chain of deltas before a full map is written again, in a room of up to 400 entries."""

ENTRIES_PER_HOP = 8
"""In larger rooms the chain is longer, so that full maps cost as many rows for each change as these."""

CACHED_ENTRIES_MAX = 100_000
"""State entries in cached maps, all maps together, of a map that others rest on once; about 10 MB at the worst."""

CACHED_DIGESTS_MAX = 4096


def hops_max(entries: int) -> int:
    """How many deltas in a row a state of that many entries gets: of a large state a copy is dear."""
    return max(HOPS_MAX, entries // ENTRIES_PER_HOP)


def state_map(tx: Tx, group_id: int) -> LayeredState:
    """The whole state of a group. The same object for everybody: not to be changed.

    Raises: KeyError, if there is no such group, or one that it rests on is not there.
    """
    cache = _cache(tx)
    known = cache.get(group_id)
    if known is not None:
        return known
    deltas: list[int] = []
    at = group_id
    while True:
        row = tx.one("SELECT prev_group FROM state_groups WHERE group_id = ?", (at,))
        if row is None:
            raise KeyError(f"no state group {at}")
        if row[0] is None:
            known = LayeredState(at, {slot: each for slot, each in _entries(tx, at) if each is not None})
            cache.put(at, known)
            break
        if row[0] >= at:
            raise KeyError(f"state group {at} rests on one that is not older")
        deltas.append(at)
        at = row[0]
        known = cache.get(at)
        if known is not None:
            break
    if deltas:
        changes: dict[StateSlot, str | None] = {}
        for each in reversed(deltas):
            changes.update(_entries(tx, each))
        known = known.with_changes(changes)
        cache.put(group_id, known)
    return known


def group_with(tx: Tx, room_id: str, base: int, delta: Mapping[StateSlot, str | None]) -> int:
    """The group that differs from `base` by `delta` (None removes a slot)."""
    before = state_map(tx, base)
    changed = {slot: event_id for slot, event_id in delta.items() if before.get(slot) != event_id}
    if not changed:
        return base
    row = tx.one("SELECT hops FROM state_groups WHERE group_id = ?", (base,))
    hops = 0 if row is None else int(row[0])
    total = changed_sum(
        _total(tx, base),
        removed={slot: before[slot] for slot in changed if slot in before},
        added={slot: event_id for slot, event_id in changed.items() if event_id is not None},
    )
    state = before.with_changes(changed)
    if hops >= hops_max(len(before.base)) or len(changed) > len(before.base) // 2 + 1:
        return _insert_whole(tx, room_id, state.whole(), total)
    group_id = _insert(tx, room_id, base, hops + 1, changed, total)
    _cache(tx).put(group_id, state)
    return group_id


def group_of(tx: Tx, room_id: str, state: StateMap, *, near: Iterable[int] = ()) -> int:
    """A group that holds exactly `state`: one of `near` if it does already, else a delta on the nearest of them."""
    best: tuple[int, int] | None = None
    for group_id in near:
        distance = len(state_map(tx, group_id).items() ^ state.items())
        if best is None or (distance, group_id) < best:
            best = (distance, group_id)
    if best is None:
        return _insert_whole(tx, room_id, dict(state), state_sum(state))
    other = state_map(tx, best[1])
    delta: dict[StateSlot, str | None] = dict.fromkeys(other.keys() - state.keys())
    delta.update(state.items() - other.items())
    return group_with(tx, room_id, best[1], delta)


def is_held(tx: Tx, group_id: int) -> bool:
    return tx.one("SELECT 1 FROM state_groups WHERE group_id = ?", (group_id,)) is not None


def differing(tx: Tx, states: Sequence[LayeredState]) -> set[StateSlot]:
    """Slots outside of which the states of some groups are the same; found without looking at all that is the same."""
    return _cache(tx).differing(states)


def drop_unused(tx: Tx, room_id: str, group_id: int) -> None:
    """Drops a group that no event, room, claim or other group refers to; its number is not used again."""
    for table, column in (
        ("events", "state_after"),
        ("events", "state_before"),
        ("state_groups", "prev_group"),
    ):
        if tx.one(f"SELECT 1 FROM {table} WHERE {column} = ? LIMIT 1", (group_id,)) is not None:
            return
    if tx.one("SELECT 1 FROM rooms WHERE room_id = ? AND current_group = ?", (room_id, group_id)) is not None:
        return
    if tx.one("SELECT 1 FROM gaps WHERE room_id = ? AND claimed_group = ?", (room_id, group_id)) is not None:
        return
    tx.execute("DELETE FROM state_group_entries WHERE group_id = ?", (group_id,))
    tx.execute("DELETE FROM state_groups WHERE group_id = ?", (group_id,))


def difference(tx: Tx, old: int | None, new: int) -> dict[StateSlot, tuple[str | None, str | None]]:
    """The slots in which two groups differ: (event in the old one, event in the new one)."""
    before: Mapping[StateSlot, str] = {} if old is None else state_map(tx, old)
    row = tx.one("SELECT prev_group FROM state_groups WHERE group_id = ?", (new,))
    if row is not None and old is not None and row[0] == old:
        entries = tx.all("SELECT type, state_key, event_id FROM state_group_entries WHERE group_id = ?", (new,))
        return {(event_type, key): (before.get((event_type, key)), event_id) for event_type, key, event_id in entries}
    after = state_map(tx, new)
    if old is None:
        slots = set(after)
    else:
        slots = _cache(tx).differing([state_map(tx, old), after])
    return {slot: (before.get(slot), after.get(slot)) for slot in sorted(slots) if before.get(slot) != after.get(slot)}


def digest(tx: Tx, group_id: int) -> bytes:
    """32 octets that stand for the state of a group, whatever its number.

    Raises: KeyError, if there is no such group.
    """
    cache: Lru[int, bytes] | None = tx.caches.get("state_digests")
    if cache is None:
        cache = tx.caches["state_digests"] = Lru(CACHED_DIGESTS_MAX)
    known = cache.get(group_id)
    if known is None:
        known = sum_digest(_total(tx, group_id))
        cache.put(group_id, known)
    return known


def _total(tx: Tx, group_id: int) -> bytes:
    row = tx.one("SELECT state_sum FROM state_groups WHERE group_id = ?", (group_id,))
    if row is None or row[0] is None:
        return state_sum(state_map(tx, group_id))
    return bytes(row[0])


def _insert_whole(tx: Tx, room_id: str, state: dict[StateSlot, str], total: bytes) -> int:
    group_id = _insert(tx, room_id, None, 0, state, total)
    _cache(tx).put(group_id, LayeredState(group_id, state))
    return group_id


def _insert(
    tx: Tx,
    room_id: str,
    prev_group: int | None,
    hops: int,
    entries: Mapping[StateSlot, str | None] | StateMap,
    total: bytes,
) -> int:
    cursor = tx.execute(
        "INSERT INTO state_groups (room_id, prev_group, hops, state_sum) VALUES (?, ?, ?, ?)",
        (room_id, prev_group, hops, total),
    )
    group_id = cursor.lastrowid
    if group_id is None:
        raise KeyError("no group number")
    tx.many(
        "INSERT INTO state_group_entries (group_id, type, state_key, event_id) VALUES (?, ?, ?, ?)",
        [(group_id, event_type, state_key, event_id) for (event_type, state_key), event_id in entries.items()],
    )
    return group_id


def _entries(tx: Tx, group_id: int) -> list[tuple[StateSlot, str | None]]:
    rows = tx.execute("SELECT type, state_key, event_id FROM state_group_entries WHERE group_id = ?", (group_id,))
    return [((event_type, state_key), event_id) for event_type, state_key, event_id in rows]


def _cache(tx: Tx) -> StateCache:
    cache: StateCache | None = tx.caches.get("state_maps")
    if cache is None:
        cache = tx.caches["state_maps"] = StateCache(CACHED_ENTRIES_MAX)
    return cache
