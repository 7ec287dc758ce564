"""Passwords cost little here."""

from collections.abc import Iterator

import pytest

from tests.client_api.harness import cheap_passwords


@pytest.fixture(autouse=True)
def _cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with cheap_passwords(monkeypatch):
        yield
