"""Transaction IDs of clients: a repeated request gets the first answer and does nothing.

The row is written in the same unit of work as the event, and there is one writer, so a repeat that arrives while the
first is still running waits for its turn and then finds the row. Source: client-server API, "Transaction
identifiers": scoped to the device and the path, not to the access token; r0 and v3 are one path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

from p2pserver.http_api.routing import Requester
from p2pserver.store.client_transactions import remember_response, response_of
from p2pserver.store.tx import Tx


def transaction_path(*segments: str) -> str:
    """The path of a request, each segment percent-encoded so that no two requests share it."""
    return "/".join(quote(segment, safe="") for segment in segments)


def transaction_id_of(path: str) -> str:
    """The transaction ID in what `transaction_path` made: the last segment."""
    return unquote(path.rpartition("/")[2])


def answered_once(
    tx: Tx,
    requester: Requester,
    path: str,
    *,
    wall_ms: int,
    act: Callable[[], tuple[dict[str, Any], str | None]],
) -> dict[str, Any]:
    """The answer of the first request on `path` by this device; calls `act` for it if this is the first.

    `act` returns the response and the ID of the event that it made. What it raises is not remembered.
    """
    known = response_of(tx, requester.user_id, requester.device_id, path)
    if known is not None:
        return known
    response, event_id = act()
    remember_response(tx, requester.user_id, requester.device_id, path, response, event_id=event_id, done_ms=wall_ms)
    return response
