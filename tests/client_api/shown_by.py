"""Which test shows which endpoint: written down while tests run.

    .venv/bin/pytest -n 0 -p tests.client_api.shown_by tests/client_api tests/media tests/admin_api

An endpoint is shown by a test in which a request to it was answered as a success (or, for those that only refuse, at
all). Of several tests the one that uses the fewest endpoints is named. `shown_by.json` keeps that for the page; what no
test of this run asked for keeps the test that it had.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from p2pserver.client_api import app
from p2pserver.errors import MatrixError
from p2pserver.http_api.routing import ApiResponse

RECORD = Path(__file__).parent / "shown_by.json"
NOT_ASKED = ("test_hostile_http", "test_conformity", "test_endpoints", "sabotage")
"""Tests that ask for whatever there is."""

_asked: dict[str, set[tuple[str, str]]] = defaultdict(set)
_refused: dict[str, set[tuple[str, str]]] = defaultdict(set)


def pytest_configure(config: pytest.Config) -> None:
    inner: Callable[..., Awaitable[Any]] = app.ClientApi.run_handler

    async def run_handler(self: app.ClientApi, match: Any, *args: Any) -> Any:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0].split("[")[0]
        endpoint = (match.route.method, match.route.pattern)
        try:
            answer = await inner(self, match, *args)
        except MatrixError:
            _refused[test].add(endpoint)
            raise
        status = answer.status if isinstance(answer, ApiResponse) else 200
        (_asked if status < 400 else _refused)[test].add(endpoint)
        return answer

    app.ClientApi.run_handler = run_handler  # type: ignore[method-assign]


def pytest_sessionfinish(session: pytest.Session) -> None:
    best: dict[str, tuple[int, int, str]] = {}
    before: dict[str, str] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for rank, kind in enumerate((_asked, _refused)):
        for test, endpoints in kind.items():
            if not test or any(name in test for name in NOT_ASKED):
                continue
            for method, pattern in endpoints:
                key = f"{method} {pattern}"
                best[key] = min(best.get(key, (9, 0, "")), (rank, len(endpoints), test))
    shown = {key: test for key, (_, _, test) in best.items()}
    RECORD.write_text(json.dumps(dict(sorted((before | shown).items())), indent=1) + "\n")
