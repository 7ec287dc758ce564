"""The SEC digest: one number for everything that two correct nodes with the same events must agree on.

SEC is strong eventual consistency. The digest covers every event with its verdict and the states before and after it,
and the resolution over all accepted leaves. It leaves out what depends on the order of arrival: soft failures, and the
current state that follows from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from p2pserver.meg.state import StateMap


@dataclass(frozen=True, slots=True)
class DigestEntry:
    """One event of a complete room. A rejected event's `state_after` is its `state_before`."""

    event_id: str
    rejected: bool
    state_before: StateMap
    state_after: StateMap


def state_digest(state: StateMap) -> bytes:
    """32 octets: SHA-256 of the sorted slots with their events; every text is led by its length in octets."""
    digest = hashlib.sha256()
    for (event_type, state_key), event_id in sorted(state.items()):
        for text in (event_type, state_key, event_id):
            octets = text.encode("utf-8", "surrogatepass")
            digest.update(len(octets).to_bytes(4, "big"))
            digest.update(octets)
    return digest.digest()


def sec_digest(entries: Iterable[DigestEntry], resolution: StateMap) -> bytes:
    """32 octets: SHA-256 over all entries in the order of their event IDs, then the resolution over accepted leaves.

    State maps that are one object are hashed once, so that callers who keep states in groups pay for the groups.
    """
    ordered = sorted(entries, key=lambda entry: entry.event_id)
    known: dict[int, bytes] = {}

    def digest_of(state: StateMap) -> bytes:
        if id(state) not in known:
            known[id(state)] = state_digest(state)
        return known[id(state)]

    digest = hashlib.sha256()
    for entry in ordered:
        octets = entry.event_id.encode("utf-8", "surrogatepass")
        digest.update(len(octets).to_bytes(4, "big"))
        digest.update(octets)
        digest.update(b"\x01" if entry.rejected else b"\x00")
        digest.update(digest_of(entry.state_before))
        digest.update(digest_of(entry.state_after))
    digest.update(b"resolution")
    digest.update(digest_of(resolution))
    return digest.digest()
