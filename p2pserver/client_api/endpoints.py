"""Every module that has routes, in one list."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

from p2pserver.client_api import (
    directory,
    login,
    messages,
    profiles,
    rooms_create,
    rooms_membership,
    rooms_read,
    rooms_send,
    sync,
    versions,
)
from p2pserver.client_api.routing import Route

MODULES: tuple[ModuleType, ...] = (
    versions,
    login,
    profiles,
    rooms_create,
    rooms_membership,
    rooms_send,
    rooms_read,
    messages,
    directory,
    sync,
)


def all_routes() -> Iterator[Route]:
    """The operations of the whole Client-Server API."""
    for module in MODULES:
        yield from module.routes.all
