"""The histories can fail: one broken node among five is noticed, whichever way it is broken."""

from __future__ import annotations

import pytest

from p2pserver.node.sabotage import skip_power_level_rule
from p2pserver.node.simulation import Sabotage
from tests.simulation.history import Diverged, History
from tests.simulation.sabotages import acknowledge_before_the_commit, flip_the_timestamp_tie_break, lose_an_event

SEEDS = range(12)


@pytest.mark.parametrize(
    "sabotage",
    [skip_power_level_rule, flip_the_timestamp_tie_break, lose_an_event, acknowledge_before_the_commit],
)
def test_a_broken_node_is_noticed(sabotage: Sabotage) -> None:
    for seed in SEEDS:
        try:
            History(seed, sabotage=sabotage, patience_s=120).run()
        except Diverged:
            return
    pytest.fail(f"{len(SEEDS)} histories did not notice a node that was broken by {sabotage.__name__}")
