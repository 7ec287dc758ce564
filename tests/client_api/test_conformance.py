"""The page of endpoints says what is served, and the tests that it names are there."""

import re

import pytest

from p2pserver.client_api import endpoints
from tests.client_api import conformance
from tests.client_api.conformance import PAGE, beyond, lines, page, shown_by, shows


def test_the_page_is_what_the_routes_give() -> None:
    assert PAGE.read_text() == page(), "python -m tests.client_api.conformance writes it anew"


def test_a_route_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = [route for route in endpoints.all_routes() if not route.pattern.endswith("/sync")]
    monkeypatch.setattr(conformance, "all_routes", lambda: iter(fewer))
    with pytest.raises(ValueError, match="not enough values"):
        page()


def test_every_endpoint_of_tiers_1_and_2_is_served() -> None:
    missing = [line.path for line in lines() if line.tier in ("1", "2") and line.route is None]
    assert all("auth_metadata" in path for path in missing)


def test_whatever_is_served_was_shown_by_a_test() -> None:
    listed, shown = lines(), shown_by()
    for route in [*(line.route for line in listed if line.route is not None), *beyond(listed)]:
        assert shows(route, shown)


def test_the_tests_that_are_named_are_there() -> None:
    root = PAGE.parents[1]
    for test in set(shown_by().values()):
        path, _, name = test.partition("::")
        assert re.search(rf"^ *(async )?def {name.rpartition('::')[2]}\(", (root / path).read_text(), re.MULTILINE), (
            test
        )
