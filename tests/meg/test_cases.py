"""Resolution judges events of one case once (`case_of`): the auth rules must never tell two of them apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product

import pytest

from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import V6, V10, V12, RoomVersionRules
from p2pserver.meg.auth import (
    NotAllowed,
    auth_slots_of,
    auth_state_of,
    case_of,
    is_ban_of_another,
    level_below_which_bans,
)
from p2pserver.meg.auth_state import AuthState, membership_by
from p2pserver.meg.state import CREATE, JOIN_RULES, POWER_LEVELS, StateSlot, member_slot
from tests.meg.rooms import ALICE, BOB, CAROL, DAVE
from tests.meg.test_auth import event, is_allowed, make_state

VERSIONS = [V6, V10, V12]
MEMBERSHIPS = ("join", "leave", "ban", "invite", None)
JOIN_RULES_TRIED = ("public", "invite", "restricted", "knock")


def states(rules: RoomVersionRules, *, federated: bool) -> Iterator[dict[StateSlot, Pdu]]:
    """Dave and Carol in every membership, under every join rule and with other levels; and an empty room."""
    base = make_state(rules, **{"m.federate": federated})
    for number, users in enumerate(({}, {DAVE: 50}, {CAROL: 100})):
        levels = base[POWER_LEVELS]
        content = {**levels.content, "users": {**levels.content["users"], **users}, "events": {"m.room.topic": 0}}
        base[POWER_LEVELS] = replace(levels, event_id=f"$levels{number}", content=content)
        for rule, dave, carol in product(JOIN_RULES_TRIED, MEMBERSHIPS, MEMBERSHIPS[::2]):
            state = dict(base)
            state[JOIN_RULES] = replace(base[JOIN_RULES], event_id=f"${rule}", content={"join_rule": rule})
            for user, membership in ((DAVE, dave), (CAROL, carol)):
                slot = member_slot(user)
                if membership is None:
                    state.pop(slot, None)
                else:
                    content = {"membership": membership}
                    state[slot] = event(rules, "m.room.member", sender=user, state_key=user, content=content)
            if dave == carol is None:
                del state[member_slot(ALICE)]
            yield state


def events(rules: RoomVersionRules) -> Iterator[Pdu]:
    for sender, key in product((ALICE, BOB, CAROL, DAVE), ("", "a", CAROL, DAVE)):
        for event_type in ("m.room.topic", "m.room.join_rules", "m.example.setting"):
            yield event(rules, event_type, sender=sender, state_key=key, content={})
    for sender, target, membership in product((ALICE, DAVE), (ALICE, CAROL, DAVE), ("join", "ban")):
        for more in ({}, {"displayname": "D"}, {"join_authorised_via_users_server": BOB}):
            for parents in (("$before",), ("$create",), ("$create", "$before")):
                yield event(
                    rules,
                    "m.room.member",
                    sender=sender,
                    state_key=target,
                    content={"membership": membership, **more},
                    prev_events=parents,
                    auth_events=() if rules.room_id_is_create_hash else ("$create",),
                )


def seen(what: Pdu, state: Mapping[StateSlot, Pdu]) -> tuple[str | None, ...]:
    slots = [state.get(slot) for slot in (*auth_slots_of(what), CREATE)]
    return tuple(
        None if held is None else membership_by(held) if held.type == "m.room.member" else held.event_id
        for held in slots
    )


def failures(rules: RoomVersionRules, cases: Callable[[Pdu], object]) -> Iterator[str]:
    judged = [(what, case) for what in events(rules) if (case := cases(what)) is not None]
    for federated in (True, False):
        verdicts: dict[tuple[object, tuple[str | None, ...]], bool] = {}
        for state in states(rules, federated=federated):
            for what, case in judged:
                verdict = is_allowed(what, state)
                if verdicts.setdefault((case, seen(what, state)), verdict) is not verdict:
                    yield f"{what.type} by {what.sender} on {what.state_key}"
        assert set(verdicts.values()) == {True, False}


@pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.version)
def test_events_of_one_case_are_judged_alike(rules: RoomVersionRules) -> None:
    assert list(failures(rules, case_of)) == []


def without(place: int) -> Callable[[Pdu], object]:
    def cases(what: Pdu) -> object:
        case = case_of(what)
        return None if case is None else (case[:place], case[place + 1 :])

    return cases


def of_every_join(what: Pdu) -> object:
    is_join = what.type == "m.room.member" and what.content["membership"] == "join"
    return (what.type, what.server) if is_join else case_of(what)


def of_every_own_join(what: Pdu) -> object:
    return of_every_join(what) if what.state_key == what.sender else case_of(what)


@pytest.mark.parametrize("cases", [without(0), without(1), without(2), of_every_join, of_every_own_join])
def test_a_case_that_leaves_something_out_is_noticed(cases: Callable[[Pdu], object]) -> None:
    assert next(failures(V10, cases), None) is not None


def ban_failures(
    rules: RoomVersionRules, may_ban: Callable[[Pdu, AuthState | None], float] = level_below_which_bans
) -> Iterator[str]:
    """Bans of which the level of the target alone, for one sender in one state, does not tell the verdict."""
    bans = [
        event(rules, "m.room.member", sender=sender, state_key=target, content={"membership": "ban"})
        for sender, target in product((ALICE, BOB, CAROL, DAVE), (ALICE, BOB, CAROL, DAVE, "nobody"))
    ]
    verdicts: set[bool] = set()
    for federated in (True, False):
        for state, what in product([{}, *states(rules, federated=federated)], filter(is_ban_of_another, bans)):
            view = auth_state_of(state)
            try:
                below = may_ban(what, view)
            except NotAllowed:
                below = float("-inf")
            told = view is not None and what.state_key is not None and view.power.of_user(what.state_key) < below
            verdicts.add(told)
            if told is not is_allowed(what, state):
                yield f"the ban of {what.state_key} by {what.sender}"
    assert verdicts == {True, False}


@pytest.mark.parametrize("rules", VERSIONS, ids=lambda rules: rules.version)
def test_of_its_target_a_ban_looks_at_nothing_but_the_level(rules: RoomVersionRules) -> None:
    assert list(ban_failures(rules)) == []


def test_whoever_bans_by_another_level_is_noticed() -> None:
    def without_asking(what: Pdu, view: AuthState | None) -> float:
        return 0 if view is None else view.power.of_user(what.sender)

    assert next(ban_failures(V10, without_asking), None) is not None
