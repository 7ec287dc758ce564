"""Events as clients see them: the `ClientEvent` format with `unsigned`, and stripped state.

Source: client-server API, "Room event format", "Stripped state"; MSC2174 (`redacts` in both places).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p2pserver.client_api.aggregations import aggregations
from p2pserver.client_api.transactions import transaction_id_of
from p2pserver.events.pdu import Pdu
from p2pserver.http_api.routing import Requester
from p2pserver.rooms.erasure import as_shown_to
from p2pserver.rooms.service import Rooms
from p2pserver.store.client_transactions import paths_of_events
from p2pserver.store.events import StoredEvent
from p2pserver.store.tx import Tx


def client_events(
    tx: Tx, rooms: Rooms, events: Sequence[StoredEvent], *, requester: Requester, wall_ms: int, aggregate: bool = True
) -> list[dict[str, Any]]:
    """The events in client format, in the same order.

    `unsigned` holds `age` (ms), `prev_content`, `replaces_state` and `prev_sender` of state events,
    `redacted_because`, `transaction_id` of what `requester`'s own device sent, and with `aggregate` the edit, the
    thread and the references that relate to it.
    """
    own = [event.pdu.event_id for event in events if event.pdu.sender == requester.user_id]
    paths = paths_of_events(tx, requester.user_id, requester.device_id, own)
    related: dict[str, dict[str, Any]] = {}
    if aggregate:

        def show(event: StoredEvent) -> dict[str, Any]:
            return client_events(tx, rooms, [event], requester=requester, wall_ms=wall_ms)[0]

        related = aggregations(tx, rooms, events, user_id=requester.user_id, show=show)
    shown = []
    for event, pdu in zip(events, as_shown_to(tx, requester.user_id, events), strict=True):
        unsigned: dict[str, Any] = {"age": max(0, wall_ms - pdu.origin_server_ts)}
        path = paths.get(pdu.event_id)
        if path is not None:
            unsigned["transaction_id"] = transaction_id_of(path)
        if pdu.state_slot is not None and not event.outlier:
            _add_previous(tx, rooms, event, unsigned)
        if event.redacted_by is not None:
            redaction = rooms.stored(tx, event.redacted_by)
            if redaction is not None:
                unsigned["redacted_because"] = client_event(redaction.pdu, wall_ms=wall_ms)
        if pdu.event_id in related:
            unsigned["m.relations"] = related[pdu.event_id]
        shown.append(client_event(pdu, unsigned=unsigned))
    return shown


def client_event(pdu: Pdu, *, wall_ms: int = 0, unsigned: dict[str, Any] | None = None) -> dict[str, Any]:
    """One event in client format; without `unsigned` given, its `unsigned` holds the age alone."""
    content = dict(pdu.content)
    shown: dict[str, Any] = {
        "content": content,
        "event_id": pdu.event_id,
        "origin_server_ts": pdu.origin_server_ts,
        "room_id": pdu.room_id,
        "sender": pdu.sender,
        "type": pdu.type,
        "unsigned": {"age": max(0, wall_ms - pdu.origin_server_ts)} if unsigned is None else unsigned,
    }
    if pdu.state_key is not None:
        shown["state_key"] = pdu.state_key
    if pdu.redacts is not None:
        shown["redacts"] = pdu.redacts
        content["redacts"] = pdu.redacts
    return shown


def stripped(pdu: Pdu) -> dict[str, Any]:
    """The stripped form of a state event."""
    return {
        "content": dict(pdu.content),
        "sender": pdu.sender,
        "state_key": pdu.state_key,
        "type": pdu.type,
    }


def _add_previous(tx: Tx, rooms: Rooms, event: StoredEvent, unsigned: dict[str, Any]) -> None:
    slot = event.pdu.state_slot
    assert slot is not None
    previous_id = rooms.state_before(tx, event.pdu.event_id).get(slot)
    if previous_id is None or previous_id == event.pdu.event_id:
        return
    previous = rooms.event(tx, previous_id)
    unsigned["prev_content"] = dict(previous.content)
    unsigned["replaces_state"] = previous_id
    unsigned["prev_sender"] = previous.sender
