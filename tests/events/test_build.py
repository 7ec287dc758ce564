"""Our own events: what is built is accepted by everybody, and what would not be is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pserver.errors import BadJson, TooLarge
from p2pserver.events.build import build_event
from p2pserver.events.canonical import INTEGER_MAX, decode_strict, encode_canonical
from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import check_on_receipt
from p2pserver.events.signing import SelfCertifyingKeys
from p2pserver.events.versions import V10, V11, V12, RoomVersionRules
from tests.events.fuzzing import signer_of, valid_pdus
from tests.events.properties import steady

ALICE = signer_of("alice")
VERSIONS = pytest.mark.parametrize("rules", [V10, V11, V12], ids=lambda rules: rules.version)


def build(rules: RoomVersionRules = V12, **changes: Any) -> Pdu:
    fields: dict[str, Any] = {
        "rules": rules,
        "room_id": "!" + "r" * 43 if rules.room_id_is_create_hash else f"!room:{ALICE.server_name}",
        "sender": f"@alice:{ALICE.server_name}",
        "event_type": "m.room.message",
        "state_key": None,
        "content": {"body": "hello"},
        "prev_events": ["$" + "p" * 43],
        "auth_events": ["$" + "a" * 43],
        "depth": 5,
        "origin_server_ts": 1_700_000_000_000,
        "signer": ALICE,
    }
    return build_event(**(fields | changes))


@pytest.mark.parametrize("pdu", valid_pdus(), ids=lambda pdu: f"{pdu.rules.version} {pdu.type}")
def test_what_is_built_is_accepted_after_travel(pdu):
    received = check_on_receipt(decode_strict(encode_canonical(dict(pdu.raw))), pdu.rules, SelfCertifyingKeys())
    assert received == pdu
    assert received.raw == pdu.raw
    assert received.room_id == pdu.room_id


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-INTEGER_MAX, INTEGER_MAX) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@steady
@given(
    content=st.dictionaries(st.text(), json_values, max_size=5),
    event_type=st.text(max_size=60) | st.sampled_from(["m.room.member", "m.room.power_levels", "m.room.redaction"]),
    state_key=st.none() | st.text(max_size=60),
    depth=st.integers(0, INTEGER_MAX),
    origin_server_ts=st.integers(-INTEGER_MAX, INTEGER_MAX),
    rules=st.sampled_from([V10, V11, V12]),
)
def test_any_content_that_can_be_built_is_accepted(content, event_type, state_key, depth, origin_server_ts, rules):
    content.pop("join_authorised_via_users_server", None)
    pdu = build(
        rules,
        content=content,
        event_type=event_type,
        state_key=state_key,
        depth=depth,
        origin_server_ts=origin_server_ts,
    )
    assert check_on_receipt(dict(pdu.raw), rules, SelfCertifyingKeys()) == pdu


@VERSIONS
def test_redacts_goes_where_the_room_version_keeps_it(rules):
    target = "$" + "t" * 43
    content = {"reason": "spam"}
    pdu = build(rules, event_type="m.room.redaction", content=content, redacts=target)
    assert pdu.redacts == target
    assert content == {"reason": "spam"}
    assert ("redacts" in pdu.raw) is (rules is V10)
    assert ("redacts" in pdu.content) is (rules is not V10)


@pytest.mark.parametrize(
    "content",
    [{"a": 1.5}, {"a": 2**53}, {"a": "\ud800"}, {"\udc00": 1}, {1: 2}, {"a": b"x"}, {"a": float("nan")}],
    ids=repr,
)
def test_content_without_canonical_form(content):
    with pytest.raises(BadJson):
        build(content=content)


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": -1},
        {"depth": 2**53},
        {"origin_server_ts": 2**53},
        {"sender": "alice"},
        {"room_id": None},
        {"room_id": f"!room:{ALICE.server_name}"},
        {"prev_events": ["x"]},
        {"event_type": "m.room.create", "state_key": ""},
        {"event_type": "m.room.create", "state_key": None, "room_id": None},
    ],
    ids=repr,
)
def test_what_everybody_would_drop_is_not_built(changes):
    with pytest.raises(BadJson):
        build(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"content": {"body": "x" * 65_536}},
        {"event_type": "é" * 128},
        {"state_key": "x" * 256},
        {"prev_events": ["$" + "p" * 43] * 21},
        {"auth_events": ["$" + "p" * 43] * 11},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_too_large(changes):
    with pytest.raises(TooLarge):
        build(**changes)


def test_the_largest_event():
    spare = 65_536 - len(encode_canonical(dict(build(content={"body": ""}).raw)))
    assert len(encode_canonical(dict(build(content={"body": "x" * spare}).raw))) == 65_536
    with pytest.raises(TooLarge):
        build(content={"body": "x" * (spare + 1)})
