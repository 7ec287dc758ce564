"""Joins, and knocks, that wait until a server is met that knows the room."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2pserver.store.tx import Tx

PENDING_PER_USER_MAX = 100
TOPIC = "pending_joins"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingJoin:
    """`via` are servers that may know the room, the likeliest first; `content` is that of the member event."""

    user_id: str
    room_id: str
    via: list[str]
    content: dict[str, Any]
    requested_ms: int


def put_pending_join(
    tx: Tx, *, user_id: str, room_id: str, via: Sequence[str], content: Mapping[str, Any], requested_ms: int
) -> None:
    """Remembers a join; a newer request for the same room replaces the older, the oldest of a user give way."""
    tx.execute(
        "INSERT OR REPLACE INTO pending_joins (user_id, room_id, via, content, requested_ms) VALUES (?, ?, ?, ?, ?)",
        (user_id, room_id, json.dumps(list(via)), json.dumps(content), requested_ms),
    )
    tx.execute(
        "DELETE FROM pending_joins WHERE user_id = :user AND room_id NOT IN (SELECT room_id FROM pending_joins "
        "WHERE user_id = :user ORDER BY requested_ms DESC LIMIT :most)",
        {"user": user_id, "most": PENDING_PER_USER_MAX},
    )
    tx.notify(TOPIC)


def note_progress(
    tx: Tx, user_id: str, room_id: str, *, source: str, octets: int, octets_all: int, seconds_left: int
) -> None:
    """Remembers how far the answer of `source` has come; nothing, if the join is not pending any more."""
    tx.execute(
        "UPDATE pending_joins SET source = ?, octets = ?, octets_all = ?, seconds_left = ?"
        " WHERE user_id = ? AND room_id = ?",
        (source, octets, octets_all, seconds_left, user_id, room_id),
    )


def list_joins(tx: Tx) -> list[dict[str, Any]]:
    """For the operator, one row per pending join: room_id, user_id, requested_ms, membership (`join` or `knock`), and
    how far it has come: source, octets, octets_all, seconds_left, which are None while nothing has arrived."""
    names = ("room_id", "user_id", "requested_ms", "source", "octets", "octets_all", "seconds_left")
    membership = "json_extract(content, '$.membership')"
    rows = tx.all(f"SELECT {', '.join(names)}, {membership} FROM pending_joins ORDER BY requested_ms")
    return [dict(zip((*names, "membership"), row, strict=True)) for row in rows]


def drop_pending_join(tx: Tx, user_id: str, room_id: str) -> None:
    tx.execute("DELETE FROM pending_joins WHERE user_id = ? AND room_id = ?", (user_id, room_id))


def pending_join(tx: Tx, user_id: str, room_id: str) -> PendingJoin | None:
    row = tx.one(
        "SELECT user_id, room_id, via, content, requested_ms FROM pending_joins WHERE user_id = ? AND room_id = ?",
        (user_id, room_id),
    )
    return None if row is None else _of(row)


def joins_waiting(tx: Tx, user_id: str) -> int:
    """How many of a user's."""
    row = tx.one("SELECT COUNT(*) FROM pending_joins WHERE user_id = ?", (user_id,))
    return 0 if row is None else int(row[0])


def pending_joins(tx: Tx) -> list[PendingJoin]:
    """All of them, oldest first."""
    rows = tx.all("SELECT user_id, room_id, via, content, requested_ms FROM pending_joins ORDER BY requested_ms")
    return [_of(row) for row in rows]


def drop_pending_joins_before(tx: Tx, requested_ms: int) -> None:
    """Gives up what was asked for before that time."""
    tx.execute("DELETE FROM pending_joins WHERE requested_ms < ?", (requested_ms,))


def _of(row: tuple[Any, ...]) -> PendingJoin:
    user_id, room_id, via, content, requested_ms = row
    return PendingJoin(
        user_id=user_id,
        room_id=room_id,
        via=json.loads(via),
        content=json.loads(content),
        requested_ms=requested_ms,
    )
