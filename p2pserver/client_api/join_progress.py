"""How far a join has come, and how long it will take: octets still to come over the rate measured so far."""

from __future__ import annotations

from dataclasses import dataclass

TELL_S = 5.0
"""A join that takes less is not worth a word; of a longer one people hear so often."""


@dataclass(frozen=True, slots=True)
class JoinProgress:
    """`octets` of `octets_all` of the answer of `server` are here. `seconds_left` is None when the join is done."""

    user_id: str
    room_id: str
    server: str
    octets: int
    octets_all: int
    seconds_left: float | None

    @property
    def percent(self) -> int:
        return 100 * self.octets // max(1, self.octets_all)


class Meter:
    """Measures one answer. The rate counts from the first part on: what came before it was not this answer."""

    def __init__(self, now_s: float) -> None:
        self._began_s = now_s
        self._first: tuple[int, float] | None = None
        self._told_s: float | None = None

    def seconds_left(self, octets: int, octets_all: int, now_s: float) -> float:
        if self._first is None:
            self._first = (octets, now_s)
            rate = octets / max(now_s - self._began_s, 0.001)
        else:
            first_octets, first_s = self._first
            rate = (octets - first_octets) / max(now_s - first_s, 0.001)
        return (octets_all - octets) / rate if rate > 0 else float(octets_all)

    def is_worth_telling(self, seconds_left: float, now_s: float) -> bool:
        """At most every `TELL_S`, and never of a join that is quick."""
        due = now_s - self._told_s >= TELL_S if self._told_s is not None else seconds_left >= TELL_S
        if due:
            self._told_s = now_s
        return due

    @property
    def has_told(self) -> bool:
        return self._told_s is not None
