"""Mutated PDUs: every one earns a verdict, and none verifies with other content."""

from __future__ import annotations

import pytest

from p2pserver.events.receipt import PduDropped, check_on_receipt
from p2pserver.events.signing import SelfCertifyingKeys
from tests.events.fuzzing import TWELVE_TYPES, fuzz, valid_pdus

CASES = 30_000


@pytest.fixture(scope="module")
def tally():
    return fuzz(seed=20_240_511, cases=CASES, every_field=True)


def test_every_mutation_earns_a_verdict(tally):
    assert tally.failures == []
    assert tally.cases >= CASES
    assert tally.dropped + tally.redacted + tally.accepted == tally.cases


def test_enough_mutations_pass_the_outer_layer(tally):
    assert tally.reached_field_checks >= tally.cases / 5


def test_all_three_verdicts_are_met(tally):
    assert tally.dropped > CASES / 10
    assert tally.redacted > CASES / 50
    assert tally.accepted > CASES / 50


def test_a_run_repeats():
    assert fuzz(seed=3, cases=2_000) == fuzz(seed=3, cases=2_000)


@pytest.mark.parametrize("value", [*TWELVE_TYPES[:10], "pdu"], ids=repr)
def test_what_is_no_object_is_dropped(value):
    for base in valid_pdus():
        with pytest.raises(PduDropped):
            check_on_receipt(value, base.rules, SelfCertifyingKeys())
