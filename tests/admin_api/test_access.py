"""Nobody but an admin gets anything out of the admin API."""

from collections.abc import Iterable
from typing import Any

import httpx

from p2pserver.admin_api.api import BASE
from p2pserver.admin_api.endpoints import admin_routes
from p2pserver.http_api.routing import ApiRequest, Auth, Route, Routes
from tests.admin_api.harness import running_admin_node
from tests.client_api.harness import Client

OPEN = {("GET", f"{BASE}/v1/register"), ("POST", f"{BASE}/v1/register")}


async def let_in(routes: Iterable[Route], client: Client, refusal: tuple[int, str]) -> list[str]:
    """The routes that answer `client` in another way than with this status and error code."""
    found = []
    for route in routes:
        path = "/".join("x" if part.startswith("{") else part for part in route.pattern.split("/"))
        answer = await client.ask(route.method, path, None if route.method == "GET" else {})
        if (answer.status, answer.errcode) != refusal:
            found.append(f"{route.method} {route.pattern}")
    return found


async def test_every_route_refuses_whoever_is_no_admin() -> None:
    async with running_admin_node() as at:
        alice = await at.node.register("alice")
        routes = [route for route in admin_routes(at.admin) if (route.method, route.pattern) not in OPEN]
        assert len(routes) > 70
        before = "\n".join(await at.node.database.read(lambda tx: list(tx.conn.iterdump())))
        assert await let_in(routes, alice, (403, "M_FORBIDDEN")) == []
        assert await let_in(routes, Client(at.node.http, "no token"), (401, "M_UNKNOWN_TOKEN")) == []
        assert await let_in(routes, at.node.stranger(), (401, "M_MISSING_TOKEN")) == []
        assert "\n".join(await at.node.database.read(lambda tx: list(tx.conn.iterdump()))) == before
        # The same routes answer an admin in some other way: it was he who was missing.
        assert await let_in(routes[:10], at.root, (403, "M_FORBIDDEN")) != []


async def test_a_route_without_the_check_is_seen() -> None:
    forgotten = Routes()

    @forgotten.route("GET", "/forgotten/{room_id}", versions=("v1",), base=BASE)
    async def handler(_: Any, request: ApiRequest) -> dict[str, Any]:
        return {}

    async with running_admin_node() as at:
        alice = await at.node.register("alice")
        routes = [*admin_routes(at.admin), *forgotten.all]
        transport = httpx.ASGITransport(app=at.node.api.asgi_app(routes), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://node.test:8008") as http:
            client = Client(http, alice.token)
            assert await let_in(forgotten.all, client, (403, "M_FORBIDDEN")) == [f"GET {BASE}/v1/forgotten/{{room_id}}"]


async def test_only_registration_by_shared_secret_is_open() -> None:
    async with running_admin_node() as at:
        found = {(route.method, route.pattern) for route in admin_routes(at.admin) if route.auth is not Auth.REQUIRED}
        assert found == OPEN
