"""The nodes that this one knows, by key: their names, who may not talk, and which of two pipes to one node stays.

Pure: keys, times and decisions; the pipes themselves are the node's. One key has one name: the first that was heard.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

TOGETHER_S: Final = 10.0
"""Two pipes that began within this time are taken for two dials at once; otherwise the older one is taken for dead."""
PENALTIES_MAX: Final = 1024
NAMES_MAX: Final = 16_384
PLACES_MAX: Final = 2_048
RUNS_MAX: Final = 8
"""Of one key, remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipeFacts:
    """What the choice between two pipes to one node depends on."""

    transport: int
    """Which of the node's transports it is of."""
    initiated_here: bool
    since: float
    """When the peer was authenticated on it, in seconds."""


def newer_stays(own_key: bytes, peer_key: bytes, *, old: PipeFacts, new: PipeFacts) -> bool:
    """Whether, of two pipes of one transport, the newer stays. Both ends decide alike.

    When both nodes dial at once, the pipe stays whose initiator has the smaller key. When one node dials again, or long
    after, the older pipe is dead and it knows: the newer stays.
    """
    if new.since - old.since > TOGETHER_S or new.initiated_here == old.initiated_here:
        return True
    return new.initiated_here == (own_key < peer_key)


class Neighbors:
    """Names, blocks and penalties of keys."""

    def __init__(self, own_key: bytes) -> None:
        self.own_key = own_key
        self._name_of: dict[bytes, str] = {}
        self._blocked: frozenset[bytes] = frozenset()
        self._penalty_until: dict[bytes, float] = {}
        self._key_at: dict[tuple[str, bytes | str], bytes] = {}
        """By kind of transport and instance id or address: whose key was proved there last."""

    def name_of(self, key: bytes) -> str | None:
        return self._name_of.get(key)

    def remember_name(self, key: bytes, server_name: str) -> None:
        """The first name of a key is its name for ever."""
        self._name_of.setdefault(key, server_name)
        while len(self._name_of) > NAMES_MAX:
            del self._name_of[next(iter(self._name_of))]

    def met_at(self, key: bytes, kind: str, places: Collection[bytes | str]) -> None:
        """A node proved its key on a link whose other end is known by these: an instance id, an address."""
        for place in places:
            self._key_at.pop((kind, place), None)
            self._key_at[kind, place] = key
        while len(self._key_at) > PLACES_MAX:
            del self._key_at[next(iter(self._key_at))]

    def expected_at(self, kind: str, places: Collection[bytes | str]) -> bytes | None:
        """Who is probably there, by the first place that is known: a guess that saves a round trip if it is right."""
        return next((key for place in places if (key := self._key_at.get((kind, place))) is not None), None)

    def block_only(self, keys: Collection[bytes]) -> frozenset[bytes]:
        """Replaces the list of blocked keys; returns those that are new on it."""
        before, self._blocked = self._blocked, frozenset(keys)
        return self._blocked - before

    def punish(self, key: bytes, until: float) -> None:
        """A node that broke the protocol is not talked to for a while, so that dialing it again costs little."""
        self._penalty_until.pop(key, None)
        self._penalty_until[key] = until
        while len(self._penalty_until) > PENALTIES_MAX:
            del self._penalty_until[next(iter(self._penalty_until))]

    def may_talk(self, key: bytes, now: float) -> bool:
        """Whether a node with this key may talk to us now."""
        if key == self.own_key or key in self._blocked:
            return False
        return self._penalty_until.get(key, float("-inf")) <= now


class RunsHeard:
    """Of which process each node was heard, to notice that two processes have one key.

    A node that starts again is another process, and the one before never comes back.
    """

    def __init__(self) -> None:
        self._runs: dict[bytes, list[bytes]] = {}

    def is_back(self, key: bytes, run: bytes) -> bool:
        """Whether a process was heard again after another one of the same key: both live."""
        runs = self._runs.pop(key, [])
        is_back = run in runs[:-1]
        self._runs[key] = [*(each for each in runs if each != run), run][-RUNS_MAX:]
        while len(self._runs) > NAMES_MAX:
            del self._runs[next(iter(self._runs))]
        return is_back
