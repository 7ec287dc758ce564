"""Events that are sent later, unless they are cancelled: a call that nobody hangs up, a message for tomorrow.

What waits is in the store. It is sent when its time has come, or when the node starts after that, and judged then as if
it were sent then. Whoever knows the ID of a delay may restart it, end it or cancel it, as the proposal has it: then a
call server can do it for a client. Source: MSC4140, in its present form and the one before, which clients speak.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from p2pserver.client_api.room_access import require_joined
from p2pserver.client_api.sending import send_message, send_state
from p2pserver.client_api.transactions import answered_once, transaction_path
from p2pserver.errors import BadJson, Forbidden, InvalidParam, MatrixError, NotFound
from p2pserver.http_api.body_fields import optional_string, required_object, required_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.meg.state import StateSlot
from p2pserver.store import delayed_events as store
from p2pserver.store.account_status import account_status
from p2pserver.store.client_transactions import note_event
from p2pserver.store.delayed_events import DelayedEvent
from p2pserver.store.room_stream import slot_changes
from p2pserver.store.tx import Tx

if TYPE_CHECKING:
    from p2pserver.client_api.app import ClientApi

DELAY_MS_MAX = 30 * 24 * 3600 * 1000
WAITING_MAX = 100
"""Of one user."""
PREFIX = "/org.matrix.msc4140"
ACTIONS = ("restart", "send", "cancel")
_ID_OCTETS = 24
_LOOK_S = 60.0
"""The clock may be set: how often it is looked at while something waits."""

routes = Routes()


class MaxDelayExceeded(MatrixError):
    """The error code is that of the proposal, before it is stable."""

    def __init__(self) -> None:
        super().__init__(
            f"a delay is at most {DELAY_MS_MAX} ms",
            **{"org.matrix.msc4140.errcode": "M_MAX_DELAY_EXCEEDED", "org.matrix.msc4140.max_delay": DELAY_MS_MAX},
        )


class MaxDelayedEventsExceeded(MatrixError):
    def __init__(self) -> None:
        super().__init__(
            f"at most {WAITING_MAX} events of yours can wait",
            **{"org.matrix.msc4140.errcode": "M_MAX_DELAYED_EVENTS_EXCEEDED"},
        )


def delay_of(request: ApiRequest) -> int | None:
    """The delay in ms that a request to send asks for. Raises: InvalidParam."""
    text = request.query.get("org.matrix.msc4140.delay")
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,16}", text, re.ASCII):
        raise InvalidParam("org.matrix.msc4140.delay is not a number of milliseconds")
    return int(text)


async def schedule_event(
    api: ClientApi,
    request: ApiRequest,
    delay_ms: int,
    event_type: str,
    state_key: str | None,
    content: dict[str, Any],
    path: str | None,
) -> dict[str, Any]:
    """Keeps an event to be sent later; a repeat on the same transaction `path` gets the same delay ID.

    Raises: InvalidParam, Forbidden, MaxDelayExceeded, MaxDelayedEventsExceeded.
    """
    requester, room_id = request.requester, request.params["room_id"]
    if delay_ms == 0:
        raise InvalidParam("the delay is not positive")
    if delay_ms > DELAY_MS_MAX:
        raise MaxDelayExceeded

    def unit(tx: Tx) -> dict[str, Any]:
        def first() -> tuple[dict[str, Any], None]:
            require_joined(tx, requester.user_id, room_id)
            if store.waiting(tx, requester.user_id) >= WAITING_MAX:
                raise MaxDelayedEventsExceeded
            event = DelayedEvent(
                delay_id=api.random_bytes(_ID_OCTETS).hex(),
                user_id=requester.user_id,
                device_id=requester.device_id,
                room_id=room_id,
                type=event_type,
                state_key=state_key,
                content=content,
                delay_ms=delay_ms,
                since_ms=api.wall_ms(),
                since_position=tx.position(),
                txn_path=path,
            )
            store.schedule(tx, event)
            return {"delay_id": event.delay_id}, None

        if path is None:
            return first()[0]
        return answered_once(tx, requester, path, wall_ms=api.wall_ms(), act=first)

    return await api.database.write(unit)


@routes.route("PUT", f"{PREFIX}/rooms/{{room_id}}/delayed_event/{{event_type}}/{{txn_id}}", versions=("unstable",))
async def put_delayed_event(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """The form of the present text: `delay_ms`, `content` and, for state, `state_key` in the body."""
    delay_ms = request.body.get("delay_ms")
    if type(delay_ms) is not int or delay_ms < 0:
        raise BadJson("`delay_ms` is not a number of milliseconds")
    event_type, txn_id = request.params["event_type"], request.params["txn_id"]
    path = transaction_path("rooms", request.params["room_id"], "delayed_event", event_type, txn_id)
    state_key = optional_string(request.body, "state_key")
    content = required_object(request.body, "content")
    return await schedule_event(api, request, delay_ms, event_type, state_key, content, path)


@routes.route("GET", f"{PREFIX}/delayed_events", versions=("unstable",))
async def list_delayed_events(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """The user's events that wait, and what became of those that did."""
    user_id = request.requester.user_id

    def query(tx: Tx) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        found = (store.events_of(tx, user_id, finalised=finalised) for finalised in (False, True))
        waiting, finalised = ([event.to_json() for event in events] for events in found)
        return waiting, finalised

    waiting, finalised = await api.database.read(query)
    return {"delayed_events": waiting, "scheduled": waiting, "finalised": finalised}


@routes.route("GET", f"{PREFIX}/delayed_events/{{delay_id}}", versions=("unstable",))
async def get_delayed_event(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    event = await api.database.read(lambda tx: store.delayed_event(tx, request.params["delay_id"]))
    if event is None or event.user_id != request.requester.user_id:
        raise NotFound("there is no such delayed event")
    return event.to_json()


@routes.route("POST", f"{PREFIX}/delayed_events/{{delay_id}}", versions=("unstable",), auth="optional")
async def update_delayed_event(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """The form of the earlier text, with `action` in the body."""
    return await _update(api, request.params["delay_id"], required_string(request.body, "action"))


@routes.route("POST", f"{PREFIX}/delayed_events/{{delay_id}}/{{action}}", versions=("unstable",), auth="optional")
async def act_on_delayed_event(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    return await _update(api, request.params["delay_id"], request.params["action"])


async def _update(api: ClientApi, delay_id: str, action: str) -> dict[str, Any]:
    """Restarts, sends or cancels; doing again what was done already is no error.

    Raises: InvalidParam, NotFound; what sending raises, if it is to be sent now.
    """
    if action not in ACTIONS:
        raise InvalidParam("the action is none of restart, send, cancel")

    def unit(tx: Tx) -> dict[str, Any] | None:
        event = store.delayed_event(tx, delay_id)
        if event is None:
            raise NotFound("there is no such delayed event")
        if event.finalised_ms is not None:
            done = "send" if event.event_id is not None else "cancel"
            if action != done or event.error is not None:
                raise NotFound("this delayed event does not wait any more")
        elif action == "restart":
            store.restart(tx, delay_id, api.wall_ms())
        elif action == "cancel":
            store.finalise(tx, event, api.wall_ms())
        else:
            return _send(api, tx, event)
        return None

    error = await api.database.write(unit)
    if error is not None:
        raise Forbidden(f"the event could not be sent: {error.get('error')}")
    return {}


async def send_delayed_events(api: ClientApi) -> None:
    """Sends what is due, of this run and earlier ones, as long as the node runs."""
    while True:
        position = api.database.position
        event = await api.database.read(store.next_due)
        left_ms = None if event is None else event.due_ms - api.wall_ms()
        if left_ms is not None and left_ms <= 0:
            await api.database.write(lambda tx: send_next(api, tx))
            continue
        wait_s = None if left_ms is None else min(left_ms / 1000, _LOOK_S)
        await api.database.wait([store.TOPIC], after=position, timeout_s=wait_s)


def send_next(api: ClientApi, tx: Tx) -> None:
    """Sends one event, if one is due."""
    event = store.next_due(tx)
    if event is not None and event.due_ms <= api.wall_ms():
        _send(api, tx, event)


def _send(api: ClientApi, tx: Tx, event: DelayedEvent) -> dict[str, Any] | None:
    """Sends an event that waits, or notes why it cannot be; returns that error."""
    try:
        event_id = None if _is_overtaken(api, tx, event) else _sent(api, tx, event)
    except MatrixError as refusal:
        store.finalise(tx, event, api.wall_ms(), error=refusal.body())
        return refusal.body()
    store.finalise(tx, event, api.wall_ms(), event_id=event_id)
    if event_id is not None and event.txn_path is not None:
        note_event(tx, event.user_id, event.device_id, event.txn_path, event_id)
    return None


def _sent(api: ClientApi, tx: Tx, event: DelayedEvent) -> str:
    """Raises: Forbidden, where the account may not speak; what sending raises."""
    status = account_status(tx, event.user_id)
    if status is None or status.deactivated or status.locked or status.suspended or status.shadow_banned:
        raise Forbidden("this account may not send")
    if event.state_key is None:
        return send_message(
            api, tx, user_id=event.user_id, room_id=event.room_id, event_type=event.type, content=event.content
        )
    return send_state(
        api,
        tx,
        user_id=event.user_id,
        room_id=event.room_id,
        event_type=event.type,
        state_key=event.state_key,
        content=event.content,
    )


def _is_overtaken(api: ClientApi, tx: Tx, event: DelayedEvent) -> bool:
    """Whether somebody else has set the same state since: then that stays."""
    if event.state_key is None:
        return False
    slot: StateSlot = (event.type, event.state_key)
    for change in slot_changes(tx, event.room_id, slot, above=event.since_position):
        newer = None if change.event_id is None else api.rooms.stored(tx, change.event_id)
        if newer is not None and newer.pdu.sender != event.user_id:
            return True
    return False
