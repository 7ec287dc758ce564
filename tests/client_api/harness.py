"""A node's client API in-process: real rooms on a real SQLite database, asked through ASGI."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from p2pserver.client_api.app import ClientApi, ClientApiConfig
from p2pserver.errors import NotFound, NotYetUploaded, PeerUnreachable
from p2pserver.events.signing import SelfCertifyingKeys, Signer
from p2pserver.identifiers import KEY_ID, server_name_of
from p2pserver.meg.clock import HybridClock
from p2pserver.node.app_service_files import registration_of
from p2pserver.rooms.app_services import AppServices, is_to_come
from p2pserver.rooms.media_library import MediaLibrary, MediaLimits
from p2pserver.rooms.service import Rooms
from p2pserver.store.accounts import user_exists
from p2pserver.store.database import Database
from p2pserver.store.inline import InlineDatabase, SimulatedDisk
from p2pserver.store.media_files import MediaFiles

NOW_MS = 1_700_000_000_000


class NobodyThere:
    """RemoteServers of a node without neighbors."""

    def connected(self) -> list[str]:
        return []

    async def ask(
        self, server: str, name: str, body: dict[str, Any], *, timeout_s: float, progress: Any = None
    ) -> dict[str, Any]:
        raise PeerUnreachable(f"{server} is not connected")


class NoMediaElsewhere:
    """RemoteMedia of a node without neighbors."""

    async def fetch(self, origin: str, media_id: str, *, timeout_s: float, in_vain_s: float | None = None) -> None:
        raise NotYetUploaded("nobody in reach has it")

    def is_far(self, origin: str) -> bool:
        return False

    async def ask_for(self, origin: str, media_id: str) -> None:
        raise NotFound("nobody in reach has it")

    async def progress(self, origin: str, media_id: str) -> None:
        return None

    async def give_up(self, origin: str, media_id: str) -> bool:
        return False


@dataclass(slots=True)
class Answer:
    """Status, headers and JSON body of an answer."""

    status: int
    body: Any
    headers: httpx.Headers

    def __getitem__(self, name: str) -> Any:
        assert self.status == 200, self.body
        return self.body[name]

    @property
    def errcode(self) -> str | None:
        return self.body.get("errcode")


class Client:
    """Somebody who speaks HTTP to a node, with or without a token."""

    def __init__(self, http: httpx.AsyncClient, token: str | None = None) -> None:
        self.http = http
        self.token = token
        self.user_id = ""
        self.device_id = ""

    async def ask(self, method: str, path: str, body: Any = None, *, version: str = "v3", **query: Any) -> Answer:
        """`path` without `/_matrix/client/v3`, unless it starts with `/_matrix`, `/_synapse` or `/.well-known`."""
        target = (
            path if path.startswith(("/_matrix", "/_synapse", "/.well-known")) else f"/_matrix/client/{version}{path}"
        )
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        content: dict[str, Any] = {}
        if isinstance(body, bytes):
            content = {"content": body}
        elif body is not None:
            content = {"json": body}
        response = await self.http.request(method, target, headers=headers, params=query or None, **content)
        return Answer(response.status_code, response.json() if response.content else None, response.headers)

    async def get(self, path: str, **query: Any) -> Answer:
        return await self.ask("GET", path, **query)

    async def put(self, path: str, body: Any = None) -> Answer:
        return await self.ask("PUT", path, {} if body is None else body)

    async def post(self, path: str, body: Any = None) -> Answer:
        return await self.ask("POST", path, {} if body is None else body)

    async def delete(self, path: str, body: Any = None) -> Answer:
        return await self.ask("DELETE", path, body)


@dataclass(slots=True)
class Node:
    """A client API with what stands behind it."""

    api: ClientApi
    database: Database
    rooms: Rooms
    http: httpx.AsyncClient
    disk: SimulatedDisk
    clock_s: list[float] = field(default_factory=lambda: [1000.0])
    """The monotonic clock of rate limits and sessions: tests turn it by hand."""
    now_ms: list[int] = field(default_factory=list)
    """The wall clock; it goes on by 1 ms each time that it is read."""

    @property
    def server_name(self) -> str:
        return self.rooms.server_name

    def stranger(self) -> Client:
        """A client without a token."""
        return Client(self.http)

    async def register(self, name: str, password: str = "secret", **fields: Any) -> Client:
        """A new account and its first device."""
        body = {"username": name, "password": password, "auth": {"type": "m.login.dummy"}, **fields}
        return self._logged_in(await self.stranger().post("/register", body))

    async def log_in(self, name: str, password: str = "secret", **fields: Any) -> Client:
        """A further device of an account."""
        identifier = {"type": "m.id.user", "user": name}
        body = {"type": "m.login.password", "identifier": identifier, "password": password, **fields}
        return self._logged_in(await self.stranger().post("/login", body))

    def _logged_in(self, answer: Answer) -> Client:
        client = Client(self.http, answer["access_token"])
        client.user_id, client.device_id = answer["user_id"], answer["device_id"]
        return client


@asynccontextmanager
async def running_node(
    *,
    seed: int = 1,
    config: ClientApiConfig | None = None,
    disk: SimulatedDisk | None = None,
    remote: Any = None,
    media_limits: MediaLimits | None = None,
    app_services: Sequence[dict[str, Any]] = (),
) -> AsyncIterator[Node]:
    """A node on a simulated disk; give the same disk again for a restart. `app_services`: registrations."""
    rng = random.Random(seed)
    key = rng.randbytes(32)
    public_name = server_name_of(Signer("unnamed", KEY_ID, key).verify_key)
    disk = disk if disk is not None else SimulatedDisk()
    database = InlineDatabase(disk, commit_delay_s=0.0)
    clock_s = [1000.0]
    now_ms = [NOW_MS]

    def wall_ms() -> int:
        now_ms[0] += 1
        return now_ms[0]

    services = AppServices(registration_of(each, public_name) for each in app_services)
    rooms = Rooms(
        signer=Signer(public_name, KEY_ID, key),
        keys=SelfCertifyingKeys(),
        clock=HybridClock(build_ms=NOW_MS, trusted=True),
        wall_ms=wall_ms,
        rng=rng,
        user_exists=lambda tx, user_id: user_exists(tx, user_id) or is_to_come(tx, services, user_id),
    )
    media = MediaLibrary(
        database=database,
        files=MediaFiles(disk.media_folder, threads=False),
        signer=rooms.context.signer,
        limits=media_limits or MediaLimits(),
        wall_ms=wall_ms,
        random_bytes=os.urandom,
    )
    await media.start()
    api = ClientApi(
        database=database,
        rooms=rooms,
        media=media,
        remote_media=NoMediaElsewhere(),
        remote=remote if remote is not None else NobodyThere(),
        config=config or ClientApiConfig(rate_limits=False),
        wall_ms=wall_ms,
        monotonic_s=lambda: clock_s[0],
        app_services=services,
    )
    transport = httpx.ASGITransport(app=api.asgi_app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://node.test:8008") as http:
        try:
            yield Node(api=api, database=database, rooms=rooms, http=http, disk=disk, clock_s=clock_s, now_ms=now_ms)
        finally:
            await asyncio.wait_for(api.close(), 5)
            await database.close()
