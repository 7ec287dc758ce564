"""`POST /knock`: here if this node is in the room, else through a server that is, and later, if none can be asked now.

Source: client-server API, "Knocking on rooms".
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.joining import answered_in_time, candidates
from p2pserver.client_api.member_events import is_resident, profile_content, send_member_event
from p2pserver.client_api.room_aliases import resolve_alias
from p2pserver.errors import InvalidParam, NotFound
from p2pserver.http_api.body_fields import optional_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_room_id
from p2pserver.store.pending_joins import put_pending_join
from p2pserver.store.tx import Tx

routes = Routes()


@routes.route("POST", "/knock/{room_id_or_alias}")
async def knock(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /knock/{roomIdOrAlias}`."""
    room_id, user_id = request.params["room_id_or_alias"], request.requester.user_id
    via = [*request.query_lists.get("via", ()), *request.query_lists.get("server_name", ())]
    reason = optional_string(request.body, "reason")
    if room_id.startswith("#"):
        found = await resolve_alias(api, room_id)
        room_id, via = found.room_id, [*via, *found.servers]
    if not is_room_id(room_id):
        raise InvalidParam("that is neither a room ID nor an alias")

    alone = not api.remote.connected()

    def locally(tx: Tx) -> bool:
        content = {"membership": "knock", **profile_content(api, tx, user_id)}
        if reason is not None:
            content["reason"] = reason
        if is_resident(api, tx, room_id):
            send_member_event(api, tx, room_id=room_id, sender=user_id, target=user_id, content=content)
            return True
        api.rooms.check_is_not_blocked(tx, room_id, user_id)
        servers = candidates(api, tx, user_id, room_id, via)
        if not servers and alone:
            raise NotFound("no server is known that could know this room")
        put_pending_join(tx, user_id=user_id, room_id=room_id, via=servers, content=content, requested_ms=api.wall_ms())
        return False

    if not await api.database.write(locally):
        await answered_in_time(api, user_id, room_id, what="knock")
    return {"room_id": room_id}
