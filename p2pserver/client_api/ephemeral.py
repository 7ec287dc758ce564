"""Typing, receipts and the marker of what is fully read.

Source: client-server API, "Typing Notifications", "Receipts", "Read and unread markers".
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.user_data import own_user
from p2pserver.errors import BadJson, Forbidden, InvalidParam
from p2pserver.http_api.body_fields import optional_integer, optional_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_event_id
from p2pserver.rooms.unread import is_read_with
from p2pserver.store.account_data import put_account_data
from p2pserver.store.receipts import MAIN, READ, READ_PRIVATE, Receipt, put_receipt
from p2pserver.store.tx import Tx

routes = Routes()

FULLY_READ = "m.fully_read"
RECEIPT_TYPES = (READ, READ_PRIVATE, FULLY_READ)
TYPING_MS, TYPING_MS_MAX = 30_000, 120_000


@routes.route("PUT", "/rooms/{room_id}/typing/{user_id}")
async def typing(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /rooms/{roomId}/typing/{userId}`."""
    user_id, room_id = own_user(request), request.params["room_id"]
    typing = request.body.get("typing")
    if not isinstance(typing, bool):
        raise BadJson("`typing` is not a boolean")
    timeout_ms = optional_integer(request.body, "timeout", default=TYPING_MS, most=TYPING_MS_MAX)
    await api.database.read(lambda tx: _require_joined(api, tx, request))
    if typing:
        api.typing.begin(room_id, user_id, for_s=timeout_ms / 1000)
        api.presence.did_something(user_id)
    else:
        api.typing.end(room_id, user_id)
    return {}


@routes.route("POST", "/rooms/{room_id}/receipt/{receipt_type}/{event_id}")
async def receipt(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /rooms/{roomId}/receipt/{receiptType}/{eventId}`."""
    kind, event_id = request.params["receipt_type"], request.params["event_id"]
    if kind not in RECEIPT_TYPES:
        raise InvalidParam(f"{kind!r} is not a type of receipt")
    thread_id = request.body.get("thread_id")
    if thread_id is not None and (not isinstance(thread_id, str) or not (thread_id == MAIN or is_event_id(thread_id))):
        raise InvalidParam("`thread_id` is neither an event ID nor `main`")
    if thread_id is not None and kind == FULLY_READ:
        raise InvalidParam("m.fully_read has no threads")
    await _mark(api, request, {kind: event_id}, thread_id)
    return {}


@routes.route("POST", "/rooms/{room_id}/read_markers")
async def read_markers(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /rooms/{roomId}/read_markers`."""
    marks = {kind: optional_string(request.body, kind) for kind in RECEIPT_TYPES}
    await _mark(api, request, {kind: event_id for kind, event_id in marks.items() if event_id is not None}, None)
    return {}


async def _mark(api: ClientApi, request: ApiRequest, marks: dict[str, str], thread_id: str | None) -> None:
    """Raises: InvalidParam, Forbidden. A receipt for an event that is not in the room is ignored."""
    if not all(is_event_id(event_id) for event_id in marks.values()):
        raise InvalidParam("that is not an event ID")
    user_id, room_id = request.requester.user_id, request.params["room_id"]

    def unit(tx: Tx) -> None:
        _require_joined(api, tx, request)
        for kind, event_id in marks.items():
            if kind == FULLY_READ:
                put_account_data(tx, user_id, room_id, kind, {"event_id": event_id})
                continue
            held = api.rooms.stored(tx, event_id)
            if held is not None and held.pdu.room_id == room_id:
                if thread_id is not None and not is_read_with(tx, held.pdu, thread_id):
                    raise InvalidParam("the event is not of this thread")
                receipt = Receipt(
                    room_id=room_id,
                    user_id=user_id,
                    kind=kind,
                    thread_id=thread_id,
                    event_id=event_id,
                    ts=api.wall_ms(),
                )
                put_receipt(tx, receipt)

    await api.database.write(unit)
    api.presence.did_something(user_id)


def _require_joined(api: ClientApi, tx: Tx, request: ApiRequest) -> None:
    if api.rooms.membership(tx, request.params["room_id"], request.requester.user_id) != "join":
        raise Forbidden("you are not in this room")
