"""What the operator has to say to a user, in a room of the node's own user. Source: Synapse, "Server Notices"."""

from __future__ import annotations

from typing import Any

from p2pserver.admin_api.api import AdminApi, AdminRoutes
from p2pserver.errors import MatrixError
from p2pserver.http_api.body_fields import optional_string, required_object, required_string
from p2pserver.http_api.routing import ApiRequest
from p2pserver.store.account_data import put_account_data
from p2pserver.store.account_status import account_status
from p2pserver.store.accounts import NOTICES_LOCALPART, NOTICES_TYPE, register_user, set_profile_field
from p2pserver.store.client_transactions import remember_response, response_of
from p2pserver.store.memberships import current_membership
from p2pserver.store.notice_rooms import notice_room, set_notice_room
from p2pserver.store.rooms import room
from p2pserver.store.tx import Tx

routes = AdminRoutes()

NAME = "Server Notices"


@routes.route("POST", "/send_server_notice")
@routes.route("PUT", "/send_server_notice/{txn_id}")
async def send_server_notice(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """Invites the user to his room of notices at the first one; a repeated transaction sends nothing."""
    body, requester = request.body, request.requester
    user_id, content = required_string(body, "user_id"), required_object(body, "content")
    event_type, state_key = optional_string(body, "type") or "m.room.message", optional_string(body, "state_key")
    txn_id = request.params.get("txn_id")

    def unit(tx: Tx) -> dict[str, Any]:
        known = None if txn_id is None else response_of(tx, requester.user_id, requester.device_id, request.path)
        if known is not None:
            return known
        if admin.account(tx, user_id).deactivated:
            raise MatrixError("this account is deactivated")
        sender = _sender(admin, tx)
        event = admin.rooms.send(
            tx,
            room_id=_room(admin, tx, sender, user_id),
            sender=sender,
            event_type=event_type,
            state_key=state_key,
            content=content,
        )
        answer = {"event_id": event.event_id}
        if txn_id is not None:
            remember_response(
                tx,
                requester.user_id,
                requester.device_id,
                request.path,
                answer,
                event_id=None,
                done_ms=admin.wall_ms(),
            )
        return answer

    return await admin.database.write(unit)


def _sender(admin: AdminApi, tx: Tx) -> str:
    """The node's own user, who is made when he is first needed, and who cannot log in.

    Raises: MatrixError, if somebody registered the name before it was the node's.
    """
    user_id = f"@{NOTICES_LOCALPART}:{admin.server_name}"
    status = account_status(tx, user_id)
    if status is None:
        register_user(tx, user_id, None, created_ms=admin.wall_ms(), user_type=NOTICES_TYPE)
        set_profile_field(tx, user_id, "displayname", NAME)
    elif status.user_type != NOTICES_TYPE:
        raise MatrixError(f"{user_id} is somebody's account, so that it cannot send notices")
    return user_id


def _room(admin: AdminApi, tx: Tx, sender: str, user_id: str) -> str:
    """The user's room of notices: the one he has, if he did not leave it, or a new one."""
    known = notice_room(tx, user_id)
    if (
        known is not None
        and room(tx, known) is not None
        and current_membership(tx, known, user_id) in ("join", "invite")
    ):
        return known
    room_id = admin.rooms.create(
        tx,
        version=admin.default_room_version,
        creator=sender,
        creation_content={},
        state=[
            ("m.room.power_levels", "", admin.announcement_levels(sender)),
            ("m.room.join_rules", "", {"join_rule": "invite"}),
            ("m.room.history_visibility", "", {"history_visibility": "shared"}),
            ("m.room.name", "", {"name": NAME}),
            ("m.room.member", user_id, {"membership": "invite"}),
        ],
        creator_profile={"displayname": NAME},
    )
    set_notice_room(tx, user_id, room_id)
    put_account_data(tx, user_id, room_id, "m.tag", {"tags": {"m.server_notice": {}}})
    return room_id
