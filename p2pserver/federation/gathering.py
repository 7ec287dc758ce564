"""Joins what several peerings ask to have broadcast: an event that is owed to several peers on a medium goes out once.

gathering.ask(peer, effect, now)
for gathered in gathering.due(now):                  # at gathering.next_deadline()
    if len(gathered.peers) < 2: ...                  # decline: it is pushed to the one, pairwise
    else: ...                                        # broadcast it, then gathering.was_broadcast(...)
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from p2pserver.federation.effects import Broadcast
from p2pserver.federation.recent_ids import RecentIds

P = TypeVar("P", bound=Hashable)

GATHER_S: Final = 0.1
"""How long after the first peering the others are waited for: all were woken by the same commit."""
LATELY_MAX: Final = 1024
MISSES_KEPT: Final = 0.8
"""What a broadcast before counts beside the last one."""
PARITY_FROM: Final = 0.2
PARITY_UNTIL: Final = 0.02
"""With parity fewer are missed: it stays until nearly none are."""


@dataclass(slots=True)
class Gathered(Generic[P]):
    """One event and the peers that it is owed to."""

    effect: Broadcast
    at: float
    peers: dict[P, None] = field(default_factory=dict)


class Gathering(Generic[P]):
    """What is about to be broadcast on one medium, and what was just now."""

    def __init__(self) -> None:
        self._waiting: dict[str, Gathered[P]] = {}
        self._lately: dict[str, float] = {}
        """By event ID, until when acknowledgements of its broadcast are waited for."""

    def ask(self, peer: P, effect: Broadcast, now: float) -> float | None:
        """Whether it was broadcast just now: then the seconds that acknowledgements still have, else None: it waits."""
        until = self._lately.get(effect.event_id, now)
        if until > now:
            return until - now
        gathered = self._waiting.get(effect.event_id)
        if gathered is None:
            gathered = self._waiting[effect.event_id] = Gathered(effect, now + GATHER_S)
        gathered.peers[peer] = None
        return None

    def was_broadcast(self, event_id: str, *, until: float) -> None:
        self._lately.pop(event_id, None)
        self._lately[event_id] = until
        while len(self._lately) > LATELY_MAX:
            del self._lately[next(iter(self._lately))]

    def due(self, now: float) -> list[Gathered[P]]:
        """What is waited for no longer, in order; it is forgotten here."""
        due = [gathered for gathered in self._waiting.values() if gathered.at <= now]
        for gathered in due:
            del self._waiting[gathered.effect.event_id]
        return due

    def next_deadline(self) -> float | None:
        return min((gathered.at for gathered in self._waiting.values()), default=None)

    def clear(self) -> list[Gathered[P]]:
        """Everything that waits, though it is not due."""
        waiting, self._waiting = list(self._waiting.values()), {}
        return waiting


class Misses:
    """How many of the neighbors that an event was broadcast for did not acknowledge it, lately: whether parity pays."""

    def __init__(self) -> None:
        self._sent = 0.0
        self._missed = 0.0
        self._lately = RecentIds(LATELY_MAX)
        self.need_parity = False

    def sent(self, event_id: str, peers: int) -> None:
        self._decide()
        self._sent = self._sent * MISSES_KEPT + peers
        self._missed *= MISSES_KEPT
        self._lately.add((event_id,))

    def asked_again(self, event_id: str) -> None:
        """A peering asks for a broadcast: for the second time, if there was one."""
        if event_id in self._lately:
            self._missed += 1.0

    def _decide(self) -> None:
        if self._sent:
            missed = self._missed / self._sent
            self.need_parity = missed > (PARITY_UNTIL if self.need_parity else PARITY_FROM)
