"""Whole nodes, random histories: after healing, every node holds the same room."""

from __future__ import annotations

from collections import Counter

import pytest

from p2pserver.events.versions import ROOM_VERSIONS
from tests.simulation.history import History

SEEDS_IN_CI = 12
SEEDS_LONG = 200

seen: Counter[str] = Counter()


@pytest.mark.parametrize("seed", range(SEEDS_IN_CI))
def test_histories_merge(seed: int) -> None:
    outcome = History(seed).run()
    assert outcome.events > 30
    seen.update(outcome.done)


def test_the_histories_above_contained_everything_that_matters() -> None:
    wanted = {
        "say",
        "ban",
        "kick",
        "change_level",
        "change_join_rule",
        "part",
        "heal",
        "crash",
        "boot",
        "come_back",
        "redact",
    }
    for seed in range(SEEDS_IN_CI):  # those that another process of the tests has run
        if wanted <= set(seen):
            break
        seen.update(History(seed).run().done)
    assert wanted <= set(seen)


def test_the_histories_above_are_of_every_room_version() -> None:
    assert {History(seed).version for seed in range(SEEDS_IN_CI)} == set(ROOM_VERSIONS)


def test_a_seed_repeats_its_history_exactly() -> None:
    assert History(3).run() == History(3).run()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(SEEDS_IN_CI, SEEDS_LONG))
def test_more_histories_merge(seed: int) -> None:
    History(seed).run()
