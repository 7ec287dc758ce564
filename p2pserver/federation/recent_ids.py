"""A bounded memory of event IDs: the oldest are forgotten first."""

from __future__ import annotations

from collections.abc import Iterable


class RecentIds:
    """The last `most` distinct IDs that were added; adding one again makes it young."""

    __slots__ = ("_ids", "_most")

    def __init__(self, most: int) -> None:
        self._ids: dict[str, None] = {}
        self._most = most

    def __contains__(self, event_id: object) -> bool:
        return event_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def discard(self, event_ids: Iterable[str]) -> None:
        for event_id in event_ids:
            self._ids.pop(event_id, None)

    def add(self, event_ids: Iterable[str]) -> list[str]:
        """Remembers the IDs; returns those that were not known, each once, in order."""
        new = []
        for event_id in event_ids:
            if event_id in self._ids:
                del self._ids[event_id]
            else:
                new.append(event_id)
            self._ids[event_id] = None
        while len(self._ids) > self._most:
            del self._ids[next(iter(self._ids))]
        return new
