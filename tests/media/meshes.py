"""Whole nodes on simulated links whose users exchange files."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import httpx

from p2pserver.node.simulation import InProcessClient, SimulatedMesh
from tests.media.asking import LEGACY, V1, Got
from transports.sim import LinkConditions, run_virtual

FETCH = "/_matrix/client/unstable/org.p2pserver/media/fetch"


def live(story: Coroutine[Any, Any, None], *, limit_s: float = 40_000) -> None:
    run_virtual(story, limit_s=limit_s)


def octets(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def ask(client: InProcessClient, verb: str, path: str, *, content: bytes = b"", **query: Any) -> Got:
    transport = httpx.ASGITransport(app=client.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://node.test:8008", timeout=None) as http:
        headers = {"Authorization": f"Bearer {client.access_token}", "Content-Type": "image/png"}
        response = await http.request(verb, path, content=content, headers=headers, params=query)
        return Got(response.status_code, response.content, response.headers)


async def upload(client: InProcessClient, content: bytes) -> str:
    """`server/media_id`."""
    got = await ask(client, "POST", f"{LEGACY}/upload", content=content, filename="boat.png")
    assert got.status == 200, got.body
    return str(httpx.Response(200, content=got.body).json()["content_uri"]).removeprefix("mxc://")


async def download(client: InProcessClient, where: str, **query: Any) -> Got:
    return await ask(client, "GET", f"{V1}/download/{where}", **query)


async def until_here(client: InProcessClient, where: str, *, within_s: float) -> Got:
    """Asks again and again, as clients do, until it is here."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + within_s
    while True:
        got = await download(client, where)
        if got.status == 200 or loop.time() > give_up_at:
            return got
        await asyncio.sleep(5)


@dataclass(slots=True)
class Scene:
    """Nodes in a row or all together, one user on each."""

    mesh: SimulatedMesh
    users: dict[str, InProcessClient]

    def transfers(self, name: str) -> Any:
        return self.mesh.nodes[name].running.media_transfers


async def scene(*names: str, seed: int = 1, conditions: LinkConditions | None = None, **options: Any) -> Scene:
    mesh = SimulatedMesh(names, seed=seed, conditions=conditions, **options)
    await mesh.start()
    await asyncio.sleep(5)
    users = {name: await mesh.user(name, f"user-{name}") for name in names}
    return Scene(mesh, users)
