"""Rooms as they are held here, for operators. Source: Synapse, "Rooms Admin API"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2pserver.admin_api.api import AdminApi, AdminRoutes
from p2pserver.errors import InvalidParam, NotFound
from p2pserver.http_api.routing import ApiRequest
from p2pserver.store import alarms, events, room_stream
from p2pserver.store.blocked_rooms import block_room, blocked_by, unblock_room
from p2pserver.store.devices import device_ids
from p2pserver.store.extremity_list import extremity_list
from p2pserver.store.own_rooms import local_members
from p2pserver.store.room_summaries import room_summaries
from p2pserver.store.tx import Tx

routes = AdminRoutes()

PAGE_MAX = 1000
Summary = dict[str, Any]


def _text(name: str) -> Callable[[Summary], Any]:
    return lambda room: (room[name] or "").casefold()


def _number(name: str) -> Callable[[Summary], Any]:
    return lambda room: -room[name]


ORDERS: dict[str, Callable[[Summary], Any]] = {
    "name": _text("name"),
    "alphabetical": _text("name"),
    "canonical_alias": _text("canonical_alias"),
    "joined_members": _number("joined_members"),
    "size": _number("joined_members"),
    "joined_local_members": _number("joined_local_members"),
    "version": lambda room: -int(room["version"]),
    "creator": _text("creator"),
    "encryption": _text("encryption"),
    "federatable": _number("federatable"),
    "public": _number("public"),
    "join_rules": _text("join_rules"),
    "guest_access": _text("guest_access"),
    "history_visibility": _text("history_visibility"),
    "state_events": _number("state_events"),
}
"""Numbers begin with the greatest, texts with A, as operators' tools expect."""


@routes.route("GET", "/rooms")
async def rooms(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    start = request.query_integer("from", default=0)
    limit = max(1, request.query_integer("limit", default=100, most=PAGE_MAX))
    order, direction = request.query.get("order_by", "name"), request.query.get("dir", "f")
    if order not in ORDERS:
        raise InvalidParam(f"order_by is none of {', '.join(ORDERS)}")
    if direction not in ("f", "b"):
        raise InvalidParam("dir is neither f nor b")
    term = request.query.get("search_term")
    if term == "":
        raise InvalidParam("search_term is empty")
    found = await admin.database.read(lambda tx: room_summaries(tx, admin.server_name))
    if term is not None:
        found = [room for room in found if _matches(room, term)]
    for parameter, is_so in (("public_rooms", _is_public), ("empty_rooms", _is_empty)):
        if parameter in request.query:
            wanted = request.query_boolean(parameter)
            found = [room for room in found if is_so(room) == wanted]
    found.sort(key=ORDERS[order], reverse=direction == "b")
    answer: dict[str, Any] = {
        "rooms": [_listed(room) for room in found[start : start + limit]],
        "offset": start,
        "total_rooms": len(found),
    }
    if start + limit < len(found):
        answer["next_batch"] = start + limit
    if start > 0:
        answer["prev_batch"] = max(0, start - limit)
    return answer


def _matches(room: Summary, term: str) -> bool:
    """Part of the name or of the alias' local part, whatever the case; or the room's ID."""
    alias = (room["canonical_alias"] or "").partition(":")[0]
    wanted = term.casefold()
    return wanted in (room["name"] or "").casefold() or wanted in alias.casefold() or term == room["room_id"]


def _is_public(room: Summary) -> bool:
    return bool(room["public"])


def _is_empty(room: Summary) -> bool:
    return bool(room["joined_members"] == 0)


def _listed(room: Summary) -> Summary:
    return {name: value for name, value in room.items() if name not in ("topic", "avatar")}


@routes.route("GET", "/rooms/{room_id}")
async def room_details(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    room_id = request.params["room_id"]

    def query(tx: Tx) -> dict[str, Any]:
        admin.require_room(tx, room_id)
        tombstone = admin.rooms.current_event(tx, room_id, "m.room.tombstone")
        users = local_members(tx, room_id)
        row = tx.one("SELECT 1 FROM local_memberships WHERE room_id = ? AND forgotten = 0", (room_id,))
        return {
            **room_summaries(tx, admin.server_name, room_id)[0],
            "joined_local_devices": sum(len(device_ids(tx, user_id)) for user_id in users),
            "forgotten": row is None,
            "tombstoned": tombstone is not None,
            "replacement_room": None if tombstone is None else tombstone.content.get("replacement_room"),
            "alarms": alarms.as_json(tx, room_id),
        }

    return await admin.database.read(query)


@routes.route("GET", "/rooms/{room_id}/members")
async def room_members(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    room_id = request.params["room_id"]

    def query(tx: Tx) -> list[str]:
        admin.require_room(tx, room_id)
        return sorted(room_stream.joined_members(tx, room_id))

    members = await admin.database.read(query)
    return {"members": members, "total": len(members)}


@routes.route("GET", "/rooms/{room_id}/state")
async def room_state(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    room_id, wanted = request.params["room_id"], request.query.get("type")

    def query(tx: Tx) -> list[dict[str, Any]]:
        admin.require_room(tx, room_id)
        state = admin.rooms.current_state(tx, room_id)
        kept = [event_id for (kind, _), event_id in sorted(state.items()) if wanted is None or kind == wanted]
        return [admin.edge.shown(admin.rooms.event(tx, event_id)) for event_id in kept]

    return {"state": await admin.database.read(query)}


@routes.route("GET", "/rooms/{room_id}/block")
async def is_blocked(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    by = await admin.database.read(lambda tx: blocked_by(tx, request.params["room_id"]))
    return {"block": False} if by is None else {"block": True, "user_id": by}


@routes.route("PUT", "/rooms/{room_id}/block")
async def put_block(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """A room may be blocked before anybody here has heard of it."""
    room_id, block = request.params["room_id"], request.body.get("block")
    if not isinstance(block, bool):
        raise InvalidParam("`block` is not a boolean")
    admin.require_room_id(room_id)

    def unit(tx: Tx) -> None:
        if block:
            block_room(tx, room_id, by=request.requester.user_id, now_ms=admin.wall_ms())
        else:
            unblock_room(tx, room_id)

    await admin.database.write(unit)
    return {"block": block}


@routes.route("GET", "/rooms/{room_id}/forward_extremities")
async def forward_extremities(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    room_id = request.params["room_id"]

    def query(tx: Tx) -> list[dict[str, Any]]:
        admin.require_room(tx, room_id)
        return extremity_list(tx, room_id)

    found = await admin.database.read(query)
    return {"count": len(found), "results": found}


@routes.route("DELETE", "/rooms/{room_id}/forward_extremities")
async def merge_extremities(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """Merges the branches by healing events: what was said on one is not dropped."""
    room_id = request.params["room_id"]

    def unit(tx: Tx) -> int:
        admin.require_room(tx, room_id)
        return admin.rooms.merge_all(tx, room_id)

    return {"deleted": await admin.database.write(unit)}


@routes.route("GET", "/fetch_event/{event_id}")
async def fetch_event(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    event_id = request.params["event_id"]
    event = await admin.database.read(lambda tx: events.shown(tx, event_id))
    if event is None:
        raise NotFound("this event is not held here")
    return {"event": admin.edge.shown(event)}
