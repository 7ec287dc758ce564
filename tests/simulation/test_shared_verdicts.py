"""What simulated nodes may share is pure: a village comes to the same room with it and without."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.simulated_town.life import Life
from benchmarks.simulated_town.outcome import SHORT
from p2pserver.events.receipt import PduDropped
from p2pserver.events.signing import SelfCertifyingKeys
from p2pserver.events.versions import rules_of
from p2pserver.node.shared_verdicts import SharedVerdicts

VILLAGE = replace(SHORT, people=6, hostile=2, user_events=15, lies=12, guests=2, bans=1, cuts=1)


def test_digests_are_the_same_with_and_without() -> None:
    with_it, without = Life(VILLAGE, share=True).run(), Life(VILLAGE, share=False).run()
    assert with_it.checks[1] > 0
    assert 0 < with_it.resolutions[1] < with_it.resolutions[0]
    assert without.checks == without.resolutions == (0, 0)
    assert with_it.repeatable() == without.repeatable()


def test_what_was_dropped_is_dropped_again_and_what_cannot_be_named_is_not_shared() -> None:
    shared, rules, keys = SharedVerdicts(), rules_of("12"), SelfCertifyingKeys()
    for _ in range(2):
        dropped = shared.check_all_on_receipt([{"type": "m.room.message"}], rules, keys)
        assert all(isinstance(each, PduDropped) and each.reason for each in dropped)
    assert (shared.checks, shared.checks_found) == (2, 1)
    unnamed = shared.check_all_on_receipt([{"content": "\ud800"}, {"content": object()}], rules, keys)
    assert [isinstance(each, PduDropped) for each in unnamed] == [True, True]
    assert shared.checks == 2
