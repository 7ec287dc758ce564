"""What is no HTTP at all is answered like every other mistake: with JSON that clients can read."""

from __future__ import annotations

import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from p2pserver.client_api.app import CORS_HEADERS


class MatrixHttpProtocol(H11Protocol):
    """uvicorn's protocol on h11, for `uvicorn.Config(http=…)`."""

    def send_400_response(self, msg: str) -> None:
        """A request that cannot be parsed: 400 in JSON, and the connection ends, since nobody knows where it stands."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"errcode": "M_UNKNOWN", "error": msg}).encode()
            headers = {"Content-Type": "application/json", "Connection": "close", "Content-Length": str(len(body))}
            response = h11.Response(
                status_code=400,
                headers=[(name.encode(), value.encode()) for name, value in (headers | CORS_HEADERS).items()],
                reason=b"Bad Request",
            )
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
