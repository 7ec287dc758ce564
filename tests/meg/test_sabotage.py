"""The checks can fail: each single rule that is skipped, and each step of resolution done otherwise, is noticed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from p2pserver.events.versions import ROOM_VERSIONS, V6, V7, V8, V9, V10
from p2pserver.meg import auth, membership, power, resolution
from p2pserver.meg.chains import AuthGraph
from p2pserver.meg.state import POWER_LEVELS
from tests.meg import vector_checks as checks

VECTOR_VERSIONS = ("6", "10", "11", "12")
"""The versions of which every table has rows."""


def skipped(*_args: object, **_kwargs: object) -> None:
    """What a rule does that nobody looks after."""


def first_failure(check: Callable[[str], list[str]]) -> str | None:
    """The first failure of a check over all its room versions or all its rooms."""
    over = VECTOR_VERSIONS if inspect.signature(check).parameters.keys() == {"version"} else checks.STATE_RES
    failures: Iterator[str] = (failure for each in over for failure in check(each))
    return next(failures, None)


SKIPPED_RULES = [
    (auth, "check_federation", checks.send_failures),
    (auth, "check_sender_joined", checks.send_failures),
    (auth, "check_may_offer_invite", checks.send_failures),
    (auth, "check_level", checks.send_failures),
    (auth, "check_state_key", checks.send_failures),
    (auth, "check_power_levels", checks.power_levels_failures),
    (auth, "check_membership", checks.membership_failures),
    (auth, "check_create", checks.auth_events_failures),
    (auth, "check_room", checks.auth_events_failures),
    (auth, "check_citations", checks.auth_events_failures),
    (auth, "check_none_rejected", checks.auth_events_failures),
    (auth, "check_same_room", checks.auth_events_failures),
    (power, "check_types", checks.power_levels_failures),
    (power, "check_change", checks.power_levels_failures),
    (power, "creators_of", checks.power_levels_failures),
    (membership, "check_authorising_user", checks.membership_failures),
    (membership, "is_first_join", checks.membership_failures),
    (auth, "check_sender_joined", checks.graph_failures),
    (auth, "check_level", checks.graph_failures),
    (auth, "check_membership", checks.graph_failures),
    (auth, "check_power_levels", checks.graph_failures),
    (auth, "check_level", checks.resolution_failures),
]


@pytest.mark.parametrize(
    ("module", "rule", "check"), SKIPPED_RULES, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_skipped_rule_is_noticed(
    module: Any, rule: str, check: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, rule, (lambda _create: frozenset()) if rule == "creators_of" else skipped)
    assert first_failure(check) is not None


@pytest.mark.parametrize("kind", sorted(membership.TRANSITIONS))
def test_a_skipped_membership_rule_is_noticed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(membership.TRANSITIONS, kind, skipped)
    assert first_failure(checks.membership_failures) is not None


def test_a_boolean_power_level_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "is_integer", lambda value: isinstance(value, int))
    assert first_failure(checks.level_type_failures) is not None


def test_creators_with_a_mere_hundred_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "CREATOR_LEVEL", 100)
    assert checks.membership_failures("12") != []
    assert checks.membership_failures("11") == []


FLIPPED_KEYS: list[tuple[str, Callable[..., object]]] = [
    ("power_key", lambda level, ts, event_id: (level, ts, event_id)),
    ("power_key", lambda level, ts, event_id: (-level, -ts, event_id)),
    ("power_key", lambda level, ts, event_id: (-level, ts, [-ord(letter) for letter in event_id])),
    ("power_key", lambda _level, ts, event_id: (ts, event_id)),
    ("power_key", lambda level, ts, event_id: (-level, ts, event_id.lower())),
    ("rest_key", lambda age, ts, event_id: (age, ts, event_id)),
    ("rest_key", lambda age, ts, event_id: (-age, -ts, event_id)),
    ("rest_key", lambda age, ts, event_id: (-age, ts, [-ord(letter) for letter in event_id])),
    ("rest_key", lambda _age, ts, event_id: (ts, event_id)),
]


def wrong_states(name: str) -> list[str]:
    """The failures that change a resolved state, not only an intermediate step."""
    return [failure for failure in checks.resolution_failures(name) if "wrong state" in failure]


@pytest.mark.parametrize(("name", "key"), FLIPPED_KEYS, ids=[f"{i}-{name}" for i, (name, _) in enumerate(FLIPPED_KEYS)])
def test_a_flipped_tie_break_is_noticed(name: str, key: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, name, key)
    assert first_failure(wrong_states) is not None


def no_subgraph(*_args: object) -> set[str]:
    return set()


def own_events_not_counted(
    graph: AuthGraph, chain: list[str], conflicted: Any, unconflicted: Any, every_set: int, *, complete: bool
) -> set[str]:
    """The literal reading of the specification: a state set's own events are not part of its auth chain."""
    above: dict[str, int] = {}
    for event_id, sets in conflicted.items():
        for cited in graph.closure(graph.auth_ids(event_id)):
            above[cited] = above.get(cited, 0) | sets
    shared = graph.closure([cited for event_id in unconflicted for cited in graph.auth_ids(event_id)])
    return {event_id for event_id, sets in above.items() if sets != every_set} - set(shared)


def only_power_events(_graph: AuthGraph, events: Any, _full: Any) -> set[str]:
    return set(events)


def mainline_from_newest_cited(graph: AuthGraph, power_levels: str | None) -> list[str]:
    """A mainline that stops short of the oldest power levels event."""
    if power_levels is None:
        return []
    older = graph.cited(power_levels, POWER_LEVELS)
    return [power_levels] if older is None else [power_levels, older]


OTHER_STEPS: list[tuple[str, Callable[..., object]]] = [
    ("first_state", lambda _rules, unconflicted: dict(unconflicted)),
    ("first_state", lambda _rules, _unconflicted: {}),
    ("conflicted_subgraph", no_subgraph),
    ("auth_difference", own_events_not_counted),
    ("auth_difference", lambda *_args, **_kwargs: set()),
    ("with_auth_events_inside", only_power_events),
    ("mainline_of", mainline_from_newest_cited),
    ("mainline_of", lambda _graph, _power_levels: []),
    ("is_power_event", lambda event: event.type == "m.room.power_levels"),
]


@pytest.mark.parametrize(
    ("step", "instead"), OTHER_STEPS, ids=[f"{i}-{name}" for i, (name, _) in enumerate(OTHER_STEPS)]
)
def test_another_way_of_resolving_is_noticed(
    step: str, instead: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolution, step, instead)
    assert first_failure(wrong_states) is not None


def test_starting_from_the_unconflicted_state_loses_the_join_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """MSC4297, problem A."""
    monkeypatch.setattr(resolution, "first_state", lambda _rules, unconflicted: dict(unconflicted))
    assert wrong_states("msc4297_a_v12") != []


def test_dropping_the_conflicted_subgraph_loses_a_step_of_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """MSC4297, problem B."""
    monkeypatch.setattr(resolution, "conflicted_subgraph", no_subgraph)
    assert wrong_states("msc4297_b_v12") != []


WRONG_RULES: list[tuple[str, dict[str, Any], Callable[[str], list[str]]]] = [
    ("5", {"aliases_authorized": False}, checks.send_failures),
    ("6", {"aliases_authorized": True}, checks.send_failures),
    ("5", {"notifications_limited": True}, checks.power_change_failures),
    ("6", {"notifications_limited": False}, checks.power_change_failures),
    ("8", {"integer_levels": True}, checks.power_levels_failures),
    ("9", {"integer_levels": True}, checks.power_change_failures),
    ("10", {"integer_levels": False}, checks.level_type_failures),
    ("6", {"join_rules": V7.join_rules}, checks.membership_failures),
    ("7", {"join_rules": V6.join_rules}, checks.membership_failures),
    ("7", {"join_rules": V8.join_rules}, checks.membership_failures),
    ("8", {"join_rules": V7.join_rules}, checks.membership_failures),
    ("9", {"join_rules": V10.join_rules}, checks.membership_failures),
    ("10", {"join_rules": V9.join_rules}, checks.membership_failures),
    ("11", {"creators_privileged": True}, checks.power_levels_failures),
    ("12", {"creators_privileged": False}, checks.power_levels_failures),
    ("1", {"redactions_authorized": False}, checks.redaction_rule_failures),
    ("2", {"redactions_authorized": False}, checks.redaction_rule_failures),
    ("3", {"redactions_authorized": True}, checks.redaction_rule_failures),
]


@pytest.mark.parametrize(
    ("version", "wrong", "check"),
    WRONG_RULES,
    ids=[f"{version} {next(iter(wrong))}" for version, wrong, _ in WRONG_RULES],
)
def test_a_rule_of_another_version_is_noticed(
    version: str, wrong: dict[str, Any], check: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check(version) == []
    monkeypatch.setitem(ROOM_VERSIONS, version, replace(ROOM_VERSIONS[version], **wrong))
    assert check(version) != []
