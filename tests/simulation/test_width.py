"""The choice of parents narrows the graph as the exact analysis says; another choice is noticed.

The whole table and more real events: `python -m benchmarks.width`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from benchmarks import width
from benchmarks.width import Compared, FloodRow, compare, flood_table, jobs_of, real_chain, run_flood, table
from p2pserver.rooms import sending

Sampler = Callable[..., list[str]]


def rows_in_ci() -> list[width.Row]:
    """Every u0, k up to 5 and d, over the first rounds."""
    return [row for row in table() if row.n <= (3 if row.k == 5 else 5) and row.k <= 5]


def worst(compared: Sequence[Compared]) -> float:
    return max(each.off_by for each in compared)


def test_the_table_is_whole() -> None:
    rows = table()
    assert len(rows) == 990
    assert {row.k for row in rows} == {1, 2, 5, 10, 50}
    assert {row.d for row in rows} == {1, 2, 3, 5, 10, 20}


def test_widths_are_those_of_the_analysis() -> None:
    compared = [each for rows in jobs_of(rows_in_ci()) for each in compare(rows, trials=width.TRIALS)]
    assert len(compared) == len(rows_in_ci())
    assert worst(compared) <= width.SIGMAS


def test_widths_of_real_events_are_those_of_the_analysis() -> None:
    compared = real_chain(100, 5, 20, 3, trials=60)
    assert len(compared) == 3
    assert worst(compared) <= width.SIGMAS


def test_a_flood_widens_the_graph_as_the_analysis_says() -> None:
    rows = [row for row in flood_table() if (row.k, row.d) in {(1, 20), (5, 3)}]
    assert len(rows) == 14
    for row in rows:
        short = FloodRow(row.k, row.d, row.a, {n: row.means[n] for n in (50, 100)})
        assert worst(run_flood(short, trials=40, at=(50, 100))) <= width.SIGMAS


def by_depth(extremities: Sequence[str], *, own_last: str | None, rng: random.Random, most: int) -> list[str]:
    """The newest: in the loop under test a greater number is a later event."""
    return sorted(extremities)[-most:]


def with_replacement(extremities: Sequence[str], *, own_last: str | None, rng: random.Random, most: int) -> list[str]:
    if len(extremities) <= most:
        return sorted(extremities)
    return sorted(set(rng.choices(extremities, k=most)))


@pytest.mark.parametrize("sampler", [by_depth, with_replacement])
def test_another_choice_is_noticed(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "choose_parents", sampler)
    rows = [row for row in table() if (row.u0, row.k, row.d) == (100, 5, 20) and row.n <= 2]
    assert worst(compare(rows, trials=width.TRIALS)) > width.SIGMAS
    assert worst(real_chain(100, 5, 20, 1, trials=40)) > width.SIGMAS


def test_a_seed_repeats_its_widths() -> None:
    rows = [row for row in table() if (row.k, row.d) == (5, 3) and row.n <= 10]
    assert compare(rows, trials=50) == compare(rows, trials=50)
