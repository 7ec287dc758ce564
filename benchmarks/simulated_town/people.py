"""Where the people of the town are: at home, at work, at the market. Drawn from a seed, day by day."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from transports.sim import LinkConditions

DAY_S = 86_400
HOUR_S = 3_600

INDOORS = LinkConditions(
    loss=0.02, delay_ms_mean=8, jitter_ms=6, bit_rate=2_000_000, datagram_octets_max=1_200, duplication=0.01
)
"""Like Wi-Fi at home or at work."""
OUTDOORS = LinkConditions(
    loss=0.1, delay_ms_mean=60, jitter_ms=50, bit_rate=250_000, datagram_octets_max=1_200, duplication=0.02
)
"""Like a busy radio."""

RIVER = LinkConditions(
    loss=0.1, delay_ms_mean=2_000, jitter_ms=500, bit_rate=250_000, datagram_octets_max=1_200, duplication=0.02
)
"""A radio with a relay that takes its time, from bank to bank."""

RANGE_M = {"home": 12.0, "work": 12.0, "market": 15.0}
SIZE_M = {"home": 8.0, "work": 22.0, "market": 50.0}
LINKS_MAX = 4
"""A device keeps the links to its nearest neighbors."""
RIVER_HOURS = (7.0, 12.5, 17.0, 20.0)
"""When people of both banks meet at the river, in the hour of the day."""
RIVER_S = 1_200
"""So long. The simulations of the two banks take turns meanwhile, in small steps; else neither waits for the other."""
RIVER_SHARE = 20
"""One in so many of the town talks over the river at a time, from each bank."""


@dataclass(frozen=True, slots=True)
class Person:
    """`district` is where the home is; a district can be cut off. `bank` is 0 or, beyond the river, 1."""

    name: str
    home: str
    work: str
    district: int
    bank: int = 0

    @property
    def market(self) -> str:
        return _on_bank("market", self.bank)


@dataclass(frozen=True, slots=True)
class Cut:
    """These people reach only each other, and the others only the others, for a while."""

    people: frozenset[str]
    begins_s: float
    ends_s: float

    def parts(self, one: str, other: str, at_s: float) -> bool:
        return self.begins_s <= at_s < self.ends_s and (one in self.people) != (other in self.people)


@dataclass(slots=True)
class Town:
    """Who lives where, and what is cut off when."""

    seed: int
    banks: int = 1
    people: dict[str, Person] = field(default_factory=dict)
    cuts: list[Cut] = field(default_factory=list)
    _rivers: dict[tuple[int, float], list[tuple[str, str]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, names: Sequence[str], *, seed: int, district_people: int = 20, work_people: int = 8, banks: int = 1
    ) -> Town:
        """`banks`: 2, if a river divides the town, and who lives on one bank works and goes to market there."""
        rng = random.Random(f"town {seed}")
        town = cls(seed, banks)
        homes: list[str] = []
        while len(homes) < len(names):
            homes += [f"home {len(homes)}"] * rng.choice((1, 2, 2, 3, 4))
        works = [f"work {number // (work_people * banks)}" for number in range(len(names))]
        rng.shuffle(works)
        order = list(names)
        rng.shuffle(order)
        for number, name in enumerate(order):
            bank = number * banks // len(order)
            home, work = (_on_bank(place, bank) for place in (homes[number], works[number]))
            town.people[name] = Person(name, home, work, number // district_people, bank)
        return town

    def on_bank(self, bank: int) -> list[str]:
        return sorted(name for name, person in self.people.items() if person.bank == bank)

    def draw_cuts(self, count: int, *, ends_s: float) -> None:
        """Cuts of a district or of a random part, from one to 36 hours; the last ends at `ends_s`."""
        rng = random.Random(f"cuts {self.seed}")
        districts = sorted({person.district for person in self.people.values()})
        for number in range(count):
            if rng.random() < 0.7 and len(districts) > 1:
                district = rng.choice(districts)
                people = {person.name for person in self.people.values() if person.district == district}
            else:
                people = set(rng.sample(sorted(self.people), max(1, len(self.people) // 4)))
            longest_s = min(36.0 * HOUR_S, ends_s / 2)
            length_s = rng.uniform(HOUR_S, longest_s)
            begins_s = rng.uniform(0.05, 1.0) * (ends_s - length_s)
            if number == count - 1:
                begins_s = ends_s - length_s
            self.cuts.append(Cut(frozenset(people), begins_s, begins_s + length_s))

    def place(self, name: str, at_s: float) -> tuple[str, float, float] | None:
        """(place, x, y in meters); None on the way and asleep, when the device's radio is off."""
        day, second = divmod(at_s, DAY_S)
        hour = second / HOUR_S
        if any(name in pair for pair in self.at_river(at_s)):
            return "river", 0.0, 0.0
        for begins, ends, place in _plan(self.seed, self.people[name], int(day)):
            if begins <= hour < ends:
                kind = place.partition(" ")[0]
                moves = int(hour * 4) if kind == "market" else 0
                spot = random.Random(f"{self.seed} {name} {int(day)} {place} {begins:.1f} {moves}")
                return place, spot.uniform(0, SIZE_M[kind]), spot.uniform(0, SIZE_M[kind])
        return None

    def at_river(self, at_s: float) -> list[tuple[str, str]]:
        """Who stands at the river now: one of bank 0 and one of bank 1, who talk to each other."""
        if self.banks == 1:
            return []
        day, second = divmod(at_s, DAY_S)
        slots = [hour for hour in RIVER_HOURS if hour * HOUR_S <= second < hour * HOUR_S + RIVER_S]
        return self._pairs_at_river(int(day), slots[0]) if slots else []

    def _pairs_at_river(self, day: int, hour: float) -> list[tuple[str, str]]:
        found = self._rivers.get((day, hour))
        if found is None:
            rng = random.Random(f"river {self.seed} {day} {hour}")
            count = max(1, len(self.people) // RIVER_SHARE)
            near, far = (rng.sample(self.on_bank(bank), count) for bank in (0, 1))
            found = self._rivers[day, hour] = list(zip(near, far, strict=True))
        return found

    def links_across(self, at_s: float) -> list[tuple[str, str]]:
        """Who of bank 0 can hear whom of bank 1 now."""
        return [
            (near, far) for near, far in self.at_river(at_s) if not any(cut.parts(near, far, at_s) for cut in self.cuts)
        ]

    def quiet_until(self, at_s: float, *, after_s: float) -> float:
        """From when on something may cross the river; `after_s` after people have left it, nothing does any more."""
        day, second = divmod(at_s, DAY_S)
        for hour in RIVER_HOURS:
            begins_s = hour * HOUR_S
            if second < begins_s + RIVER_S + after_s:
                return max(at_s, day * DAY_S + begins_s)
        return (day + 1) * DAY_S + RIVER_HOURS[0] * HOUR_S

    def links(self, at_s: float, names: Sequence[str] | None = None) -> Iterator[tuple[str, str, LinkConditions]]:
        """Who (of `names`) can hear whom now, on their bank."""
        at: dict[str, list[tuple[str, float, float]]] = {}
        for name in self.people if names is None else names:
            found = self.place(name, at_s)
            if found is not None:
                at.setdefault(found[0], []).append((name, found[1], found[2]))
        for place, present in at.items():
            kind = place.partition(" ")[0]
            if kind == "river":
                continue
            pairs = sorted(
                (math.dist((x1, y1), (x2, y2)), min(one, other), max(one, other))
                for number, (one, x1, y1) in enumerate(present)
                for other, x2, y2 in present[number + 1 :]
            )
            used = dict.fromkeys((name for name, _, _ in present), 0)
            for distance, one, other in pairs:
                if distance > RANGE_M[kind] or used[one] >= LINKS_MAX or used[other] >= LINKS_MAX:
                    continue
                if any(cut.parts(one, other, at_s) for cut in self.cuts):
                    continue
                used[one] += 1
                used[other] += 1
                yield one, other, OUTDOORS if kind == "market" else INDOORS


def _on_bank(place: str, bank: int) -> str:
    return place if bank == 0 else f"{place} beyond the river"


@lru_cache(maxsize=4_096)
def _plan(seed: int, person: Person, day: int) -> tuple[tuple[float, float, str], ...]:
    """(from hour, to hour, place) of one day."""
    rng = random.Random(f"plan {seed} {person.name} {day}")
    wakes, sleeps = rng.gauss(6.7, 0.5), rng.gauss(22.3, 0.7)
    market = rng.random() < (0.6 if day % 7 < 5 else 0.75)
    if day % 7 < 5:
        leaves, returns = rng.gauss(8.0, 0.6), rng.gauss(16.5, 0.7)
        home_again = returns + 0.4
        plan = [(wakes, leaves, person.home), (leaves + 0.4, returns, person.work)]
        if market:
            plan.append((returns + 0.3, returns + 1.5, person.market))
            home_again = returns + 1.9
    else:
        goes = rng.uniform(9.5, 12.5)
        plan = [(wakes + 1, goes if market else sleeps, person.home)]
        if market:
            plan.append((goes + 0.3, goes + 2.0, person.market))
        home_again = goes + 2.4 if market else sleeps
    plan.append((home_again, max(sleeps, home_again + 0.2), person.home))
    return tuple(plan)


def activity(at_s: float) -> float:
    """How much people write at that time of day, from 0 to 1."""
    hour = at_s % DAY_S / HOUR_S
    if hour < 6.5 or hour > 23:
        return 0.02
    return 0.45 + 0.3 * math.exp(-((hour - 12.5) ** 2) / 2) + 0.55 * math.exp(-((hour - 19.5) ** 2) / 6)


def draw_times(rng: random.Random, count: int, *, begins_s: float, ends_s: float) -> list[float]:
    """Times in the rhythm of day and night, ascending."""
    times: list[float] = []
    while len(times) < count:
        at_s = rng.uniform(begins_s, ends_s)
        if rng.random() < activity(at_s):
            times.append(at_s)
    return sorted(times)
