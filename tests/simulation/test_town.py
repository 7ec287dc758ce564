"""A small town for a day, one third of it hostile: the honest nodes agree, and one that is broken is noticed.

The large one, 100 nodes for a week: `python -m benchmarks.town`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import Pipe

import pytest

from benchmarks.simulated_town.banks import run_both_banks
from benchmarks.simulated_town.lies import LIES
from benchmarks.simulated_town.life import Bank, Life
from benchmarks.simulated_town.outcome import FULL, SHORT, Disagreement, Outcome
from benchmarks.town import report
from p2pserver.node.sabotage import skip_power_level_rule


def test_the_honest_nodes_of_a_town_agree() -> None:
    outcome = Life(SHORT).run()
    assert len(outcome.agreed_after_s) == SHORT.people - SHORT.hostile
    assert outcome.users_did.total() >= SHORT.user_events * 0.9
    assert outcome.hostile_events >= SHORT.lies
    assert outcome.errors == []
    for kind in ("forged signature", "another one's name", "21 parents", "wrong types"):
        assert set(outcome.hostile_verdicts[kind]) == {"dropped"}
    assert "accepted" in report(outcome)


def test_a_node_that_skips_an_auth_rule_is_noticed() -> None:
    with pytest.raises(Disagreement, match="same events and another digest"):
        Life(replace(SHORT, more_days_max=3), sabotage=skip_power_level_rule).run()


VILLAGE = replace(SHORT, people=6, hostile=2, user_events=15, lies=12, guests=2, bans=1, cuts=1)


def test_a_seed_repeats_its_town() -> None:
    first = Life(VILLAGE).run()
    assert Life(VILLAGE).run().repeatable() == first.repeatable()
    assert Life(VILLAGE, seed=2).run().sec != first.sec


def test_both_banks_of_a_river_agree_and_a_seed_repeats_them() -> None:
    """In two threads here; in processes, which need not be equally fast either, in the large town."""

    def banks() -> list[Outcome]:
        with ThreadPoolExecutor(2) as pool:
            lives = [
                pool.submit(Life(VILLAGE, share=False, bank=Bank(number, end)).run) for number, end in enumerate(Pipe())
            ]
            return [life.result() for life in lives]

    first, again = banks(), banks()
    assert first[0].repeatable() == first[1].repeatable() == again[0].repeatable()
    assert len(first[0].agreed_after_s) == VILLAGE.people - VILLAGE.hostile
    assert first[0].hostile_verdicts == first[1].hostile_verdicts
    assert first[0].errors == []


def test_the_large_town_is_large() -> None:
    assert (FULL.people, FULL.hostile, FULL.days) == (100, 33, 7)
    assert FULL.user_events >= 2_000
    assert FULL.lies >= 200
    assert FULL.cuts >= 20
    assert len(LIES) >= 20


@pytest.mark.long
def test_the_honest_nodes_of_the_large_town_agree() -> None:
    outcome = run_both_banks(FULL)
    assert outcome.users_did.total() >= 2_000
    assert outcome.hostile_events >= 300
    assert outcome.errors == []
