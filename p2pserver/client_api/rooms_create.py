"""`POST /createRoom`: room, alias, invites and publication in one unit of work.

Source: client-server API, "Creation".
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.member_events import profile_content, send_member_event
from p2pserver.client_api.room_aliases import check_alias, check_is_free_alias, local_alias, put_alias
from p2pserver.client_api.room_presets import RoomRequest
from p2pserver.errors import Forbidden, InvalidRoomState, RoomInUse
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.rooms import server_acl
from p2pserver.store.aliases import set_published
from p2pserver.store.tx import Tx

routes = Routes()


@routes.route("POST", "/createRoom")
async def create_room(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    wanted = RoomRequest.of(request.body, default_version=api.config.default_room_version)
    creator = request.requester.user_id
    for event_type, _, content in wanted.initial_state:
        if event_type == server_acl.EVENT_TYPE:
            server_acl.check_own_acl(content, api.server_name)
    alias = None
    if wanted.alias_localpart is not None:
        alias = f"#{wanted.alias_localpart}:{api.server_name}"
        check_alias(alias)
        check_is_free_alias(api, alias, request.app_service)

    def unit(tx: Tx) -> str:
        if alias is not None and local_alias(tx, alias) is not None:
            raise RoomInUse(f"the alias {alias} is taken")
        try:
            room_id = api.rooms.create(
                tx,
                version=wanted.rules.version,
                creator=creator,
                creation_content=wanted.create_content(creator),
                state=wanted.state(creator, alias),
                creator_profile=profile_content(api, tx, creator),
            )
            for user_id in wanted.invite:
                _invite(api, tx, room_id, creator, user_id, is_direct=wanted.is_direct)
        except Forbidden as error:
            raise InvalidRoomState(f"the room cannot be made like that: {error.message}") from error
        if alias is not None:
            put_alias(tx, alias, room_id, creator)
        if wanted.published:
            set_published(tx, room_id, True)
        return room_id

    return {"room_id": await api.database.write(unit)}


def _invite(api: ClientApi, tx: Tx, room_id: str, creator: str, user_id: str, *, is_direct: bool) -> None:
    content: dict[str, Any] = {"membership": "invite", **profile_content(api, tx, user_id)}
    if is_direct:
        content["is_direct"] = True
    send_member_event(api, tx, room_id=room_id, sender=creator, target=user_id, content=content)
