"""The digests by which two nodes are compared.

What is asked for often is kept with the events and the state groups, so that it costs the same in a large room as in a
small one; `digest_of_everything` reads all of it anew and must come to the same.
"""

from __future__ import annotations

from p2pserver.errors import Verdict
from p2pserver.meg.digest import DigestEntry, leaves_digest, room_sec, sec_digest, state_digest
from p2pserver.rooms.copies import poor_permissions
from p2pserver.rooms.secs import missing_secs
from p2pserver.rooms.sending import room_of
from p2pserver.rooms.state import resolved_map
from p2pserver.rooms.values import RoomDigest, Standing
from p2pserver.store import events, graph_ends, memberships, rooms, state_groups
from p2pserver.store.lru import Lru
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx

RESOLUTIONS_KEPT = 256


def digest(tx: Tx, room_id: str) -> RoomDigest:
    """What this node holds of a room. It counts the events: `standing` does not.

    Raises: NotFound.
    """
    room = room_of(tx, room_id)
    count = tx.one("SELECT count(*) FROM events WHERE room_id = ? AND outlier = 0", (room_id,))
    return RoomDigest(
        sec=_sec(tx, room),
        operational=_operational(tx, room),
        width=len(graph_ends.extremities(tx, room_id)),
        events=0 if count is None else count[0],
    )


def standing(tx: Tx, room_id: str) -> Standing | None:
    """Where this node stands in a room; None while the room is not complete: nothing is promised of it then."""
    room = rooms.room(tx, room_id)
    if room is None or not room.complete:
        return None
    leaves = (*graph_ends.leaves(tx, room_id), *poor_permissions(tx, room_id))
    return Standing(
        room_id=room_id,
        leaves=leaves,
        sec=_sec(tx, room),
        operational=_operational(tx, room),
        width=len(graph_ends.extremities(tx, room_id)),
    )


def _sec(tx: Tx, room: RoomRow) -> bytes:
    """32 octets; the work is that of the leaves, and of one resolution where soft-failed ones are among them."""
    leaves = leaves_digest(_leaf_secs(tx, room.room_id))
    groups = graph_ends.accepted_leaf_groups(tx, room.room_id)
    if not groups:
        return room_sec(leaves, state_digest({}))
    if len(groups) == 1:
        return room_sec(leaves, state_groups.digest(tx, groups[0]))
    if room.current_group is not None and groups == graph_ends.extremity_groups(tx, room.room_id):
        return room_sec(leaves, state_groups.digest(tx, room.current_group))
    cache: Lru[bytes, bytes] | None = tx.caches.get("sec_resolutions")
    if cache is None:
        cache = tx.caches["sec_resolutions"] = Lru(RESOLUTIONS_KEPT)
    resolution = cache.get(leaves)  # of which it is a function, whatever was judged again since
    if resolution is None:
        resolution = state_digest(resolved_map(tx, room.room_id, room.rules, groups))
        cache.put(leaves, resolution)
    return room_sec(leaves, resolution)


def _operational(tx: Tx, room: RoomRow) -> bytes:
    """32 octets for the current state."""
    return state_digest({}) if room.current_group is None else state_groups.digest(tx, room.current_group)


def digest_of_everything(tx: Tx, room_id: str) -> RoomDigest:
    """The same from every event, every state and the rows of the current state: for tests and operators.

    Raises: NotFound.
    """
    room = room_of(tx, room_id)
    rows = tx.all(
        "SELECT event_id, verdict, state_before, state_after FROM events WHERE room_id = ? AND outlier = 0", (room_id,)
    )
    parents: dict[str, list[str]] = {}
    for event_id, parent in tx.execute(
        "SELECT x.event_id, x.prev_event_id FROM event_edges AS x JOIN events AS e ON e.event_id = x.event_id"
        " WHERE e.room_id = ? AND e.outlier = 0",
        (room_id,),
    ):
        parents.setdefault(event_id, []).append(parent)
    maps = {group: dict(state_groups.state_map(tx, group)) for row in rows for group in row[2:]}
    entries = [
        DigestEntry(event_id, verdict == "rejected", maps[before], maps[after], tuple(parents.get(event_id, ())))
        for event_id, verdict, before, after in rows
    ]
    not_rejected = (Verdict.ACCEPTED, Verdict.SOFT_FAILED)
    after = {event_id: group for event_id, _, _, group in rows}
    groups = {after[event_id] for event_id in graph_ends.uncovered_events(tx, room_id, of=not_rejected)}
    return RoomDigest(
        sec=sec_digest(entries, resolved_map(tx, room_id, room.rules, groups) if groups else {}),
        operational=state_digest(memberships.current_state(tx, room_id)),
        width=len(graph_ends.uncovered_events(tx, room_id)),
        events=len(rows),
    )


def _leaf_secs(tx: Tx, room_id: str) -> dict[str, bytes]:
    leaves = events.secs(tx, room_id, graph_ends.leaves(tx, room_id))
    missing = missing_secs(tx, room_id) if None in leaves.values() else {}
    return {event_id: known or missing.get(event_id, b"") for event_id, known in leaves.items()}
