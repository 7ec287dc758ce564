"""Pushers: where the notifications of users are sent to, and how far each has come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from p2pserver.store.tx import Tx

TOPIC: Final = "pushers"
PUSHERS_PER_USER_MAX: Final = 20

PusherKey = tuple[str, str, str]
"""(user ID, app ID, pushkey)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pusher:
    user_id: str
    app_id: str
    pushkey: str
    content: Mapping[str, Any]
    set_ms: int
    position: int

    @property
    def key(self) -> PusherKey:
        return (self.user_id, self.app_id, self.pushkey)


def put_pusher(
    tx: Tx, key: PusherKey, *, device_id: str, content: Mapping[str, Any], set_ms: int, for_others_too: bool
) -> None:
    """Sets a pusher, for what happens from now on. Unless `for_others_too`, other users lose theirs with this key."""
    user_id, app_id, pushkey = key
    if not for_others_too:
        tx.execute("DELETE FROM pushers WHERE app_id = ? AND pushkey = ? AND user_id != ?", (app_id, pushkey, user_id))
    tx.execute(
        "INSERT INTO pushers (user_id, app_id, pushkey, device_id, content, set_ms, position)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (user_id, app_id, pushkey) DO UPDATE SET"
        " device_id = excluded.device_id, content = excluded.content, set_ms = excluded.set_ms",
        (*key, device_id, json.dumps(content, separators=(",", ":")), set_ms, tx.position()),
    )
    tx.execute(
        "DELETE FROM pushers WHERE user_id = ?1 AND (app_id, pushkey) IN (SELECT app_id, pushkey FROM pushers"
        " WHERE user_id = ?1 ORDER BY set_ms DESC LIMIT -1 OFFSET ?2)",
        (user_id, PUSHERS_PER_USER_MAX),
    )
    tx.notify(TOPIC)


def delete_pusher(tx: Tx, key: PusherKey) -> None:
    tx.execute("DELETE FROM pushers WHERE user_id = ? AND app_id = ? AND pushkey = ?", key)


def note_pushed(tx: Tx, key: PusherKey, position: int) -> None:
    """Everything up to `position` has been pushed, or need not be."""
    tx.execute(
        "UPDATE pushers SET position = max(position, ?) WHERE user_id = ? AND app_id = ? AND pushkey = ?",
        (position, *key),
    )


def pushers_of(tx: Tx, user_id: str) -> list[Pusher]:
    return _pushers(tx, "WHERE user_id = ? ORDER BY app_id, pushkey", (user_id,))


def all_pushers(tx: Tx) -> list[Pusher]:
    return _pushers(tx, "ORDER BY user_id, app_id, pushkey", ())


def _pushers(tx: Tx, where: str, params: tuple[str, ...]) -> list[Pusher]:
    rows = tx.all(f"SELECT user_id, app_id, pushkey, content, set_ms, position FROM pushers {where}", params)
    return [
        Pusher(
            user_id=user_id,
            app_id=app_id,
            pushkey=pushkey,
            content=json.loads(content),
            set_ms=set_ms,
            position=position,
        )
        for user_id, app_id, pushkey, content, set_ms, position in rows
    ]
