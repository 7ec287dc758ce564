"""When a node tells all who share a medium where it stands in a room, so that who missed a broadcast asks for it.

A while after a room grew one beacon is broadcast, by whoever of those that heard it drew the shortest wait: the others,
who would say the same, keep silent. Who stands elsewhere compares with the sender, pairwise. A beacon is a hint: a
forged one costs a comparison.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

ROOMS_MAX: Final = 1024
COMPARED_MAX: Final = 1024


@dataclass(slots=True)
class _Grown:
    due_at: float
    heard: bytes | None = None
    """The last digest of the room that somebody broadcast since then."""


class MediumBeacons:
    """The beacons of one node on one medium."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._grown: dict[str, _Grown] = {}
        self._compared: dict[tuple[bytes, str], float] = {}

    def grew(self, room_id: str, now: float, *, wait_s: float) -> None:
        """Events of the room went over the medium; a beacon is due after one to two times `wait_s`."""
        grown = self._grown.get(room_id)
        if grown is not None:
            grown.heard = None
        elif len(self._grown) < ROOMS_MAX:
            self._grown[room_id] = _Grown(now + wait_s * self._rng.uniform(1.0, 2.0))

    def heard(self, room_id: str, digest: bytes) -> None:
        """Somebody said where it stands."""
        grown = self._grown.get(room_id)
        if grown is not None:
            grown.heard = digest

    def due(self, now: float) -> dict[str, bytes | None]:
        """Rooms to tell of, each with the digest that need not be told again. They are forgotten here."""
        due = {room_id: grown.heard for room_id, grown in self._grown.items() if grown.due_at <= now}
        for room_id in due:
            del self._grown[room_id]
        return due

    def next_deadline(self) -> float | None:
        return min((grown.due_at for grown in self._grown.values()), default=None)

    def may_compare(self, peer: bytes, room_id: str, now: float, *, again_after_s: float) -> bool:
        """Whether a beacon of that peer's may cause a comparison: not again so soon."""
        if self._compared.get((peer, room_id), float("-inf")) + again_after_s > now:
            return False
        self._compared.pop((peer, room_id), None)
        self._compared[peer, room_id] = now
        while len(self._compared) > COMPARED_MAX:
            del self._compared[next(iter(self._compared))]
        return True
