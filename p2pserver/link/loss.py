"""How many of the datagrams that one side sends get lost, told from what the other side acknowledged of late."""

from __future__ import annotations

from typing import Final

OUTCOMES: Final = 64
"""Of the latest so many datagrams the estimate is made,"""
VALID_S: Final = 600.0
"""and of none that was older than that."""
FAITH: Final = 8
"""So many datagrams that arrived are taken for granted: one loss among few says little."""


class LossEstimate:
    """Robust to reordering: what was given up too early counts as arrived as soon as it is acknowledged."""

    __slots__ = ("_lost", "_outcomes")

    def __init__(self) -> None:
        self._outcomes: dict[int, tuple[bool, float]] = {}
        """By counter: whether it was lost, and when that was noted; the oldest first."""
        self._lost = 0

    def arrived(self, counter: int, now: float) -> None:
        self._note(counter, now, lost=False)

    def missed(self, counter: int, now: float) -> None:
        self._note(counter, now, lost=True)

    def share(self, now: float) -> float:
        """Of 1: the part that is lost. 0 where nothing is known."""
        while self._outcomes and next(iter(self._outcomes.values()))[1] < now - VALID_S:
            self._forget_oldest()
        return self._lost / (len(self._outcomes) + FAITH)

    def _note(self, counter: int, now: float, *, lost: bool) -> None:
        before, at = self._outcomes.get(counter, (False, now))
        self._outcomes[counter] = lost, at
        self._lost += lost - before
        if len(self._outcomes) > OUTCOMES:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        lost, _ = self._outcomes.pop(next(iter(self._outcomes)))
        self._lost -= lost
