"""The node itself: version, other servers, work in the background. Source: Synapse, "Admin API"."""

from __future__ import annotations

from typing import Any

from p2pserver import __version__
from p2pserver.admin_api.api import AdminApi, AdminRoutes
from p2pserver.errors import NotFound
from p2pserver.http_api.routing import ApiRequest
from p2pserver.store import memberships
from p2pserver.store.peers import MetServer, met_servers

routes = AdminRoutes()

PAGE_MAX = 1000


@routes.route("GET", "/server_version")
async def server_version(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    return {"server_version": f"p2pserver {__version__}"}


@routes.route("GET", "/background_updates/status")
async def background_updates(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """A new version changes the database when it opens it, before anything is served."""
    return {"enabled": True, "current_updates": {}}


@routes.route("GET", "/federation/destinations")
async def destinations(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """The nodes that were met, and since when those that are away are."""
    start = request.query_integer("from", default=0)
    limit = max(1, request.query_integer("limit", default=100, most=PAGE_MAX))
    part = request.query.get("destination", "")
    rows = [_destination(met) for met in await admin.database.read(met_servers) if part in met.server_name]
    answer: dict[str, Any] = {"destinations": rows[start : start + limit], "total": len(rows)}
    if start + limit < len(rows):
        answer["next_token"] = str(start + limit)
    return answer


@routes.route("GET", "/federation/destinations/{destination}")
async def destination(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    name = request.params["destination"]
    for met in await admin.database.read(met_servers):
        if met.server_name == name:
            return _destination(met)
    raise NotFound("this server was never met")


@routes.route("GET", "/federation/destinations/{destination}/rooms")
async def destination_rooms(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    name = request.params["destination"]
    start = request.query_integer("from", default=0)
    limit = max(1, request.query_integer("limit", default=100, most=PAGE_MAX))
    found = await admin.database.read(lambda tx: memberships.shared_rooms(tx, admin.server_name, name))
    rows = [{"room_id": room_id, "stream_ordering": None} for room_id in found]
    answer: dict[str, Any] = {"rooms": rows[start : start + limit], "total": len(rows)}
    if start + limit < len(rows):
        answer["next_token"] = str(start + limit)
    return answer


def _destination(met: MetServer) -> dict[str, Any]:
    """Nothing is ever tried again by a timer here: a node is away until it is met."""
    return {
        "destination": met.server_name,
        "retry_last_ts": 0,
        "retry_interval": 0,
        "failure_ts": None if met.connected else met.last_seen_ms,
        "last_successful_stream_ordering": None,
    }
