"""Password hashing off the event loop, one at a time: argon2id takes 19 MiB and a good part of a second on a phone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from p2pserver.errors import InvalidParam, LimitExceeded, WeakPassword
from p2pserver.store.accounts import hash_password, password_matches

T = TypeVar("T")
PASSWORD_CHARACTERS_MAX = 512
WAITING_MAX = 64


class PasswordChecks:
    """Queues hashing; refuses when too many wait already. `waiting_max` of None: as many as there come."""

    def __init__(self, *, waiting_max: int | None = WAITING_MAX) -> None:
        self._one = asyncio.Semaphore(1)
        self._waiting_max = waiting_max
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """Raises: WeakPassword, InvalidParam, LimitExceeded."""
        if not password:
            raise WeakPassword("the password is empty")
        if len(password) > PASSWORD_CHARACTERS_MAX:
            raise InvalidParam(f"the password is over {PASSWORD_CHARACTERS_MAX} characters")
        return await self._run(lambda: hash_password(password))

    async def matches(
        self, password_hash: str | None, password: str, *, allowed: Callable[[], None] = lambda: None
    ) -> bool:
        """Whether the password is right. Takes as long for an account that does not exist (`password_hash` is None).

        `allowed` is called when the turn comes, after everything that the check before has led to: guesses that are
        sent at once are counted one by one. Raises: LimitExceeded; what `allowed` raises.
        """
        if len(password) > PASSWORD_CHARACTERS_MAX:
            return False
        return await self._run(lambda: password_matches(password_hash, password), allowed)

    async def _run(self, work: Callable[[], T], allowed: Callable[[], None] = lambda: None) -> T:
        if self._waiting_max is not None and self._waiting >= self._waiting_max:
            raise LimitExceeded("too many logins at once", retry_after_ms=2000)
        self._waiting += 1
        try:
            async with self._one:
                allowed()
                return await asyncio.to_thread(work)
        finally:
            self._waiting -= 1
