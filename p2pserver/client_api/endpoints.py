"""Every module that has routes, in one list."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

from p2pserver.client_api import login, profiles, versions
from p2pserver.client_api.routing import Route

MODULES: tuple[ModuleType, ...] = (
    versions,
    login,
    profiles,
)


def all_routes() -> Iterator[Route]:
    """The operations of the whole Client-Server API."""
    for module in MODULES:
        yield from module.routes.all
