"""The accounts of this node in pages, for operators."""

from __future__ import annotations

from dataclasses import dataclass

from p2pserver.store.account_status import COLUMNS, AccountStatus, status_of_row
from p2pserver.store.tx import Tx

ORDERS = {
    "name": "user_id",
    "is_guest": "user_id",
    "admin": "admin",
    "user_type": "user_type",
    "deactivated": "deactivated",
    "shadow_banned": "shadow_banned",
    "displayname": "displayname",
    "avatar_url": "avatar_url",
    "creation_ts": "created_ms",
    "last_seen_ts": "seen_ms",
    "locked": "locked",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFilter:
    """None: whatever it is. `name` is part of the local part or of the display name, `user_id` of the ID."""

    name: str | None = None
    user_id: str | None = None
    deactivated: bool | None = None
    admin: bool | None = None
    with_locked: bool = False
    not_types: tuple[str, ...] = ()
    """"" stands for accounts without a type."""


def list_users(
    tx: Tx, wanted: UserFilter, *, start: int, limit: int, order: str, backwards: bool
) -> tuple[list[tuple[AccountStatus, int | None]], int]:
    """A page of (account, when one of its devices was last heard of), and how many there are. `order` as `ORDERS`."""
    where, values = _where(wanted)
    direction = "DESC" if backwards else "ASC"
    rows = tx.all(
        f"SELECT {COLUMNS}, (SELECT max(last_seen_ms) FROM devices AS d WHERE d.user_id = users.user_id) AS seen_ms"
        f" FROM users WHERE {where} ORDER BY {ORDERS[order]} {direction}, user_id {direction} LIMIT ? OFFSET ?",
        (*values, limit, start),
    )
    total = tx.one(f"SELECT COUNT(*) FROM users WHERE {where}", values)
    return [(status_of_row(row[:-1]), row[-1]) for row in rows], 0 if total is None else total[0]


def _where(wanted: UserFilter) -> tuple[str, list[str | int]]:
    parts: list[str] = ["1"]
    values: list[str | int] = []
    if wanted.user_id is not None:
        parts.append("instr(lower(user_id), lower(?))")
        values.append(wanted.user_id)
    elif wanted.name is not None:
        parts.append(
            "(instr(substr(user_id, 2, instr(user_id, ':') - 2), lower(?))"
            " OR instr(lower(coalesce(displayname, '')), lower(?)))"
        )
        values += [wanted.name, wanted.name]
    for column, value in (("deactivated", wanted.deactivated), ("admin", wanted.admin)):
        if value is not None:
            parts.append(f"{column} = ?")
            values.append(int(value))
    if not wanted.with_locked:
        parts.append("locked = 0")
    for kind in wanted.not_types:
        parts.append("coalesce(user_type, '') != ?")
        values.append(kind)
    return " AND ".join(parts), values
