"""Encrypted copies of room keys that local users keep here: versions of a backup, and the keys in each.

Only clients can read what is inside. Source: client-server API, "Server-side key backups".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from p2pserver.store.tx import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyBackup:
    """One version of a user's backup."""

    version: int
    algorithm: str
    auth_data: dict[str, Any]
    changes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUpKey:
    """The key of one Megolm session."""

    room_id: str
    session_id: str
    first_message_index: int
    forwarded_count: int
    is_verified: bool
    session_data: dict[str, Any]

    def is_better_than(self, other: BackedUpKey) -> bool:
        """Whether this key takes the place of `other`, of the same session.

        Source: client-server API, `PUT /room_keys/keys/{roomId}/{sessionId}`.
        """
        return self._rank() < other._rank()

    def _rank(self) -> tuple[bool, int, int]:
        return (not self.is_verified, self.first_message_index, self.forwarded_count)

    def to_json(self) -> dict[str, Any]:
        return {
            "first_message_index": self.first_message_index,
            "forwarded_count": self.forwarded_count,
            "is_verified": self.is_verified,
            "session_data": self.session_data,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysWanted:
    """Which keys of a backup: all, those of one room, or that of one session in it."""

    room_id: str | None = None
    session_id: str | None = None

    def condition(self) -> tuple[str, tuple[str, ...]]:
        """SQL to go behind a WHERE, with its parameters."""
        if self.room_id is None:
            return "", ()
        if self.session_id is None:
            return " AND room_id = ?", (self.room_id,)
        return " AND room_id = ? AND session_id = ?", (self.room_id, self.session_id)


def add_key_backup(tx: Tx, user_id: str, algorithm: str, auth_data: Mapping[str, Any]) -> int:
    """Makes the backup that clients write to from now on; returns its version."""
    row = tx.one(
        "INSERT INTO key_backup_numbers (user_id, newest) VALUES (?, 1)"
        " ON CONFLICT (user_id) DO UPDATE SET newest = newest + 1 RETURNING newest",
        (user_id,),
    )
    assert row is not None
    version: int = row[0]
    tx.execute(
        "INSERT INTO key_backups (user_id, version, algorithm, auth_data) VALUES (?, ?, ?, ?)",
        (user_id, version, algorithm, _text(auth_data)),
    )
    return version


def key_backup(tx: Tx, user_id: str, version: int | None = None) -> KeyBackup | None:
    """That version, or the newest; None, if there is none or it was deleted."""
    row = tx.one(
        "SELECT version, algorithm, auth_data, changes FROM key_backups WHERE user_id = ? AND version = ?"
        if version is not None
        else "SELECT version, algorithm, auth_data, changes FROM key_backups WHERE user_id = ?"
        " ORDER BY version DESC LIMIT 1",
        (user_id,) if version is None else (user_id, version),
    )
    if row is None:
        return None
    return KeyBackup(version=row[0], algorithm=row[1], auth_data=json.loads(row[2]), changes=row[3])


def set_auth_data(tx: Tx, user_id: str, version: int, auth_data: Mapping[str, Any]) -> None:
    tx.execute(
        "UPDATE key_backups SET auth_data = ? WHERE user_id = ? AND version = ?", (_text(auth_data), user_id, version)
    )


def delete_key_backup(tx: Tx, user_id: str, version: int) -> bool:
    """Deletes a version with its keys. Returns whether there ever was such a version."""
    tx.execute("DELETE FROM key_backups WHERE user_id = ? AND version = ?", (user_id, version))
    tx.execute("DELETE FROM backed_up_keys WHERE user_id = ? AND version = ?", (user_id, version))
    return tx.one("SELECT 1 FROM key_backup_numbers WHERE user_id = ? AND newest >= ?", (user_id, version)) is not None


def key_backup_versions(tx: Tx, user_id: str) -> list[int]:
    """The versions that are not deleted, oldest first."""
    rows = tx.all("SELECT version FROM key_backups WHERE user_id = ? ORDER BY version", (user_id,))
    return [version for (version,) in rows]


def backed_up_keys(tx: Tx, user_id: str, version: int, wanted: KeysWanted) -> list[BackedUpKey]:
    """The keys, by room and session."""
    condition, values = wanted.condition()
    rows = tx.all(
        "SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data"
        f" FROM backed_up_keys WHERE user_id = ? AND version = ?{condition} ORDER BY room_id, session_id",
        (user_id, version, *values),
    )
    return [
        BackedUpKey(
            room_id=room_id,
            session_id=session_id,
            first_message_index=first_message_index,
            forwarded_count=forwarded_count,
            is_verified=bool(is_verified),
            session_data=json.loads(session_data),
        )
        for room_id, session_id, first_message_index, forwarded_count, is_verified, session_data in rows
    ]


def backed_up_key_count(tx: Tx, user_id: str, version: int | None = None) -> int:
    """How many keys that version holds, or all versions together."""
    row = tx.one(
        "SELECT COUNT(*) FROM backed_up_keys WHERE user_id = ?" + ("" if version is None else " AND version = ?"),
        (user_id,) if version is None else (user_id, version),
    )
    assert row is not None
    count: int = row[0]
    return count


def put_backed_up_keys(tx: Tx, user_id: str, version: int, keys: Iterable[BackedUpKey]) -> None:
    """Stores each key, unless the one that is held of its session is as good."""
    changed = False
    for key in keys:
        held = backed_up_keys(tx, user_id, version, KeysWanted(room_id=key.room_id, session_id=key.session_id))
        if held and not key.is_better_than(held[0]):
            continue
        changed = True
        tx.execute(
            "INSERT OR REPLACE INTO backed_up_keys (user_id, version, room_id, session_id, first_message_index,"
            " forwarded_count, is_verified, session_data) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                user_id,
                version,
                key.room_id,
                key.session_id,
                key.first_message_index,
                key.forwarded_count,
                int(key.is_verified),
                _text(key.session_data),
            ),
        )
    if changed:
        _note_change(tx, user_id, version)


def delete_backed_up_keys(tx: Tx, user_id: str, version: int, wanted: KeysWanted) -> None:
    condition, values = wanted.condition()
    deleted = tx.execute(
        f"DELETE FROM backed_up_keys WHERE user_id = ? AND version = ?{condition}", (user_id, version, *values)
    )
    if deleted.rowcount:
        _note_change(tx, user_id, version)


def _note_change(tx: Tx, user_id: str, version: int) -> None:
    tx.execute("UPDATE key_backups SET changes = changes + 1 WHERE user_id = ? AND version = ?", (user_id, version))


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def leave_backup_numbers_out(tx: Tx) -> None:
    """Clients may keep versions that are not known here: the next ones are others."""
    tx.execute("UPDATE key_backup_numbers SET newest = newest + 1000")
