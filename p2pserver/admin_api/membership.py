"""Bringing users into rooms, and making them its admins. Source: Synapse, "Edit Room Membership", "Make Room Admin"."""

from __future__ import annotations

from typing import Any

from p2pserver.admin_api.api import AdminApi, AdminRoutes
from p2pserver.errors import MatrixError, NotFound
from p2pserver.http_api.body_fields import optional_string, required_string
from p2pserver.http_api.routing import ApiRequest
from p2pserver.store import aliases
from p2pserver.store.memberships import current_membership
from p2pserver.store.own_rooms import is_joined, local_members
from p2pserver.store.tx import Tx

routes = AdminRoutes()


@routes.route("POST", "/join/{room_id_or_alias}")
async def join(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """Joins a local user to a room; invites him first where the room asks for it and the admin may."""
    name = request.params["room_id_or_alias"]
    user_id = admin.require_local(required_string(request.body, "user_id"))
    via = [*request.query_lists.get("via", ()), *request.query_lists.get("server_name", ())]

    def prepare(tx: Tx) -> str:
        if admin.account(tx, user_id).deactivated:
            raise MatrixError("this account is deactivated")
        room_id = name
        if name.startswith("#"):
            found = aliases.alias(tx, name)
            if found is None:
                raise NotFound("this alias is not known here")
            room_id = found.room_id
        rules = admin.rooms.current_event(tx, room_id, "m.room.join_rules")
        is_open = rules is not None and rules.content.get("join_rule") == "public"
        if not is_open and is_joined(tx, request.requester.user_id, room_id):
            _invite(admin, tx, room_id, sender=request.requester.user_id, user_id=user_id)
        return room_id

    room_id = await admin.database.write(prepare)
    return {"room_id": await admin.edge.join(user_id=user_id, room_id=room_id, via=via)}


def _invite(admin: AdminApi, tx: Tx, room_id: str, *, sender: str, user_id: str) -> None:
    """Invites a local user, unless he is in the room or invited."""
    if current_membership(tx, room_id, user_id) not in ("join", "invite"):
        admin.rooms.send(
            tx,
            room_id=room_id,
            sender=sender,
            event_type="m.room.member",
            state_key=user_id,
            content={"membership": "invite"},
        )


@routes.route("POST", "/rooms/{room_id}/make_room_admin")
async def make_room_admin(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """Gives a local user the level of the most powerful local member, who does it; invites him if he is not there."""
    room_id = request.params["room_id"]
    user_id = admin.require_local(optional_string(request.body, "user_id") or request.requester.user_id)

    def unit(tx: Tx) -> None:
        admin.require_room(tx, room_id)
        admin.account(tx, user_id)
        levels = admin.rooms.power_levels(tx, room_id)
        members = sorted(local_members(tx, room_id), key=levels.of_user, reverse=True)
        needed = levels.needed_for("m.room.power_levels", True)
        sender = next((member for member in members if levels.of_user(member) >= needed), None)
        if sender is None:
            raise MatrixError("no user of this node may change the power levels of this room")
        if levels.of_user(user_id) < levels.of_user(sender):
            current = admin.rooms.current_event(tx, room_id, "m.room.power_levels")
            content = {} if current is None else dict(current.content)
            users = content.get("users")
            listed = dict(users) if isinstance(users, dict) else {}
            level = listed.get(sender, 100)
            admin.rooms.send(
                tx,
                room_id=room_id,
                sender=sender,
                event_type="m.room.power_levels",
                state_key="",
                content={**content, "users": {**listed, user_id: level}},
            )
        rules = admin.rooms.current_event(tx, room_id, "m.room.join_rules")
        if rules is None or rules.content.get("join_rule") != "public":
            _invite(admin, tx, room_id, sender=sender, user_id=user_id)

    await admin.database.write(unit)
    return {}
