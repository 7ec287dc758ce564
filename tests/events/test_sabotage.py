"""Break one rule at a time: the vector checks must see each."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from p2pserver.events import canonical, hashing, receipt, signing
from p2pserver.events.versions import ROOM_VERSIONS, EventIds
from tests.events import vector_checks as checks
from tests.events.fuzzing import fuzz
from tests.events.vector_checks import VERSIONS

TAMPERED = checks.covered("tamper", "cases")


@pytest.mark.parametrize("version", TAMPERED)
def test_content_hash_not_checked(monkeypatch, version):
    monkeypatch.setattr(receipt, "_hash_matches", lambda claimed, digest: True)
    assert "redactable content changed: accept, must use redacted" in checks.tamper_failures(version)
    assert version not in checks.covered("event_ids", "same_id_twins") or checks.twin_failures(version)


def test_content_hash_not_checked_is_seen_by_fuzzing(monkeypatch):
    monkeypatch.setattr(receipt, "_hash_matches", lambda claimed, digest: True)
    assert any("hash-verified" in failure for failure in fuzz(seed=1, cases=2_000).failures)


@pytest.mark.parametrize("version", TAMPERED)
def test_signature_not_checked(monkeypatch, version):
    monkeypatch.setattr(receipt, "has_genuine", lambda claims, data: True)
    assert "signed with another key: accept, must drop" in checks.tamper_failures(version)


def test_signature_not_checked_is_seen_by_fuzzing(monkeypatch):
    monkeypatch.setattr(receipt, "has_genuine", lambda claims, data: True)
    assert any("protected" in failure for failure in fuzz(seed=1, cases=2_000).failures)


def test_a_crash_is_seen_by_fuzzing(monkeypatch):
    monkeypatch.setattr(receipt, "check_fields", lambda raw, rules, limit_references: None)
    assert any("Error" in failure for failure in fuzz(seed=1, cases=2_000).failures)


@pytest.mark.parametrize("version", TAMPERED)
def test_signature_of_any_server_counts(monkeypatch, version):
    genuine = signing.claims_of

    def of_anybody(signatures, server_name, *others):
        merged = {key_id: own[key_id] for own in signatures.values() for key_id in own}
        return genuine({server_name: merged}, server_name, *others)

    monkeypatch.setattr(receipt, "claims_of", of_anybody)
    assert "signature under another server name: accept, must drop" in checks.tamper_failures(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_whole_event_signed_instead_of_the_redacted_form(monkeypatch, version):
    monkeypatch.setattr(hashing, "redact", lambda raw, rules: {key: raw[key] for key in raw if key != "unsigned"})
    assert checks.signing_failures(version)
    assert checks.event_id_failures(version)


def broken(monkeypatch, version, **changes):
    """The rules of a version with something else in the place of a field."""
    monkeypatch.setitem(ROOM_VERSIONS, version, replace(ROOM_VERSIONS[version], **changes))


def redaction_of(version, **changes):
    return replace(ROOM_VERSIONS[version].redaction, **changes)


@pytest.mark.parametrize("event_type", ["m.room.member", "m.room.power_levels", "m.room.history_visibility"])
@pytest.mark.parametrize("version", VERSIONS)
def test_content_of_a_type_is_not_kept(monkeypatch, version, event_type):
    content = dict(ROOM_VERSIONS[version].redaction.content)
    del content[event_type]
    broken(monkeypatch, version, redaction=redaction_of(version, content=content))
    assert event_type in checks.redaction_failures(version)
    assert checks.signing_failures(version)
    assert checks.event_id_failures(version)


@pytest.mark.parametrize(
    ("version", "kinds"),
    [
        ("6", {"m.room.aliases"}),
        ("8", {"m.room.join_rules"}),
        ("9", {"m.room.member"}),
        ("11", {"m.room.create", "m.room.member", "m.room.power_levels", "m.room.redaction"}),
    ],
)
def test_redaction_rules_of_the_version_before_kept(monkeypatch, version, kinds):
    broken(monkeypatch, version, redaction=ROOM_VERSIONS[str(int(version) - 1)].redaction)
    assert kinds <= set(checks.redaction_failures(version))
    assert checks.signing_failures(version)
    assert checks.event_id_failures(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_top_level_key_kept_that_should_go(monkeypatch, version):
    top_level = ROOM_VERSIONS[version].redaction.top_level | {"extra_top"}
    broken(monkeypatch, version, redaction=redaction_of(version, top_level=top_level))
    assert checks.redaction_failures(version)
    assert checks.signing_failures(version)


@pytest.mark.parametrize(
    ("version", "event_ids"),
    [("3", EventIds.HASH_URL_SAFE), ("4", EventIds.HASH), ("12", EventIds.HASH)],
)
def test_event_ids_of_another_version(monkeypatch, version, event_ids):
    broken(monkeypatch, version, event_ids=event_ids)
    assert checks.event_id_failures(version)


@pytest.mark.parametrize(
    "options",
    [
        {"ensure_ascii": True, "separators": (",", ":"), "sort_keys": True},
        {"ensure_ascii": False, "separators": (",", ":"), "sort_keys": False},
        {"ensure_ascii": False, "separators": (", ", ": "), "sort_keys": True},
    ],
    ids=["escaped", "unsorted", "spaced"],
)
def test_other_encoding(monkeypatch, options):
    for encoder in ("encode_canonical_json", "_encode_strict"):
        monkeypatch.setattr(canonical, encoder, lambda value: json.dumps(value, **options).encode())
    assert checks.canonical_failures()
    assert checks.event_id_failures("12")


def test_lax_parser(monkeypatch):
    monkeypatch.setattr(canonical, "_EVENT_DECODER", json.JSONDecoder(parse_int=lambda digits: int(digits[:99])))
    accepted = checks.accepted_though_to_be_rejected()
    assert {"integer 2^53", "float", "NaN", "duplicate key, nested"} <= set(accepted)


def test_lone_surrogates_not_looked_for(monkeypatch):
    monkeypatch.setattr(canonical, "_check_encodable", lambda value: None)
    assert "lone high surrogate escape" in checks.accepted_though_to_be_rejected()


def test_signatures_and_unsigned_signed_too(monkeypatch):
    monkeypatch.setattr(signing, "_signed_octets", lambda obj: canonical.encode_canonical(dict(obj)))
    assert checks.published_signing_failures()


def test_padded_base64(monkeypatch):
    genuine = signing.encode_base64
    monkeypatch.setattr(signing, "encode_base64", lambda octets: genuine(octets) + "==")
    assert checks.published_signing_failures()
