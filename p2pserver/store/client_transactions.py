"""What clients' transactions were answered, so that a repeat gets the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from p2pserver.store.tx import Tx, chunks, marks


def response_of(tx: Tx, user_id: str, device_id: str, path: str) -> dict[str, Any] | None:
    """The answer that this device's request on `path` was given."""
    row = tx.one(
        "SELECT response FROM client_transactions WHERE user_id = ? AND device_id = ? AND path = ?",
        (user_id, device_id, path),
    )
    if row is None:
        return None
    response: dict[str, Any] = json.loads(row[0])
    return response


def remember_response(
    tx: Tx,
    user_id: str,
    device_id: str,
    path: str,
    response: Mapping[str, Any],
    *,
    event_id: str | None,
    done_ms: int,
) -> None:
    tx.execute(
        "INSERT INTO client_transactions (user_id, device_id, path, response, event_id, done_ms)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (user_id, device_id, path, json.dumps(response), event_id, done_ms),
    )


def note_event(tx: Tx, user_id: str, device_id: str, path: str, event_id: str) -> None:
    """What a request that was answered before made in the end."""
    tx.execute(
        "UPDATE client_transactions SET event_id = ? WHERE user_id = ? AND device_id = ? AND path = ?",
        (event_id, user_id, device_id, path),
    )


def paths_of_events(tx: Tx, user_id: str, device_id: str, event_ids: Sequence[str]) -> dict[str, str]:
    """Of those events that this device sent: the path of the request."""
    found: dict[str, str] = {}
    for some in chunks(event_ids):
        rows = tx.all(
            "SELECT event_id, path FROM client_transactions WHERE user_id = ? AND device_id = ?"
            f" AND event_id IN ({marks(some)})",
            (user_id, device_id, *some),
        )
        found.update(rows)
    return found
