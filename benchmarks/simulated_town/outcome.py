"""How large a town is, and what it came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from p2pserver.rooms.values import RoomDigest


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large a town, and how long."""

    people: int = 100
    hostile: int = 33
    days: int = 7
    user_events: int = 2_080
    lies: int = 230
    cuts: int = 20
    guests: int = 15
    bans: int = 8
    more_days_max: int = 6

    def for_days(self, days: int) -> Scale:
        """As much on each day, for another number of days."""
        share = days / self.days
        return replace(
            self,
            days=days,
            user_events=round(self.user_events * share),
            lies=round(self.lies * share),
            cuts=max(1, round(self.cuts * share)),
        )


FULL = Scale()
SHORT = Scale(people=15, hostile=5, days=1, user_events=60, lies=42, cuts=3, guests=3, bans=2)


class Disagreement(AssertionError):
    """The honest nodes do not hold the same room at the end."""


@dataclass(slots=True)
class Outcome:
    """What a town came to. All but the last three fields follow from the seed."""

    scale: Scale
    seed: int
    users_did: Counter[str] = field(default_factory=Counter)
    users_refused: Counter[str] = field(default_factory=Counter)
    lies_told: Counter[str] = field(default_factory=Counter)
    hostile_verdicts: dict[str, Counter[str]] = field(default_factory=dict)
    events: int = 0
    events_by_verdict: Counter[str] = field(default_factory=Counter)
    contacts: int = 0
    cuts: int = 0
    datagrams: int = 0
    datagrams_lost: int = 0
    octets: int = 0
    agreed_after_s: list[float] = field(default_factory=list)
    healing_events: int = 0
    sec: str = ""
    operational: str = ""
    errors: list[str] = field(default_factory=list)
    checks: tuple[int, int] = (0, 0)
    """On receipt, and how many of them another node had made."""
    resolutions: tuple[int, int] = (0, 0)
    """Of states, likewise."""
    cpu_s: list[float] = field(default_factory=list)
    """Of each process."""
    waited_s: list[float] = field(default_factory=list)
    """Of real time, each process for the other."""
    wall_s: float = 0.0
    memory_mib: int = 0

    @property
    def hostile_events(self) -> int:
        return sum(counts.total() for counts in self.hostile_verdicts.values())

    def repeatable(self) -> tuple[Any, ...]:
        """What two runs of one seed have in common."""
        return (
            self.sec,
            self.operational,
            self.events,
            self.contacts,
            self.datagrams,
            self.octets,
            tuple(self.agreed_after_s),
            sorted(self.users_did.items()),
        )

    def add(self, other: Outcome) -> None:
        """What was counted on the other bank."""
        for ours, theirs in (
            (self.users_did, other.users_did),
            (self.users_refused, other.users_refused),
            (self.lies_told, other.lies_told),
        ):
            ours.update(theirs)
        self.contacts += other.contacts
        self.datagrams += other.datagrams
        self.datagrams_lost += other.datagrams_lost
        self.octets += other.octets
        self.agreed_after_s = sorted((*self.agreed_after_s, *other.agreed_after_s))
        self.errors = [*self.errors, *other.errors]
        self.checks = (self.checks[0] + other.checks[0], self.checks[1] + other.checks[1])
        self.resolutions = (
            self.resolutions[0] + other.resolutions[0],
            self.resolutions[1] + other.resolutions[1],
        )
        self.cpu_s += other.cpu_s
        self.waited_s += other.waited_s
        self.memory_mib += other.memory_mib


def describe(digests: Sequence[RoomDigest | None]) -> str:
    shown = Counter(
        "not complete" if digest is None else f"{digest.events} events {digest.sec.hex()[:8]}" for digest in digests
    )
    return ", ".join(f"{count} nodes with {what}" for what, count in shown.most_common(6))
