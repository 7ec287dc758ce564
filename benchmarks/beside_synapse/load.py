"""A client that costs little: HTTP over kept-alive connections, on asyncio's own protocols, the same for each server.

The generator shares the machine with the servers it measures, so it parses no more of an answer than its length.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

TIMEOUT_S = 60.0


class AnswerRefused(Exception):
    """An answer that is no 200."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body[:300]!r}")
        self.status = status


class Connection(asyncio.Protocol):
    """One request at a time on one connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self._expected: int | None = None
        """Octets of the whole answer; None while its head is not there yet."""
        self._status = 0
        self._body_at = 0
        self._closes = False
        self._chunked = False

    @classmethod
    async def open(cls, url: str) -> Connection:
        host, _, port = urlsplit(url).netloc.rpartition(":")
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, int(port))
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """(status, body) of the answer. Raises: ConnectionError; TimeoutError."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the server has closed the connection")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._expected is None and not self._chunked:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._read_head(bytes(self._received[:end]).lower(), end + 4)
        if self._chunked:
            if self._received.endswith(b"0\r\n\r\n"):
                self._settle(_joined(bytes(self._received[self._body_at :])))
        elif self._expected is not None and len(self._received) >= self._expected:
            self._settle(bytes(self._received[self._body_at : self._expected]))

    def _read_head(self, head: bytes, body_at: int) -> None:
        self._status = int(head[9:12])
        self._body_at = body_at
        self._closes = b"connection: close" in head
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            self._expected = body_at + int(head[at + 17 :].split(b"\r\n", 1)[0])
        else:
            self._chunked = b"transfer-encoding: chunked" in head
            if not self._chunked:
                self._expected = body_at

    def _settle(self, body: bytes) -> None:
        self._received.clear()
        self._expected, self._chunked = None, False
        waiting, self._waiting = self._waiting, None
        if self._closes and self._transport is not None:
            self._transport.close()
        if waiting is not None and not waiting.done():
            waiting.set_result((self._status, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc or ConnectionResetError("the connection ended before the answer"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _joined(chunks: bytes) -> bytes:
    """The body of a chunked answer."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = chunks.index(b"\r\n", at)
        octets = int(chunks[at:end].split(b";")[0], 16)
        if octets == 0:
            return b"".join(parts)
        parts.append(chunks[end + 2 : end + 2 + octets])
        at = end + 2 + octets + 2


def request_of(method: str, path: str, *, token: str | None = None, body: object = None) -> bytes:
    """The octets of a request; made before the clock runs."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    octets = b""
    if method != "GET":
        octets = json.dumps({} if body is None else body, separators=(",", ":")).encode()
        lines += ["Content-Type: application/json", f"Content-Length: {len(octets)}"]
    return "\r\n".join([*lines, "", ""]).encode() + octets


class User:
    """Somebody with a token and a connection of his own."""

    def __init__(self, connection: Connection, url: str, user_id: str, token: str) -> None:
        self._connection, self._url = connection, url
        self.user_id, self.token = user_id, token
        self._serial = 0

    @classmethod
    async def of(cls, url: str, user_id: str, token: str) -> User:
        return cls(await Connection.open(url), url, user_id, token)

    def request(self, method: str, path: str, body: object = None) -> bytes:
        return request_of(method, f"/_matrix/client/v3{path}", token=self.token, body=body)

    async def ask(self, request: bytes) -> bytes:
        """The body of the answer. Raises: AnswerRefused, if it is not 200; ConnectionError; TimeoutError."""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                status, body = await self._connection.ask(request)
            except ConnectionError:
                self._connection = await Connection.open(self._url)
                status, body = await self._connection.ask(request)
        if status != 200:
            raise AnswerRefused(status, body)
        return body

    async def json(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self.ask(self.request(method, path, body)))
        return answer

    async def timed(self, request: bytes) -> float:
        """Seconds until the whole answer is there."""
        started = time.perf_counter()
        await self.ask(request)
        return time.perf_counter() - started

    def text(self, room_id: str, number: int) -> bytes:
        """The request that sends a text, with a transaction ID that was never used."""
        self._serial += 1
        txn = f"{time.time_ns()}.{self._serial}"
        content = {"msgtype": "m.text", "body": f"text number {number}, as long as people write on a phone"}
        return self.request("PUT", f"/rooms/{quote(room_id)}/send/m.room.message/{txn}", content)

    async def sync(
        self, *, since: str | None = None, timeout_ms: int = 0, more: Mapping[str, str] | None = None
    ) -> Any:
        query = {"timeout": str(timeout_ms), **({} if since is None else {"since": since}), **(more or {})}
        return await self.json("GET", "/sync?" + "&".join(f"{name}={quote(value)}" for name, value in query.items()))

    def close(self) -> None:
        self._connection.close()


async def open_users(url: str, accounts: Sequence[tuple[str, str]]) -> list[User]:
    """Users of (user ID, token), each with a connection."""
    return [await User.of(url, user_id, token) for user_id, token in accounts]
