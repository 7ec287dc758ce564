"""A node with its admin API in-process, and an admin."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from p2pserver.admin_api.api import AdminApi
from p2pserver.admin_api.endpoints import admin_routes
from p2pserver.client_api.app import ClientApiConfig
from p2pserver.node.app_edge import AppEdgeOf
from p2pserver.store.accounts import hash_password, register_user
from tests.client_api.harness import Answer, Client, Node, running_node

BASE = "/_synapse/admin"
SECRET = "between us"


@dataclass(slots=True)
class AdminNode:
    """`root` is logged in as an admin."""

    node: Node
    admin: AdminApi
    root: Client

    async def ask(self, method: str, path: str, body: Any = None, *, by: Client | None = None, **query: Any) -> Answer:
        """`path` is what follows `/_synapse/admin`."""
        return await (by or self.root).ask(method, BASE + path, body, **query)

    async def get(self, path: str, **query: Any) -> Any:
        return self._good(await self.ask("GET", path, **query))

    async def put(self, path: str, body: Any) -> Any:
        return self._good(await self.ask("PUT", path, body))

    async def post(self, path: str, body: Any = None) -> Any:
        return self._good(await self.ask("POST", path, {} if body is None else body))

    async def delete(self, path: str, body: Any = None) -> Any:
        return self._good(await self.ask("DELETE", path, body))

    @staticmethod
    def _good(answer: Answer) -> Any:
        assert answer.status in (200, 201), (answer.status, answer.body)
        return answer.body


@asynccontextmanager
async def running_admin_node(*, config: ClientApiConfig | None = None, **kwargs: Any) -> AsyncIterator[AdminNode]:
    async with running_node(config=config, **kwargs) as node:
        admin = AdminApi(
            database=node.database,
            rooms=node.rooms,
            media=node.api.media,
            passwords=node.api.passwords,
            edge=AppEdgeOf(node.api),
            wall_ms=node.api.wall_ms,
            random_bytes=node.api.random_bytes,
            registration_shared_secret=SECRET,
            default_room_version="12",
        )
        app = node.api.asgi_app(admin_routes(admin))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://node.test:8008") as http:
            await node.http.aclose()
            node.http = http
            user_id = f"@root:{node.server_name}"
            await node.database.write(lambda tx: register_user(tx, user_id, hash_password("secret"), admin=True))
            yield AdminNode(node=node, admin=admin, root=await node.log_in("root"))
