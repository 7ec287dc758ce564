"""Filters that clients uploaded, by user."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from p2pserver.store.tx import Tx

FILTERS_PER_USER_MAX = 1000


def put_filter(tx: Tx, user_id: str, definition: Mapping[str, Any]) -> str:
    """Stores a filter and returns its ID; the same definition again has the same ID. The oldest give way."""
    text = json.dumps(definition, sort_keys=True, separators=(",", ":"))
    row = tx.one("SELECT filter_id FROM filters WHERE user_id = ? AND definition = ?", (user_id, text))
    if row is not None:
        return str(row[0])
    newest = tx.one("SELECT COALESCE(MAX(filter_id), -1) FROM filters WHERE user_id = ?", (user_id,))
    assert newest is not None
    filter_id: int = newest[0] + 1
    tx.execute("INSERT INTO filters (user_id, filter_id, definition) VALUES (?, ?, ?)", (user_id, filter_id, text))
    tx.execute("DELETE FROM filters WHERE user_id = ? AND filter_id <= ?", (user_id, filter_id - FILTERS_PER_USER_MAX))
    return str(filter_id)


def get_filter(tx: Tx, user_id: str, filter_id: str) -> dict[str, Any] | None:
    """The definition of a user's own filter."""
    if not filter_id.isascii() or not filter_id.isdigit() or len(filter_id) > 15:
        return None
    row = tx.one("SELECT definition FROM filters WHERE user_id = ? AND filter_id = ?", (user_id, int(filter_id)))
    if row is None:
        return None
    definition: dict[str, Any] = json.loads(row[0])
    return definition


def leave_filter_numbers_out(tx: Tx) -> None:
    """Clients may keep numbers that are not known here: the next ones are others."""
    tx.execute(
        "INSERT INTO filters (user_id, filter_id, definition)"
        " SELECT user_id, 50 + COALESCE((SELECT MAX(filter_id) FROM filters AS f WHERE f.user_id = users.user_id), 0),"
        " '{}' FROM users"
    )
