"""`POST /knock`: here if this node is in the room, else through a server that is and can be asked now.

Source: client-server API, "Knocking on rooms".
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.joining import candidates
from p2pserver.client_api.member_events import is_resident, profile_content, send_member_event
from p2pserver.client_api.room_aliases import resolve_alias
from p2pserver.errors import InvalidParam, MatrixError, NotFound, PeerUnreachable
from p2pserver.events.versions import ROOM_VERSIONS
from p2pserver.http_api.body_fields import optional_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_room_id
from p2pserver.store.tx import Tx

ASK_S = 15.0

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

    def locally(tx: Tx) -> tuple[dict[str, Any], list[str]] | None:
        content = {"membership": "knock", **profile_content(api, tx, user_id)}
        if reason is not None:
            content["reason"] = reason
        if not is_resident(api, tx, room_id):
            api.rooms.check_is_not_blocked(tx, room_id, user_id)
            return content, candidates(api, tx, user_id, room_id, via)
        send_member_event(api, tx, room_id=room_id, sender=user_id, target=user_id, content=content)
        return None

    elsewhere = await api.database.write(locally)
    if elsewhere is not None:
        content, servers = elsewhere
        await _knock_through_others(api, room_id, user_id, content, servers)
    return {"room_id": room_id}


async def _knock_through_others(
    api: ClientApi, room_id: str, user_id: str, content: dict[str, Any], servers: list[str]
) -> None:
    """Raises: PeerUnreachable, if a server that may know the room cannot be asked; else what those say that can."""
    connected = api.remote.connected()
    error: MatrixError = NotFound("no server that can be asked knows this room")
    unreachable = False
    for server in dict.fromkeys((*servers, *connected)):
        try:
            await _knock_through(api, server, room_id, user_id, content)
        except PeerUnreachable:
            unreachable = True
        except MatrixError as refused:
            if error.errcode == "M_NOT_FOUND":
                error = refused
        else:
            return
    if unreachable and error.errcode == "M_NOT_FOUND":
        raise PeerUnreachable("no server that knows the room can be asked now")
    raise error


async def _knock_through(api: ClientApi, server: str, room_id: str, user_id: str, content: dict[str, Any]) -> None:
    question = {"room_id": room_id, "user_id": user_id, "versions": list(ROOM_VERSIONS)}
    template = await api.remote.ask(server, "make_knock", question, timeout_s=ASK_S)
    event = api.rooms.make_knock(template, room_id=room_id, user_id=user_id, content=content)
    answer = await api.remote.ask(server, "send_knock", {"room_id": room_id, "event": dict(event.raw)}, timeout_s=ASK_S)
    await api.database.write(lambda tx: api.rooms.keep_knock(tx, knock=event, answer=answer, via=server))
