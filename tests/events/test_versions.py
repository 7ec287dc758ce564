"""What differs on receipt between room versions: event IDs, JSON beyond the canonical, key validity, who must sign."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pserver.errors import BadJson, TooLarge
from p2pserver.events.build import build_event
from p2pserver.events.canonical import NotCanonical, decode_loose, decode_strict, encode_canonical
from p2pserver.events.hashing import bound_event_id, reference_hash
from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import PduDropped, check_on_receipt, load_pdu
from p2pserver.events.redaction import redact
from p2pserver.events.signing import SelfCertifyingKeys, Signer, sign_event
from p2pserver.events.unpadded_base64 import encode_base64
from p2pserver.events.versions import ROOM_VERSIONS, V1, V3, V4, V5, V6, EventIds, RoomVersionRules
from p2pserver.identifiers import KEY_ID, server_name_of
from tests.events.fuzzing import signer_of
from tests.events.properties import steady

ALICE = signer_of("alice")
BOB = signer_of("bob")
EVERY = pytest.mark.parametrize("rules", ROOM_VERSIONS.values(), ids=lambda rules: rules.version)
CHOSEN = pytest.mark.parametrize("rules", [ROOM_VERSIONS["1"], ROOM_VERSIONS["2"]], ids=lambda rules: rules.version)
LOOSE = pytest.mark.parametrize(
    "rules", [rules for rules in ROOM_VERSIONS.values() if not rules.strict_json], ids=lambda rules: rules.version
)


def parent_of(rules: RoomVersionRules) -> str:
    if rules.event_ids is EventIds.CHOSEN:
        return "$parent:elsewhere.example"
    return "$" + ("-_" if rules.event_ids is EventIds.HASH_URL_SAFE else "+/") + "a" * 40 + "A"


def make(rules: RoomVersionRules, *, signer: Signer = ALICE, **fields: Any) -> Pdu:
    settings: dict[str, Any] = {
        "rules": rules,
        "room_id": "!" + "r" * 43 if rules.room_id_is_create_hash else f"!room:{ALICE.server_name}",
        "sender": f"@alice:{signer.server_name}",
        "event_type": "m.room.message",
        "state_key": None,
        "content": {"body": "hello"},
        "prev_events": [parent_of(rules)],
        "auth_events": [parent_of(rules)],
        "depth": 5,
        "origin_server_ts": 1_700_000_000_000,
        "signer": signer,
    }
    return build_event(**(settings | fields))


def receive(obj: object, rules: RoomVersionRules, keys: Any = None) -> Pdu:
    return check_on_receipt(obj, rules, keys or SelfCertifyingKeys())


def drop_reason(obj: object, rules: RoomVersionRules, keys: Any = None) -> str:
    with pytest.raises(PduDropped) as dropped:
        receive(obj, rules, keys)
    return dropped.value.reason


# Event IDs.


@EVERY
def test_an_event_of_ours_is_accepted_and_cites_plain_ids(rules):
    event = make(rules)
    received = receive(copy.deepcopy(dict(event.raw)), rules)
    assert received == event == load_pdu(event.raw, rules)
    assert received.prev_events == received.auth_events == (parent_of(rules),)
    assert not received.redacted_copy
    cited = event.raw["prev_events"]
    assert cited == ([[parent_of(rules), {}]] if rules.event_ids is EventIds.CHOSEN else [parent_of(rules)])
    assert ("event_id" in event.raw) == (rules.event_ids is EventIds.CHOSEN)


def test_ids_of_version_3_have_slashes_and_pluses_and_later_ones_do_not():
    digits = {rules.version: "" for rules in (V3, V4)}
    for number in range(40):
        for rules in (V3, V4):
            digits[rules.version] += make(rules, depth=number).event_id[1:]
    assert set("+/-_") & set(digits["3"]) == {"+", "/"}
    assert set("+/-_") & set(digits["4"]) == {"-", "_"}
    assert "prev_events" in drop_reason(dict(make(V3, prev_events=[]).raw) | {"prev_events": [parent_of(V4)]}, V3)
    assert "prev_events" in drop_reason(dict(make(V4, prev_events=[]).raw) | {"prev_events": [parent_of(V3)]}, V4)


@CHOSEN
def test_reference_hashes_stand_beside_the_ids_and_may_be_missing(rules):
    parent = make(rules)
    known = {parent.event_id: encode_base64(reference_hash(parent.raw, rules))}
    event = make(rules, prev_events=[parent.event_id, parent_of(rules)], reference_hashes=known)
    assert event.raw["prev_events"] == [[parent.event_id, {"sha256": known[parent.event_id]}], [parent_of(rules), {}]]
    assert event.prev_events == (parent.event_id, parent_of(rules))


@CHOSEN
@pytest.mark.parametrize(
    "cited",
    [["$a:b.example"], [["$a:b.example"]], [["$a", {}]], [["$a:b.example", {}, {}]], [["$a:b.example", []]],
     [["$a:b.example", {"sha256": 5}]], [["$a:b.example", {5: "x"}]], [[5, {}]], {"$a:b.example": {}}, [None],
     [["$a:b.example", dict.fromkeys(map(str, range(9)), "x")]], [["$a:b.example", {}]] * 21],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("name", ["prev_events", "auth_events"])
def test_references_of_other_forms_are_dropped(rules, name, cited):
    assert name in drop_reason(dict(make(rules).raw) | {name: cited}, rules)


@CHOSEN
@pytest.mark.parametrize(
    "event_id", [None, 5, "", "$", "$a", "$:b.example", "$a:", "$" + "a" * 43, "a:b.example", "$" + "a" * 251 + ":b.c"]
)
def test_an_event_carries_its_id(rules, event_id):
    raw = dict(make(rules).raw)
    if event_id is None:
        del raw["event_id"]
    else:
        raw["event_id"] = event_id
    assert "event_id" in drop_reason(raw, rules)


# Nobody gives an ID twice: the IDs that nodes choose are hashes.


@CHOSEN
def test_a_node_cannot_choose_another_id(rules):
    raw = {key: value for key, value in make(rules).raw.items() if key not in ("hashes", "signatures")}
    for event_id in (f"$random:{ALICE.server_name}", raw["event_id"][:-1] + "b", "$x" + raw["event_id"][1:]):
        assert drop_reason(sign_event(raw | {"event_id": event_id}, rules, ALICE), rules)
    reason = drop_reason(sign_event(raw | {"event_id": f"$random:{ALICE.server_name}"}, rules, ALICE), rules)
    assert reason == "the event ID is not the one that the event gives"


@CHOSEN
def test_a_node_cannot_use_an_id_again(rules):
    first = make(rules)
    bare = {key: value for key, value in first.raw.items() if key not in ("hashes", "signatures")}
    for changed in ({"depth": 6}, {"prev_events": []}, {"type": "x"}, {"origin": "x"}, {"state_key": ""}):
        assert "event ID" in drop_reason(sign_event(bare | changed, rules, ALICE), rules)
    for changed in ({"content": {"body": "other"}}, {"extra": 1}):
        twin = receive(sign_event(bare | changed, rules, ALICE), rules)
        assert twin.event_id == first.event_id
        assert twin.redacted_copy
        assert twin.raw == {
            **redact(first.raw, rules),
            "hashes": twin.raw["hashes"],
            "signatures": twin.raw["signatures"],
        }


@CHOSEN
def test_a_redacted_copy_of_an_event_with_a_bound_id(rules):
    event = make(
        rules, event_type="m.room.member", state_key="@alice:x.example", content={"membership": "join", "x": 1}
    )
    received = receive(redact(event.raw, rules), rules)
    assert received.redacted_copy
    assert received.event_id == event.event_id
    assert received.content == {"membership": "join"}


@CHOSEN
def test_other_servers_choose_their_ids(rules):
    seed = bytes(range(32))
    ordinary = Signer("ordinary.example", KEY_ID, seed)

    class Keys(SelfCertifyingKeys):
        def verify_key(self, server_name: str, key_id: str, valid_at_ms: int | None = None) -> bytes | None:
            if server_name == ordinary.server_name:
                return ordinary.verify_key
            return super().verify_key(server_name, key_id, valid_at_ms)

    raw = {key: value for key, value in make(rules).raw.items() if key not in ("hashes", "signatures", "sender")}
    raw |= {"event_id": "$any thing/+:ordinary.example", "sender": "@a:ordinary.example"}
    assert receive(sign_event(raw, rules, ordinary), rules, Keys()).event_id == "$any thing/+:ordinary.example"
    # A node's user under the ID of another server: both must sign.
    raw["sender"] = f"@alice:{ALICE.server_name}"
    by_one = sign_event(raw, rules, ALICE)
    assert drop_reason(by_one, rules, Keys()) == "no valid signature of ordinary.example"
    assert receive(sign_event(by_one, rules, ordinary), rules, Keys()).sender == raw["sender"]
    assert "no valid signature of" in drop_reason(sign_event(raw, rules, ordinary), rules, Keys())


def test_a_name_too_long_for_the_ids_of_version_1_is_told():
    seed = bytes(32)
    name = server_name_of(Signer("", KEY_ID, seed).verify_key, ".".join(["a" * 50] * 3))
    signer = Signer(name, KEY_ID, seed)
    assert make(V3, signer=signer).server == name
    with pytest.raises((TooLarge, BadJson)):
        make(V1, signer=signer)


def test_the_binding_is_what_makes_the_id(monkeypatch):
    """Sabotage: without the check, one ID has two events, both whole."""
    monkeypatch.setattr("p2pserver.events.receipt._is_bound", lambda event, rules: True)
    first = make(V1)
    bare = {key: value for key, value in first.raw.items() if key not in ("hashes", "signatures")}
    twin = receive(sign_event(bare | {"content": {"body": "other"}}, V1, ALICE), V1)
    assert twin == first
    assert twin.content != first.content


# JSON beyond the canonical.

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**64) + 1, 2**64 - 1)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


@settings(steady, max_examples=40)
@given(content=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), anything, max_size=5))
def test_what_is_accepted_survives_the_store_and_a_second_encoding(content):
    event = make(V5, content=content)
    stored = json.dumps(event.raw, ensure_ascii=False).encode()
    for again in (json.loads(stored), decode_loose(stored), decode_loose(encode_canonical(event.raw, loose=True))):
        assert encode_canonical(again, loose=True) == encode_canonical(event.raw, loose=True)
        received = receive(again, V5)
        assert received == event
        assert not received.redacted_copy


@LOOSE
@pytest.mark.parametrize(
    ("value", "text"), [(1.5, b"1.5"), (1.0, b"1.0"), (-0.0, b"-0.0"), (1e22, b"1e+22"), (2**53, b"9007199254740992"),
                        (5e-324, b"5e-324"), (2**64 - 1, b"18446744073709551615"), (-(2**60), b"-1152921504606846976")]
)  # fmt: skip
def test_floats_and_large_integers_as_deployed_servers_hash_them(rules, value, text):
    raw = dict(make(rules, content={"n": value}).raw)
    assert b'"content":{"n":%b}' % text in encode_canonical(raw, loose=True)
    assert not receive(raw, rules).redacted_copy
    assert decode_loose(encode_canonical(raw, loose=True)) == raw


@LOOSE
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**64, -(2**64), "\ud800", {1: 2}, b"x"], ids=repr)
def test_what_cannot_be_kept_is_refused(rules, value):
    raw = dict(make(rules).raw)
    raw["content"] = {"n": value}
    assert drop_reason(raw, rules)
    with pytest.raises(BadJson):
        make(rules, content={"n": value})


@pytest.mark.parametrize(
    "text", [b"18446744073709551616", b"1e400", b"NaN", b"9" * 5000, b'{"a":1,"a":2}', b'"\\ud800"']
)
def test_texts_that_are_not_loose_json_either(text):
    with pytest.raises(NotCanonical):
        decode_loose(text)


@EVERY
@pytest.mark.parametrize("value", [1.5, 2**53], ids=repr)
def test_canonical_json_is_enforced_from_version_6(rules, value):
    strict = int(rules.version) >= 6
    raw = dict(make(rules).raw) | {"org.example": value}
    if strict:
        assert drop_reason(raw, rules)
        with pytest.raises(BadJson):
            make(rules, content={"n": value})
        with pytest.raises(NotCanonical):
            decode_strict(json.dumps(value).encode())
    else:
        assert receive(raw, rules).redacted_copy  # it is not covered by the hash
        assert make(rules, content={"n": value}).content == {"n": value}


@EVERY
def test_depth_and_timestamp_are_integers_of_so_many_bits(rules):
    """53 each; a depth has 63 until version 5."""
    for name, too_large in (("depth", 2**53 if rules.strict_json else 2**63), ("origin_server_ts", 2**53)):
        for value in (too_large, 5.0, True, "5"):
            assert name in drop_reason(dict(make(rules).raw) | {name: value}, rules)


# Key validity.


class ExpiredKeys:
    """The key of one ordinary server, valid until a time; what was asked for is kept."""

    def __init__(self, signer: Signer, valid_until_ms: int) -> None:
        self.signer, self.valid_until_ms = signer, valid_until_ms
        self.asked: list[int | None] = []

    def verify_key(self, server_name: str, key_id: str, valid_at_ms: int | None) -> bytes | None:
        self.asked.append(valid_at_ms)
        if server_name != self.signer.server_name or (valid_at_ms is not None and valid_at_ms > self.valid_until_ms):
            return None
        return self.signer.verify_key


def expiry_failures(version: str) -> list[str]:
    """An event from before the end of its key's validity, and one from after it: what is wrong with the verdicts."""
    rules = ROOM_VERSIONS[version]
    ordinary = Signer("ordinary.example", KEY_ID, bytes(32))
    failures = []
    for after in (0, 1):
        raw = {key: value for key, value in make(rules).raw.items() if key not in ("hashes", "signatures")}
        raw |= {"sender": "@a:ordinary.example", "origin_server_ts": 1_700_000_000_000 + after}
        if rules.event_ids is EventIds.CHOSEN:
            raw["event_id"] = "$x:ordinary.example"
        try:
            receive(sign_event(raw, rules, ordinary), rules, ExpiredKeys(ordinary, 1_700_000_000_000))
            dropped = False
        except PduDropped:
            dropped = True
        if dropped is not (after == 1 and int(version) >= 5):
            failures.append(f"{version}: {after=} {dropped=}")
    return failures


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_expired_keys_count_until_version_4(version):
    assert expiry_failures(version) == []


@pytest.mark.parametrize(("version", "enforced"), [("5", False), ("12", False), ("4", True)])
def test_sabotaged_key_validity_is_seen(monkeypatch, version, enforced):
    monkeypatch.setitem(ROOM_VERSIONS, version, replace(ROOM_VERSIONS[version], key_validity=enforced))
    assert expiry_failures(version)


@EVERY
def test_self_certifying_keys_never_expire(rules):
    for timestamp in (-(2**53) + 1, 0, 2**53 - 1):
        assert receive(make(rules, origin_server_ts=timestamp).raw, rules).origin_server_ts == timestamp


# Restricted joins.


def vouching_failures(version: str) -> list[str]:
    """A join that another server lets in, with its own signature alone and with both."""
    rules = ROOM_VERSIONS[version]
    content = {"membership": "join", "join_authorised_via_users_server": f"@bob:{BOB.server_name}"}
    alone = make(rules, event_type="m.room.member", state_key=f"@alice:{ALICE.server_name}", content=content)
    failures = []
    try:
        receive(alone.raw, rules)
        dropped = False
    except PduDropped:
        dropped = True
    if dropped is not (int(version) >= 8):
        failures.append(f"{version}: {dropped=}")
    if receive(sign_event(alone.raw, rules, BOB), rules).redacted_copy:
        failures.append(f"{version}: redacted although both signed")
    return failures


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_restricted_joins_need_two_signatures_from_version_8(version):
    assert vouching_failures(version) == []


def test_sabotaged_restricted_joins_are_seen(monkeypatch):
    monkeypatch.setitem(ROOM_VERSIONS, "8", replace(ROOM_VERSIONS["8"], join_rules=V6.join_rules))
    assert vouching_failures("8")


def test_bound_ids_are_the_ids_that_are_made():
    event = make(V1)
    assert bound_event_id(event.raw, V1, ALICE.server_name) == event.event_id
    assert len(event.event_id) == 1 + 86 + 1 + 52
