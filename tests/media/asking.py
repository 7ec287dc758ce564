"""Uploads and downloads as clients make them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from tests.client_api.harness import Client

V1 = "/_matrix/client/v1/media"
LEGACY = "/_matrix/media/v3"


@dataclass(frozen=True, slots=True)
class Got:
    status: int
    body: bytes
    headers: httpx.Headers

    @property
    def errcode(self) -> str:
        return str(httpx.Response(self.status, content=self.body).json()["errcode"])


async def get(client: Client, path: str, *, headers: dict[str, str] | None = None, **query: Any) -> Got:
    """`path` below `/_matrix/client/v1/media`, unless it is a whole one."""
    given = dict(headers or {})
    if client.token is not None:
        given["Authorization"] = f"Bearer {client.token}"
    target = path if path.startswith("/_matrix") else V1 + path
    response = await client.http.get(target, headers=given, params=query)
    return Got(response.status_code, response.content, response.headers)


async def upload(
    client: Client,
    octets: bytes | AsyncIterator[bytes],
    *,
    content_type: str | None = "application/octet-stream",
    path: str = f"{LEGACY}/upload",
    method: str = "POST",
    **query: str,
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {client.token}"}
    if content_type is not None:
        headers["Content-Type"] = content_type
    return await client.http.request(method, path, content=octets, headers=headers, params=query)


async def uploaded(client: Client, octets: bytes, content_type: str = "text/plain", **query: str) -> str:
    """`server/media_id` of something that was just uploaded."""
    answer = await upload(client, octets, content_type=content_type, **query)
    assert answer.status_code == 200, answer.text
    uri = str(answer.json()["content_uri"])
    assert uri.startswith("mxc://")
    return uri.removeprefix("mxc://")
