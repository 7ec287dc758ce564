"""A small town for a day, one third of it hostile: the honest nodes agree, and one that is broken is noticed.

The large one, 100 nodes for a week: `python -m benchmarks.town`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.simulated_town.lies import LIES
from benchmarks.simulated_town.life import FULL, SHORT, Disagreement, Life
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


def test_a_seed_repeats_its_town() -> None:
    village = replace(SHORT, people=6, hostile=2, user_events=15, lies=12, guests=2, bans=1, cuts=1)
    assert Life(village).run().repeatable() == Life(village).run().repeatable()
    assert Life(village).run().sec != Life(village, seed=2).run().sec


def test_the_large_town_is_large() -> None:
    assert (FULL.people, FULL.hostile, FULL.days) == (100, 33, 7)
    assert FULL.user_events >= 2_000
    assert FULL.lies >= 300
    assert FULL.cuts >= 20
    assert len(LIES) >= 20


@pytest.mark.long
def test_the_honest_nodes_of_the_large_town_agree() -> None:
    outcome = Life(FULL).run()
    assert outcome.users_did.total() >= 2_000
    assert outcome.hostile_events >= 300
    assert outcome.errors == []
