"""The events that push rules are held against, read as lightly as they can be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from p2pserver.store.events import HEALING_TYPE
from p2pserver.store.tx import Tx

_COUNTED = (
    "outlier = 0 AND verdict = 'accepted' AND redacted_by IS NULL AND (redacted_copy = 0 OR e.state_key IS NOT NULL)"
    f" AND type != '{HEALING_TYPE}'"
)


@dataclass(frozen=True, slots=True)
class PushEvent:
    """An accepted event that nobody redacted; `raw` is its federation form."""

    position: int
    event_id: str
    room_id: str
    type: str
    is_state: bool
    sender: str
    raw: dict[str, Any]


def push_events(tx: Tx, room_id: str, *, above: int, upto: int) -> Iterable[PushEvent]:
    """The events of a room in the range, oldest first."""
    rows = tx.execute(
        "SELECT position, event_id, room_id, type, state_key IS NOT NULL, sender, raw FROM events AS e"
        f" WHERE room_id = ? AND position > ? AND position <= ? AND {_COUNTED} ORDER BY position",
        (room_id, above, upto),
    )
    return map(_event, rows)


def newest_push_events(tx: Tx, user_id: str, *, upto: int, most: int) -> Iterable[PushEvent]:
    """The newest events of others in the rooms that the user is in, newest first."""
    rows = tx.execute(
        "SELECT e.position, e.event_id, e.room_id, e.type, e.state_key IS NOT NULL, e.sender, e.raw FROM events AS e"
        " JOIN local_memberships AS m ON m.user_id = ? AND m.room_id = e.room_id AND m.membership = 'join'"
        f" WHERE e.position > 0 AND e.position <= ? AND {_COUNTED} AND e.sender != m.user_id"
        " ORDER BY e.position DESC LIMIT ?",
        (user_id, upto, most),
    )
    return map(_event, rows)


def push_events_of(tx: Tx, user_id: str, *, above: int, upto: int, most: int) -> Iterable[PushEvent]:
    """The events of others in the range, in the rooms that the user is in, oldest first; at most so many."""
    rows = tx.all(
        "SELECT e.position, e.event_id, e.room_id, e.type, e.state_key IS NOT NULL, e.sender, e.raw FROM events AS e"
        " JOIN local_memberships AS m ON m.user_id = ? AND m.room_id = e.room_id AND m.membership = 'join'"
        f" WHERE e.position > ? AND e.position <= ? AND {_COUNTED} AND e.sender != m.user_id"
        " ORDER BY e.position LIMIT ?",
        (user_id, above, upto, most),
    )
    return map(_event, rows)


def _event(row: tuple[Any, ...]) -> PushEvent:
    position, event_id, room_id, kind, is_state, sender, raw = row
    return PushEvent(position, event_id, room_id, kind, bool(is_state), sender, json.loads(raw))


def nth_newest(tx: Tx, room_id: str, number: int) -> int | None:
    """The position below the newest `number` accepted events of a room; None, if there are no more than that."""
    row = tx.one(
        "SELECT position FROM events WHERE room_id = ? AND outlier = 0 AND verdict = 'accepted'"
        " ORDER BY position DESC LIMIT 1 OFFSET ?",
        (room_id, number),
    )
    return None if row is None else row[0]


def settings_position(tx: Tx, user_id: str) -> int:
    """When the user last changed what decides on his notifications: his push rules, or whom he ignores."""
    row = tx.one(
        "SELECT MAX(position) FROM account_data WHERE user_id = ? AND room_id = ''"
        " AND type IN ('m.push_rules', 'm.ignored_user_list')",
        (user_id,),
    )
    return 0 if row is None or row[0] is None else int(row[0])


def related_to(raw: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(relation type, event ID) of what an event relates to; a plain reply relates to nothing."""
    content = raw.get("content")
    relation = content.get("m.relates_to") if isinstance(content, Mapping) else None
    if not isinstance(relation, Mapping):
        return None, None
    kind, target = relation.get("rel_type"), relation.get("event_id")
    return (kind, target) if isinstance(kind, str) and isinstance(target, str) else (None, None)
