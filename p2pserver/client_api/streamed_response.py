"""An answer of any size, sent as it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from p2pserver.http_api.asgi import Answer, HeaderList, Receive, Scope, Send


class StreamedResponse(Answer):
    """Sends what an iterator yields, of which Content-Length says how much it is; stops when the client hangs up."""

    __slots__ = ("_parts",)

    def __init__(self, parts: AsyncIterator[bytes], status: int, headers: HeaderList) -> None:
        super().__init__(status, headers)
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        hung_up = asyncio.ensure_future(_hung_up(receive))
        try:
            await asyncio.wait((sending, hung_up), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, hung_up):
                task.cancel()
            await asyncio.gather(sending, hung_up, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        async for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
