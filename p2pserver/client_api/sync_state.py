"""The `state` of a room in `/sync`: what a client must know before it reads the timeline.

A client takes the events of `state`, then those of `timeline`, the later one of a slot winning. So `state` holds what
the current state was at the start of the timeline, and besides what changed since then without an event in the
timeline: a resolution can bring back an event that the client had long ago. Where even that leaves the client with an
event that lost (it is in the timeline, after the winner), the answer's token says so and the next answer repeats the
winner. Source: client-server API, "Syncing"; matrix-spec issue 1209; docs/sync.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2pserver.client_api.room_access import state_at
from p2pserver.client_api.sync_scope import SyncScope
from p2pserver.meg.state import StateSlot
from p2pserver.store.events import StoredEvent
from p2pserver.store.room_stream import current_event_ids, newest_state_events, state_changes


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
    for change in state_changes(scope.tx, room_id, above=since, upto=end):
        slot = change.slot
        if change.event_id is None:
            state.pop(slot, None)
            latest.pop(slot, None)
            continue
        latest[slot] = change.event_id
        if change.position <= start:
            state[slot] = change.event_id
    state.update((slot, event_id) for slot, event_id in latest.items() if event_id not in shown)
    state.update(_settled(scope, room_id))
    return {slot: event_id for slot, event_id in state.items() if event_id not in shown}


def state_after(scope: SyncScope, room_id: str, *, since: int | None, end: int) -> dict[StateSlot, str]:
    """The state at the position `end`; with `since`, the slots of it that changed after that.

    For a client that does not take state from the timeline, so that nothing has to be told again when an event of the
    timeline lost. Source: MSC4222.
    """
    if since is None:
        return state_at(scope.tx, scope.rooms, room_id, None if end >= scope.upto else end)
    latest: dict[StateSlot, str] = {}
    for change in state_changes(scope.tx, room_id, above=since, upto=end):
        latest.pop(change.slot, None)
        if change.event_id is not None:
            latest[change.slot] = change.event_id
    return latest | _settled(scope, room_id)


def _settled(scope: SyncScope, room_id: str) -> dict[StateSlot, str]:
    """The winners of the slots in which the last answer left the client with a loser."""
    if scope.since is None or scope.since.settle_from is None:
        return {}
    newest = newest_state_events(scope.tx, room_id, above=scope.since.settle_from, upto=scope.since.position)
    current = current_event_ids(scope.tx, room_id, newest)
    return {slot: event_id for slot, event_id in current.items() if newest[slot] != event_id}


def leaves_a_loser(scope: SyncScope, room_id: str, timeline: Sequence[StoredEvent]) -> bool:
    """Whether a client that has read the whole timeline holds, in some slot, another event than the room does."""
    held = {event.pdu.state_slot: event.pdu.event_id for event in timeline if event.pdu.state_slot is not None}
    current = current_event_ids(scope.tx, room_id, held)
    return any(held[slot] != event_id for slot, event_id in current.items())
