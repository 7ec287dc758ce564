"""The body of a request: bounded in octets, in time, and in what JSON may say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from p2pserver.errors import BadJson, NotJson, TooLarge
from p2pserver.events.canonical import NotCanonical, decode_body
from p2pserver.http_api.asgi import ClientDisconnect, Receive

OCTETS_MAX = 1 << 20
OCTETS_DRAINED_MAX = 4 << 20
"""So much of a body that nobody wants is read and thrown away, so that the client gets to read the answer."""
SECONDS_MAX = 60.0


class RequestBody:
    """Reads what the client sends once, as far as anybody wants it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._octets = 0
        self._ended = False

    async def read(self) -> bytes:
        """The whole body.

        Raises: TooLarge, beyond `OCTETS_MAX`; ClientDisconnect, also if it takes longer than `SECONDS_MAX`.
        """
        parts: list[bytes] = []
        await self._take(parts, OCTETS_MAX)
        if self._octets > OCTETS_MAX:
            raise TooLarge(f"the body is over {OCTETS_MAX} octets")
        return b"".join(parts)

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes, however large: the reader bounds it.

        Raises: ClientDisconnect, also if nothing comes for `SECONDS_MAX`.
        """
        while not self._ended:
            part: list[bytes] = []
            await self._take(part, self._octets)
            for octets in part:
                yield octets

    async def drain(self) -> bool:
        """Throws away what is left. False, if there is too much of it: the connection is then of no further use.

        Raises: ClientDisconnect.
        """
        await self._take([], OCTETS_DRAINED_MAX, keep=False)
        return self._ended

    async def _take(self, parts: list[bytes], octets_max: int, *, keep: bool = True) -> None:
        if self._ended:
            return
        try:
            async with asyncio.timeout(SECONDS_MAX):
                while not self._ended and self._octets <= octets_max:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    part = message.get("body", b"")
                    self._octets += len(part)
                    self._ended = not message.get("more_body", False)
                    if keep:
                        parts.append(part)
        except TimeoutError as error:
            raise ClientDisconnect from error


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in a body; `{}` for an empty body.

    Raises: NotJson, if it is no JSON text; BadJson, if it is no object or holds what Matrix has no place for (duplicate
    names, NaN, integers beyond 2^53, lone surrogates, deep nesting).
    """
    if not data.strip():
        return {}
    try:
        value = decode_body(data)
    except NotCanonical as error:
        if isinstance(error.__cause__, json.JSONDecodeError | UnicodeDecodeError):
            raise NotJson(str(error)) from error
        raise BadJson(str(error)) from error
    if not isinstance(value, dict):
        raise BadJson("the body is not a JSON object")
    return value
