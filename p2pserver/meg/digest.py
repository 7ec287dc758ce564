"""The SEC digest: one number for everything that two correct nodes with the same events must agree on.

SEC is strong eventual consistency. The digest covers every event with its verdict and the states before and after it,
and the resolution over all accepted leaves. It leaves out what depends on the order of arrival: soft failures, and the
current state that follows from them.

It grows with the room, event by event: each has a `sec`, a hash over what was decided on it and over the `sec` of its
parents, so that the leaves stand for the whole graph (Merkle, CRYPTO '87). A state is a set of slots, hashed by adding
up a number for each (AdHash: Bellare and Micciancio, EUROCRYPT '97), so that a change costs the slots that change. The
sum is kept modulo 2^2048, because sums that collide are found faster than the modulus suggests (Wagner, CRYPTO 2002:
about 2^90 steps for this one; 2^32 for 256 bits).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from p2pserver.meg.state import StateMap, StateSlot

STATE_SUM_OCTETS = 256
_MODULUS = 1 << (8 * STATE_SUM_OCTETS)


@dataclass(frozen=True, slots=True)
class DigestEntry:
    """One event of a complete room. A rejected event's `state_after` is its `state_before`."""

    event_id: str
    rejected: bool
    state_before: StateMap
    state_after: StateMap
    parents: tuple[str, ...] = ()


# States.


def state_sum(state: StateMap) -> bytes:
    """256 octets: the sum over all slots with their events. Two of them are equal when the states are."""
    return changed_sum(bytes(STATE_SUM_OCTETS), removed={}, added=state)


def changed_sum(total: bytes, *, removed: Mapping[StateSlot, str], added: Mapping[StateSlot, str]) -> bytes:
    """The sum of a state that lacks `removed` and has `added`, from the sum of the one before."""
    number = int.from_bytes(total)
    for slot, event_id in added.items():
        number += _number_of(slot, event_id)
    for slot, event_id in removed.items():
        number -= _number_of(slot, event_id)
    return (number % _MODULUS).to_bytes(STATE_SUM_OCTETS)


def sum_digest(total: bytes) -> bytes:
    """32 octets that stand for a state, from its sum."""
    return hashlib.sha256(total).digest()


def state_digest(state: StateMap) -> bytes:
    """32 octets that stand for a state."""
    return sum_digest(state_sum(state))


@lru_cache(maxsize=2048)
def _number_of(slot: StateSlot, event_id: str) -> int:
    digest = hashlib.shake_256()
    for text in (*slot, event_id):
        digest.update(_led(text))
    return int.from_bytes(digest.digest(STATE_SUM_OCTETS))


# Events and rooms.


def event_sec(
    event_id: str, *, rejected: bool, state_before: bytes, state_after: bytes, parents: Iterable[bytes]
) -> bytes:
    """32 octets for an event and everything that led to it.

    `state_before` and `state_after` are digests of states, `parents` the `sec` of its parents in the same room.
    """
    digest = hashlib.sha256(_led(event_id))
    digest.update(b"\x01" if rejected else b"\x00")
    digest.update(state_before)
    digest.update(state_after)
    for parent in sorted(parents):
        digest.update(parent)
    return digest.digest()


def leaves_digest(leaves: Mapping[str, bytes]) -> bytes:
    """32 octets for all events of a room: `leaves` are the events that none cites, with their `sec`."""
    digest = hashlib.sha256()
    for event_id, sec in sorted(leaves.items()):
        digest.update(_led(event_id))
        digest.update(sec)
    return digest.digest()


def room_sec(leaves: bytes, resolution: bytes) -> bytes:
    """The SEC digest, 32 octets, from the digests of the leaves and of the resolution over the accepted ones."""
    return hashlib.sha256(b"resolution" + leaves + resolution).digest()


def sec_digest(entries: Iterable[DigestEntry], resolution: StateMap) -> bytes:
    """The SEC digest, 32 octets, from every event and every state: what the numbers kept with the events must give.

    Raises: ValueError, if the parents form a circle.
    """
    by_id = {entry.event_id: entry for entry in entries}
    known: dict[int, bytes] = {}

    def digest_of(state: StateMap) -> bytes:
        if id(state) not in known:
            known[id(state)] = state_digest(state)
        return known[id(state)]

    secs: dict[str, bytes] = {}
    for entry in _parents_first(by_id):
        secs[entry.event_id] = event_sec(
            entry.event_id,
            rejected=entry.rejected,
            state_before=digest_of(entry.state_before),
            state_after=digest_of(entry.state_after),
            parents=[secs[parent] for parent in set(entry.parents) if parent in secs],
        )
    cited = {parent for entry in by_id.values() for parent in entry.parents}
    leaves = {event_id: sec for event_id, sec in secs.items() if event_id not in cited}
    return room_sec(leaves_digest(leaves), digest_of(resolution))


def _parents_first(entries: Mapping[str, DigestEntry]) -> list[DigestEntry]:
    waits_for = {each.event_id: len(entries.keys() & set(each.parents)) for each in entries.values()}
    cited_by: dict[str, list[str]] = {event_id: [] for event_id in entries}
    for entry in entries.values():
        for parent in entries.keys() & set(entry.parents):
            cited_by[parent].append(entry.event_id)
    free = deque(event_id for event_id, count in waits_for.items() if count == 0)
    order: list[DigestEntry] = []
    while free:
        entry = entries[free.popleft()]
        order.append(entry)
        for child in cited_by[entry.event_id]:
            waits_for[child] -= 1
            if waits_for[child] == 0:
                free.append(child)
    if len(order) != len(entries):
        raise ValueError("events cite each other in a circle")
    return order


def _led(text: str) -> bytes:
    """A text led by its length in octets, so that two of them never read like two others."""
    octets = text.encode("utf-8", "surrogatepass")
    return len(octets).to_bytes(4, "big") + octets
