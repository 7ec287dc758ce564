"""The users of this node: accounts, passwords, profiles.

The command line makes accounts with these functions too, whether or not a node runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from p2pserver.errors import Exclusive, InvalidUsername, NotFound, UserInUse
from p2pserver.identifiers import InvalidIdentifier, is_media_uri, is_new_localpart, split_identifier
from p2pserver.store.account_data import put_account_data
from p2pserver.store.devices import delete_device, device_ids
from p2pserver.store.push_rules import default_push_rules
from p2pserver.store.tokens import delete_other_tokens, drop_login_tokens
from p2pserver.store.tx import Tx

if TYPE_CHECKING:
    from argon2 import PasswordHasher


@cache
def _hasher() -> PasswordHasher:
    """argon2id with 19 MiB, t=2, p=1: OWASP's least, since it has to run on a phone."""
    from argon2 import PasswordHasher, Type

    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)


@cache
def _nobody() -> str:
    return _hasher().hash("the password of nobody")


def hash_password(password: str) -> str:
    """The argon2id hash in PHC string format. Takes tens of milliseconds and 19 MiB."""
    return _hasher().hash(password)


def password_matches(password_hash: str | None, password: str) -> bool:
    """Whether `password` is the one that was hashed. Takes as long where there is no hash, and is then False."""
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return _hasher().verify(password_hash or _nobody(), password) and password_hash is not None
    except (VerificationError, InvalidHashError):
        return False


NOTICES_LOCALPART = "server-notices"
"""The user of this node who tells its users what its operator has to say to them."""
NOTICES_TYPE = "notices"


def register_user(
    tx: Tx,
    user_id: str,
    password_hash: str | None,
    *,
    admin: bool = False,
    created_ms: int = 0,
    user_type: str | None = None,
) -> None:
    """Makes a local account with the default push rules. Its first display name is the local part.

    Clients show somebody without a display name by his whole ID, most of which is the name of a server, here a key.
    Raises: InvalidUsername; UserInUse; Exclusive, for the name of the node's own user, unless it is he.
    """
    check_new_user_id(user_id)
    if user_id.startswith(f"@{NOTICES_LOCALPART}:") and user_type != NOTICES_TYPE:
        raise Exclusive("this user name belongs to the node itself")
    if is_name_taken(tx, user_id):
        raise UserInUse("this user name is taken")
    localpart, _ = split_identifier(user_id, "@")
    tx.execute(
        "INSERT INTO users (user_id, password_hash, admin, displayname, created_ms, user_type)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (user_id, password_hash, int(admin), localpart, created_ms, user_type),
    )
    put_account_data(tx, user_id, None, "m.push_rules", default_push_rules(user_id))


def check_new_user_id(user_id: str) -> None:
    """Raises: InvalidUsername, if a user cannot be registered under this ID today."""
    try:
        localpart, _ = split_identifier(user_id, "@")
    except InvalidIdentifier as error:
        raise InvalidUsername("the user name is too long or not valid") from error
    if not is_new_localpart(localpart):
        raise InvalidUsername("a user name may contain a-z, 0-9 and . _ = - / +")


def user_exists(tx: Tx, user_id: str) -> bool:
    """Whether `user_id` has an account here that is not deactivated."""
    return tx.one("SELECT 1 FROM users WHERE user_id = ? AND deactivated = 0", (user_id,)) is not None


def is_name_taken(tx: Tx, user_id: str) -> bool:
    """Whether the user ID is or was in use: that of a deactivated account is never given again."""
    return tx.one("SELECT 1 FROM users WHERE user_id = ?", (user_id,)) is not None


def password_hash_of(tx: Tx, user_id: str) -> str | None:
    """None: no such user, or no password."""
    row = tx.one("SELECT password_hash FROM users WHERE user_id = ?", (user_id,))
    return row[0] if row is not None else None


def set_password(
    tx: Tx, user_id: str, password_hash: str, *, log_out: bool = False, keep_device: str | None = None
) -> None:
    """Gives a user another password; with `log_out` his devices are deleted, except `keep_device`.

    Login tokens that are not used yet are void in any case. Raises: NotFound.
    """
    changed = tx.execute("UPDATE users SET password_hash = ? WHERE user_id = ?", (password_hash, user_id))
    if changed.rowcount == 0:
        raise NotFound("no such user")
    drop_login_tokens(tx, user_id)
    if log_out:
        for device_id in device_ids(tx, user_id):
            if device_id != keep_device:
                delete_device(tx, user_id, device_id)
        delete_other_tokens(tx, user_id, keep_device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a user shows of himself."""

    displayname: str | None
    avatar_url: str | None

    def to_json(self) -> dict[str, str]:
        fields = {"displayname": self.displayname, "avatar_url": self.avatar_url}
        return {name: value for name, value in fields.items() if value is not None}


def profile_of(tx: Tx, user_id: str) -> Profile | None:
    """The profile of a local user."""
    row = tx.one("SELECT displayname, avatar_url FROM users WHERE user_id = ?", (user_id,))
    return Profile(displayname=row[0], avatar_url=row[1]) if row is not None else None


def set_profile_field(tx: Tx, user_id: str, field: str, value: str | None) -> bool:
    """Sets `displayname` or `avatar_url`, and notes each joined room as one whose member event has to follow.

    Returns whether anything changed.
    """
    assert field in ("displayname", "avatar_url")
    changed = tx.execute(
        f"UPDATE users SET {field} = ? WHERE user_id = ? AND {field} IS NOT ?", (value, user_id, value)
    )
    if changed.rowcount == 0:
        return False
    tx.execute(
        "INSERT OR IGNORE INTO profile_spreads (user_id, room_id)"
        " SELECT user_id, room_id FROM local_memberships WHERE user_id = ? AND membership = 'join'"
        " AND user_id IN (SELECT user_id FROM users WHERE shadow_banned = 0)",
        (user_id,),
    )
    return True


def next_profile_spread(tx: Tx) -> tuple[str, str] | None:
    """(user, room) of a member event that still shows an old profile."""
    row = tx.one("SELECT user_id, room_id FROM profile_spreads LIMIT 1")
    return (row[0], row[1]) if row is not None else None


def drop_profile_spread(tx: Tx, user_id: str, room_id: str) -> None:
    tx.execute("DELETE FROM profile_spreads WHERE user_id = ? AND room_id = ?", (user_id, room_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundUser:
    """One result of a search in the user directory."""

    user_id: str
    display_name: str | None
    avatar_url: str | None

    def to_json(self) -> dict[str, str]:
        fields = {"user_id": self.user_id, "display_name": self.display_name, "avatar_url": self.avatar_url}
        return {name: value for name, value in fields.items() if value is not None}


def search_local_users(tx: Tx, term: str, limit: int) -> list[FoundUser]:
    """Accounts of this node whose ID or display name contains `term`, whatever the case."""
    rows = tx.execute("SELECT user_id, displayname, avatar_url FROM users WHERE deactivated = 0 ORDER BY user_id")
    return _matching(rows, term, limit)


def search_room_mates(tx: Tx, user_id: str, term: str, limit: int) -> list[FoundUser]:
    """Users, local or not, who are joined to a room that `user_id` is joined to."""
    rows = tx.execute(
        "SELECT their.state_key, CAST(events.raw AS TEXT) FROM local_memberships AS own"
        " JOIN current_state AS their ON their.room_id = own.room_id AND their.type = 'm.room.member'"
        "   AND their.membership = 'join'"
        " JOIN events ON events.event_id = their.event_id"
        " WHERE own.user_id = ? AND own.membership = 'join' ORDER BY events.position DESC",
        (user_id,),
    )

    def shown() -> Iterator[tuple[str, str | None, str | None]]:
        seen: set[str] = set()
        for mate, raw in rows:
            if mate not in seen:
                seen.add(mate)
                content = json.loads(raw).get("content", {})
                name, avatar = content.get("displayname"), content.get("avatar_url")
                yield mate, name if isinstance(name, str) else None, avatar if is_media_uri(avatar) else None

    return _matching(shown(), term, limit)


def _matching(rows: Iterable[tuple[str, str | None, str | None]], term: str, limit: int) -> list[FoundUser]:
    wanted = term.casefold()
    found: list[FoundUser] = []
    for user_id, display_name, avatar_url in rows:
        if wanted in user_id.casefold() or wanted in (display_name or "").casefold():
            found.append(FoundUser(user_id=user_id, display_name=display_name, avatar_url=avatar_url))
            if len(found) >= limit:
                break
    return found
