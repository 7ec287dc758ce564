"""Sending: `/send`, `/redact`, and `PUT /state`.

Source: client-server API, "Sending events to a room", "Redactions" (since v1.18 through `/send` as well).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.member_events import send_member_event
from p2pserver.client_api.room_access import require_joined
from p2pserver.client_api.room_aliases import check_canonical_alias
from p2pserver.client_api.transactions import answered_once, transaction_path
from p2pserver.errors import InvalidParam, MatrixError
from p2pserver.http_api.body_fields import optional_list, optional_string
from p2pserver.http_api.routing import ApiRequest, Requester, Routes
from p2pserver.store.relations import related_events
from p2pserver.store.room_stream import FIRST
from p2pserver.store.tx import Tx

routes = Routes()

WITH_RELATIONS = "org.matrix.msc3912.with_relations"
RELATED_REDACTED_MAX = 200
"""How many events go with one that is redacted, the newest first."""

TYPED = ("m.room.message", "m.room.encrypted")
"""Whoever sends such an event has stopped typing."""


@routes.route("PUT", "/rooms/{room_id}/send/{event_type}/{txn_id}")
async def send_event(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    requester = request.requester
    room_id, event_type, txn_id = (request.params[name] for name in ("room_id", "event_type", "txn_id"))
    path = transaction_path("rooms", room_id, "send", event_type, txn_id)

    def act(tx: Tx) -> str:
        if event_type == "m.room.redaction":
            return _redact(api, tx, requester, room_id, request.body)
        require_joined(tx, requester.user_id, room_id)
        event = api.rooms.send(
            tx, room_id=room_id, sender=requester.user_id, event_type=event_type, content=request.body
        )
        return event.event_id

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

    def act(tx: Tx) -> str:
        redaction_id = _redact(api, tx, requester, room_id, content)
        if kinds:
            _redact_related(api, tx, requester, event_id, content, kinds)
        return redaction_id

    return await _once(api, requester, path, act)


@routes.route("PUT", "/rooms/{room_id}/state/{event_type}")
@routes.route("PUT", "/rooms/{room_id}/state/{event_type}/{state_key}")
async def send_state(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    room_id, event_type = request.params["room_id"], request.params["event_type"]
    state_key = request.params.get("state_key", "")
    user_id = request.requester.user_id

    def unit(tx: Tx) -> dict[str, Any]:
        if event_type == "m.room.member":
            event = send_member_event(api, tx, room_id=room_id, sender=user_id, target=state_key, content=request.body)
            return {"event_id": event.event_id}
        require_joined(tx, user_id, room_id)
        if event_type == "m.room.canonical_alias":
            check_canonical_alias(api, tx, room_id, request.body)
        event = api.rooms.send(
            tx,
            room_id=room_id,
            sender=user_id,
            event_type=event_type,
            state_key=state_key,
            content=request.body,
        )
        return {"event_id": event.event_id}

    return await api.database.write(unit)


async def _once(api: ClientApi, requester: Requester, path: str, act: Callable[[Tx], str]) -> dict[str, Any]:
    def unit(tx: Tx) -> dict[str, Any]:
        def first() -> tuple[dict[str, Any], str]:
            event_id = act(tx)
            return {"event_id": event_id}, event_id

        return answered_once(tx, requester, path, wall_ms=api.wall_ms(), act=first)

    return await api.database.write(unit)


def _redact_related(
    api: ClientApi, tx: Tx, requester: Requester, event_id: str, content: Mapping[str, Any], kinds: list[Any]
) -> None:
    """Redacts what relates to a redacted event in one of these ways (`*`: in any), as far as the user may.

    Source: MSC3912.
    """
    target = api.rooms.stored(tx, event_id)
    if target is None:
        return
    rows = related_events(
        tx,
        target.pdu.room_id,
        event_id,
        levels=1,
        above=FIRST,
        upto=tx.position(),
        forward=False,
        limit=RELATED_REDACTED_MAX,
    )
    for related_id, _ in rows:
        related = api.rooms.stored(tx, related_id)
        relation = None if related is None else related.pdu.content.get("m.relates_to")
        if isinstance(relation, Mapping) and ("*" in kinds or relation.get("rel_type") in kinds):
            with contextlib.suppress(MatrixError):
                _redact(api, tx, requester, target.pdu.room_id, {**content, "redacts": related_id})


def _redact(api: ClientApi, tx: Tx, requester: Requester, room_id: str, body: Mapping[str, Any]) -> str:
    """Redacts an event that is held here, if the user sent it or may redact others' events.

    Raises: InvalidParam, NotFound, Forbidden.
    """
    require_joined(tx, requester.user_id, room_id)
    target_id = body.get("redacts")
    if not isinstance(target_id, str):
        raise InvalidParam("redacts is not an event ID")
    event = api.rooms.send(
        tx,
        room_id=room_id,
        sender=requester.user_id,
        event_type="m.room.redaction",
        content={key: value for key, value in body.items() if key != "redacts"},
        redacts=target_id,
    )
    return event.event_id
