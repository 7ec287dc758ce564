"""Checks on receipt: every limit from both sides, every field in every wrong type, and what never matters."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from p2pserver.events.canonical import encode_canonical
from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import PduDropped, check_all_on_receipt, check_on_receipt, load_pdu
from p2pserver.events.redaction import redact
from p2pserver.events.signing import SelfCertifyingKeys, Signer, sign_event
from p2pserver.events.unpadded_base64 import encode_base64
from p2pserver.events.versions import V3, V5, V6, V10, V11, V12, RoomVersionRules
from p2pserver.identifiers import KEY_ID, server_name_of
from tests.events.fuzzing import signer_of, valid_pdus

ALICE = signer_of("alice")
SENDER = f"@alice:{ALICE.server_name}"
ROOM_V12 = "!" + "r" * 43
VERSIONS = pytest.mark.parametrize("rules", [V10, V11, V12], ids=lambda rules: rules.version)


class Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING = Missing()


def signed(rules: RoomVersionRules = V12, signer: Signer = ALICE, **fields: Any) -> dict[str, Any]:
    """A message event with these fields changed (or `MISSING`), hashed and signed properly whatever they are."""
    event: dict[str, Any] = {
        "type": "m.room.message",
        "room_id": ROOM_V12 if rules.room_id_is_create_hash else f"!room:{signer.server_name}",
        "sender": f"@alice:{signer.server_name}",
        "content": {"body": "hello"},
        "prev_events": ["$" + "p" * 43],
        "auth_events": ["$" + "a" * 43],
        "depth": 5,
        "origin_server_ts": 1_700_000_000_000,
    }
    event |= fields
    return sign_event({key: value for key, value in event.items() if value is not MISSING}, rules, signer)


def receive(obj: object, rules: RoomVersionRules = V12, *, limit_references: bool = True) -> Pdu:
    return check_on_receipt(obj, rules, SelfCertifyingKeys(), limit_references=limit_references)


def assert_dropped(obj: object, reason: str, rules: RoomVersionRules = V12) -> None:
    with pytest.raises(PduDropped, match=reason):
        receive(obj, rules)


@VERSIONS
def test_a_good_event(rules):
    raw = signed(rules)
    pdu = receive(raw, rules)
    assert pdu.raw == raw
    assert (pdu.type, pdu.sender, pdu.room_id, pdu.state_key) == ("m.room.message", SENDER, raw["room_id"], None)
    assert (pdu.depth, pdu.origin_server_ts, pdu.content) == (5, 1_700_000_000_000, {"body": "hello"})
    assert (pdu.prev_events, pdu.auth_events) == (("$" + "p" * 43,), ("$" + "a" * 43,))
    assert (pdu.redacted_copy, pdu.is_state, pdu.state_slot, pdu.server) == (False, False, None, ALICE.server_name)
    assert load_pdu(raw, rules) == pdu == load_pdu(raw, rules, event_id=pdu.event_id)


WRONG_TYPES: dict[str, tuple[Any, ...]] = {
    "type": (MISSING, None, 5, True, [], {}),
    "sender": (None, 5, [], {}, "", "alice", "@alice", "@alice:", "@al:exa mple", "#a:b.c", "@a\0b:c.d", "@a:b:c"),
    "state_key": (None, 5, False, [], {}),
    "content": (MISSING, None, 5, "x", [], True),
    "depth": (MISSING, None, "5", True, [], -1),
    "origin_server_ts": (MISSING, None, "5", True, {}),
    "prev_events": (MISSING, None, "x", {}, [5], [None], ["x"], [["$" + "a" * 43]], ["$" + "a" * 42], ["$" + "a" * 44]),
    "auth_events": (MISSING, None, "x", {}, [5], [True], [""], ["$a:b.example"], ["!" + "a" * 43], ["$" + "+" * 43]),
    "room_id": (MISSING, None, 5, "", "!", "r" * 44, "!" + "r" * 42, "!" + "r" * 44, "!" + "+" * 43, "!room:b.example"),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, wrong in WRONG_TYPES.items() for value in wrong], ids=repr
)
def test_wrong_values_are_dropped_although_signed(name, value):
    assert_dropped(signed(**{name: value}), name.removesuffix("s"))


@pytest.mark.parametrize("name", ["hashes", "signatures"])
@pytest.mark.parametrize("value", [MISSING, None, 5, "x", [], True, {"sha256": 5}, {ALICE.server_name: "x"}], ids=repr)
def test_hashes_and_signatures_of_wrong_type(name, value):
    raw = signed()
    raw[name] = value
    assert_dropped({key: raw[key] for key in raw if raw[key] is not MISSING}, name)


def test_signature_that_is_no_string():
    raw = signed()
    raw["signatures"][ALICE.server_name]["ed25519:2"] = 5
    assert_dropped(raw, "a signature is not a string")


@pytest.mark.parametrize("joined", ["\n".join(["$" + "a" * 43] * 2), "$" + "a" * 43 + "\n"])
def test_one_string_is_not_two_event_ids(joined):
    assert_dropped(signed(prev_events=[joined]), "prev_events")
    assert_dropped(signed(prev_events=[joined, ""]), "prev_events")
    assert_dropped(signed(prev_events=[joined, "$" + "a" * 43]), "prev_events")


@pytest.mark.parametrize(
    "room_id", ["!room", "!" + "r" * 43, "!:b.example", "!room:", "room:b.example", "!a\0b:c.example"]
)
@pytest.mark.parametrize("rules", [V10, V11], ids=lambda rules: rules.version)
def test_room_ids_before_version_12_have_a_server(rules, room_id):
    assert_dropped(signed(rules, room_id=room_id), "room_id", rules)


def test_depth_and_timestamp_from_end_to_end():
    largest = 2**53 - 1
    for depth in (0, largest):
        assert receive(signed(depth=depth)).depth == depth
    for timestamp in (-largest, -1, 0, largest):
        assert receive(signed(origin_server_ts=timestamp)).origin_server_ts == timestamp
    for name in ("depth", "origin_server_ts"):
        raw = signed()
        raw[name] = largest + 1
        assert_dropped(raw, name)
        raw[name] = 2**63
        assert_dropped(raw, name)


@pytest.mark.parametrize(("rules", "largest"), [(V3, 2**63 - 1), (V5, 2**63 - 1), (V6, 2**53 - 1)])
def test_the_largest_depth_of_a_version(rules, largest):
    """Source: server-server API, the schemas of the PDUs of each version."""
    assert receive(signed(rules, depth=largest), rules).depth == largest
    assert_dropped(signed(rules) | {"depth": largest + 1}, "depth", rules)


@pytest.mark.parametrize(("name", "most"), [("prev_events", 20), ("auth_events", 10)])
def test_number_of_references(name, most):
    def event_ids(count: int) -> list[str]:
        return [f"${number:043}" for number in range(count)]

    assert len(getattr(receive(signed(**{name: event_ids(most)})), name)) == most
    assert_dropped(signed(**{name: event_ids(most + 1)}), name)
    tolerated = receive(signed(**{name: event_ids(500)}), limit_references=False)
    assert getattr(tolerated, name) == tuple(event_ids(500))


def test_repeated_parents_count_once_and_repeated_auth_events_are_seen():
    one = "$" + "p" * 43
    pdu = receive(signed(prev_events=[one, one], auth_events=[one, one]))
    assert pdu.prev_events == (one,)
    assert pdu.auth_events == (one, one)


@pytest.mark.parametrize("character", ["x", "é", "😀", '"', "\0"], ids=repr)
@pytest.mark.parametrize("name", ["type", "state_key"])
def test_strings_of_255_octets(name, character):
    octets = len(character.encode())
    fits = character * (255 // octets) + "x" * (255 % octets)
    assert getattr(receive(signed(**{name: fits})), name) == fits
    assert_dropped(signed(**{name: fits + "x"}), f"{name} is over 255 octets")


def test_sender_and_room_id_of_255_octets():
    room = "é" * ((255 - len(f"!:{ALICE.server_name}")) // 2)
    room_id = f"!{room}:{ALICE.server_name}"
    assert receive(signed(V11, room_id=room_id), V11).room_id == room_id
    assert_dropped(signed(V11, room_id="!éé" + room_id[1:]), "room_id is over 255 octets", V11)
    sender = f"@{room}:{ALICE.server_name}"
    assert receive(signed(sender=sender)).sender == sender
    assert_dropped(signed(sender="@éé" + sender[1:]), "sender is over 255 octets")


def event_of_size(octets: int, filler: str = "x", **fields: Any) -> dict[str, Any]:
    missing = octets - len(encode_canonical(signed(content={"body": ""}, **fields)))
    width = len(encode_canonical(filler)) - 2
    body = filler * (missing // width) + "x" * (missing % width)
    raw = signed(content={"body": body}, **fields)
    assert len(encode_canonical(raw)) == octets
    return raw


@pytest.mark.parametrize("filler", ["x", "é", "😀", '"', "\0"], ids=repr)
def test_size_is_counted_in_octets_of_canonical_json(filler):
    assert not receive(event_of_size(65_536, filler)).redacted_copy
    assert_dropped(event_of_size(65_537, filler), "65536 octets")


def test_size_counts_signatures_to_the_octet():
    raw = event_of_size(60_000)
    spare = 65_536 - 60_000 - len(',"other.example":{"":""}')
    for text in ("x" * spare, "\n" * (spare // 2), "é" * (spare // 2), '"' * (spare // 2), "\\" * (spare // 2)):
        grown = copy.deepcopy(raw)
        grown["signatures"]["other.example"] = {"": text}
        fill = 65_536 - len(encode_canonical(grown))
        grown["signatures"]["other.example"][""] += "x" * fill
        assert not receive(grown).redacted_copy
        grown["signatures"]["other.example"][""] += "x"
        assert_dropped(grown, "65536 octets")


def test_size_counts_hashes_too():
    raw = signed(content={"body": "x" * 30_000})
    raw["hashes"]["other"] = "x" * 40_000
    assert_dropped(raw, "65536 octets")


def test_unsigned_neither_counts_nor_is_kept_nor_is_looked_at():
    raw = event_of_size(65_536)
    nested: list[Any] = []
    for _ in range(500):
        nested = [nested]
    for unsigned in ("x" * 1_000_000, 1.5, {"a": float("nan")}, {1: {2}}, "\ud800", nested, None):
        pdu = receive({**raw, "unsigned": unsigned})
        assert pdu.raw == raw
        assert "unsigned" not in pdu.raw


@pytest.mark.parametrize(
    "value", [1.5, 2**53, "\ud800", {"\udc00": 1}, {1: 2}, float("nan"), b"x", (1,), [[{"a": [0.1]}]]], ids=repr
)
@pytest.mark.parametrize("place", ["content", "unknown", "hashes", "signatures"])
def test_what_canonical_json_cannot_say_is_dropped_wherever_it_is(place, value):
    raw = signed()
    if place == "unknown":
        raw["org.example.unknown"] = value
    elif place == "signatures":
        raw["signatures"]["other.example"] = value if isinstance(value, dict) else {"ed25519:1": value}
    else:
        raw[place]["x"] = value
    with pytest.raises(PduDropped):
        receive(raw)


def test_a_value_with_shared_parts_is_dropped_quickly():
    value: object = "x" * 1_000
    for _ in range(90):
        value = [value, value]
    raw = signed()
    raw["content"] = {"x": value}
    assert_dropped(raw, "too many values")
    own = {f"ed25519:{number}": "x" for number in range(3_000)}
    raw = signed()
    raw["signatures"] = {str(number): own for number in range(3_000)}
    assert_dropped(raw, "too many signatures")


def test_nesting_limit():
    for levels, good in ((90, True), (98, True), (99, False), (5_000, False)):
        raw = signed()
        value: object = 1
        for _ in range(levels):
            value = [value]
        raw["content"] = {"x": value}
        if good:
            assert receive(raw).redacted_copy
        else:
            assert_dropped(raw, "nested too deeply")


# Create events.


def test_create_event_of_version_12_has_no_room_id_and_gives_one():
    create = {"type": "m.room.create", "state_key": "", "content": {"room_version": "12"}, "prev_events": []}
    pdu = receive(signed(room_id=MISSING, **create))
    assert pdu.room_id == "!" + pdu.event_id[1:]
    assert load_pdu(pdu.raw, V12).room_id == pdu.room_id
    assert_dropped(signed(room_id=ROOM_V12, **create), "has none")
    assert_dropped(signed(room_id=pdu.room_id, **create), "has none")


@VERSIONS
@pytest.mark.parametrize("state_key", [MISSING, "x"])
def test_create_event_has_an_empty_state_key(rules, state_key):
    assert_dropped(signed(rules, type="m.room.create", state_key=state_key), "empty state_key", rules)


# Signatures.


def test_signature_of_nobody_somebody_else_and_another_event():
    raw, other = signed(), signed(depth=6)
    for signatures in (
        {},
        {ALICE.server_name: {}},
        other["signatures"],
        signed(signer=signer_of("mallory"))["signatures"],
        {ALICE.server_name: {"ed25519:2": raw["signatures"][ALICE.server_name]["ed25519:1"]}},
        {ALICE.server_name.upper(): raw["signatures"][ALICE.server_name]},
        {ALICE.server_name: {"ed25519:1": ""}},
        {ALICE.server_name: {"ed25519:1": "?" * 86}},
    ):
        assert_dropped({**raw, "signatures": signatures}, "no valid signature")
    assert not receive(raw).redacted_copy


def test_padding_and_junk_beside_the_signature_do_not_matter():
    raw = signed()
    raw["signatures"][ALICE.server_name]["ed25519:1"] += "=="
    raw["signatures"][ALICE.server_name]["x"] = "x"
    raw["signatures"]["other.example"] = {"ed25519:1": "x"}
    assert not receive(raw).redacted_copy


def test_sixteen_spellings_of_a_key_and_one_that_may_send():
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    last = alphabet.index(ALICE.server_name[-1])
    assert last % 16 == 0
    accepted = []
    for offset in range(16):
        spelling = ALICE.server_name[:-1] + alphabet[last + offset]
        seed_holder = copy.copy(ALICE)
        seed_holder.server_name = spelling
        try:
            accepted.append(receive(signed(signer=seed_holder)).server)
        except PduDropped as dropped:
            assert "no valid signature" in dropped.reason  # noqa: PT017
    assert accepted == [ALICE.server_name]


def test_key_of_small_order_signs_nothing():
    neutral = (1).to_bytes(32, "little")
    raw = signed()
    raw["sender"] = f"@a:{server_name_of(neutral)}"
    raw["signatures"] = {server_name_of(neutral): {KEY_ID: "AQ" + "A" * 84}}
    assert_dropped(raw, "no valid signature")


@VERSIONS
def test_restricted_join_needs_both_signatures(rules):
    vouching = signer_of("vouching")
    content = {"membership": "join", "join_authorised_via_users_server": f"@bob:{vouching.server_name}"}
    member = {"type": "m.room.member", "state_key": SENDER}
    alone = signed(rules, content=content, **member)
    assert_dropped(alone, f"no valid signature of {vouching.server_name}", rules)
    assert not receive(sign_event(alone, rules, vouching), rules).redacted_copy
    assert_dropped(sign_event(alone, rules, signer_of("mallory")), "no valid signature", rules)
    # Nobody vouches for a leave, and a server may vouch for its own users.
    receive(signed(rules, content={**content, "membership": "leave"}, **member), rules)
    receive(signed(rules, content={**content, "join_authorised_via_users_server": SENDER}, **member), rules)
    for nobody in ("bob", "@bob", 5, None, []):
        vouched = {**content, "join_authorised_via_users_server": nobody}
        assert_dropped(signed(rules, content=vouched, **member), "join_authorised_via_users_server", rules)


# Content hash.


LYING = [pdu for pdu in valid_pdus() if pdu.type != "m.room.create" or pdu.rules is V10]


@pytest.mark.parametrize("base", LYING, ids=lambda pdu: f"{pdu.rules.version} {pdu.type}")
def test_lying_content_hash_gives_the_redacted_form(base):
    twin = {**base.raw, "content": {**base.content, "org.example.lie": 1}, "org.example.lie": 2}
    received = receive(twin, base.rules)
    assert received.redacted_copy
    assert received.event_id == base.event_id
    assert received.raw == redact(base.raw, base.rules)
    assert received != base
    assert received == load_pdu(received.raw, base.rules, redacted_copy=True)


@pytest.mark.parametrize("rules", [V11, V12], ids=lambda rules: rules.version)
def test_all_content_of_a_create_event_is_signed(rules):
    base = next(pdu for pdu in valid_pdus() if pdu.rules is rules and pdu.type == "m.room.create")
    assert_dropped({**base.raw, "content": {**base.content, "x": 1}}, "no valid signature", rules)


@pytest.mark.parametrize("claimed", ["", "x", "é", "=", "A" * 43, "A" * 10_000])
def test_a_hash_that_is_no_hash_is_a_mismatch(claimed):
    raw = sign_event({**signed(), "hashes": {}}, V12, ALICE)
    lied = {**raw, "hashes": {"sha256": claimed}}
    # The hash is protected, so the signature must cover the lie.
    lied["signatures"] = _signatures_over(lied)
    assert receive(lied).redacted_copy


def test_a_padded_hash_matches():
    raw = signed()
    raw["hashes"]["sha256"] += "="
    raw["signatures"] = _signatures_over(raw)
    assert not receive(raw).redacted_copy


def _signatures_over(raw: dict[str, Any]) -> dict[str, Any]:
    """A signature over the event with the hashes it has."""
    protected = redact(raw, V12)
    del protected["signatures"]
    return {ALICE.server_name: {KEY_ID: encode_base64(ALICE.sign(encode_canonical(protected)))}}


def test_the_object_is_not_changed():
    raw = {**signed(), "unsigned": {"age": 1}}
    before = copy.deepcopy(raw)
    receive(raw)
    receive({**raw, "content": {"body": "other"}})
    assert raw == before


def test_verdict_does_not_depend_on_the_order_of_keys():
    raw = signed()
    backwards = {key: raw[key] for key in sorted(raw, reverse=True)}
    assert receive(backwards).event_id == receive(raw).event_id


def test_each_of_many_gets_what_it_gets_alone():
    """Wrong ones of every kind between good ones: none takes the place, or the signature, of another."""
    bob = signer_of("bob")
    good = [signed(depth=depth) for depth in range(1, 6)]
    join = signed(
        type="m.room.member",
        state_key=SENDER,
        content={"membership": "join", "join_authorised_via_users_server": f"@bob:{bob.server_name}"},
    )
    objs = [
        good[0],
        None,
        signed(depth=-1),
        good[1] | {"signatures": good[0]["signatures"]},
        good[2] | {"content": {"body": "changed"}},
        join,
        sign_event(join, V12, bob),
        good[3] | {"signatures": {}},
        good[4],
    ]
    found = check_all_on_receipt(objs, V12, SelfCertifyingKeys())
    alone = []
    for obj in objs:
        try:
            alone.append(receive(obj))
        except PduDropped as drop:
            alone.append(drop)
    assert [str(each) for each in found if isinstance(each, PduDropped)] == [
        str(each) for each in alone if isinstance(each, PduDropped)
    ]
    assert [isinstance(each, Pdu) for each in found] == [True, False, False, False, True, False, True, False, True]
    assert [(each.event_id, each.raw) for each in found if isinstance(each, Pdu)] == [
        (each.event_id, each.raw) for each in alone if isinstance(each, Pdu)
    ]
