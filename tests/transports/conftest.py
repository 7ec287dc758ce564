"""Tests marked `netns` are left out, and said to be, where the machine cannot make network namespaces."""

from __future__ import annotations

import pytest

from tests.transports.netns import why_not


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    need_netns = [item for item in items if item.get_closest_marker("netns") is not None]
    if need_netns and (reason := why_not()) is not None:
        config.hook.pytest_deselected(items=need_netns)
        items[:] = [item for item in items if item not in need_netns]
        print(f"\n{len(need_netns)} tests left out, they need network namespaces: {reason}")
