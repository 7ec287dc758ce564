"""Where the walks through spaces stand, between two pages of `GET /hierarchy`. Forgotten when the node ends."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

WALKS_MAX = 64
"""Walks that are remembered; the one that was used longest ago gives way."""
TOLD_OCTETS_MAX = 512 * 1024
"""Of what others said, for one walk."""


@dataclass(slots=True)
class SpaceWalk:
    """How far one user's walk through one space has come."""

    user_id: str
    room_id: str
    suggested_only: bool
    max_depth: int | None
    queue: list[tuple[str, int, list[str]]]
    """(room, depth, servers to ask) still to be visited, the next one last."""
    seen: set[str] = field(default_factory=set)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What other servers said of children when they were asked for the parent."""
    told_octets: int = 0

    def note(self, summary: dict[str, Any]) -> None:
        """Keeps what was said of a child in passing, as long as it is not too much in all."""
        octets = len(json.dumps(summary))
        if summary["room_id"] not in self.told and self.told_octets + octets <= TOLD_OCTETS_MAX:
            self.told[summary["room_id"]] = summary
            self.told_octets += octets


class SpaceWalks:
    """The walks that clients may go on with, by token; one object per node."""

    def __init__(self) -> None:
        self._walks: OrderedDict[str, SpaceWalk] = OrderedDict()

    def keep(self, token: str, walk: SpaceWalk) -> None:
        self._walks[token] = walk
        while len(self._walks) > WALKS_MAX:
            self._walks.popitem(last=False)

    def get(self, token: str) -> SpaceWalk | None:
        walk = self._walks.get(token)
        if walk is not None:
            self._walks.move_to_end(token)
        return walk
