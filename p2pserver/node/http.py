"""The HTTP door: uvicorn in the node's own event loop, and the file that tells scripts that it is open."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import uvicorn

from p2pserver.client_api.http_protocol import MatrixHttpProtocol
from p2pserver.http_api.asgi import ASGIApp

GRACE_S = 1
"""How long requests under way may go on once the node stops; long polls are cut off then."""


class HttpServer:
    """Serves one ASGI application on one address. `start` returns when requests are answered."""

    def __init__(self, app: ASGIApp, *, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._config = uvicorn.Config(
            app,
            http=MatrixHttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=75,
            h11_max_incomplete_event_size=65_536,
            limit_concurrency=2_000,
            backlog=512,
        )
        self._server = _QuietServer(self._config)
        self._task: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    async def start(self) -> None:
        """Raises: OSError, when the address cannot be used."""
        self._socket = _listen(self._host, self._port)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="http")
        while not self._server.started:
            if self._task.done():
                await self._task
                raise OSError(f"cannot serve clients on {self._host}:{self._port}")
            await asyncio.sleep(0.002)

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
        if self._task is None:
            return
        self._server.should_exit = True
        done, _ = await asyncio.wait({self._task}, timeout=GRACE_S + 0.5)
        if not done:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._task = None


class _QuietServer(uvicorn.Server):
    """uvicorn's server without its signal handlers: the node owns those."""

    def install_signal_handlers(self) -> None:
        """Older releases call this; the node handles signals."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises: OSError with a line for people."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OSError(f"--listen {host}:{port}: {error.strerror or error}") from None
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(512)
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
