"""What other servers said about the keys of their users: served from here while a server is away."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from p2pserver.identifiers import server_of
from p2pserver.store.device_lists import note_remote_change
from p2pserver.store.tx import Tx

CACHED_USERS_MAX = 10_000
CACHED_OCTETS_MAX = 256 * 1024
"""Of one user; a larger answer is passed on and not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserKeys:
    """The public keys of one user: JSON objects as uploaded, with the signatures that everybody may see."""

    device_keys: dict[str, dict[str, Any]]
    master_key: dict[str, Any] | None = None
    self_signing_key: dict[str, Any] | None = None


def cached_keys(tx: Tx, user_id: str) -> UserKeys | None:
    """The newest answer of the user's server, however old."""
    row = tx.one(
        "SELECT device_keys, master_key, self_signing_key FROM device_list_cache WHERE user_id = ?", (user_id,)
    )
    if row is None:
        return None
    return UserKeys(
        device_keys=json.loads(row[0]),
        master_key=None if row[1] is None else json.loads(row[1]),
        self_signing_key=None if row[2] is None else json.loads(row[2]),
    )


def cached_users(tx: Tx, server: str | None = None) -> list[str]:
    """Users of whom something is cached that is not in doubt already, of one server or of all."""
    users = [user_id for (user_id,) in tx.all("SELECT user_id FROM device_list_cache WHERE stale = 0 ORDER BY user_id")]
    return users if server is None else [user_id for user_id in users if server_of(user_id) == server]


def remember_keys(tx: Tx, user_id: str, keys: UserKeys) -> None:
    """Stores an answer. If it differs from the last one and no update had announced that, clients are told now."""
    texts = [
        None if value is None else json.dumps(value, sort_keys=True, separators=(",", ":"))
        for value in (keys.device_keys, keys.master_key, keys.self_signing_key)
    ]
    if sum(len(text) for text in texts if text is not None) > CACHED_OCTETS_MAX:
        return
    row = tx.one(
        "SELECT device_keys, master_key, self_signing_key, stale FROM device_list_cache WHERE user_id = ?", (user_id,)
    )
    if row is not None and not row[3] and list(row[:3]) != texts:
        note_remote_change(tx, user_id)
    tx.execute(
        "INSERT OR REPLACE INTO device_list_cache (user_id, device_keys, master_key, self_signing_key, stale, fetched)"
        " VALUES (?, ?, ?, ?, 0, (SELECT COALESCE(MAX(fetched), 0) + 1 FROM device_list_cache))",
        (user_id, *texts),
    )
    count = tx.one("SELECT COUNT(*) FROM device_list_cache")
    assert count is not None
    if count[0] > CACHED_USERS_MAX:
        tx.execute(
            "DELETE FROM device_list_cache WHERE user_id IN"
            " (SELECT user_id FROM device_list_cache ORDER BY fetched LIMIT ?)",
            (count[0] - CACHED_USERS_MAX,),
        )
