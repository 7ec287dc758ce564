"""The auth tables and all state resolution rooms of tests/vectors, for the room versions that they cover."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from p2pserver.events.versions import ROOM_VERSIONS, V1, V2, RoomVersionRules
from tests.meg import vector_checks as checks

VERSIONS = sorted(ROOM_VERSIONS)


def test_the_tables_have_rows_for_every_version_that_they_cover() -> None:
    hashed = [str(number) for number in range(3, 13)]
    for name in ("auth_membership", "auth_send"):
        counted = checks.covered(name, "rows")
        assert sorted(counted, key=int) == hashed
        assert min(counted.values()) > 300, counted
    assert checks.covered("auth_power_levels", "cases") == dict.fromkeys(hashed, 90)
    assert checks.covered("auth_events_checks", "cases") == {"6": 14, "10": 14, "11": 13, "12": 18}
    assert len(checks.STATE_RES) == 171


@pytest.mark.parametrize("version", checks.covered("auth_membership", "rows"))
def test_membership_transitions(version: str) -> None:
    assert checks.membership_failures(version) == []


@pytest.mark.parametrize("version", checks.covered("auth_send", "rows"))
def test_who_may_send_what(version: str) -> None:
    assert checks.send_failures(version) == []


@pytest.mark.parametrize("version", checks.covered("auth_power_levels", "cases"))
def test_power_level_changes(version: str) -> None:
    assert checks.power_levels_failures(version) == []


@pytest.mark.parametrize("check", [checks.membership_failures, checks.send_failures, checks.power_levels_failures])
@pytest.mark.parametrize("rules", [V1, V2], ids=lambda rules: rules.version)
def test_versions_1_and_2_are_as_3_in_all_that_the_tables_ask(
    rules: RoomVersionRules, check: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables begin with version 3; of the auth rules only that about redactions was another before."""
    monkeypatch.setitem(ROOM_VERSIONS, "3", replace(rules, version="3", redactions_authorized=False))
    assert check("3") == []


@pytest.mark.parametrize("version", VERSIONS)
def test_power_levels_are_integers(version: str) -> None:
    assert checks.level_type_failures(version) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_power_level_changes_that_versions_judge_differently(version: str) -> None:
    assert checks.power_change_failures(version) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_who_may_redact_by_the_auth_rules(version: str) -> None:
    assert checks.redaction_rule_failures(version) == []


@pytest.mark.parametrize("version", checks.covered("auth_events_checks", "cases"))
def test_cited_auth_events(version: str) -> None:
    assert checks.auth_events_failures(version) == []


@pytest.mark.parametrize("name", checks.STATE_RES)
def test_verdicts_and_states_of_all_events(name: str) -> None:
    assert checks.graph_failures(name) == []


@pytest.mark.parametrize("name", checks.STATE_RES)
def test_verdicts_and_states_do_not_depend_on_the_order_of_arrival(name: str) -> None:
    assert [failure for seed in range(3) for failure in checks.graph_failures(name, seed)] == []


@pytest.mark.parametrize("name", checks.STATE_RES)
def test_resolutions(name: str) -> None:
    assert checks.resolution_failures(name) == []
