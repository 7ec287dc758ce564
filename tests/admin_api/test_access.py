"""Nobody but an admin gets anything out of the admin API."""

from p2pserver.admin_api.api import BASE
from p2pserver.admin_api.endpoints import admin_routes
from p2pserver.http_api.routing import Auth
from tests.admin_api.harness import running_admin_node
from tests.client_api.harness import Client

OPEN = {("GET", f"{BASE}/v1/register"), ("POST", f"{BASE}/v1/register")}


async def test_every_route_refuses_whoever_is_no_admin() -> None:
    async with running_admin_node() as at:
        alice = await at.node.register("alice")
        nobody = Client(at.node.http, "no token")
        routes = [route for route in admin_routes(at.admin) if (route.method, route.pattern) not in OPEN]
        assert len(routes) > 30
        before = "\n".join(await at.node.database.read(lambda tx: list(tx.conn.iterdump())))
        for route in routes:
            path = "/".join("x" if part.startswith("{") else part for part in route.pattern.split("/"))
            refused = await alice.ask(route.method, path, None if route.method == "GET" else {})
            assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN"), route.pattern
            assert (await nobody.ask(route.method, path)).status == 401, route.pattern
            assert (await at.node.stranger().ask(route.method, path)).errcode == "M_MISSING_TOKEN", route.pattern
        assert "\n".join(await at.node.database.read(lambda tx: list(tx.conn.iterdump()))) == before


async def test_only_registration_by_shared_secret_is_open() -> None:
    async with running_admin_node() as at:
        found = {(route.method, route.pattern) for route in admin_routes(at.admin) if route.auth is not Auth.REQUIRED}
        assert found == OPEN
