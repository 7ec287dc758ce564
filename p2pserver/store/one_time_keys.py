"""One-time and fallback keys: each one-time key is handed out once, in order of upload, and never comes back.

Source: client-server API, "One-time and fallback keys", `/keys/upload`, `/keys/claim`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from p2pserver.errors import InvalidParam
from p2pserver.store.tx import Tx

UNCLAIMED_MAX = 1_000
"""One-time keys that one device may have waiting; clients keep 50 to 100."""
CLAIMED_REMEMBERED_MAX = 2_000
COUNTED_ALWAYS = "signed_curve25519"


def put_one_time_keys(tx: Tx, user_id: str, device_id: str, keys: Mapping[str, Any]) -> None:
    """Stores keys by `algorithm:id`. A key that is held, or was handed out, is ignored if it is the same.

    Raises: InvalidParam, if a key ID was used for another key, or if there are too many.
    """
    for key_id, value in keys.items():
        text = _text(value)
        held = tx.one(
            "SELECT content FROM one_time_keys WHERE user_id = ? AND device_id = ? AND key_id = ?",
            (user_id, device_id, key_id),
        )
        claimed = tx.one(
            "SELECT digest FROM claimed_keys WHERE user_id = ? AND device_id = ? AND key_id = ?",
            (user_id, device_id, key_id),
        )
        if (held is not None and held[0] != text) or (claimed is not None and claimed[0] != _digest(text)):
            raise InvalidParam(f"one-time key {key_id!r} already exists and is another one")
        if held is None and claimed is None:
            tx.execute(
                "INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, content) VALUES (?, ?, ?, ?, ?)",
                (user_id, device_id, key_id.partition(":")[0], key_id, text),
            )
    if sum(otk_counts(tx, user_id, device_id).values()) > UNCLAIMED_MAX:
        raise InvalidParam(f"a device may have {UNCLAIMED_MAX} one-time keys at most")
    _note_count(tx, user_id, device_id)


def put_fallback_keys(tx: Tx, user_id: str, device_id: str, keys: Mapping[str, Any]) -> None:
    """Stores the one fallback key of each algorithm; the same key again keeps its being used."""
    for key_id, value in keys.items():
        algorithm, text = key_id.partition(":")[0], _text(value)
        tx.execute(
            "INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, content) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (user_id, device_id, algorithm) DO UPDATE"
            " SET key_id = excluded.key_id, content = excluded.content, used = 0"
            " WHERE key_id != excluded.key_id OR content != excluded.content",
            (user_id, device_id, algorithm, key_id, text),
        )
    _note_count(tx, user_id, device_id)


def claim_key(tx: Tx, user_id: str, device_id: str, algorithm: str) -> tuple[str, Any] | None:
    """Hands out (key ID, key) of a local device: its oldest one-time key, else its fallback key, else None."""
    row = tx.one(
        "SELECT number, key_id, content FROM one_time_keys WHERE user_id = ? AND device_id = ? AND algorithm = ?"
        " ORDER BY number LIMIT 1",
        (user_id, device_id, algorithm),
    )
    if row is not None:
        number, key_id, text = row
        tx.execute("DELETE FROM one_time_keys WHERE number = ?", (number,))
        tx.execute(
            "INSERT INTO claimed_keys (user_id, device_id, key_id, digest) VALUES (?, ?, ?, ?)",
            (user_id, device_id, key_id, _digest(text)),
        )
        tx.execute(
            "DELETE FROM claimed_keys WHERE number IN (SELECT number FROM claimed_keys"
            " WHERE user_id = ? AND device_id = ? ORDER BY number DESC LIMIT -1 OFFSET ?)",
            (user_id, device_id, CLAIMED_REMEMBERED_MAX),
        )
    else:
        row = tx.one(
            "SELECT key_id, content FROM fallback_keys WHERE user_id = ? AND device_id = ? AND algorithm = ?",
            (user_id, device_id, algorithm),
        )
        if row is None:
            return None
        key_id, text = row
        tx.execute(
            "UPDATE fallback_keys SET used = 1 WHERE user_id = ? AND device_id = ? AND algorithm = ?",
            (user_id, device_id, algorithm),
        )
    _note_count(tx, user_id, device_id)
    return key_id, json.loads(text)


def spend_all_keys(tx: Tx) -> None:
    """Takes all one-time keys for handed out, and all fallback keys for used: nobody here knows which were."""
    for user_id, device_id, key_id, text in tx.all("SELECT user_id, device_id, key_id, content FROM one_time_keys"):
        tx.execute(
            "INSERT OR IGNORE INTO claimed_keys (user_id, device_id, key_id, digest) VALUES (?, ?, ?, ?)",
            (user_id, device_id, key_id, _digest(text)),
        )
    tx.execute("DELETE FROM one_time_keys")
    tx.execute("UPDATE fallback_keys SET used = 1")
    for user_id, device_id in tx.all("SELECT user_id, device_id FROM devices ORDER BY user_id, device_id"):
        _note_count(tx, user_id, device_id)


def otk_counts(tx: Tx, user_id: str, device_id: str) -> dict[str, int]:
    """Unclaimed one-time keys by algorithm; `signed_curve25519` always, since clients differ on its absence."""
    rows = tx.all(
        "SELECT algorithm, COUNT(*) FROM one_time_keys WHERE user_id = ? AND device_id = ? GROUP BY algorithm",
        (user_id, device_id),
    )
    return {COUNTED_ALWAYS: 0} | dict(rows)


def unused_fallback(tx: Tx, user_id: str, device_id: str) -> list[str]:
    """Algorithms whose fallback key was not handed out yet."""
    rows = tx.all(
        "SELECT algorithm FROM fallback_keys WHERE user_id = ? AND device_id = ? AND used = 0 ORDER BY algorithm",
        (user_id, device_id),
    )
    return [row[0] for row in rows]


def otk_changed_since(tx: Tx, user_id: str, device_id: str, since: int) -> bool:
    """Whether `otk_counts` or `unused_fallback` may differ from what they were at position `since`."""
    row = tx.one(
        "SELECT keys_counted > ? FROM devices WHERE user_id = ? AND device_id = ?", (since, user_id, device_id)
    )
    return row is not None and bool(row[0])


def _note_count(tx: Tx, user_id: str, device_id: str) -> None:
    tx.execute(
        "UPDATE devices SET keys_counted = ? WHERE user_id = ? AND device_id = ?",
        (tx.next_position(), user_id, device_id),
    )
    tx.notify(f"user:{user_id}")


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
