"""The digests by which two nodes are compared."""

from __future__ import annotations

from p2pserver.meg.digest import DigestEntry, sec_digest, state_digest
from p2pserver.rooms.reading import current_state
from p2pserver.rooms.sending import room_of
from p2pserver.rooms.state import resolved_map
from p2pserver.rooms.values import RoomDigest
from p2pserver.store import events, state_groups
from p2pserver.store.tx import Tx


def digest(tx: Tx, room_id: str) -> RoomDigest:
    """Reads every event of the room: for tests and operators, not for a timer.

    Raises: NotFound.
    """
    room = room_of(tx, room_id)
    rows = tx.all(
        "SELECT event_id, verdict, state_before, state_after FROM events WHERE room_id = ? AND outlier = 0", (room_id,)
    )
    maps = {group: dict(state_groups.state_map(tx, group)) for row in rows for group in row[2:]}
    entries = [
        DigestEntry(event_id, verdict == "rejected", maps[before], maps[after])
        for event_id, verdict, before, after in rows
    ]
    groups = events.accepted_leaf_groups(tx, room_id)
    return RoomDigest(
        sec=sec_digest(entries, resolved_map(tx, room.rules, groups) if groups else {}),
        operational=state_digest(current_state(tx, room_id)),
        width=len(events.extremities(tx, room_id)),
        events=len(rows),
    )
