"""Parents are few, uniform, and keep the node's own events in one chain."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pserver.meg.parents import PREV_EVENTS_MAX, choose_parents

event_ids = st.sets(st.text("abcdefgh", min_size=1, max_size=6).map(lambda text: f"${text}"), max_size=60)


@given(
    extremities=event_ids, own=st.none() | st.text("abcdefgh", max_size=2), seed=st.integers(), most=st.integers(1, 25)
)
def test_bounds(extremities: set[str], own: str | None, seed: int, most: int) -> None:
    own_last = None if own is None else f"${own}"
    candidates = sorted(extremities)
    chosen = choose_parents(candidates, own_last=own_last, rng=random.Random(seed), most=most)
    assert len(chosen) == len(set(chosen)) == min(most, len(extremities))
    assert set(chosen) <= extremities
    assert chosen == sorted(chosen)
    if own_last in extremities:
        assert own_last in chosen
    again = choose_parents(tuple(candidates), own_last=own_last, rng=random.Random(seed), most=most)
    assert again == chosen


def test_twenty_at_most() -> None:
    assert PREV_EVENTS_MAX == 20
    extremities = [f"${number}" for number in range(21)]
    assert len(choose_parents(extremities, own_last=None, rng=random.Random(1))) == 20
    extremities.remove("$7")
    assert choose_parents(extremities, own_last=None, rng=random.Random(1)) == sorted(extremities)


def test_an_own_event_that_others_have_answered_is_not_cited_again() -> None:
    extremities = [f"${number}" for number in range(40)]
    for seed in range(50):
        assert "$own" not in choose_parents(extremities, own_last="$own", rng=random.Random(seed))
    assert choose_parents(["$b", "$a"], own_last="$own", rng=random.Random(0)) == ["$a", "$b"]


def uniformity(counts: Counter[str], cells: int, share: float, draws: int) -> float:
    """The chi-square statistic of draws without replacement; `cells` - 1 degrees of freedom."""
    variance = draws * share * (1 - share)
    return sum((counts[f"${cell}"] - draws * share) ** 2 for cell in range(cells)) / variance * (cells - 1) / cells


CHI_SQUARE_OF_39 = 72.05  # one in a thousand
CHI_SQUARE_OF_38 = 70.70


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_sample_is_uniform(seed: int) -> None:
    rng, draws = random.Random(seed), 4_000
    extremities = [f"${number}" for number in range(40)]
    counts = Counter(event_id for _ in range(draws) for event_id in choose_parents(extremities, own_last=None, rng=rng))
    assert uniformity(counts, 40, 20 / 40, draws) < CHI_SQUARE_OF_39


def test_the_others_are_uniform_beside_the_own_event() -> None:
    rng, draws = random.Random(4), 4_000
    extremities = [*(f"${number}" for number in range(39)), "$own"]
    counts = Counter(
        event_id for _ in range(draws) for event_id in choose_parents(extremities, own_last="$own", rng=rng)
    )
    assert counts["$own"] == draws
    assert uniformity(counts, 39, 19 / 39, draws) < CHI_SQUARE_OF_38


def test_a_sample_that_is_not_uniform_is_noticed() -> None:
    counts = Counter({f"${number}": 2_000 + (60 if number % 2 else -60) for number in range(40)})
    assert uniformity(counts, 40, 20 / 40, 4_000) > CHI_SQUARE_OF_39


@pytest.mark.parametrize(("width", "nodes"), [(100, 1), (100, 5), (1000, 5), (50, 3)])
def test_the_width_shrinks_as_the_analysis_says(width: int, nodes: int) -> None:
    """One round of k nodes that all post on the same u extremities: E[u'] = u (1 - d/u)^k + k."""
    rng, trials, most = random.Random(width * 31 + nodes), 400, PREV_EVENTS_MAX
    extremities = [f"${number}" for number in range(width)]
    widths = []
    for _ in range(trials):
        cited = {parent for _ in range(nodes) for parent in choose_parents(extremities, own_last=None, rng=rng)}
        widths.append(width - len(cited) + nodes)
    expected = width * (1 - most / width) ** nodes + nodes
    one, two = (1 - most / width) ** nodes, ((width - most) * (width - most - 1) / (width * (width - 1))) ** nodes
    deviation = math.sqrt(max(0.0, width * one + width * (width - 1) * two - (width * one) ** 2))
    assert abs(sum(widths) / trials - expected) <= 4 * deviation / math.sqrt(trials) + 1e-9
