"""Registration tokens that operators hand out: how often each may be used, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from p2pserver.store.tx import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationToken:
    """`uses_allowed` and `expires_ms` (wall clock) are None where there is no bound."""

    token: str
    uses_allowed: int | None
    completed: int
    expires_ms: int | None

    def is_valid(self, now_ms: int) -> bool:
        has_uses = self.uses_allowed is None or self.completed < self.uses_allowed
        return has_uses and (self.expires_ms is None or now_ms < self.expires_ms)

    def to_json(self) -> dict[str, Any]:
        """As operators' tools read it. Registration here has one stage, so that none is ever pending."""
        return {
            "token": self.token,
            "uses_allowed": self.uses_allowed,
            "pending": 0,
            "completed": self.completed,
            "expiry_time": self.expires_ms,
        }


def registration_tokens(tx: Tx) -> list[RegistrationToken]:
    rows = tx.all("SELECT token, uses_allowed, completed, expires_ms FROM registration_tokens ORDER BY token")
    return [_token(row) for row in rows]


def registration_token(tx: Tx, token: str) -> RegistrationToken | None:
    row = tx.one("SELECT token, uses_allowed, completed, expires_ms FROM registration_tokens WHERE token = ?", (token,))
    return None if row is None else _token(row)


def put_registration_token(tx: Tx, token: str, *, uses_allowed: int | None, expires_ms: int | None) -> None:
    """Makes a token, or changes its bounds; how often it was used stays."""
    tx.execute(
        "INSERT INTO registration_tokens (token, uses_allowed, expires_ms) VALUES (?, ?, ?)"
        " ON CONFLICT (token) DO UPDATE SET uses_allowed = excluded.uses_allowed, expires_ms = excluded.expires_ms",
        (token, uses_allowed, expires_ms),
    )


def delete_registration_token(tx: Tx, token: str) -> bool:
    """False: there is no such token."""
    return tx.execute("DELETE FROM registration_tokens WHERE token = ?", (token,)).rowcount > 0


def use_registration_token(tx: Tx, token: str, *, now_ms: int) -> bool:
    """Counts a registration; False, if the token does not allow one more."""
    found = registration_token(tx, token)
    if found is None or not found.is_valid(now_ms):
        return False
    tx.execute("UPDATE registration_tokens SET completed = completed + 1 WHERE token = ?", (token,))
    return True


def _token(row: tuple[Any, ...]) -> RegistrationToken:
    return RegistrationToken(token=row[0], uses_allowed=row[1], completed=row[2], expires_ms=row[3])
