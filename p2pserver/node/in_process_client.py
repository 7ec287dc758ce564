"""A client that calls a node's HTTP application without a socket, for simulations on virtual time."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from p2pserver.http_api.asgi import ASGIApp


class RequestFailed(Exception):
    """The node answered with an error: `status`, and `errcode` where the body has one."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body
        self.errcode: str = body.get("errcode", "") if isinstance(body, dict) else ""


@dataclass(slots=True)
class InProcessClient:
    """One device of one user."""

    app: ASGIApp
    user_id: str
    access_token: str

    async def request(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """The JSON answer of `path` below `/_matrix/client/v3`, or of one that begins with `/_matrix/` or `/_synapse/`.

        Its segments are given as they are, unescaped by `/`.

        Raises: RequestFailed.
        """
        raw_path = path if path.startswith(("/_matrix/", "/_synapse/")) else "/_matrix/client/v3" + path
        sent = b"" if body is None else json.dumps(body).encode()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": raw_path,
            "raw_path": raw_path.encode(),
            "query_string": urlencode(query).encode(),
            "root_path": "",
            "headers": [
                (b"host", b"127.0.0.1:8008"),
                (b"authorization", f"Bearer {self.access_token}".encode()),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(sent)).encode()),
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8008),
        }
        received = [{"type": "http.request", "body": sent, "more_body": False}]
        answer: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if received:
                return received.pop()
            await asyncio.get_running_loop().create_future()
            raise AssertionError("nothing completes this future")

        async def send(message: Any) -> None:
            answer.append(message)

        await self.app(scope, receive, send)
        status = answer[0]["status"]
        data = json.loads(b"".join(message.get("body", b"") for message in answer[1:]) or b"null")
        if status >= 300:
            raise RequestFailed(status, data)
        return data


def segment(text: str) -> str:
    """One path segment, percent-encoded."""
    return quote(text, safe="")
