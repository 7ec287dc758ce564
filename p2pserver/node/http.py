"""The HTTP door: a listening socket in the node's own event loop, and the file that tells scripts that it is open."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Final

from p2pserver.http_api.asgi import ASGIApp
from p2pserver.node.http_connection import Connections, HttpConnection

GRACE_S: Final = 1.0
"""How long requests under way may go on once the node stops; long polls are cut off then."""
IDLE_S: Final = 75.0
CONNECTIONS_MAX: Final = 2_000
BACKLOG: Final = 512


class HttpServer:
    """Serves one ASGI application on one address. `start` returns when requests are answered."""

    def __init__(self, app: ASGIApp, *, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._connections = Connections(app, connections_max=CONNECTIONS_MAX, idle_s=IDLE_S)
        self._server: asyncio.Server | None = None
        self._socket: socket.socket | None = None

    async def start(self) -> None:
        """Raises: OSError, when the address cannot be used."""
        self._socket = _listen(self._host, self._port)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: HttpConnection(self._connections), sock=self._socket, backlog=BACKLOG
        )

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the server: any-address becomes loopback."""
        assert self._socket is not None
        port = self._socket.getsockname()[1]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._host, self._host)  # noqa: S104
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        return f"http://{host}:{port}"

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        await self._connections.close(within_s=GRACE_S)
        self._server = None


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises: OSError with a line for people."""
    name = host.encode() if host.isascii() else host  # a str brings the tables of Unicode in, half a megabyte
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OSError(f"--listen {host}:{port}: {error.strerror or error}") from None
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise OSError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --listen HOST:PORT"
        ) from None
    return listening


def write_ready_file(path: Path, *, client_url: str, server_name: str) -> None:
    """Tells scripts that requests are answered; the file appears whole. Raises: OSError with a line for people."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps({"client_url": client_url, "server_name": server_name, "pid": os.getpid()}) + "\n")
        part.replace(path)
    except OSError as error:
        raise OSError(f"cannot write --ready-file {path}: {error.strerror}") from None
