"""A room's history as it is held here, whoever may see it, and purging it. Source: Synapse, "Rooms Admin API"."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from p2pserver.admin_api.api import AdminApi, AdminRoutes
from p2pserver.admin_api.jobs import Job
from p2pserver.errors import InvalidParam, MissingParam, NotFound
from p2pserver.events.pdu import Pdu
from p2pserver.http_api.body_fields import optional_boolean, optional_string
from p2pserver.http_api.routing import ApiRequest
from p2pserver.store import events
from p2pserver.store.room_purge import purge_messages
from p2pserver.store.room_stream import FIRST, event_near, events_in
from p2pserver.store.tx import Tx

routes = AdminRoutes()

PAGE_MAX = 1000
PURGED_AT_ONCE = 200
"""In one unit of work, so that other people's requests get their turn."""
_TOKEN = re.compile(r"s(-?[0-9]{1,18})", re.ASCII)


def _position(text: str | None) -> int | None:
    if not text:
        return None
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise InvalidParam("that is not a token of this API")
    return int(match[1])


def _direction(request: ApiRequest, default: str) -> bool:
    direction = request.query.get("dir", default)
    if direction not in ("f", "b"):
        raise InvalidParam("dir is neither f nor b")
    return direction == "f"


def _events(tx: Tx, event_ids: list[str]) -> list[Pdu]:
    found = (events.shown(tx, event_id) for event_id in event_ids)
    return [event for event in found if event is not None]


@routes.route("GET", "/rooms/{room_id}/messages")
async def messages(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """A page of events in order of arrival, with tokens of its own."""
    room_id, forward = request.params["room_id"], _direction(request, "b")
    limit = max(1, request.query_integer("limit", default=10, most=PAGE_MAX))
    begin, end = _position(request.query.get("from")), _position(request.query.get("to"))

    def query(tx: Tx) -> dict[str, Any]:
        admin.require_room(tx, room_id)
        start = begin if begin is not None else FIRST if forward else tx.position()
        other = end if end is not None else tx.position() if forward else FIRST
        above, upto = (start, other) if forward else (other, start)
        rows = events_in(tx, room_id, above=above, upto=upto, forward=forward, limit=limit)
        chunk = [admin.edge.shown(event) for event in _events(tx, [event_id for event_id, _ in rows])]
        answer = {"chunk": chunk, "start": f"s{start}"}
        if rows and (forward or len(rows) == limit):
            answer["end"] = f"s{rows[-1][1] - (0 if forward else 1)}"
        return answer

    return await admin.database.read(query)


@routes.route("GET", "/rooms/{room_id}/context/{event_id}")
async def context(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    room_id, event_id = request.params["room_id"], request.params["event_id"]
    half = request.query_integer("limit", default=10, most=PAGE_MAX) // 2

    def query(tx: Tx) -> dict[str, Any]:
        admin.require_room(tx, room_id)
        found = events.stored(tx, event_id)
        if found is None or found.pdu.room_id != room_id or found.outlier:
            raise NotFound("this event is not held here")
        place = found.position
        before = events_in(tx, room_id, above=FIRST, upto=place - 1, forward=False, limit=half) if half else []
        after = events_in(tx, room_id, above=place, upto=tx.position(), forward=True, limit=half) if half else []
        last = after[-1][0] if after else event_id
        state = admin.rooms.state_after(tx, last)
        return {
            "start": f"s{before[-1][1] - 1 if before else place - 1}",
            "end": f"s{after[-1][1] if after else place}",
            "events_before": [admin.edge.shown(event) for event in _events(tx, [each for each, _ in before])],
            "event": admin.edge.shown(found.pdu),
            "events_after": [admin.edge.shown(event) for event in _events(tx, [each for each, _ in after])],
            "state": [admin.edge.shown(event) for event in _events(tx, [each for _, each in sorted(state.items())])],
        }

    return await admin.database.read(query)


@routes.route("GET", "/rooms/{room_id}/timestamp_to_event")
async def timestamp_to_event(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    room_id, forward = request.params["room_id"], _direction(request, "f")
    ts = request.query_integer("ts", default=None)

    def query(tx: Tx) -> tuple[str, int] | None:
        admin.require_room(tx, room_id)
        return event_near(tx, room_id, ts, forward=forward)

    found = await admin.database.read(query)
    if found is None:
        raise NotFound("there is no event on that side")
    return {"event_id": found[0], "origin_server_ts": found[1]}


@routes.route("POST", "/purge_history/{room_id}")
@routes.route("POST", "/purge_history/{room_id}/{event_id}")
async def purge_history(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """Takes the content of old messages from this node's copy, beside the requests. See docs/admin.md."""
    room_id, body = request.params["room_id"], request.body
    event_id = request.params.get("event_id") or optional_string(body, "purge_up_to_event_id")
    before_ts = body.get("purge_up_to_ts")
    keep = None if optional_boolean(body, "delete_local_events") else admin.server_name
    if event_id is None and before_ts is None:
        raise MissingParam("`purge_up_to_event_id` or `purge_up_to_ts` is needed")
    if before_ts is not None and type(before_ts) is not int:
        raise InvalidParam("`purge_up_to_ts` is not an integer")

    def query(tx: Tx) -> int | None:
        admin.require_room(tx, room_id)
        if event_id is None:
            return None
        found = events.stored(tx, event_id)
        if found is None or found.pdu.room_id != room_id or found.outlier:
            raise NotFound("this event is not held here")
        return found.position

    before_position = await admin.database.read(query)
    job = admin.jobs.add(Job(job_id=admin.random_bytes(12).hex(), room_id=room_id))

    async def work() -> None:
        purged, more = 0, True
        while more:
            found = await admin.database.write(
                lambda tx: purge_messages(
                    tx,
                    room_id,
                    before_position=before_position,
                    before_ts=None if event_id is not None else before_ts,
                    keep_of_server=keep,
                    most=PURGED_AT_ONCE,
                )
            )
            purged, more = purged + found, found == PURGED_AT_ONCE
            await asyncio.sleep(0)
        job.result = {"purged": purged}

    admin.edge.spawn(job.run(work()), name="purge-history")
    return {"purge_id": job.job_id}


@routes.route("GET", "/purge_history_status/{purge_id}")
async def purge_status(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    job = admin.jobs.get(request.params["purge_id"])
    if job is None:
        raise NotFound("there is no such purge, or it was forgotten")
    return {"status": job.status}
