"""What users reported. Source: Synapse, "Show reported events"."""

from __future__ import annotations

from typing import Any

from p2pserver.admin_api.api import AdminApi, AdminRoutes
from p2pserver.errors import InvalidParam, NotFound
from p2pserver.http_api.routing import ApiRequest
from p2pserver.store import events
from p2pserver.store.event_reports import EventReport, delete_report, report, reports
from p2pserver.store.tx import Tx

routes = AdminRoutes()

PAGE_MAX = 1000


@routes.route("GET", "/event_reports")
async def list_reports(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    start = request.query_integer("from", default=0)
    limit = max(1, request.query_integer("limit", default=100, most=PAGE_MAX))
    direction = request.query.get("dir", "b")
    if direction not in ("f", "b"):
        raise InvalidParam("dir is neither f nor b")

    def query(tx: Tx) -> tuple[list[dict[str, Any]], int]:
        found, total = reports(
            tx,
            start=start,
            limit=limit,
            newest_first=direction == "b",
            reporter=request.query.get("user_id"),
            room_id=request.query.get("room_id"),
        )
        return [_listed(admin, tx, each) for each in found], total

    shown, total = await admin.database.read(query)
    answer: dict[str, Any] = {"event_reports": shown, "total": total}
    if start + limit < total:
        answer["next_token"] = start + len(shown)
    return answer


def _listed(admin: AdminApi, tx: Tx, each: EventReport) -> dict[str, Any]:
    name = alias = None
    if each.room_id is not None:
        name, alias = (
            None if event is None else event.content.get(field)
            for event, field in (
                (admin.rooms.current_event(tx, each.room_id, "m.room.name"), "name"),
                (admin.rooms.current_event(tx, each.room_id, "m.room.canonical_alias"), "alias"),
            )
        )
    return {
        "id": each.report_id,
        "received_ts": each.received_ms,
        "room_id": each.room_id,
        "name": name,
        "canonical_alias": alias,
        "event_id": each.event_id,
        "user_id": each.reporter,
        "sender": each.user_id,
        "reason": each.reason,
        "score": each.score,
    }


@routes.route("GET", "/event_reports/{report_id}")
async def report_details(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    number = _number(request)

    def query(tx: Tx) -> dict[str, Any]:
        found = report(tx, number)
        if found is None:
            raise NotFound("there is no such report")
        event = None if found.event_id is None else events.shown(tx, found.event_id)
        return {**_listed(admin, tx, found), "event_json": None if event is None else admin.edge.shown(event)}

    return await admin.database.read(query)


@routes.route("DELETE", "/event_reports/{report_id}")
async def drop_report(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    number = _number(request)
    if not await admin.database.write(lambda tx: delete_report(tx, number)):
        raise NotFound("there is no such report")
    return {}


def _number(request: ApiRequest) -> int:
    text = request.params["report_id"]
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise InvalidParam("a report is named by its number")
    return int(text)
