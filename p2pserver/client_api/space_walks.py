"""Where the walks through spaces stand, between two pages of `GET /hierarchy`. Forgotten when the node ends."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

WALKS_MAX = 200
"""Walks that are remembered; the one that was used longest ago gives way."""


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
