"""Request rates that operators gave single users."""

from __future__ import annotations

from p2pserver.store.tx import Tx


def rate_override(tx: Tx, user_id: str) -> tuple[float, int] | None:
    """(requests a second, at once); 0 a second: as many as he likes. None: the rates of everybody."""
    row = tx.one("SELECT per_second, burst FROM rate_overrides WHERE user_id = ?", (user_id,))
    return None if row is None else (row[0], row[1])


def set_rate_override(tx: Tx, user_id: str, rate: tuple[float, int] | None) -> None:
    tx.execute("DELETE FROM rate_overrides WHERE user_id = ?", (user_id,))
    if rate is not None:
        tx.execute("INSERT INTO rate_overrides (user_id, per_second, burst) VALUES (?, ?, ?)", (user_id, *rate))
