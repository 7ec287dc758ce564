"""The questions that servers ask each other, one handler each; HTTPS and the mesh are two doors to the same table.

A handler is a plain function in a unit of work: `(tx, origin, body) -> answer`. `origin` is authenticated; nothing in
`body` is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from p2pserver.errors import BadJson, Forbidden, NotFound
from p2pserver.identifiers import is_room_id
from p2pserver.rooms import anew, knocking, restricted, summaries
from p2pserver.rooms.published_rooms import published_rooms
from p2pserver.rooms.s2s_users import user_handlers
from p2pserver.rooms.server_acl import refuse_denied
from p2pserver.rooms.service import Rooms
from p2pserver.rooms.times import event_for_server
from p2pserver.store import aliases
from p2pserver.store.tx import Tx

S2sHandler: TypeAlias = Callable[[Tx, str, dict[str, Any]], dict[str, Any]]

VERSIONS_MAX = 64
PUBLIC_ROOMS_MAX = 100
SERVERS_MAX = 100


def s2s_handlers(rooms: Rooms, *, private: bool) -> dict[str, S2sHandler]:
    """All questions by name. A `private` node lists neither its rooms nor its users."""

    def asked_room(tx: Tx, origin: str, body: dict[str, Any]) -> str:
        """Raises: BadJson; Forbidden, by the server ACL of the room."""
        room_id = _room_id(body)
        refuse_denied(tx, room_id, origin)
        return room_id

    def join(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
        return rooms.join_offer(
            tx,
            origin=origin,
            room_id=asked_room(tx, origin, body),
            user_id=_text(body, "user_id"),
            versions=_versions(body),
        )

    def make_knock(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
        return knocking.knock_template(
            rooms.context,
            tx,
            origin=origin,
            room_id=asked_room(tx, origin, body),
            user_id=_text(body, "user_id"),
            versions=_versions(body),
        )

    def send_knock(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
        return knocking.take_knock(
            rooms.context, tx, origin=origin, room_id=asked_room(tx, origin, body), raw=body.get("event")
        )

    def sign_join(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
        return restricted.sign_join(
            rooms.context, tx, origin=origin, room_id=asked_room(tx, origin, body), raw=body.get("event")
        )

    def directory(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
        known = aliases.alias(tx, _text(body, "alias"))
        if known is None:
            raise NotFound("this alias is not known here")
        servers = sorted({rooms.server_name, *rooms.member_servers(tx, known.room_id)})
        return {"room_id": known.room_id, "servers": servers[:SERVERS_MAX]}

    def hierarchy(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
        return summaries.hierarchy(
            rooms.context,
            tx,
            origin=origin,
            room_id=_room_id(body),
            suggested_only=body.get("suggested_only") is True,
        )

    def timestamp_to_event(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
        return event_for_server(tx, origin, asked_room(tx, origin, body), body)

    def public_rooms(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
        if private:
            raise Forbidden("this node does not list its rooms")
        search, limit = body.get("search"), body.get("limit", PUBLIC_ROOMS_MAX)
        if not isinstance(search, str | None) or type(limit) is not int:
            raise BadJson("search is not a string, or limit is not an integer")
        chunk = published_rooms(tx, search=search, limit=max(1, min(limit, PUBLIC_ROOMS_MAX)))
        return {"chunk": chunk}

    def rooms_of_origin(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
        return anew.rooms_of_origin(
            rooms.context, tx, origin, body, may_know=lambda room_id: not rooms.denies(tx, room_id, origin)
        )

    return {
        "join": join,
        "sign_join": sign_join,
        "make_knock": make_knock,
        "send_knock": send_knock,
        "directory": directory,
        "hierarchy": hierarchy,
        "timestamp_to_event": timestamp_to_event,
        "public_rooms": public_rooms,
        "rooms_of_origin": rooms_of_origin,
        **user_handlers(rooms.server_name, private=private),
    }


def _versions(body: dict[str, Any]) -> list[str]:
    versions = body.get("versions")
    if not isinstance(versions, list) or len(versions) > VERSIONS_MAX:
        raise BadJson("versions is not a list of room versions")
    return [each for each in versions if isinstance(each, str)]


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise BadJson(f"{name} is not a string")
    return value


def _room_id(body: dict[str, Any]) -> str:
    room_id = _text(body, "room_id")
    if not is_room_id(room_id):
        raise BadJson("room_id is not a room ID")
    return room_id
