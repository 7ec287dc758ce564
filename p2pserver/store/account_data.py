"""What clients keep on their server, globally and by room; push rules are the global type `m.push_rules`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pserver.store.tx import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountData:
    """One type of account data. `room_id` is None for global data."""

    room_id: str | None
    type: str
    content: dict[str, Any]


def put_account_data(tx: Tx, user_id: str, room_id: str | None, kind: str, content: Mapping[str, Any]) -> None:
    """Stores the content and wakes the user's devices."""
    tx.execute(
        "INSERT OR REPLACE INTO account_data (user_id, room_id, type, content, position) VALUES (?, ?, ?, ?, ?)",
        (user_id, room_id or "", kind, json.dumps(content, separators=(",", ":")), tx.next_position()),
    )
    tx.notify(f"user:{user_id}")


def get_account_data(tx: Tx, user_id: str, room_id: str | None, kind: str) -> dict[str, Any] | None:
    row = tx.one(
        "SELECT content FROM account_data WHERE user_id = ? AND room_id = ? AND type = ?",
        (user_id, room_id or "", kind),
    )
    if row is None:
        return None
    content: dict[str, Any] = json.loads(row[0])
    return content


def account_data_count(tx: Tx, user_id: str) -> int:
    """How many types the user has stored, over all rooms."""
    row = tx.one("SELECT COUNT(*) FROM account_data WHERE user_id = ?", (user_id,))
    assert row is not None
    count: int = row[0]
    return count


def account_data_since(tx: Tx, user_id: str, since: int, upto: int) -> list[AccountData]:
    """What changed at positions `since` < p <= `upto`, oldest first; everything for a `since` of -1 or 0."""
    rows = tx.all(
        "SELECT room_id, type, content FROM account_data WHERE user_id = ? AND position > ? AND position <= ?"
        " ORDER BY position",
        (user_id, since, upto),
    )
    return [AccountData(room_id=room_id or None, type=kind, content=json.loads(text)) for room_id, kind, text in rows]


def contents_of_type(tx: Tx, user_id: str, kind: str) -> dict[str, dict[str, Any]]:
    """The user's data of one type in all rooms that have it, by room."""
    rows = tx.all(
        "SELECT room_id, content FROM account_data WHERE user_id = ? AND type = ? AND room_id != ''", (user_id, kind)
    )
    return {room_id: json.loads(text) for room_id, text in rows}


def room_account_data(tx: Tx, user_id: str, room_id: str, *, above: int, upto: int) -> list[AccountData]:
    """The user's data of one room that was set in the range, oldest first."""
    rows = tx.all(
        "SELECT type, content FROM account_data WHERE user_id = ? AND room_id = ? AND position > ? AND position <= ?"
        " ORDER BY position",
        (user_id, room_id, above, upto),
    )
    return [AccountData(room_id=room_id, type=kind, content=json.loads(text)) for kind, text in rows]
