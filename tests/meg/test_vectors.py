"""The auth tables and all state resolution rooms of tests/vectors, for the room versions that this server speaks."""

from __future__ import annotations

from collections import Counter

import pytest

from p2pserver.events.versions import ROOM_VERSIONS
from tests.meg import vector_checks as checks

VERSIONS = sorted(ROOM_VERSIONS)


def test_the_tables_have_rows_for_every_version() -> None:
    for name, key in (("auth_membership", "rows"), ("auth_send", "rows")):
        counted = Counter(row[0] for row in checks.table(name)[key])
        assert all(counted[version] > 300 for version in VERSIONS), counted
    levels = Counter(case["room_version"] for case in checks.table("auth_power_levels")["cases"])
    assert all(levels[version] == 90 for version in VERSIONS)
    cited = Counter(case["room_version"] for case in checks.table("auth_events_checks")["cases"])
    assert [cited[version] for version in VERSIONS] == [14, 13, 18]
    assert len(checks.STATE_RES) == 171


@pytest.mark.parametrize("version", VERSIONS)
def test_membership_transitions(version: str) -> None:
    assert checks.membership_failures(version) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_who_may_send_what(version: str) -> None:
    assert checks.send_failures(version) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_power_level_changes(version: str) -> None:
    assert checks.power_levels_failures(version) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_power_levels_are_integers(version: str) -> None:
    assert checks.level_type_failures(version) == []


@pytest.mark.parametrize("version", VERSIONS)
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
