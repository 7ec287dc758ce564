"""Who dials whom, and when. Pure: times and randomness are arguments.

Both sides advertise and scan. Of two that know each other's short id the one with the lower id dials; the other waits
10 to 15 s and then dials as well, for the first may be unable to. A neighbor without an id in its advertisement is
dialed after up to 3 s: who it is stands in INFO, and one that turns out to be linked already is left alone. Short ids
are hints that rotate and may be lies; addresses rotate too, so nothing is keyed by an address where there is an id.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from transports.contract import DiscoveredService, ServiceState

NEIGHBORS_MAX = 256
FORGOTTEN_S = 900.0
"""The usual life of a resolvable private address: after it an address says nothing about who is behind it."""
FRESH_S = 20.0
"""Who was not heard for longer is not dialed: the adapter would wait for it and could do nothing else."""

POLITE_S = 10.0
POLITE_JITTER_S = 5.0
UNKNOWN_JITTER_S = 3.0
UNKNOWN_AGAIN_S = 60.0
BACK_OFF_FIRST_S = 2.0
BACK_OFF_MAX_S = 120.0
LASTED_S = 60.0
"""A link that lived this long clears the back-off."""

DIALS_PER_MIN = 20
"""A flood of invented advertisements cannot make the adapter do nothing but dial."""


@dataclass(slots=True, eq=False)
class Neighbor:
    """Somebody who advertises."""

    address: str
    short_id: bytes | None
    seen_at: float
    due_at: float
    failures: int = 0
    ever_linked: bool = False
    heard_since: bool = True
    """Whether it was heard after the last dial or link ended."""
    state: ServiceState = ServiceState.WAITING
    last_error: str | None = None


class TokenBucket:
    """At most `burst` at once, and `per_min` over a long time."""

    def __init__(self, per_min: float, burst: float) -> None:
        self._per_s, self._burst = per_min / 60, burst
        self._level, self._at = burst, float("-inf")

    def take(self, now: float) -> bool:
        self._refill(now)
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def next_at(self, now: float) -> float:
        """When there will be one."""
        self._refill(now)
        return now + max(0.0, 1 - self._level) / self._per_s

    def _refill(self, now: float) -> None:
        if now > self._at:
            elapsed = now - self._at
            self._level = min(self._burst, self._level + elapsed * self._per_s) if elapsed < 1e9 else self._burst
            self._at = now


class Roles:
    """The neighbors in earshot, and whose turn it is to dial."""

    def __init__(self, own_id: bytes, rng: random.Random, *, accepts: bool) -> None:
        """`accepts`: whether the others can dial us; if not, nobody is waited for."""
        self.own_id = own_id
        self.accepts = accepts
        self._rng = rng
        self._neighbors: dict[bytes | str, Neighbor] = {}
        self._id_of: dict[str, tuple[bytes, float]] = {}
        self._linked: dict[bytes, int] = {}
        self._dials = TokenBucket(DIALS_PER_MIN, DIALS_PER_MIN / 2)

    # what is heard

    def seen(self, address: str, short_id: bytes | None, now: float) -> bool:
        """An advertisement. Returns whether the next dial may have changed."""
        if short_id is None:
            known, until = self._id_of.get(address, (None, 0.0))
            short_id = known if until > now else None
        if short_id == self.own_id:
            return False
        neighbor = self._neighbors.get(short_id or address)
        if neighbor is not None:
            neighbor.address, neighbor.seen_at = address, now
            changed, neighbor.heard_since = not neighbor.heard_since, True
            return changed
        if len(self._neighbors) >= NEIGHBORS_MAX and not self._make_room(now):
            return False
        neighbor = Neighbor(address, short_id, now, now + self._patience_s(short_id))
        if short_id is not None and short_id in self._linked:
            neighbor.state, neighbor.ever_linked = ServiceState.LINKED, True
        self._neighbors[short_id or address] = neighbor
        return True

    def _patience_s(self, short_id: bytes | None) -> float:
        if short_id is None:
            return self._rng.uniform(0, UNKNOWN_JITTER_S)
        if self.own_id < short_id or not self.accepts:
            return 0.0
        return POLITE_S + self._rng.uniform(0, POLITE_JITTER_S)

    def _make_room(self, now: float) -> bool:
        """Drops who was not heard for long, else one who was never linked, by chance."""
        strangers = [key for key, neighbor in self._neighbors.items() if not neighbor.ever_linked]
        old = [key for key, neighbor in self._neighbors.items() if now - neighbor.seen_at > FORGOTTEN_S]
        if not (old or strangers):
            return False
        del self._neighbors[self._rng.choice(old or strangers)]
        return True

    # whose turn it is

    def next_dial(self, now: float, linked_addresses: Iterable[str] = ()) -> Neighbor | None:
        """Whom to dial now: of those that are due, who was linked before goes first. Takes a token when it is one."""
        busy = set(linked_addresses)
        due = [neighbor for neighbor in self._dialable(now) if neighbor.due_at <= now and neighbor.address not in busy]
        if not due or not self._dials.take(now):
            return None
        return min(due, key=lambda neighbor: (not neighbor.ever_linked, neighbor.failures, self._rng.random()))

    def next_due(self, now: float) -> float | None:
        """When `next_dial` may have an answer."""
        due = min((neighbor.due_at for neighbor in self._dialable(now)), default=None)
        return None if due is None else max(due, self._dials.next_at(now))

    def _dialable(self, now: float) -> list[Neighbor]:
        return [
            neighbor
            for neighbor in self._neighbors.values()
            if neighbor.heard_since
            and now - neighbor.seen_at <= FRESH_S
            and (neighbor.short_id is None or neighbor.short_id not in self._linked)
        ]

    # what became of it

    def identified(self, neighbor: Neighbor, short_id: bytes, now: float) -> bool:
        """INFO says who that is. Returns whether it is somebody new to us."""
        self._id_of.pop(neighbor.address, None)
        self._id_of[neighbor.address] = (short_id, now + FORGOTTEN_S)
        while len(self._id_of) > NEIGHBORS_MAX:
            del self._id_of[next(iter(self._id_of))]
        if neighbor.short_id != short_id:
            self._neighbors.pop(neighbor.short_id or neighbor.address, None)
            neighbor.short_id = short_id
            self._neighbors[short_id] = neighbor
        if short_id == self.own_id:
            del self._neighbors[short_id]
            return False
        if short_id in self._linked:
            neighbor.state, neighbor.ever_linked = ServiceState.LINKED, True
        return short_id not in self._linked

    def dial_failed(self, neighbor: Neighbor, reason: str, now: float) -> None:
        neighbor.state, neighbor.last_error = ServiceState.FAILED, reason
        neighbor.failures += 1
        self._back_off(neighbor, now)

    def linked(self, short_id: bytes) -> None:
        """A link was made, by whichever side."""
        self._linked[short_id] = self._linked.get(short_id, 0) + 1
        neighbor = self._neighbors.get(short_id)
        if neighbor is not None:
            neighbor.state, neighbor.last_error, neighbor.ever_linked = ServiceState.LINKED, None, True

    def unlinked(self, short_id: bytes, lasted_s: float, now: float) -> None:
        """A link is over."""
        left = self._linked.get(short_id, 1) - 1
        if left > 0:
            self._linked[short_id] = left
            return
        self._linked.pop(short_id, None)
        neighbor = self._neighbors.get(short_id)
        if neighbor is not None:
            neighbor.state = ServiceState.WAITING
            neighbor.failures = 0 if lasted_s >= LASTED_S else neighbor.failures + 1
            self._back_off(neighbor, now)

    def renamed(self, old: bytes, new: bytes) -> None:
        """A linked neighbor goes by another id from now on."""
        count = self._linked.pop(old, 0)
        if count:
            self._linked[new] = self._linked.get(new, 0) + count
        neighbor = self._neighbors.pop(old, None)
        if neighbor is not None:
            neighbor.short_id = new
            self._neighbors[new] = neighbor

    def is_linked(self, short_id: bytes) -> bool:
        return short_id in self._linked

    def _back_off(self, neighbor: Neighbor, now: float) -> None:
        back_off_s = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2.0 ** min(max(neighbor.failures - 1, 0), 10))
        back_off_s *= self._rng.uniform(0.75, 1.25)
        if neighbor.short_id is None:
            back_off_s = max(back_off_s, UNKNOWN_AGAIN_S)
        neighbor.due_at = now + max(back_off_s, self._patience_s(neighbor.short_id))
        neighbor.heard_since = False

    def services(self) -> tuple[DiscoveredService, ...]:
        return tuple(
            DiscoveredService(address=neighbor.address, hint=None, state=neighbor.state, last_error=neighbor.last_error)
            for neighbor in self._neighbors.values()
        )
