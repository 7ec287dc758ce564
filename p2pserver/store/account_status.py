"""What an account of this node may do: admin, locked, suspended, shadow-banned, deactivated.

Locked: tokens are refused, softly, so that clients keep their keys. Suspended: may read and leave, not speak or join.
Shadow-banned: what it sends is answered and goes nowhere. Deactivated: for good, unless an operator undoes it.
Source: client-server API, "Account locking", "Account suspension", "Account deactivation".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from p2pserver.errors import NotFound
from p2pserver.store.devices import delete_device, device_ids
from p2pserver.store.search_index import forget_user
from p2pserver.store.tokens import delete_tokens
from p2pserver.store.tx import Tx

Flag = Literal["admin", "locked", "suspended", "shadow_banned"]

_KEPT = (
    "departures",
    "device_list_changes",
    "event_reports",
    "invites",
    "local_memberships",
    "media",
    "notice_rooms",
    "receipts",
    "users",
)
"""Tables with a `user_id` that say more of others, or of the account itself, than of what its user kept here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatus:
    """One account as its operator sees it. `created_ms` is 0 where it was not kept."""

    user_id: str
    displayname: str | None
    avatar_url: str | None
    created_ms: int
    user_type: str | None
    has_password: bool
    admin: bool
    deactivated: bool
    erased: bool
    locked: bool
    suspended: bool
    shadow_banned: bool


COLUMNS = (
    "user_id, displayname, avatar_url, created_ms, user_type, password_hash IS NOT NULL, admin, deactivated, erased,"
    " locked, suspended, shadow_banned"
)
"""The columns of `users` that `status_of_row` takes, in its order."""


def account_status(tx: Tx, user_id: str) -> AccountStatus | None:
    """None: there was never such an account here."""
    row = tx.one(f"SELECT {COLUMNS} FROM users WHERE user_id = ?", (user_id,))
    return None if row is None else status_of_row(row)


def status_of_row(row: tuple[object, ...]) -> AccountStatus:
    user_id, displayname, avatar_url, created_ms, user_type, *flags = row
    has_password, admin, deactivated, erased, locked, suspended, shadow_banned = map(bool, flags)
    assert isinstance(created_ms, int)
    return AccountStatus(
        user_id=str(user_id),
        displayname=None if displayname is None else str(displayname),
        avatar_url=None if avatar_url is None else str(avatar_url),
        created_ms=created_ms,
        user_type=None if user_type is None else str(user_type),
        has_password=has_password,
        admin=admin,
        deactivated=deactivated,
        erased=erased,
        locked=locked,
        suspended=suspended,
        shadow_banned=shadow_banned,
    )


def set_flag(tx: Tx, user_id: str, flag: Flag, value: bool) -> None:
    """Raises: NotFound."""
    changed = tx.execute(f"UPDATE users SET {flag} = ? WHERE user_id = ?", (int(value), user_id))
    if changed.rowcount == 0:
        raise NotFound("there is no such user")


def set_user_type(tx: Tx, user_id: str, user_type: str | None) -> None:
    tx.execute("UPDATE users SET user_type = ? WHERE user_id = ?", (user_type, user_id))


def close_account(tx: Tx, user_id: str, *, erase: bool) -> None:
    """Deactivates an account: nobody can log in, what it kept here is deleted, its name is used up.

    The rooms that it is in are noted as departures, and left one after the other. With `erase` its profile is deleted
    too, and who was not there when a message was sent gets it in the redacted form (`rooms/erasure.py`).

    Raises: NotFound.
    """
    changed = tx.execute(
        "UPDATE users SET password_hash = NULL, deactivated = 1, erased = max(erased, ?), admin = 0 WHERE user_id = ?",
        (int(erase), user_id),
    )
    if changed.rowcount == 0:
        raise NotFound("there is no such user")
    if erase:
        tx.execute("UPDATE users SET displayname = NULL, avatar_url = NULL WHERE user_id = ?", (user_id,))
        forget_user(tx, user_id)
    for device_id in device_ids(tx, user_id):
        delete_device(tx, user_id, device_id)
    delete_tokens(tx, user_id)
    for table in _tables_by_user(tx):
        tx.execute(f"DELETE FROM {table} WHERE user_id = ?", (user_id,))
    tx.execute("DELETE FROM user_signatures WHERE signer_user_id = ?", (user_id,))
    tx.execute(
        "INSERT OR IGNORE INTO departures (user_id, room_id) SELECT user_id, room_id FROM local_memberships"
        " WHERE user_id = ? AND membership IN ('join', 'invite', 'knock')",
        (user_id,),
    )


def _tables_by_user(tx: Tx) -> list[str]:
    rows = tx.all(
        "SELECT m.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c"
        " WHERE m.type = 'table' AND c.name = 'user_id' ORDER BY m.name"
    )
    return [name for (name,) in rows if name not in _KEPT]


def reopen_account(tx: Tx, user_id: str) -> None:
    """Undoes a deactivation, as far as an account is concerned: rooms, keys and data are gone. Raises: NotFound."""
    changed = tx.execute("UPDATE users SET deactivated = 0, erased = 0 WHERE user_id = ?", (user_id,))
    if changed.rowcount == 0:
        raise NotFound("there is no such user")
    tx.execute("DELETE FROM departures WHERE user_id = ?", (user_id,))


def next_departure(tx: Tx) -> tuple[str, str] | None:
    """(user, room) of a deactivated account that is still in a room."""
    row = tx.one("SELECT user_id, room_id FROM departures LIMIT 1")
    return None if row is None else (row[0], row[1])


def drop_departure(tx: Tx, user_id: str, room_id: str) -> None:
    tx.execute("DELETE FROM departures WHERE user_id = ? AND room_id = ?", (user_id, room_id))


def is_erased(tx: Tx, user_id: str) -> bool:
    """Whether the user asked for the content of his messages to be forgotten."""
    return tx.one("SELECT 1 FROM users WHERE user_id = ? AND erased = 1", (user_id,)) is not None
