"""`GET /timestamp_to_event`: the event nearest to a time, by the clocks of those who sent.

While the history of a room is not all here, other members' servers are asked too. Source: client-server API, "Jump to
date"; server-server API, `timestamp_to_event`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.room_access import view_of
from p2pserver.errors import InvalidParam, MatrixError, NotFound
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.rooms.times import Moment, moments
from p2pserver.store.memberships import joined_servers
from p2pserver.store.parked import has_history_gap
from p2pserver.store.tx import Tx
from p2pserver.wire.event_ids import is_canonical_event_id

ASK_S = 5.0
ASKED_MAX = 3

routes = Routes()


@routes.route("GET", "/rooms/{room_id}/timestamp_to_event", versions=("v1",))
@routes.route("GET", "/org.matrix.msc3030/rooms/{room_id}/timestamp_to_event", versions=("unstable",))
async def get_event_by_timestamp(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /v1/rooms/{roomId}/timestamp_to_event`."""
    room_id, user_id = request.params["room_id"], request.requester.user_id
    timestamp = request.query_integer("ts", default=None)
    direction = request.query.get("dir", "")
    if direction not in ("b", "f"):
        raise InvalidParam("dir is neither b nor f")
    forward = direction == "f"

    def query(tx: Tx) -> tuple[Moment | None, list[str]]:
        view_of(tx, api.rooms, user_id, room_id, peek=True)
        found = None
        for moment in moments(tx, room_id, timestamp, forward=forward):
            event = api.rooms.stored(tx, moment.event_id)
            if event is not None and api.rooms.visible_to(tx, user_id, [event])[0]:
                found = moment
                break
        others = sorted(joined_servers(tx, room_id) - {api.server_name}) if has_history_gap(tx, room_id) else []
        return found, others

    here, others = await api.database.read(query)
    asked = [server for server in api.remote.connected() if server in others][:ASKED_MAX]
    question = {"room_id": room_id, "ts": timestamp, "dir": direction}
    answers = await asyncio.gather(*(_ask(api, server, question) for server in asked))
    known = [moment for moment in (here, *answers) if moment is not None]
    fitting = [each for each in known if (each.timestamp >= timestamp if forward else each.timestamp <= timestamp)]
    if not fitting:
        raise NotFound("there is no event on that side of the time")
    nearest = min(fitting, key=lambda each: abs(each.timestamp - timestamp))
    return {"event_id": nearest.event_id, "origin_server_ts": nearest.timestamp}


async def _ask(api: ClientApi, server: str, question: dict[str, Any]) -> Moment | None:
    try:
        answer = await api.remote.ask(server, "timestamp_to_event", question, timeout_s=ASK_S)
    except MatrixError:
        return None
    event_id, timestamp = answer.get("event_id"), answer.get("origin_server_ts")
    if not isinstance(event_id, str) or not is_canonical_event_id(event_id) or type(timestamp) is not int:
        return None
    return Moment(event_id, timestamp)
