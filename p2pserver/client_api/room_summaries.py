"""`GET /room_summary`: what a room is, for somebody who may want to join it.

From this node's own knowledge where it is in the room, else from a server that is; while none can be asked, from what
came with an invite. Source: client-server API, "Room summary"; MSC3266, whose two earlier paths clients still use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.joining import candidates
from p2pserver.client_api.room_aliases import resolve_alias
from p2pserver.errors import InvalidParam, MatrixError, NotFound
from p2pserver.events.receipt import load_pdu
from p2pserver.events.versions import rules_of
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_room_id, is_server_name, server_of
from p2pserver.rooms.summaries import is_open, room_summary, sane_summary, summary_of, user_sees
from p2pserver.store import memberships
from p2pserver.store.tx import Tx

ASK_S = 5.0
ASK_ALL_S = 10.0
ASKED_MAX = 5

routes = Routes()


@routes.route("GET", "/room_summary/{room_id_or_alias}", versions=("v1",), auth="optional")
@routes.route("GET", "/im.nheko.summary/rooms/{room_id_or_alias}/summary", versions=("unstable",), auth="optional")
@routes.route("GET", "/im.nheko.summary/summary/{room_id_or_alias}", versions=("unstable",), auth="optional")
async def get_room_summary(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /v1/room_summary/{roomIdOrAlias}`; without a token only of rooms that are open to everybody."""
    room_id = request.params["room_id_or_alias"]
    via = [*request.query_lists.get("via", ()), *request.query_lists.get("server", ())]
    if room_id.startswith("#"):
        found = await resolve_alias(api, room_id)
        room_id, via = found.room_id, [*via, *found.servers]
    if not is_room_id(room_id):
        raise InvalidParam("that is neither a room ID nor an alias")
    user_id = None if request.authenticated is None else request.authenticated.user_id
    summary, servers = await api.database.read(lambda tx: _known(api, tx, room_id, user_id, via))
    if summary is None:
        answer = await ask_hierarchy(api, room_id, servers)
        summary = None if answer is None else answer[0]
    if summary is None and user_id is not None:
        summary = await api.database.read(lambda tx: _from_invite(tx, user_id, room_id))
    if summary is None:
        raise NotFound("this room is not known here, or not to be seen")

    def shown(tx: Tx) -> dict[str, Any]:
        if user_id is None:
            if not is_open(summary):
                raise NotFound("this room is not known here, or not to be seen")
            return _with_old_names(summary)
        own = memberships.local_membership(tx, user_id, room_id)
        was_in = own is not None and own.membership in ("leave", "ban") and own.forgotten is False
        if not user_sees(tx, user_id, summary) and not was_in:
            raise NotFound("this room is not known here, or not to be seen")
        return {**_with_old_names(summary), "membership": "leave" if own is None else own.membership}

    return await api.database.read(shown)


def _with_old_names(summary: dict[str, Any]) -> dict[str, Any]:
    """The names of MSC3266 before it was accepted stand beside the present ones."""
    shown = {name: value for name, value in summary.items() if name != "children_state"}
    shown["im.nheko.summary.room_version"] = shown["im.nheko.summary.version"] = summary.get("room_version")
    if "encryption" in summary:
        shown["im.nheko.summary.encryption"] = summary["encryption"]
    return shown


def _known(
    api: ClientApi, tx: Tx, room_id: str, user_id: str | None, via: Iterable[str]
) -> tuple[dict[str, Any] | None, list[str]]:
    """What this node can say as a member of the room, and the servers to ask otherwise."""
    if memberships.is_joined(tx, room_id, api.server_name):
        return room_summary(tx, room_id), []
    return None, candidates(api, tx, user_id or "", room_id, via)


def _from_invite(tx: Tx, user_id: str, room_id: str) -> dict[str, Any] | None:
    held = memberships.invite(tx, user_id, room_id)
    if held is None:
        return None
    rules = rules_of(held.version)
    state = {event.state_slot: event for event in (load_pdu(raw, rules) for raw in held.room_state)}
    return summary_of(
        lambda event_type: state.get((event_type, "")), room_id=room_id, room_version=held.version, joined=0
    )


async def ask_hierarchy(
    api: ClientApi, room_id: str, servers: Iterable[str], *, suggested_only: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """What the first server that knows the room says of it and of its children; None, if none does."""
    connected = api.remote.connected()
    wanted = [server for server in servers if is_server_name(server) and server in connected]
    if ":" in room_id and server_of(room_id) in connected:
        wanted.append(server_of(room_id))
    question = {"room_id": room_id, "suggested_only": suggested_only}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ASK_ALL_S
    for server in list(dict.fromkeys((*wanted, *connected)))[:ASKED_MAX]:
        if loop.time() > deadline:
            break
        try:
            answer = await api.remote.ask(server, "hierarchy", question, timeout_s=ASK_S)
        except MatrixError:
            continue
        room, children = sane_summary(answer.get("room")), answer.get("children")
        if room is None or room["room_id"] != room_id:
            continue
        listed = [sane_summary(each) for each in children[:100]] if isinstance(children, list) else []
        return room, [each for each in listed if each is not None]
    return None
