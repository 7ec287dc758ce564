"""What `/send`, `/redact` and `PUT /state` do inside a unit of work, now or later (`delayed_events.py`).

Source: client-server API, "Sending events to a room", "Redactions".
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.member_events import send_member_event
from p2pserver.client_api.room_access import require_joined
from p2pserver.client_api.room_aliases import check_canonical_alias
from p2pserver.errors import DuplicateAnnotation, InvalidParam, MatrixError
from p2pserver.rooms import server_acl
from p2pserver.store.relations import has_annotated, related_events
from p2pserver.store.room_stream import FIRST
from p2pserver.store.tx import Tx

RELATED_REDACTED_MAX = 200
"""How many events go with one that is redacted, the newest first."""


def send_message(
    api: ClientApi,
    tx: Tx,
    *,
    user_id: str,
    room_id: str,
    event_type: str,
    content: dict[str, Any],
    ts_ms: int | None = None,
) -> str:
    """Sends an event that is no state and returns its ID; a redaction names its target in `content`.

    `ts_ms`: its timestamp, as an application service may give it.

    Raises: Forbidden, InvalidParam, NotFound, BadJson, TooLarge, DuplicateAnnotation.
    """
    if event_type == "m.room.redaction":
        return redact(api, tx, user_id, room_id, content, ts_ms=ts_ms)
    require_joined(tx, user_id, room_id)
    if "m.relates_to" in content:
        _check_annotation(tx, user_id, room_id, event_type, content["m.relates_to"])
    event = api.rooms.send(tx, room_id=room_id, sender=user_id, event_type=event_type, content=content, ts_ms=ts_ms)
    return event.event_id


def _check_annotation(tx: Tx, user_id: str, room_id: str, event_type: str, relation: object) -> None:
    """Nobody reacts to an event twice in the same way. Source: "Annotations and reactions".

    Raises: DuplicateAnnotation.
    """
    if not isinstance(relation, Mapping) or relation.get("rel_type") != "m.annotation":
        return
    target, key = relation.get("event_id"), relation.get("key")
    if not isinstance(target, str) or not isinstance(key, str):
        return
    if has_annotated(tx, room_id, target, sender=user_id, event_type=event_type, key=key):
        raise DuplicateAnnotation("this reaction is there already")


def send_state(
    api: ClientApi,
    tx: Tx,
    *,
    user_id: str,
    room_id: str,
    event_type: str,
    state_key: str,
    content: dict[str, Any],
    ts_ms: int | None = None,
) -> str:
    """Sends a state event and returns its ID. Raises: Forbidden, InvalidParam, BadAlias, BadJson, TooLarge."""
    if event_type == "m.room.member":
        member = send_member_event(
            api, tx, room_id=room_id, sender=user_id, target=state_key, content=content, ts_ms=ts_ms
        )
        return member.event_id
    require_joined(tx, user_id, room_id)
    if event_type == "m.room.canonical_alias":
        check_canonical_alias(api, tx, room_id, content)
    if event_type == server_acl.EVENT_TYPE:
        server_acl.check_own_acl(content, api.server_name)
    event = api.rooms.send(
        tx,
        room_id=room_id,
        sender=user_id,
        event_type=event_type,
        state_key=state_key,
        content=content,
        ts_ms=ts_ms,
    )
    return event.event_id


def redact(
    api: ClientApi, tx: Tx, user_id: str, room_id: str, body: Mapping[str, Any], *, ts_ms: int | None = None
) -> str:
    """Redacts an event that is held here, if the user sent it or may redact others' events.

    Raises: InvalidParam, NotFound, Forbidden.
    """
    require_joined(tx, user_id, room_id)
    target_id = body.get("redacts")
    if not isinstance(target_id, str):
        raise InvalidParam("redacts is not an event ID")
    event = api.rooms.send(
        tx,
        room_id=room_id,
        sender=user_id,
        event_type="m.room.redaction",
        content={key: value for key, value in body.items() if key != "redacts"},
        redacts=target_id,
        ts_ms=ts_ms,
    )
    return event.event_id


def redact_related(
    api: ClientApi, tx: Tx, user_id: str, event_id: str, content: Mapping[str, Any], kinds: list[Any]
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
                redact(api, tx, user_id, target.pdu.room_id, {**content, "redacts": related_id})
