"""The `state` of a room in `/sync`: what a client must know before it reads the timeline.

A client takes the events of `state`, then those of `timeline`, the later one of a slot winning. So `state` holds what
the current state was at the start of the timeline, and besides what changed since then without an event in the
timeline: a resolution can bring back an event that the client had long ago. Where even that leaves the client with an
event that lost (it is in the timeline, after the winner), the answer's token says so and the next answer repeats the
winner. Source: client-server API, "Syncing"; matrix-spec issue 1209; docs/sync.md.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from p2pserver.client_api.room_access import state_at
from p2pserver.client_api.sync_scope import SyncScope
from p2pserver.meg.state import StateSlot
from p2pserver.store.events import StoredEvent
from p2pserver.store.tx import Tx


def full_state(
    scope: SyncScope, room_id: str, timeline: Sequence[StoredEvent], *, start: int, end: int
) -> dict[StateSlot, str]:
    """Every slot, for a client that knows nothing of the room. The room is shown as of the position `end`."""
    shown = {event.pdu.event_id for event in timeline}
    present = None if end >= scope.upto else end
    state = state_at(scope.tx, scope.rooms, room_id, min(start, end))
    for slot, event_id in state_at(scope.tx, scope.rooms, room_id, present).items():
        if event_id not in shown:
            state[slot] = event_id
    return {slot: event_id for slot, event_id in state.items() if event_id not in shown}


def changed_state(
    scope: SyncScope, room_id: str, timeline: Sequence[StoredEvent], *, since: int, start: int, end: int
) -> dict[StateSlot, str]:
    """The slots that changed in `since` < position <= `end`, for a client that knows the state at `since`."""
    shown = {event.pdu.event_id for event in timeline}
    state: dict[StateSlot, str] = {}
    latest: dict[StateSlot, str] = {}
    rows = scope.tx.all(
        "SELECT position, type, state_key, event_id FROM current_state_deltas WHERE room_id = ? AND position > ? "
        "AND position <= ? ORDER BY position, rowid",
        (room_id, since, end),
    )
    for position, event_type, state_key, event_id in rows:
        slot = (event_type, state_key)
        if event_id is None:
            state.pop(slot, None)
            latest.pop(slot, None)
            continue
        latest[slot] = event_id
        if position <= start:
            state[slot] = event_id
    state.update((slot, event_id) for slot, event_id in latest.items() if event_id not in shown)
    state.update(_settled(scope, room_id))
    return {slot: event_id for slot, event_id in state.items() if event_id not in shown}


def _settled(scope: SyncScope, room_id: str) -> dict[StateSlot, str]:
    """The winners of the slots in which the last answer left the client with a loser."""
    if scope.since is None or scope.since.settle_from is None:
        return {}
    newest: dict[StateSlot, str] = {}
    rows = scope.tx.all(
        "SELECT type, state_key, event_id FROM events WHERE room_id = ? AND position > ? AND position <= ? "
        "AND state_key IS NOT NULL AND outlier = 0 AND verdict = 'accepted' ORDER BY position",
        (room_id, scope.since.settle_from, scope.since.position),
    )
    for event_type, state_key, event_id in rows:
        newest[event_type, state_key] = event_id
    current = current_event_ids(scope.tx, room_id, newest)
    return {slot: event_id for slot, event_id in current.items() if newest[slot] != event_id}


def leaves_a_loser(scope: SyncScope, room_id: str, timeline: Sequence[StoredEvent]) -> bool:
    """Whether a client that has read the whole timeline holds, in some slot, another event than the room does."""
    held = {event.pdu.state_slot: event.pdu.event_id for event in timeline if event.pdu.state_slot is not None}
    current = current_event_ids(scope.tx, room_id, held)
    return any(held[slot] != event_id for slot, event_id in current.items())


def current_event_ids(tx: Tx, room_id: str, slots: Collection[StateSlot]) -> dict[StateSlot, str]:
    """The current event of each of these slots that has one; a row per slot, however many the room has."""
    found: dict[StateSlot, str] = {}
    for slot in slots:
        row = tx.one(
            "SELECT event_id FROM current_state WHERE room_id = ? AND type = ? AND state_key = ?", (room_id, *slot)
        )
        if row is not None:
            found[slot] = row[0]
    return found
