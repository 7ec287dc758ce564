"""How wide a room's graph gets and how fast it narrows: our choice of parents against the exact analysis.

    python -m benchmarks.width                 # the whole table, the flood, real events, the picture
    python -m benchmarks.width --real-only     # real events in a real store only

The chain: in each round k nodes post on the same u forward extremities, before anything of it is delivered; each cites
`min(d, u)` of them. The reference, tests/vectors/meg-table.csv, has the exact mean width after n rounds for 90 chains.

Two programs run the chain. `Rounds` is a bare loop around the function that `rooms` calls (`sending.choose_parents`),
for the whole table. `RealRoom` has signed events in a real store: parents from `sending.parents_for`, events built, and
taken through the receipt of PDUs. In both, each round's authors are servers whose last event is no extremity any more,
because that is what the table describes: a node whose last event still is one always cites it where the width exceeds
d. What that changes is measured and printed too.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pool
from pathlib import Path

from benchmarks.curves import Curve, picture
from benchmarks.machine import machine
from benchmarks.real_rounds import RealRoom
from p2pserver.rooms import sending

VECTORS = Path(__file__).parent.parent / "tests" / "vectors"
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "width.svg"
TRIALS = 2_000
FLOOD_TRIALS = 400
REUSE_AFTER = 20_000
"""So many rounds are drawn for one width before trials share what was drawn."""
SIGMAS = 4.0


@dataclass(frozen=True, slots=True)
class Mean:
    """Of a whole number over some trials."""

    mean: float
    deviation: float
    trials: int

    @classmethod
    def of(cls, values: Sequence[int]) -> Mean:
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
        return cls(mean, math.sqrt(variance), len(values))

    def error(self, expected: float) -> float:
        """The standard error of the mean. A whole number with the expected mean deviates at least by `least`."""
        fraction = expected - math.floor(expected)
        least = math.sqrt(fraction * (1 - fraction))
        return max(self.deviation, least) / math.sqrt(self.trials)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    u0: int
    k: int
    d: int
    n: int
    expected: float
    expected_error: float
    rounding: float


@dataclass(frozen=True, slots=True)
class Compared:
    row: Row
    found: Mean

    @property
    def off_by(self) -> float:
        """In standard errors; what the table rounds away is not counted."""
        error = math.hypot(self.found.error(self.row.expected), self.row.expected_error)
        off = max(0.0, abs(self.found.mean - self.row.expected) - self.row.rounding)
        return off / error if error else (0.0 if off == 0.0 else math.inf)


def table() -> list[Row]:
    """The reference; where there is no exact mean (d = 1) the simulated one, with its error."""
    rows = []
    with (VECTORS / "meg-table.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            u0, k, d, n = (int(line[name]) for name in ("u0", "k", "d", "n"))
            if d == 1:
                rows.append(Row(u0, k, d, n, float(line["sim_mean"]), float(line["sim_sem"]), 1e-4))
            else:
                rows.append(Row(u0, k, d, n, float(line["exact_mean"]), 0.0, 1e-4))
    return rows


@dataclass(slots=True)
class Rounds:
    """Rounds of k nodes with at most d parents each, drawn by the sampler that `rooms` calls.

    The width is a Markov chain, and a uniform sampler does not care which extremities there are. So a round that was
    drawn for a width may serve several trials: the first `reuse_after` rounds of each width are drawn afresh, later
    ones are picked among those. Not with one parent: nothing pulls such a width back, so that the chance in what was
    drawn would add up over the rounds, the same in all trials.
    """

    k: int
    d: int
    rng: random.Random
    reuse_after: int = REUSE_AFTER
    drawn: int = 0
    _extremities: list[str] = field(default_factory=list)
    _after: dict[int, array[int]] = field(default_factory=dict)

    def next_width(self, u: int) -> int:
        after = self._after.get(u)
        if after is None:
            after = self._after[u] = array("l")
        if self.d > 1 and len(after) >= self.reuse_after:
            return after[int(self.rng.random() * len(after))]
        width = self.draw(u)
        after.append(width)
        return width

    def draw(self, u: int) -> int:
        """One round on u extremities."""
        self.drawn += 1
        extremities, k, d, rng = self._of_width(u), self.k, self.d, self.rng
        covered: set[str] = set()
        choose = sending.choose_parents
        for _ in range(k):
            covered.update(choose(extremities, own_last=None, rng=rng, most=d))
        return u - len(covered) + k

    def _of_width(self, u: int) -> list[str]:
        extremities = self._extremities
        del extremities[u:]
        extremities.extend(f"${number:07}" for number in range(len(extremities), u))
        return extremities


def run_chain(rounds: Rounds, u0: int, at: Sequence[int], trials: int) -> dict[int, Mean]:
    """The mean width after each number of rounds in `at`, ascending."""
    widths: dict[int, list[int]] = {n: [] for n in at}
    for _ in range(trials):
        u, done = u0, 0
        for n in at:
            for _ in range(n - done):
                u = rounds.next_width(u)
            done = n
            widths[n].append(u)
    return {n: Mean.of(values) for n, values in widths.items()}


def compare(rows: Sequence[Row], *, trials: int, seed: str = "width", reuse_after: int = REUSE_AFTER) -> list[Compared]:
    """Rows of one k and d: each chain of them is run once."""
    k, d = rows[0].k, rows[0].d
    rounds = Rounds(k, d, random.Random(f"{seed} {k} {d}"), reuse_after=reuse_after)
    compared = []
    for u0 in sorted({row.u0 for row in rows}):
        of_chain = sorted((row for row in rows if row.u0 == u0), key=lambda row: row.n)
        found = run_chain(rounds, u0, [row.n for row in of_chain], trials)
        compared += [Compared(row, found[row.n]) for row in of_chain]
    return compared


def jobs_of(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows with the same k and d, the dearest first."""
    groups: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.k, row.d), []).append(row)
    return [groups[key] for key in sorted(groups, key=lambda key: (key[0], -key[1]), reverse=True)]


def _job(job: tuple[list[Row], int]) -> tuple[list[Compared], float]:
    rows, trials = job
    began = time.process_time()
    return compare(rows, trials=trials), time.process_time() - began


# An attacker who widens the graph


@dataclass(frozen=True, slots=True)
class FloodRow:
    k: int
    d: int
    a: int
    means: dict[int, float]


FLOOD_AT = (50, 100, 250, 500)


def flood_table() -> list[FloodRow]:
    with (VECTORS / "meg-flood.csv").open(encoding="utf-8", newline="") as file:
        return [
            FloodRow(
                int(line["k"]),
                int(line["d"]),
                int(line["attacker_per_round"]),
                {n: float(line[f"mean_{n}"]) for n in FLOOD_AT},
            )
            for line in csv.DictReader(file)
        ]


def run_flood(row: FloodRow, *, trials: int, at: Sequence[int] = FLOOD_AT, seed: str = "flood") -> list[Compared]:
    """k honest events a round, and `a` of an attacker that cover nothing new. The reference does not tell how many
    trials it had; it is taken to have had as many."""
    rounds = Rounds(row.k, row.d, random.Random(f"{seed} {row.k} {row.d} {row.a}"))
    widths: dict[int, list[int]] = {n: [] for n in at}
    for _ in range(trials):
        u = 1
        for n in range(1, at[-1] + 1):
            u = rounds.next_width(u) + row.a
            if n in widths:
                widths[n].append(u)
    compared = []
    for n, values in widths.items():
        found = Mean.of(values)
        reference = Row(1, row.k, row.d, n, row.means[n], found.deviation / math.sqrt(trials), 0.005)
        compared.append(Compared(reference, found))
    return compared


def _flood_job(job: tuple[FloodRow, int]) -> list[Compared]:
    return run_flood(job[0], trials=job[1])


# The node's own last event


def own_last_rounds(u0: int, k: int, d: int, n: int, *, trials: int, own: bool, seed: int = 1) -> list[float]:
    """The mean width after 1 … n rounds when the same k nodes post in each; `own`: with the rule of the own event."""
    rng = random.Random(f"own {seed} {u0} {k} {d} {own}")
    sums = [0] * n
    for _ in range(trials):
        extremities = [f"${number:07}" for number in range(u0)]
        last: list[str | None] = [None] * k
        fresh = u0
        for number in range(n):
            covered: set[str] = set()
            for author in range(k):
                own_last = last[author] if own else None
                covered.update(sending.choose_parents(extremities, own_last=own_last, rng=rng, most=d))
            extremities = [event_id for event_id in extremities if event_id not in covered]
            for author in range(k):
                last[author] = f"${fresh:07}"
                extremities.append(f"${fresh:07}")
                fresh += 1
            sums[number] += len(extremities)
    return [total / trials for total in sums]


# The command


def report(title: str, compared: Sequence[Compared]) -> bool:
    worst = max(compared, key=lambda each: each.off_by)
    good = worst.off_by <= SIGMAS
    row = worst.row
    trials = min(each.found.trials for each in compared)
    print(
        f"{title}: {len(compared)} means of {trials:,} trials or more; the worst is {worst.off_by:.2f} standard errors "
        f"off (u0={row.u0}, k={row.k}, d={row.d}, n={row.n}: "
        f"{worst.found.mean:.4f}, expected {row.expected:.4f}); {'accepted' if good else 'REFUSED'}",
        flush=True,
    )
    for each in compared:
        if each.off_by > SIGMAS:
            print(f"  {each.row}: {each.found}, {each.off_by:.2f} standard errors off")
    return good


REAL_CHAINS = ((100, 5, 20, 3), (100, 5, 2, 3), (40, 2, 20, 3), (100, 1, 10, 5))
"""(u0, k, d, rounds) with real events."""


def real_chain(u0: int, k: int, d: int, n: int, trials: int) -> list[Compared]:
    expected = {(row.u0, row.k, row.d, row.n): row for row in table()}
    room = RealRoom(u0, k, n, seed=f"{u0} {k} {d}")
    widths = [room.trial(d) for _ in range(trials)]
    compared = []
    for number in range(n):
        row = expected.get((u0, k, d, number + 1)) or (_closed_form(u0, k, d) if number == 0 else None)
        if row is not None:
            compared.append(Compared(row, Mean.of([trial[number] for trial in widths])))
    return compared


def _closed_form(u0: int, k: int, d: int) -> Row:
    """After one round: u (1 - d/u)^k + k."""
    return Row(u0, k, d, 1, u0 * (1 - d / u0) ** k + k, 0.0, 1e-9)


def draw_picture(compared: Sequence[Compared], path: Path) -> None:
    chains: dict[int, list[Compared]] = {}
    for each in compared:
        if (each.row.u0, each.row.k) == (1000, 5):
            chains.setdefault(each.row.d, []).append(each)
    curves = [
        Curve(
            f"d = {d}",
            [(each.row.n, each.found.mean) for each in chain],
            [(each.row.n, each.row.expected) for each in chain],
        )
        for d, chain in sorted(chains.items())
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    title = "1,000 branches, 5 nodes that post once a round, at most d parents"
    path.write_text(picture(title, "rounds", "mean width (line: our sampler, rings: exact)", curves), encoding="utf-8")


def _real(trials: int) -> Iterator[bool]:
    for u0, k, d, n in REAL_CHAINS:
        began = time.process_time()
        compared = real_chain(u0, k, d, n, trials)
        yield report(f"real events, u0={u0} k={k} d={d}", compared)
        print(f"  {trials * k * n:,} signed events received in {time.process_time() - began:.0f} s of CPU time")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.width", description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--real-trials", type=int, default=TRIALS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--real-only", action="store_true")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args(arguments)
    print(machine())
    began, good = time.perf_counter(), True
    if not options.real_only:
        jobs = [(rows, options.trials) for rows in jobs_of(table())]
        compared: list[Compared] = []
        cpu_s = 0.0
        with Pool(options.processes) as pool:
            for done, (part, took_s) in enumerate(pool.imap_unordered(_job, jobs), 1):
                compared += part
                cpu_s += took_s
                row, worst = part[0].row, max(each.off_by for each in part)
                print(
                    f"  k={row.k} d={row.d}: {len(part)} means, the worst {worst:.2f} standard errors off, "
                    f"{took_s:.0f} s of CPU time; {done} of {len(jobs)} families",
                    flush=True,
                )
            good &= report("the sampler of rooms, whole table", compared)
            flood = [
                each for part in pool.imap(_flood_job, [(row, FLOOD_TRIALS) for row in flood_table()]) for each in part
            ]
        good &= report("the sampler of rooms, an attacker's flood", flood)
        print(f"  {cpu_s:.0f} s of CPU time for the table")
        draw_picture(compared, options.picture)
        for u0, k in ((100, 5), (1000, 5), (1000, 50)):
            own = own_last_rounds(u0, k, 20, 10, trials=200, own=True)
            without = own_last_rounds(u0, k, 20, 10, trials=200, own=False)
            print(
                f"the same {k} nodes in every round, u0={u0}, d=20: mean width after 1, 2, 3, 5, 10 rounds "
                + ", ".join(f"{own[n - 1]:.1f}" for n in (1, 2, 3, 5, 10))
                + " with the rule of the own last event, "
                + ", ".join(f"{without[n - 1]:.1f}" for n in (1, 2, 3, 5, 10))
                + " without"
            )
    for accepted in _real(options.real_trials):
        good &= accepted
    print(f"{time.perf_counter() - began:.0f} s in all")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
