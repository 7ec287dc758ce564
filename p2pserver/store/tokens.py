"""Tokens: what a device shows with each request, and what stands in for a password for a short time.

The store holds the SHA-256 of each; a token is 256 random bits, so that nothing is gained by guessing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from p2pserver.store.tx import Tx

SHORT_LIVED_PER_USER_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOwner:
    """Who holds an access token, and what the account may do."""

    user_id: str
    device_id: str
    token_id: int
    last_seen_ms: int | None
    """None: there is no such device; an operator acts in the user's name."""
    expires_ms: int | None
    used: bool
    """Whether it was shown before; until then the token that it replaces still holds."""
    admin: bool
    locked: bool
    suspended: bool
    shadow_banned: bool
    rate: tuple[float, int] | None
    """Requests a second (0: as many as he likes) and at once, where an operator gave the user a rate of his own."""


def token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def owner_of_token(tx: Tx, token: str) -> TokenOwner | None:
    """Whose access token it is, if it is one; also of one that has expired."""
    row = tx.one(
        "SELECT t.user_id, t.device_id, t.token_id, d.last_seen_ms, t.expires_ms, t.used,"
        " u.admin, u.locked, u.suspended, u.shadow_banned, r.per_second, r.burst"
        " FROM access_tokens AS t JOIN users AS u ON u.user_id = t.user_id"
        " LEFT JOIN rate_overrides AS r ON r.user_id = t.user_id"
        " LEFT JOIN devices AS d ON d.user_id = t.user_id AND d.device_id = t.device_id WHERE t.hash = ?",
        (token_hash(token),),
    )
    if row is None:
        return None
    return TokenOwner(
        user_id=row[0],
        device_id=row[1],
        token_id=row[2],
        last_seen_ms=row[3],
        expires_ms=row[4],
        used=bool(row[5]),
        admin=bool(row[6]),
        locked=bool(row[7]),
        suspended=bool(row[8]),
        shadow_banned=bool(row[9]),
        rate=None if row[10] is None else (row[10], row[11]),
    )


def add_token(
    tx: Tx,
    user_id: str,
    device_id: str,
    *,
    token: str,
    expires_ms: int | None = None,
    refresh_token: str | None = None,
    used: bool = True,
) -> None:
    """Gives a device an access token beside those it has, with the refresh token that goes with it."""
    tx.execute(
        "INSERT INTO access_tokens (hash, user_id, device_id, expires_ms, refresh_hash, used)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (
            token_hash(token),
            user_id,
            device_id,
            expires_ms,
            None if refresh_token is None else token_hash(refresh_token),
            int(used),
        ),
    )


def refresh(
    tx: Tx, refresh_token: str, *, token: str, new_refresh_token: str, expires_ms: int
) -> tuple[str, str] | None:
    """Replaces a pair of tokens by a new one; (user, device), or None if the refresh token is not known.

    The old pair holds until the new one is shown: a client that did not get the answer asks once more, and the pair
    that it never saw is void. Source: client-server API, "Refreshing access tokens".
    """
    row = tx.one(
        "SELECT token_id, user_id, device_id FROM access_tokens WHERE refresh_hash = ?", (token_hash(refresh_token),)
    )
    if row is None:
        return None
    token_id, user_id, device_id = row
    note_token_used(tx, user_id, device_id, token_id)
    tx.execute(
        "DELETE FROM access_tokens WHERE user_id = ? AND device_id = ? AND token_id > ?", (user_id, device_id, token_id)
    )
    add_token(tx, user_id, device_id, token=token, expires_ms=expires_ms, refresh_token=new_refresh_token, used=False)
    return user_id, device_id


def note_token_used(tx: Tx, user_id: str, device_id: str, token_id: int) -> None:
    """The device has shown this token, so it has it: what it replaces is void."""
    tx.execute("UPDATE access_tokens SET used = 1 WHERE token_id = ?", (token_id,))
    tx.execute(
        "DELETE FROM access_tokens WHERE user_id = ? AND device_id = ? AND token_id < ?", (user_id, device_id, token_id)
    )


def delete_tokens(tx: Tx, user_id: str, device_id: str | None = None) -> None:
    """Voids the access tokens of one device, or of all."""
    if device_id is None:
        tx.execute("DELETE FROM access_tokens WHERE user_id = ?", (user_id,))
    else:
        tx.execute("DELETE FROM access_tokens WHERE user_id = ? AND device_id = ?", (user_id, device_id))


def delete_other_tokens(tx: Tx, user_id: str, device_id: str | None) -> None:
    """Voids all access tokens of a user but those of one device, also what an operator was given."""
    tx.execute("DELETE FROM access_tokens WHERE user_id = ? AND device_id IS NOT ?", (user_id, device_id))


def drop_login_tokens(tx: Tx, user_id: str) -> None:
    """Voids the login tokens of a user that were not used yet."""
    tx.execute("DELETE FROM short_lived_tokens WHERE user_id = ? AND purpose = 'login'", (user_id,))


def delete_expired_guests(tx: Tx, user_id: str, *, now_ms: int) -> None:
    """Forgets what an operator was given to act in a user's name, once it has expired."""
    tx.execute(
        "DELETE FROM access_tokens WHERE user_id = ? AND expires_ms <= ? AND NOT EXISTS (SELECT 1 FROM devices AS d"
        " WHERE d.user_id = access_tokens.user_id AND d.device_id = access_tokens.device_id)",
        (user_id, now_ms),
    )


def add_short_lived_token(tx: Tx, purpose: str, user_id: str, token: str, *, now_ms: int, lifetime_ms: int) -> None:
    """Keeps a token for `purpose` (`login` or `openid`); the oldest of a user who asks for very many are void."""
    tx.execute("DELETE FROM short_lived_tokens WHERE expires_ms <= ?", (now_ms,))
    tx.execute(
        "DELETE FROM short_lived_tokens WHERE hash IN (SELECT hash FROM short_lived_tokens WHERE user_id = ?"
        " AND purpose = ? ORDER BY expires_ms DESC LIMIT -1 OFFSET ?)",
        (user_id, purpose, SHORT_LIVED_PER_USER_MAX - 1),
    )
    tx.execute(
        "INSERT INTO short_lived_tokens (hash, purpose, user_id, expires_ms) VALUES (?, ?, ?, ?)",
        (token_hash(token), purpose, user_id, now_ms + lifetime_ms),
    )


def user_of_short_lived_token(tx: Tx, purpose: str, token: str, *, now_ms: int) -> str | None:
    """Who was given the token, while it holds."""
    row = tx.one(
        "SELECT user_id FROM short_lived_tokens WHERE hash = ? AND purpose = ? AND expires_ms > ?",
        (token_hash(token), purpose, now_ms),
    )
    return None if row is None else str(row[0])


def take_login_token(tx: Tx, token: str, *, now_ms: int) -> str | None:
    """Who was given the login token, while it holds; it is void from then on."""
    user_id = user_of_short_lived_token(tx, "login", token, now_ms=now_ms)
    tx.execute("DELETE FROM short_lived_tokens WHERE hash = ? AND purpose = 'login'", (token_hash(token),))
    return user_id


def drop_short_lived_tokens(tx: Tx) -> None:
    """None of them is of use any more: some may have been used."""
    tx.execute("DELETE FROM short_lived_tokens")
