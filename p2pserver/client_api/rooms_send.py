"""Sending: `/send`, `/redact`, and `PUT /state`.

Source: client-server API, "Sending events to a room", "Redactions" (since v1.18 through `/send` as well).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2pserver.client_api import sending
from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.delayed_events import delay_of, schedule_event
from p2pserver.client_api.sending import redact, redact_related, send_message
from p2pserver.client_api.transactions import answered_once, transaction_path
from p2pserver.http_api.body_fields import optional_list, optional_string
from p2pserver.http_api.routing import ApiRequest, Requester, Routes
from p2pserver.store.tx import Tx

routes = Routes()

WITH_RELATIONS = "org.matrix.msc3912.with_relations"

TYPED = ("m.room.message", "m.room.encrypted")
"""Whoever sends such an event has stopped typing."""


@routes.route("PUT", "/rooms/{room_id}/send/{event_type}/{txn_id}")
async def send_event(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    requester = request.requester
    room_id, event_type, txn_id = (request.params[name] for name in ("room_id", "event_type", "txn_id"))
    path = transaction_path("rooms", room_id, "send", event_type, txn_id)

    delay_ms = delay_of(request)
    if delay_ms is not None:
        path = transaction_path("rooms", room_id, "send_delayed", event_type, txn_id)
        return await schedule_event(api, request, delay_ms, event_type, None, request.body, path)

    ts_ms = _massaged_ts(request)

    def act(tx: Tx) -> str:
        return send_message(
            api,
            tx,
            user_id=requester.user_id,
            room_id=room_id,
            event_type=event_type,
            content=request.body,
            ts_ms=ts_ms,
        )

    answer = await _once(api, requester, path, act)
    if event_type in TYPED:
        api.typing.end(room_id, requester.user_id)
        api.presence.did_something(requester.user_id)
    return answer


@routes.route("PUT", "/rooms/{room_id}/redact/{event_id}/{txn_id}")
async def redact_event(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    requester = request.requester
    room_id, event_id, txn_id = (request.params[name] for name in ("room_id", "event_id", "txn_id"))
    reason = optional_string(request.body, "reason")
    content = {"redacts": event_id} if reason is None else {"redacts": event_id, "reason": reason}
    path = transaction_path("rooms", room_id, "redact", event_id, txn_id)
    kinds = optional_list(request.body, WITH_RELATIONS)

    ts_ms = _massaged_ts(request)

    def act(tx: Tx) -> str:
        redaction_id = redact(api, tx, requester.user_id, room_id, content, ts_ms=ts_ms)
        if kinds:
            redact_related(api, tx, requester.user_id, event_id, content, kinds)
        return redaction_id

    return await _once(api, requester, path, act)


@routes.route("PUT", "/rooms/{room_id}/state/{event_type}")
@routes.route("PUT", "/rooms/{room_id}/state/{event_type}/{state_key}")
async def send_state(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    room_id, event_type = request.params["room_id"], request.params["event_type"]
    state_key = request.params.get("state_key", "")
    user_id = request.requester.user_id

    delay_ms = delay_of(request)
    if delay_ms is not None:
        return await schedule_event(api, request, delay_ms, event_type, state_key, request.body, None)

    ts_ms = _massaged_ts(request)

    def unit(tx: Tx) -> dict[str, Any]:
        event_id = sending.send_state(
            api,
            tx,
            user_id=user_id,
            room_id=room_id,
            event_type=event_type,
            state_key=state_key,
            content=request.body,
            ts_ms=ts_ms,
        )
        return {"event_id": event_id}

    return await api.database.write(unit)


def _massaged_ts(request: ApiRequest) -> int | None:
    """The timestamp that an application service gives to an event; from others the parameter is ignored.

    Raises: InvalidParam. Source: application service API, "Timestamp massaging".
    """
    if request.app_service is None or "ts" not in request.query:
        return None
    return request.query_integer("ts", default=None)


async def _once(api: ClientApi, requester: Requester, path: str, act: Callable[[Tx], str]) -> dict[str, Any]:
    def unit(tx: Tx) -> dict[str, Any]:
        def first() -> tuple[dict[str, Any], str]:
            event_id = act(tx)
            return {"event_id": event_id}, event_id

        return answered_once(tx, requester, path, wall_ms=api.wall_ms(), act=first)

    return await api.database.write(unit)
