"""Application services: bridges and bots with a registration, as the node knows them while it runs.

A registration says which users, rooms and aliases are a service's own or of interest to it, and by which tokens the two
know each other. Source: application service API, "Registration"; MSC2409, MSC3202.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from p2pserver.identifiers import server_of
from p2pserver.store.accounts import is_name_taken
from p2pserver.store.tx import Tx

IDENTIFIER_CHARACTERS_MAX: Final = 255
MATCHES_KEPT: Final = 20_000


@dataclass(frozen=True, slots=True)
class Namespace:
    """Identifiers that begin with what the pattern matches."""

    pattern: re.Pattern[str]
    exclusive: bool

    def has(self, identifier: str) -> bool:
        return _matches(self.pattern, identifier)


@lru_cache(maxsize=MATCHES_KEPT)
def _matches(pattern: re.Pattern[str], identifier: str) -> bool:
    return len(identifier) <= IDENTIFIER_CHARACTERS_MAX and pattern.match(identifier) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class AppService:
    """One registration."""

    service_id: str
    url: str | None
    """Where it listens, without a slash at the end; None: it is sent nothing."""
    as_token: str
    """What it shows to the node."""
    hs_token: str
    """What the node shows to it."""
    sender: str
    """The user ID that its requests are of when they name no other."""
    rate_limited: bool = True
    """Whether its users are slowed down as others are; its sender never is."""
    users: tuple[Namespace, ...] = ()
    rooms: tuple[Namespace, ...] = ()
    aliases: tuple[Namespace, ...] = ()
    protocols: tuple[str, ...] = ()
    wants_ephemeral: bool = False
    """Typing, receipts, presence and to-device messages are sent to it (MSC2409)."""
    wants_encryption: bool = False
    """Device lists and counts of one-time keys are sent to it (MSC3202)."""

    def has_user(self, user_id: str) -> bool:
        """Whether it speaks for this user of this node, or is interested in him."""
        return user_id == self.sender or any(each.has(user_id) for each in self.users)

    def may_act_as(self, user_id: str) -> bool:
        return server_of(user_id) == server_of(self.sender) and self.has_user(user_id)

    def owns_user(self, user_id: str) -> bool:
        """Whether nobody else may be this user."""
        return user_id == self.sender or any(each.exclusive and each.has(user_id) for each in self.users)

    def has_room(self, room_id: str) -> bool:
        return any(each.has(room_id) for each in self.rooms)

    def has_alias(self, alias: str) -> bool:
        return any(each.has(alias) for each in self.aliases)

    def owns_alias(self, alias: str) -> bool:
        return any(each.exclusive and each.has(alias) for each in self.aliases)


class AppServices:
    """All services of a node."""

    def __init__(self, services: Iterable[AppService] = ()) -> None:
        self.all: Sequence[AppService] = tuple(services)
        self._by_token = {_digest(each.as_token): each for each in self.all}

    def by_token(self, token: str) -> AppService | None:
        """Whose `as_token` it is. Compared by digest, so that the time says nothing of a token."""
        return self._by_token.get(_digest(token)) if self._by_token else None

    def is_taken_user(self, user_id: str, *, by: AppService | None = None) -> bool:
        """Whether the user belongs to a service other than the one that asks."""
        return any(each is not by and each.owns_user(user_id) for each in self.all)

    def is_taken_alias(self, alias: str, *, by: AppService | None = None) -> bool:
        return any(each is not by and each.owns_alias(alias) for each in self.all)


def is_to_come(tx: Tx, services: AppServices, user_id: str) -> bool:
    """Whether the user does not exist yet, and the service that he belongs to may make him when somebody wants him."""
    return services.is_taken_user(user_id) and not is_name_taken(tx, user_id)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
