"""Two nodes on one simulated link, each with a door on the loopback for the clients that people have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from p2pserver.node.http import HttpServer
from p2pserver.node.simulation import SimulatedMesh
from transports.sim import LinkConditions

AsgiApp = Callable[..., Any]
SCRIPTS = Path(__file__).parent / "js"


@asynccontextmanager
async def two_doors(
    loss: float, *, around: Callable[[AsgiApp], AsgiApp] = lambda app: app
) -> AsyncIterator[tuple[SimulatedMesh, dict[str, str]]]:
    """Two nodes on one link, each with a door for clients: (mesh, URL by node). `around`: what stands in the door."""
    conditions = LinkConditions(loss=loss, delay_ms_mean=5.0)
    now_ms = int((time.time() - asyncio.get_running_loop().time()) * 1000)
    mesh = SimulatedMesh(["here", "there"], seed=1, conditions=conditions, wall_start_ms=now_ms)
    await mesh.start()
    doors = {
        name: HttpServer(around(each.running.asgi_app()), host="127.0.0.1", port=0) for name, each in mesh.nodes.items()
    }
    try:
        for door in doors.values():
            await door.start()
        yield mesh, {name: door.url for name, door in doors.items()}
    finally:
        for door in doors.values():
            await door.stop()
        await mesh.stop()
