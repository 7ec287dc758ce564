"""Rooms as a stream: what happened in them between two positions. The queries of `/sync` and of paging.

A range is `above` < position <= `upto` throughout.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from p2pserver.store.events import HEALING_TYPE
from p2pserver.store.tx import Tx

Slot = tuple[str, str]
"""(event type, state key)."""

FIRST = -(2**59)
"""Below every position, and still short enough for a token."""


@dataclass(frozen=True, slots=True)
class StateChange:
    """A change of the current state. None stands for a slot without an event."""

    position: int
    slot: Slot
    event_id: str | None
    previous_event_id: str | None


def events_in(tx: Tx, room_id: str, *, above: int, upto: int, forward: bool, limit: int) -> list[tuple[str, int]]:
    """(event ID, position) of the accepted events of the graph nearest to where the walk begins; no healing events."""
    order = "ASC" if forward else "DESC"
    rows = tx.all(
        "SELECT event_id, position FROM events WHERE room_id = ? AND position > ? AND position <= ? AND outlier = 0"
        f" AND verdict = 'accepted' AND type != '{HEALING_TYPE}' ORDER BY position {order} LIMIT ?",
        (room_id, above, upto, limit),
    )
    return [(event_id, position) for event_id, position in rows]


def newest_state_events(tx: Tx, room_id: str, *, above: int, upto: int) -> dict[Slot, str]:
    """For each slot with accepted events in the range, the one that came last."""
    rows = tx.all(
        "SELECT type, state_key, event_id FROM events WHERE room_id = ? AND position > ? AND position <= ?"
        " AND state_key IS NOT NULL AND outlier = 0 AND verdict = 'accepted' ORDER BY position",
        (room_id, above, upto),
    )
    return {(event_type, state_key): event_id for event_type, state_key, event_id in rows}


def state_changes(tx: Tx, room_id: str, *, above: int, upto: int | None = None) -> list[StateChange]:
    """The changes of the current state in the range, oldest first."""
    rows = tx.all(
        "SELECT position, type, state_key, event_id, previous_event_id FROM current_state_deltas WHERE room_id = ?"
        " AND position > ? AND position <= ? ORDER BY position, rowid",
        (room_id, above, tx.position() if upto is None else upto),
    )
    return [StateChange(position, (kind, key), event_id, previous) for position, kind, key, event_id, previous in rows]


def slot_changes(tx: Tx, room_id: str, slot: Slot, *, above: int) -> list[StateChange]:
    """The changes of one slot after `above`, oldest first."""
    rows = tx.all(
        "SELECT position, event_id, previous_event_id FROM current_state_deltas WHERE room_id = ? AND position > ?"
        " AND type = ? AND state_key = ? ORDER BY position, rowid",
        (room_id, above, *slot),
    )
    return [StateChange(position, slot, event_id, previous) for position, event_id, previous in rows]


def current_event_id(tx: Tx, room_id: str, slot: Slot) -> str | None:
    """The event that holds a slot of the current state."""
    row = tx.one(
        "SELECT event_id FROM current_state WHERE room_id = ? AND type = ? AND state_key = ?", (room_id, *slot)
    )
    return None if row is None else row[0]


def current_event_ids(tx: Tx, room_id: str, slots: Collection[Slot]) -> dict[Slot, str]:
    """`current_event_id` of each slot that has one."""
    found = {slot: current_event_id(tx, room_id, slot) for slot in slots}
    return {slot: event_id for slot, event_id in found.items() if event_id is not None}


def rooms_with_news(tx: Tx, *, above: int, upto: int) -> set[str]:
    """The rooms in which an event was accepted or the current state changed. Costs one step per row of the range."""
    rows = [
        *tx.all(
            "SELECT room_id FROM events WHERE position > ? AND position <= ? AND outlier = 0 AND verdict = 'accepted'"
            f" AND type != '{HEALING_TYPE}'",
            (above, upto),
        ),
        *tx.all("SELECT room_id FROM current_state_deltas WHERE position > ? AND position <= ?", (above, upto)),
    ]
    return {room_id for (room_id,) in rows}


def has_news(tx: Tx, room_id: str, *, above: int) -> bool:
    """Whether anything was written into this room after `above`. Costs the same whatever the range."""
    row = tx.one(
        f"SELECT EXISTS (SELECT 1 FROM events WHERE room_id = :room AND position > :above AND type != '{HEALING_TYPE}')"
        " OR EXISTS (SELECT 1 FROM current_state_deltas WHERE room_id = :room AND position > :above)",
        {"room": room_id, "above": above},
    )
    return row is not None and bool(row[0])


def newest_gap(tx: Tx, room_id: str, *, above: int, upto: int) -> int | None:
    """The position of the newest event in the range that cites an event which is not held."""
    row = tx.one(
        "SELECT MAX(e.position) FROM gaps AS g JOIN event_edges AS x ON x.prev_event_id = g.missing_event_id"
        " JOIN events AS e ON e.event_id = x.event_id WHERE g.room_id = ? AND e.outlier = 0 AND e.position > ?"
        " AND e.position <= ?",
        (room_id, above, upto),
    )
    return None if row is None else row[0]


def member_counts(tx: Tx, room_id: str) -> dict[str, int]:
    """How many have joined and how many are invited, in the current state. Costs one step per server."""
    row = tx.one("SELECT SUM(joined), SUM(invited) FROM member_servers WHERE room_id = ?", (room_id,))
    joined, invited = row if row is not None else (0, 0)
    return {"join": joined or 0, "invite": invited or 0}


def first_members(tx: Tx, room_id: str, memberships: tuple[str, str], *, but: str, most: int) -> list[str]:
    """Users with one of two memberships, those whose member event came first before the others, without `but`."""
    rows = tx.all(
        "SELECT c.state_key FROM current_state AS c JOIN events AS e ON e.event_id = c.event_id WHERE c.room_id = ?"
        " AND c.type = 'm.room.member' AND c.membership IN (?, ?) AND c.state_key != ?"
        " ORDER BY e.position, c.state_key LIMIT ?",
        (room_id, *memberships, but, most),
    )
    return [user_id for (user_id,) in rows]


def joined_members(tx: Tx, room_id: str) -> dict[str, str]:
    """Joined users and their member events."""
    rows = tx.all(
        "SELECT state_key, event_id FROM current_state WHERE room_id = ? AND type = 'm.room.member'"
        " AND membership = 'join'",
        (room_id,),
    )
    return dict(rows)


def newest_position(tx: Tx, room_id: str) -> int | None:
    """Where the newest event of a room is that clients are shown."""
    row = tx.one(
        "SELECT position FROM events WHERE room_id = ? AND outlier = 0 AND verdict = 'accepted'"
        f" AND type != '{HEALING_TYPE}' ORDER BY position DESC LIMIT 1",
        (room_id,),
    )
    return None if row is None else row[0]


def newest_of_types(tx: Tx, room_id: str, types: tuple[str, ...]) -> int | None:
    """Where the newest event of one of these types is."""
    row = tx.one(
        "SELECT position FROM events WHERE room_id = ? AND outlier = 0 AND verdict = 'accepted'"
        f" AND type IN ({','.join('?' * len(types))}) ORDER BY position DESC LIMIT 1",
        (room_id, *types),
    )
    return None if row is None else row[0]


def slots_of_type(tx: Tx, room_id: str, event_type: str | None) -> dict[Slot, str]:
    """The current state events of a type, or all of them."""
    rows = tx.all(
        "SELECT type, state_key, event_id FROM current_state WHERE room_id = ?"
        + ("" if event_type is None else " AND type = ?"),
        (room_id,) if event_type is None else (room_id, event_type),
    )
    return {(kind, key): event_id for kind, key, event_id in rows}


def event_near(tx: Tx, room_id: str, ts: int, *, forward: bool) -> tuple[str, int] | None:
    """(event ID, origin_server_ts) of the accepted event nearest to a time (ms): not before it, or not after it."""
    compare, order = (">=", "ASC") if forward else ("<=", "DESC")
    row = tx.one(
        f"SELECT event_id, origin_server_ts FROM events WHERE room_id = ? AND origin_server_ts {compare} ?"
        f" AND outlier = 0 AND verdict = 'accepted' AND type != '{HEALING_TYPE}'"
        f" ORDER BY origin_server_ts {order}, position {order} LIMIT 1",
        (room_id, ts),
    )
    return None if row is None else (row[0], row[1])


def rooms_joined_by(tx: Tx, user_id: str) -> list[str]:
    """The rooms held here that a user of any server is in."""
    rows = tx.all(
        "SELECT room_id FROM current_state WHERE type = 'm.room.member' AND state_key = ? AND membership = 'join'"
        " ORDER BY room_id",
        (user_id,),
    )
    return [room_id for (room_id,) in rows]


def small_rooms_of(tx: Tx, user_id: str, *, members_max: int) -> list[str]:
    """Of those, the rooms with at most so many members."""
    rooms = rooms_joined_by(tx, user_id)
    return [room_id for room_id in rooms if member_counts(tx, room_id)["join"] <= members_max]


def messages_of(tx: Tx, room_id: str, sender: str, *, most: int) -> list[str]:
    """The newest accepted messages of a user that nobody has redacted, newest first; no redactions."""
    rows = tx.all(
        "SELECT event_id FROM events WHERE room_id = ? AND sender = ? AND state_key IS NULL AND redacted_by IS NULL"
        f" AND outlier = 0 AND verdict = 'accepted' AND type NOT IN ('m.room.redaction', '{HEALING_TYPE}')"
        " ORDER BY position DESC LIMIT ?",
        (room_id, sender, most),
    )
    return [event_id for (event_id,) in rows]
