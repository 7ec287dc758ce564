"""Events that relate to others by `m.relates_to`: reactions, edits, the replies of a thread.

Source: client-server API, "Forming relationships between events", "Threading".
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from p2pserver.store.events import HEALING_TYPE
from p2pserver.store.tx import Tx, chunks, marks

# The words of the index events_by_relation: SQLite finds an index on an expression by its text.
_TARGET = """json_extract(CAST(raw AS TEXT), '$.content."m.relates_to".event_id')"""
_REL_TYPE = """json_extract(CAST(raw AS TEXT), '$.content."m.relates_to".rel_type')"""
_KEY = """json_extract(CAST(raw AS TEXT), '$.content."m.relates_to".key')"""
_EDITS_MAX = 20
_SHOWN = f"outlier = 0 AND verdict = 'accepted' AND redacted_by IS NULL AND type != '{HEALING_TYPE}'"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSummary:
    """What is told of a thread beside the event that it hangs on."""

    count: int
    latest_event_id: str
    participated: bool
    """Whether the user wrote in it; who wrote the event that it hangs on takes part too."""


def related_events(
    tx: Tx, room_id: str, event_id: str, *, levels: int, above: int, upto: int, forward: bool, limit: int
) -> list[tuple[str, int]]:
    """(event ID, position) of what relates to an event, and of what relates to that, `levels` deep.

    The `limit` nearest to where the walk through `above` < position <= `upto` begins.
    """
    rows = tx.all(
        "WITH RECURSIVE related (event_id, level) AS ("
        "  SELECT ?, 0 UNION"
        "  SELECT events.event_id, level + 1 FROM related JOIN events"
        f"  ON events.room_id = ? AND {_TARGET} = related.event_id WHERE level < ?)"
        " SELECT DISTINCT event_id, position FROM related JOIN events USING (event_id)"
        f" WHERE level > 0 AND position > ? AND position <= ? AND {_SHOWN}"
        f" ORDER BY position {'ASC' if forward else 'DESC'} LIMIT ?",
        (event_id, room_id, levels, above, upto, limit),
    )
    return [(related_id, position) for related_id, position in rows]


def is_related_to(
    tx: Tx, room_id: str, event_id: str, *, senders: Collection[str] | None, rel_types: Collection[str] | None
) -> bool:
    """Whether an event relates to this one that is by one of `senders` and in one of these ways (None: any)."""
    row = tx.one(
        f"SELECT 1 FROM events WHERE room_id = ? AND {_TARGET} = ? AND {_SHOWN}"
        " AND (?3 IS NULL OR sender IN (SELECT value FROM json_each(?3)))"
        f" AND (?4 IS NULL OR {_REL_TYPE} IN (SELECT value FROM json_each(?4))) LIMIT 1",
        (
            room_id,
            event_id,
            None if senders is None else json.dumps(list(senders)),
            None if rel_types is None else json.dumps(list(rel_types)),
        ),
    )
    return row is not None


def has_annotated(tx: Tx, room_id: str, event_id: str, *, sender: str, event_type: str, key: str) -> bool:
    """Whether somebody's annotation of an event with this key stands."""
    row = tx.one(
        f"SELECT 1 FROM events WHERE room_id = ? AND {_TARGET} = ? AND {_REL_TYPE} = 'm.annotation' AND sender = ?"
        f" AND type = ? AND {_KEY} = ? AND {_SHOWN} LIMIT 1",
        (room_id, event_id, sender, event_type, key),
    )
    return row is not None


def newest_edit(tx: Tx, room_id: str, event_id: str, *, sender: str, event_type: str) -> dict[str, Any] | None:
    """The `m.new_content` of the edit of an event that counts: by the same sender, of the same type, the newest.

    Source: client-server API, "Event replacements".
    """
    row = tx.one(
        f"""SELECT json_extract(CAST(raw AS TEXT), '$.content."m.new_content"') FROM events"""
        f" WHERE room_id = ? AND {_TARGET} = ? AND {_REL_TYPE} = 'm.replace' AND sender = ? AND type = ?"
        f" AND state_key IS NULL AND {_SHOWN} ORDER BY origin_server_ts DESC, event_id DESC LIMIT 1",
        (room_id, event_id, sender, event_type),
    )
    try:
        content = None if row is None or row[0] is None else json.loads(row[0])
    except (TypeError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def relation_types(tx: Tx, room_id: str, event_ids: Sequence[str]) -> dict[str, frozenset[str]]:
    """Of those of the events to which others relate, in which ways they do."""
    found: dict[str, set[str]] = {}
    for some in chunks(event_ids):
        rows = tx.all(
            f"SELECT DISTINCT {_TARGET}, {_REL_TYPE} FROM events WHERE room_id = ? AND {_TARGET} IN"
            f" ({marks(some)}) AND {_SHOWN}",
            (room_id, *some),
        )
        for target, rel_type in rows:
            if isinstance(rel_type, str):
                found.setdefault(target, set()).add(rel_type)
    return {target: frozenset(types) for target, types in found.items()}


def edits_of(tx: Tx, room_id: str, event_id: str, *, sender: str, event_type: str) -> list[str]:
    """The newest edits of an event by its sender and of its type, the newest first.

    Source: client-server API, "Event replacements": by `origin_server_ts`, then by the larger event ID.
    """
    rows = tx.all(
        f"SELECT event_id FROM events WHERE room_id = ? AND {_TARGET} = ? AND {_REL_TYPE} = 'm.replace'"
        f" AND sender = ? AND type = ? AND state_key IS NULL AND {_SHOWN}"
        " ORDER BY origin_server_ts DESC, event_id DESC LIMIT ?",
        (room_id, event_id, sender, event_type, _EDITS_MAX),
    )
    return [edit_id for (edit_id,) in rows]


def references_of(tx: Tx, room_id: str, event_id: str, *, most: int) -> list[str]:
    """The oldest events that refer to an event, in order of arrival."""
    rows = tx.all(
        f"SELECT event_id FROM events WHERE room_id = ? AND {_TARGET} = ? AND {_REL_TYPE} = 'm.reference' AND {_SHOWN}"
        " ORDER BY position LIMIT ?",
        (room_id, event_id, most),
    )
    return [reference_id for (reference_id,) in rows]


def thread_summary(
    tx: Tx, room_id: str, root_id: str, user_id: str, *, ignored: Collection[str] = ()
) -> ThreadSummary | None:
    """The thread that hangs on an event, if there is one; without what `ignored` users wrote."""
    row = tx.one(
        "SELECT COUNT(*), MAX(position), MAX(sender = ?) FROM events"
        f" WHERE room_id = ? AND {_TARGET} = ? AND {_REL_TYPE} = 'm.thread' AND {_SHOWN}"
        " AND sender NOT IN (SELECT value FROM json_each(?))",
        (user_id, room_id, root_id, json.dumps(list(ignored))),
    )
    assert row is not None
    count, position, wrote = row
    if count == 0:
        return None
    latest = tx.one("SELECT event_id FROM events WHERE room_id = ? AND position = ?", (room_id, position))
    root = tx.one("SELECT sender FROM events WHERE event_id = ?", (root_id,))
    assert latest is not None
    return ThreadSummary(
        count=count, latest_event_id=latest[0], participated=bool(wrote) or (root is not None and root[0] == user_id)
    )


def thread_roots(tx: Tx, room_id: str, *, upto: int, limit: int) -> list[tuple[str, int]]:
    """(ID of the event that a thread hangs on, position of its last reply), the last reply first."""
    rows = tx.all(
        f"SELECT {_TARGET}, MAX(position) AS newest FROM events"
        f" WHERE room_id = ? AND {_TARGET} IS NOT NULL AND {_REL_TYPE} = 'm.thread' AND {_SHOWN}"
        f" GROUP BY {_TARGET} HAVING newest <= ? ORDER BY newest DESC LIMIT ?",
        (room_id, upto, limit),
    )
    return [(str(root_id), newest) for root_id, newest in rows]
