"""Many nodes join one room in the same second, and all are in it. 100 nodes: `python -m benchmarks.join_storm`."""

from __future__ import annotations

import pytest

from benchmarks.join_storm import Storm, report, run


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_all_are_in_and_hear_what_is_said(loss: float) -> None:
    outcome = run(Storm(nodes=25, loss=loss))
    assert outcome.is_good, report(outcome)
    assert outcome.asked_again == 0
    assert max(outcome.joined_after_s) < 30


@pytest.mark.long
@pytest.mark.parametrize(("loss", "lan"), [(0.0, False), (0.1, False)])
def test_a_hundred_are_in(loss: float, lan: bool) -> None:
    outcome = run(Storm(nodes=100, loss=loss, lan=lan))
    assert outcome.is_good, report(outcome)
