"""What simulated nodes may share is pure: a village comes to the same room with it and without."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.simulated_town.life import SHORT, Life
from p2pserver.events.receipt import PduDropped
from p2pserver.events.signing import SelfCertifyingKeys
from p2pserver.events.versions import rules_of
from p2pserver.node.shared_verdicts import SharedVerdicts

VILLAGE = replace(SHORT, people=6, hostile=2, user_events=15, lies=12, guests=2, bans=1, cuts=1)


def test_digests_are_the_same_with_and_without() -> None:
    with_it, without = Life(VILLAGE, share=True).run(), Life(VILLAGE, share=False).run()
    assert with_it.checks[1] > 0
    assert without.checks == (0, 0)
    assert with_it.repeatable() == without.repeatable()


def test_what_was_dropped_is_dropped_again_and_what_cannot_be_named_is_not_shared() -> None:
    shared, rules, keys = SharedVerdicts(), rules_of("12"), SelfCertifyingKeys()
    for _ in range(2):
        with pytest.raises(PduDropped, match=r"."):
            shared.check_on_receipt({"type": "m.room.message"}, rules, keys)
    assert (shared.checks, shared.checks_found) == (2, 1)
    with pytest.raises(PduDropped):
        shared.check_on_receipt({"content": "\ud800"}, rules, keys)
    with pytest.raises(PduDropped):
        shared.check_on_receipt({"content": object()}, rules, keys)
    assert shared.checks == 2
