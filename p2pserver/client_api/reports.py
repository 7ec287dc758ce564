"""Reports of rooms, events and users to who runs this node, who reads them by the admin API.

Source: client-server API, "Reporting content".
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.rooms_read import visible_event
from p2pserver.errors import BadJson, InvalidParam, MissingParam, NotFound, TooLarge
from p2pserver.http_api.body_fields import optional_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_user_id, server_of
from p2pserver.store.accounts import user_exists
from p2pserver.store.event_reports import add_report
from p2pserver.store.memberships import local_membership
from p2pserver.store.profiles import cached_profile
from p2pserver.store.rooms import room
from p2pserver.store.tx import Tx

REASON_CHARACTERS_MAX = 2_000

routes = Routes()


@routes.route("POST", "/rooms/{room_id}/report")
async def report_room(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /rooms/{roomId}/report`, whether or not the reporter is in the room."""
    room_id, reporter = request.params["room_id"], request.requester.user_id
    reason = _reason(request, required=True)

    def unit(tx: Tx) -> None:
        if room(tx, room_id) is None and local_membership(tx, reporter, room_id) is None:
            raise NotFound("this room is not known here")
        add_report(tx, reporter=reporter, received_ms=api.wall_ms(), room_id=room_id, reason=reason)

    await api.database.write(unit)
    return {}


@routes.route("POST", "/rooms/{room_id}/report/{event_id}")
async def report_event(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /rooms/{roomId}/report/{eventId}`, of an event that the reporter may see."""
    reporter, reason = request.requester.user_id, _reason(request, required=False)
    score = request.body.get("score")
    if score is not None and (type(score) is not int or not -100 <= score <= 0):
        raise BadJson("score is not an integer from -100 to 0")

    def unit(tx: Tx) -> None:
        event = visible_event(api, tx, request)
        add_report(
            tx,
            reporter=reporter,
            received_ms=api.wall_ms(),
            room_id=event.pdu.room_id,
            event_id=event.pdu.event_id,
            user_id=event.pdu.sender,
            reason=reason,
            score=score,
        )

    await api.database.write(unit)
    return {}


@routes.route("POST", "/users/{user_id}/report")
async def report_user(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /users/{userId}/report`, of somebody of this node, or who was seen in a room or asked about."""
    user_id, reporter = request.params["user_id"], request.requester.user_id
    reason = _reason(request, required=True)
    if not is_user_id(user_id):
        raise InvalidParam("that is not a user ID")

    def unit(tx: Tx) -> None:
        if not _is_known(api, tx, user_id):
            raise NotFound("this user is not known here")
        add_report(tx, reporter=reporter, received_ms=api.wall_ms(), user_id=user_id, reason=reason)

    await api.database.write(unit)
    return {}


def _is_known(api: ClientApi, tx: Tx, user_id: str) -> bool:
    if server_of(user_id) == api.server_name:
        return user_exists(tx, user_id)
    row = tx.one("SELECT 1 FROM current_state WHERE type = 'm.room.member' AND state_key = ? LIMIT 1", (user_id,))
    return row is not None or cached_profile(tx, user_id) is not None


def _reason(request: ApiRequest, *, required: bool) -> str | None:
    """Raises: MissingParam, BadJson, TooLarge."""
    reason = optional_string(request.body, "reason")
    if reason is None and required:
        raise MissingParam("`reason` is missing; it may be empty")
    if reason is not None and len(reason) > REASON_CHARACTERS_MAX:
        raise TooLarge(f"a reason has at most {REASON_CHARACTERS_MAX} characters")
    return reason
