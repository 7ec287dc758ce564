"""What holds for all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher

from p2pserver.store import accounts

_real_hasher = accounts._hasher


def pytest_xdist_auto_num_workers() -> int:
    """Twice as many workers as processors: many tests wait for a slow line, a network or another process."""
    return 2 * (os.cpu_count() or 1)


def pytest_configure() -> None:
    """Whole meshes live in one process here: looking for cycles as often as by default takes a tenth of the time."""
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def _cheap_passwords() -> Iterator[None]:
    """argon2 with the least memory and time, which is otherwise a tenth of what the tests of the API take."""
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    accounts._hasher = lambda: cheap  # type: ignore[assignment]
    accounts._nobody.cache_clear()
    yield
    accounts._hasher = _real_hasher


@pytest.fixture
def real_passwords(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For what is about their strength and cost."""
    monkeypatch.setattr(accounts, "_hasher", _real_hasher)
    accounts._nobody.cache_clear()
    yield
    accounts._nobody.cache_clear()
