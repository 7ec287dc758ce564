"""What peering asks of a room: what is held, what another server lacks, what we lack."""

from __future__ import annotations

import json
from collections.abc import Collection, Container
from typing import Any

from p2pserver.meg.auth_content import redaction_takes_permissions
from p2pserver.rooms.context import RoomContext
from p2pserver.rooms.copies import wanted_copies
from p2pserver.rooms.server_visibility import copy_for, sees_room
from p2pserver.store import events, graph_ends, graph_walks, memberships, parked
from p2pserver.store.tx import Tx


def have_sample(tx: Tx, room_id: str, most: int) -> list[str]:
    """Leaves, and events at exponentially growing depth below them.

    While the history before a join is on its way, only what is part of it: whoever answers takes it that we have all
    ancestors of what we name.
    """
    joining = parked.has_history_gap(tx, room_id)
    sample = graph_walks.held_sample(tx, room_id, most=most, history_only=joining)
    if joining:
        return sample
    room_for_leaves = max(1, most - min(len(sample), most // 2))
    leaves = graph_ends.leaves(tx, room_id)[:room_for_leaves]
    return list(dict.fromkeys([*leaves, *sample]))[:most]


def newest_held(tx: Tx, room_id: str, most: int) -> list[str]:
    """Events of the graph, and such that wait for a place in it, which came last: half of them may be waiting ones."""
    waiting = parked.newest(tx, room_id, most=most // 2)
    return [*waiting, *events.newest(tx, room_id, most=most - len(waiting))]


def missing_for(
    context: RoomContext,
    tx: Tx,
    *,
    room_id: str,
    want: Collection[str],
    have: Collection[str],
    octets_max: int,
    origin: str,
    known: Container[str] = (),
) -> tuple[list[dict[str, Any]], bool]:
    """Ancestors of `want`, itself included, that are not ancestors of `have`: oldest first, and whether there is more.

    `known` are events that the server says it holds; in a wide graph `have` cannot name them all.
    Only for servers that are or were in the room; what the room's history visibility hides from them they get as a
    redacted copy. At least one event, if there is any, however large.
    """
    if not sees_room(tx, origin, room_id):
        return [], False
    have = [event_id for event_id in have if event_id not in want]  # it has a poor copy of those
    lacking = graph_walks.lacking(tx, room_id, want=want, have=have, most=context.limits.events_per_walk)
    found: list[dict[str, Any]] = []
    octets = 0
    for event_id in lacking:
        if event_id in known and event_id not in want:
            continue
        raw = copy_for(tx, origin, event_id)
        if raw is None:
            continue
        octets += len(json.dumps(raw, separators=(",", ":")))
        if found and octets > octets_max:
            return found, True
        found.append(raw)
    return found, False


def genuine_copies(tx: Tx, event_ids: Collection[str], *, origin: str) -> dict[str, dict[str, Any]]:
    """Those of the events that the server may have as they were made, and that are held so; by ID, in their order."""
    found: dict[str, dict[str, Any]] = {}
    for event_id in sorted(event_ids):
        held = events.stored(tx, event_id)
        if held is None or held.pdu.redacted_copy or not sees_room(tx, origin, held.pdu.room_id):
            continue
        whole = events.pdu(tx, event_id)
        raw = copy_for(tx, origin, event_id)
        if whole is not None and raw == whole.raw and (held.redacted_by is None or redaction_takes_permissions(whole)):
            found[event_id] = raw
    return found


def wanted(context: RoomContext, tx: Tx, room_id: str) -> list[str]:
    """What others should be asked for: what parked events wait for, what gaps stand for, better copies."""
    most = context.limits.wanted_at_once
    awaited = parked.awaited(tx, room_id, most=most)
    gaps = [each for each in parked.gaps(tx, room_id) if not parked.is_parked(tx, each)]
    return list(dict.fromkeys([*awaited, *gaps, *wanted_copies(context, tx, room_id)]))[:most]


def rooms_with(context: RoomContext, tx: Tx, server: str) -> list[str]:
    return memberships.shared_rooms(tx, context.server_name, server)
