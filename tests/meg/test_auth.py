"""Auth rules beyond the tables: third-party invites, auth events, second create events, hostile content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pserver.events.pdu import Pdu
from p2pserver.events.signing import Signer, sign_json
from p2pserver.events.unpadded_base64 import encode_base64, encode_base64url
from p2pserver.events.versions import V10, V11, V12, RoomVersionRules
from p2pserver.meg import auth, membership
from p2pserver.meg.auth import auth_slots, authorize, check_auth_events, create_id_of, state_of_auth_events
from p2pserver.meg.power import CREATOR_LEVEL, PowerLevels, creators_of
from p2pserver.meg.state import CREATE, JOIN_RULES, POWER_LEVELS, NotAllowed, StateSlot, member_slot
from tests.meg.rooms import ALICE, BOB, CAROL, DAVE, pdu

VERSIONS = [V10, V11, V12]
each_version = pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.version)
IDENTITY_SERVER = Signer("id.example", "ed25519:0", bytes(32))


def room_id_of(rules: RoomVersionRules) -> str:
    return "!create" if rules.room_id_is_create_hash else "!room:a.example"


def event(rules: RoomVersionRules, event_type: str, **fields: Any) -> Pdu:
    return pdu(rules, fields.pop("event_id", "$event"), event_type, room_id=room_id_of(rules), **fields)


def make_state(rules: RoomVersionRules, **creation: Any) -> dict[StateSlot, Pdu]:
    """Alice's room: Bob is a moderator, Carol is in it, Dave is not."""
    content = {"room_version": rules.version, **({"creator": ALICE} if rules.creator_in_content else {}), **creation}
    state = {
        CREATE: event(
            rules, "m.room.create", event_id="$create", sender=ALICE, content=content, state_key="", prev_events=()
        )
    }
    for user in (ALICE, BOB, CAROL):
        state[member_slot(user)] = event(
            rules,
            "m.room.member",
            event_id=f"$join-{user}",
            sender=user,
            content={"membership": "join"},
            state_key=user,
        )
    users = {BOB: 50} if rules.creators_privileged else {ALICE: 100, BOB: 50}
    state[POWER_LEVELS] = event(
        rules,
        "m.room.power_levels",
        event_id="$levels",
        sender=ALICE,
        content={"users": users, "invite": 50},
        state_key="",
    )
    state[JOIN_RULES] = event(
        rules, "m.room.join_rules", event_id="$rules", sender=ALICE, content={"join_rule": "invite"}, state_key=""
    )
    return state


def is_allowed(what: Pdu, state: Mapping[StateSlot, Pdu]) -> bool:
    try:
        authorize(what, state)
    except NotAllowed as refused:
        return refused.reason == ""
    return True


# Third-party invites --------------------------------------------------------------------------------------------------


def offer(rules: RoomVersionRules, **content: Any) -> Pdu:
    return event(
        rules, "m.room.third_party_invite", event_id="$offer", sender=CAROL, state_key="token", content=content
    )


def third_party_invite(rules: RoomVersionRules, signed: Any, *, sender: str = CAROL, target: str = DAVE) -> Pdu:
    content = {"membership": "invite", "third_party_invite": {"display_name": "D", "signed": signed}}
    return event(rules, "m.room.member", sender=sender, state_key=target, content=content)


SIGNED = sign_json({"mxid": DAVE, "token": "token"}, IDENTITY_SERVER)
KEY = encode_base64(IDENTITY_SERVER.verify_key)
OTHER_KEY = encode_base64(Signer("x", "ed25519:0", b"1" * 32).verify_key)


@each_version
@pytest.mark.parametrize(
    "keys",
    [
        {"public_key": KEY},
        {"public_key": encode_base64url(IDENTITY_SERVER.verify_key)},
        {"public_key": OTHER_KEY, "public_keys": [{"public_key": OTHER_KEY}, {"public_key": KEY}]},
        {"public_keys": ["nonsense", {}, {"public_key": 7}, {"public_key": "?"}, {"public_key": KEY}]},
    ],
)
def test_a_third_party_invite_needs_no_invite_level(rules: RoomVersionRules, keys: dict[str, Any]) -> None:
    """Carol may not invite, but a third-party invite of hers is in the state, and its key signed for Dave."""
    state = make_state(rules)
    state["m.room.third_party_invite", "token"] = offer(rules, **keys)
    assert is_allowed(third_party_invite(rules, SIGNED), state)


@each_version
def test_third_party_invites_that_are_refused(rules: RoomVersionRules) -> None:
    state = make_state(rules)
    slot = ("m.room.third_party_invite", "token")
    assert not is_allowed(third_party_invite(rules, SIGNED), state), "no offer"
    state[slot] = offer(rules, public_key=KEY)
    assert is_allowed(third_party_invite(rules, SIGNED), state)
    assert not is_allowed(third_party_invite(rules, SIGNED, sender=ALICE), state), "not the sender of the offer"
    assert not is_allowed(third_party_invite(rules, SIGNED, target="@eve:e.example"), state), "not for this user"
    forged = {"mxid": "@eve:e.example", "token": "token", "signatures": SIGNED["signatures"]}
    assert not is_allowed(third_party_invite(rules, forged, target="@eve:e.example"), state), (
        "signature of another text"
    )
    for signed in (None, [], {}, {"mxid": DAVE}, {**SIGNED, "token": []}, {**SIGNED, "signatures": {}}):
        assert not is_allowed(third_party_invite(rules, signed), state)
    for signatures in ([], {"id.example": []}, {"id.example": {"ed25519:0": 7}}, {"id.example": {"ed25519:0": "?"}}):
        assert not is_allowed(third_party_invite(rules, {**SIGNED, "signatures": signatures}), state)
    not_canonical = {"mxid": DAVE, "token": "token", "x": 0.5, "signatures": SIGNED["signatures"]}
    assert not is_allowed(third_party_invite(rules, not_canonical), state)
    for invite in (None, [], "signed"):
        content = {"membership": "invite", "third_party_invite": invite}
        assert not is_allowed(event(rules, "m.room.member", sender=ALICE, state_key=DAVE, content=content), state)
    for keys in ({}, {"public_key": OTHER_KEY}, {"public_key": KEY[:-2]}, {"public_keys": {"public_key": KEY}}):
        state[slot] = offer(rules, **keys)
        assert not is_allowed(third_party_invite(rules, SIGNED), state)
    state[slot] = offer(rules, public_key=KEY)
    state[member_slot(DAVE)] = event(
        rules, "m.room.member", sender=ALICE, state_key=DAVE, content={"membership": "ban"}
    )
    assert not is_allowed(third_party_invite(rules, SIGNED), state), "banned"


def test_a_third_party_invite_costs_a_bounded_number_of_signature_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr(membership, "signature_matches", lambda *_args: bool(checked.append(1)))
    state = make_state(V12)
    state["m.room.third_party_invite", "token"] = offer(V12, public_keys=[{"public_key": OTHER_KEY}] * 600)
    signatures = {"id.example": {f"ed25519:{number}": encode_base64(bytes(64)) for number in range(300)}}
    assert not is_allowed(third_party_invite(V12, {**SIGNED, "signatures": signatures}), state)
    assert len(checked) == membership.THIRD_PARTY_SIGNATURE_CHECKS_MAX


# Members --------------------------------------------------------------------------------------------------------------


@each_version
@pytest.mark.parametrize("state_key", [None, "", "dave", "@dave", "@:", "dave:d.example"])
def test_a_member_is_a_user(rules: RoomVersionRules, state_key: str | None) -> None:
    content = {"membership": "invite"}
    assert not is_allowed(
        event(rules, "m.room.member", sender=ALICE, state_key=state_key, content=content), make_state(rules)
    )


@each_version
def test_an_unreadable_join_rule_lets_nobody_in(rules: RoomVersionRules) -> None:
    state = make_state(rules)
    state[member_slot(DAVE)] = event(
        rules, "m.room.member", sender=BOB, state_key=DAVE, content={"membership": "invite"}
    )
    join = event(rules, "m.room.member", sender=DAVE, state_key=DAVE, content={"membership": "join"})
    assert is_allowed(join, state)
    for content, expected in (({}, True), ({"join_rule": None}, False), ({"join_rule": ["public"]}, False)):
        state[JOIN_RULES] = event(rules, "m.room.join_rules", sender=ALICE, state_key="", content=content)
        assert is_allowed(join, state) is expected, content


@each_version
def test_the_first_join_is_the_creators(rules: RoomVersionRules) -> None:
    create = {CREATE: make_state(rules, additional_creators=[BOB])[CREATE]}
    for user, expected in ((ALICE, True), (BOB, False)):
        join = event(
            rules, "m.room.member", sender=user, state_key=user, content={"membership": "join"}, prev_events=["$create"]
        )
        assert is_allowed(join, create) is expected
    later = event(
        rules,
        "m.room.member",
        sender=ALICE,
        state_key=ALICE,
        content={"membership": "join"},
        prev_events=["$create", "$other"],
    )
    assert not is_allowed(later, create)


# Power ----------------------------------------------------------------------------------------------------------------


def test_creators() -> None:
    for rules, expected in ((V10, {ALICE}), (V11, {ALICE}), (V12, {ALICE, BOB})):
        assert creators_of(make_state(rules, additional_creators=[BOB, 7])[CREATE]) == expected
    assert creators_of(make_state(V10, creator=7)[CREATE]) == set()
    assert creators_of(make_state(V11, creator=BOB)[CREATE]) == {ALICE}
    assert creators_of(make_state(V12, additional_creators="@bob:b.example")[CREATE]) == {ALICE}


def test_a_creator_is_above_every_integer_but_not_above_another_creator() -> None:
    levels = PowerLevels.of(make_state(V12, additional_creators=[BOB])[CREATE], None)
    assert levels.of_user(ALICE) > 2**53
    assert levels.of_user(BOB) == levels.of_user(ALICE) == CREATOR_LEVEL
    state = make_state(V12, additional_creators=[BOB])
    kick = event(V12, "m.room.member", sender=ALICE, state_key=BOB, content={"membership": "leave"})
    assert not is_allowed(kick, state)
    state = make_state(V12)
    state[POWER_LEVELS] = event(
        V12, "m.room.power_levels", sender=ALICE, state_key="", content={"users": {BOB: 2**53 - 1}}
    )
    assert is_allowed(kick, state)


@each_version
def test_levels_without_a_power_levels_event(rules: RoomVersionRules) -> None:
    levels = PowerLevels.of(make_state(rules)[CREATE], None)
    assert levels.of_user(ALICE) == (CREATOR_LEVEL if rules.creators_privileged else 100)
    assert levels.of_user(BOB) == 0
    assert (levels.ban, levels.kick, levels.redact, levels.invite) == (50, 50, 50, 0)
    assert (levels.needed_for("m.room.topic", True), levels.needed_for("m.room.message", False)) == (50, 0)
    assert (levels.may_redact(ALICE), levels.may_redact(BOB)) == (True, False)


@each_version
def test_levels_of_a_power_levels_event(rules: RoomVersionRules) -> None:
    content = {
        "users": {BOB: 60, CAROL: True, DAVE: "90"},
        "users_default": 7,
        "events": {"x": 3, "y": None},
        "events_default": 1,
        "state_default": 2,
        "ban": 3,
        "kick": 4,
        "redact": 61,
        "invite": 6,
    }
    state = make_state(rules)
    levels = PowerLevels.of(
        state[CREATE], event(rules, "m.room.power_levels", sender=ALICE, state_key="", content=content)
    )
    assert [levels.of_user(user) for user in (BOB, CAROL, DAVE)] == [60, 7, 7]
    assert levels.of_user(ALICE) == (CREATOR_LEVEL if rules.creators_privileged else 7)
    assert (levels.needed_for("x", True), levels.needed_for("y", True), levels.needed_for("y", False)) == (3, 2, 1)
    assert (levels.ban, levels.kick, levels.redact, levels.invite) == (3, 4, 61, 6)
    assert not levels.may_redact(BOB)
    for broken in ({"users": []}, {"users": None, "events": "none", "ban": [], "invite": 1.5}):
        levels = PowerLevels.of(
            state[CREATE], event(rules, "m.room.power_levels", sender=ALICE, state_key="", content=broken)
        )
        assert (levels.of_user(CAROL), levels.ban, levels.invite, levels.needed_for("x", True)) == (0, 50, 0, 50)


# Auth events ----------------------------------------------------------------------------------------------------------


def slots(rules: RoomVersionRules, event_type: str, state_key: str | None, **content: Any) -> list[StateSlot]:
    return auth_slots(event_type=event_type, sender=ALICE, state_key=state_key, content=content, rules=rules)


@each_version
def test_selection_of_auth_events(rules: RoomVersionRules) -> None:
    base = [*([] if rules.room_id_is_create_hash else [CREATE]), POWER_LEVELS, member_slot(ALICE)]
    assert slots(rules, "m.room.create", "") == []
    assert slots(rules, "m.room.message", None) == base
    assert slots(rules, "m.room.member", None, membership="join") == base
    assert slots(rules, "m.room.member", ALICE, membership="join") == [*base, JOIN_RULES]
    assert slots(rules, "m.room.member", ALICE, membership="knock") == [*base, JOIN_RULES]
    assert slots(rules, "m.room.member", ALICE, membership="leave") == base
    assert slots(rules, "m.room.member", BOB, membership="ban") == [*base, member_slot(BOB)]
    assert slots(rules, "m.room.member", BOB, membership="invite") == [*base, member_slot(BOB), JOIN_RULES]
    restricted = slots(rules, "m.room.member", ALICE, membership="join", join_authorised_via_users_server=CAROL)
    assert restricted == [*base, JOIN_RULES, member_slot(CAROL)]
    assert slots(rules, "m.room.member", ALICE, membership="leave", join_authorised_via_users_server=CAROL) == base
    token = {"signed": {"token": "t"}}
    invite = slots(rules, "m.room.member", BOB, membership="invite", third_party_invite=token)
    assert invite == [*base, member_slot(BOB), JOIN_RULES, ("m.room.third_party_invite", "t")]
    for signed in (None, {}, {"signed": []}, {"signed": {"token": 1}}):
        assert len(slots(rules, "m.room.member", BOB, membership="invite", third_party_invite=signed)) == len(base) + 2


def refusal(what: Pdu, cited: list[Pdu], create: Pdu | None, rejected: tuple[str, ...] = ()) -> str:
    try:
        check_auth_events(what, cited, rejected=rejected, create=create)
    except NotAllowed as error:
        return error.reason
    return ""


@each_version
def test_auth_events_must_be_known_and_the_room_accepted(rules: RoomVersionRules) -> None:
    state = make_state(rules)
    cited = [state[slot] for slot in slots(rules, "m.room.topic", "")]
    topic = event(
        rules, "m.room.topic", sender=ALICE, state_key="", content={}, auth_events=[each.event_id for each in cited]
    )
    assert refusal(topic, cited, state[CREATE]) == ""
    assert refusal(topic, cited[::-1], state[CREATE]) == ""
    assert "not known" in refusal(topic, cited[:-1], state[CREATE])
    assert "not known" in refusal(topic, [*cited, state[JOIN_RULES]], state[CREATE])
    assert "create" in refusal(topic, cited, None)
    assert "rejected" in refusal(topic, cited, state[CREATE], rejected=("$levels",))
    other_room = pdu(
        rules, "$other", "m.room.create", sender=ALICE, content={}, state_key="", room_id="!other:a.example"
    )
    assert "another room" in refusal(topic, cited, other_room)
    rootless = event(rules, "m.room.topic", sender=ALICE, state_key="", content={}, prev_events=())
    assert "prev_events" in refusal(rootless, [], state[CREATE])


def test_the_room_of_version_12_is_its_create_event() -> None:
    assert create_id_of("!abc") == "$abc"
    state = make_state(V12)
    claimed = pdu(V12, "$another", "m.room.create", sender=BOB, content={}, state_key="", room_id=room_id_of(V12))
    topic = event(V12, "m.room.topic", sender=ALICE, state_key="", content={})
    assert refusal(topic, [], state[CREATE]) == ""
    assert "room ID" in refusal(topic, [], claimed)


@each_version
def test_a_room_has_one_create_event(rules: RoomVersionRules) -> None:
    first = make_state(rules)[CREATE]
    second = event(
        rules, "m.room.create", event_id="$second", sender=ALICE, content=first.content, state_key="", prev_events=()
    )
    assert refusal(first, [], None) == ""
    assert refusal(first, [], first) == ""
    assert "another create" in refusal(second, [], first)
    assert not is_allowed(second, {CREATE: first})
    for state_key in (None, "x"):
        odd = event(rules, "m.room.create", sender=ALICE, content=first.content, state_key=state_key, prev_events=())
        assert "state_key" in refusal(odd, [], None)
    unversioned = {"creator": ALICE}
    assert refusal(
        event(rules, "m.room.create", sender=ALICE, content=unversioned, state_key="", prev_events=()), [], None
    )


@each_version
def test_the_state_of_the_auth_events_has_the_create_event(rules: RoomVersionRules) -> None:
    state = make_state(rules)
    message = event(rules, "m.room.message", sender=ALICE, content={})
    assert state_of_auth_events([state[POWER_LEVELS], message], state[CREATE]) == {
        CREATE: state[CREATE],
        POWER_LEVELS: state[POWER_LEVELS],
    }
    assert state_of_auth_events([], None) == {}
    assert not is_allowed(message, {}), "no create event in the state"


# Hostile content ------------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-3, 120) | st.sampled_from(["", "join", "ban", "public", ALICE, DAVE])
json_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["signed", "mxid", "token", "signatures", ALICE, DAVE, "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
contents = st.dictionaries(
    st.sampled_from(
        ["membership", "join_rule", "users", "events", "notifications", "ban", "invite", "users_default",
         "third_party_invite", "join_authorised_via_users_server", "public_keys", "creator", "additional_creators",
         "room_version", "m.federate"]
    ),
    json_values,
    max_size=5,
)  # fmt: skip
types = st.sampled_from(
    ["m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules", "m.room.third_party_invite",
     "m.room.topic"]
)  # fmt: skip
users = st.sampled_from([ALICE, BOB, CAROL, DAVE])


@settings(max_examples=200, deadline=None)
@given(
    rules=st.sampled_from(VERSIONS),
    sender=users,
    event_type=types,
    state_key=st.none() | st.sampled_from(["", "token", "@", "@dave:d.example", ALICE]),
    content=contents,
    hostile=st.dictionaries(st.sampled_from([CREATE, POWER_LEVELS, JOIN_RULES, member_slot(DAVE)]), contents),
)
def test_hostile_content_earns_a_refusal_and_no_other_exception(
    rules: RoomVersionRules,
    sender: str,
    event_type: str,
    state_key: str | None,
    content: dict[str, Any],
    hostile: dict[StateSlot, dict[str, Any]],
) -> None:
    """Also where the state is made of content that the rules would never have let in."""
    state = make_state(rules)
    for slot, forged in hostile.items():
        state[slot] = event(rules, slot[0], event_id="$forged", sender=ALICE, state_key=slot[1], content=forged)
    what = event(rules, event_type, sender=sender, state_key=state_key, content=content)
    assert is_allowed(what, state) in (True, False)
    cited = [state[slot] for slot in auth.auth_slots_of(what) if slot in state]
    refusal(what, cited, state[CREATE])
