"""A service that does as it is told: an HTTP server that remembers what the node asked of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.client_api.harness import Client, Node, running_node
from tests.client_api.listener import Listener

AS_TOKEN, HS_TOKEN = "shown-to-the-node", "shown-to-the-service"


@dataclass(slots=True)
class Asked:
    method: str
    path: str
    query: dict[str, str]
    token: str | None
    body: Any


class Service(Listener):
    """`answer` decides on what each request is answered: (status, JSON)."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], tuple[int, Any] | Awaitable[tuple[int, Any]]] = lambda asked: (200, {})

    @property
    def transactions(self) -> list[tuple[str, dict[str, Any]]]:
        """(ID, body) of each, as often as it came."""
        return [(asked.path.rpartition("/")[2], asked.body) for asked in self.asked if "/transactions/" in asked.path]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for _, body in self.transactions for event in body["events"]]

    @property
    def texts(self) -> list[str]:
        return [event["content"]["body"] for event in self.events if event["type"] == "m.room.message"]

    def lists(self, name: str) -> list[dict[str, Any]]:
        """What came under a name of the transactions."""
        return [each for _, body in self.transactions for each in body.get(name, ())]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, target, _ = head.split(" ", 2)
                headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                octets = await reader.readexactly(int(headers.get("content-length", "0")))
                bearer = [line for line in head.split("\r\n") if line.lower().startswith("authorization: bearer ")]
                parts = urlsplit(target)
                asked = Asked(
                    method,
                    unquote(parts.path),
                    {name: values[0] for name, values in parse_qs(parts.query).items()},
                    bearer[0].split(" ")[2] if bearer else None,
                    json.loads(octets) if octets else None,
                )
                answered = self.answer(asked)
                status, answer = await answered if isinstance(answered, Awaitable) else answered
                self.asked.append(asked)
                self.news.set()
                text = json.dumps(answer).encode()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(text), text))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def registration(self, **fields: Any) -> dict[str, Any]:
        """One for an IRC bridge."""
        return {
            "id": "irc",
            "url": f"http://127.0.0.1:{self.port}",
            "as_token": AS_TOKEN,
            "hs_token": HS_TOKEN,
            "sender_localpart": "ircbot",
            "rate_limited": False,
            "namespaces": {
                "users": [{"regex": "@irc_.*", "exclusive": True}],
                "aliases": [{"regex": "#irc_.*", "exclusive": True}],
            },
            **fields,
        }


@asynccontextmanager
async def running_service() -> AsyncIterator[Service]:
    service = Service()
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    service.port = server.sockets[0].getsockname()[1]
    try:
        yield service
    finally:
        server.close()


@asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """Where connections are taken and nothing is answered."""
    ends: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda reader, writer: ends.append(writer), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for end in ends:
            end.close()
        server.close()


@asynccontextmanager
async def bridged_node(*, fields: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[tuple[Service, Node]]:
    """A service and a node that tells it what happens."""
    async with (
        running_service() as service,
        running_node(app_services=[service.registration(**(fields or {}))], **options) as node,
    ):
        node.api.start()
        yield service, node


class Bridge(Client):
    """The service as it asks the node: as its sender, or as one of its users."""

    def __init__(self, node: Node, user: str | None = None, **query: str) -> None:
        super().__init__(node.http, AS_TOKEN)
        self.user_id = f"@{user or 'ircbot'}:{node.server_name}"
        self._query = query if user is None else {"user_id": self.user_id, **query}

    async def ask(self, method: str, path: str, body: Any = None, *, version: str = "v3", **query: Any) -> Any:
        return await super().ask(method, path, body, version=version, **self._query, **query)


async def until_noted(node: Node) -> None:
    """A service has a transaction a moment before the store knows: what is cut off there is sent twice."""
    for _ in range(6_000):
        if not await node.database.read(lambda tx: tx.all("SELECT 1 FROM app_services WHERE body IS NOT NULL")):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it was never noted")


async def ghost(node: Node, name: str) -> Bridge:
    """One of the service's users, registered by it."""
    answer = await Bridge(node).post(
        "/register", {"type": "m.login.application_service", "username": name, "inhibit_login": True}
    )
    assert answer.status == 200, answer.body
    return Bridge(node, name)
