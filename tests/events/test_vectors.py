"""Golden vectors of canonical JSON, signing, event IDs, redaction, tampering: published ones and generated ones."""

from __future__ import annotations

import base64

import pytest

from p2pserver.events.canonical import NotCanonical, decode_body, decode_strict
from tests.events import vector_checks as checks
from tests.events.vector_checks import VERSIONS, covered, load


def test_canonical_json():
    assert checks.canonical_failures() == []


@pytest.mark.parametrize("case", load("canonical_json")["reject_as_event_json"], ids=lambda case: case["description"])
def test_refused_as_event_json(case):
    with pytest.raises(NotCanonical):
        decode_strict(base64.b64decode(case["raw_base64"]))


FLOATS = {"float", "float with integral value", "exponent", "negative zero float", "deep float"}


@pytest.mark.parametrize("case", load("canonical_json")["reject_as_event_json"], ids=lambda case: case["description"])
def test_bodies_may_hold_floats_and_nothing_else_of_it(case):
    text = base64.b64decode(case["raw_base64"])
    if case["description"] in FLOATS:
        decode_body(text)
    else:
        with pytest.raises(NotCanonical):
            decode_body(text)


def test_the_vectors_cover_the_versions():
    for name, key in (("signing", "events"), ("event_ids", "events"), ("redaction", "cases")):
        assert covered(name, key) == list(VERSIONS) == [str(number) for number in range(1, 13)]
    assert covered("tamper", "cases") == ["1", "6", "10", "11", "12"]
    assert covered("event_ids", "same_id_twins") == ["3", "4", "6", "9", "10", "11", "12"]


def test_published_signing():
    assert checks.published_signing_failures() == []


@pytest.mark.parametrize("version", covered("signing", "events"))
def test_signing(version):
    assert checks.signing_failures(version) == []


@pytest.mark.parametrize("version", covered("event_ids", "events"))
def test_event_ids(version):
    assert checks.event_id_failures(version) == []


@pytest.mark.parametrize("version", covered("event_ids", "same_id_twins"))
def test_same_id_twins(version):
    assert checks.twin_failures(version) == []


@pytest.mark.parametrize("version", covered("redaction", "cases"))
def test_redaction(version):
    assert checks.redaction_failures(version) == []


@pytest.mark.parametrize("version", covered("tamper", "cases"))
def test_tamper(version):
    assert checks.tamper_failures(version) == []


def test_every_pdu_of_the_signed_rooms_verifies():
    count, failures = checks.signed_room_failures()
    assert failures == []
    assert count > 3000
