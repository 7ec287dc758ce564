"""Every module that has routes, in one list."""

from __future__ import annotations

from collections.abc import Iterator

from p2pserver.admin_api import (
    deletion,
    history,
    media,
    membership,
    notices,
    redaction,
    registration,
    reports,
    rooms,
    server,
    users,
)
from p2pserver.admin_api.api import AdminApi
from p2pserver.http_api.routing import Route

MODULES = (users, registration, rooms, history, membership, deletion, redaction, media, reports, notices, server)


def admin_routes(admin: AdminApi) -> Iterator[Route]:
    """The operations of the whole admin API, for one node."""
    for module in MODULES:
        yield from module.routes.bound_to(admin)
