"""Media, for operators. Source: Synapse, "Media Admin API", "User Admin API", "Statistics"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p2pserver.admin_api.api import AdminApi, AdminRoutes
from p2pserver.errors import InvalidParam, NotFound
from p2pserver.http_api.routing import ApiRequest
from p2pserver.store.media import Media, list_media, media, media_numbered, own_media
from p2pserver.store.room_media import media_of_room
from p2pserver.store.statistics import media_by_user, room_sizes
from p2pserver.store.tx import Tx

routes = AdminRoutes()

PAGE_MAX = 1000
ALL = 2**31
ORDERS = {
    "media_id": lambda each: each.media_id,
    "upload_name": lambda each: each.filename or "",
    "created_ts": lambda each: each.created_ms,
    "last_access_ts": lambda each: each.read_ms,
    "media_length": lambda each: each.size,
    "media_type": lambda each: each.content_type or "",
    "quarantined_by": lambda each: each.quarantined_by or "",
    "safe_from_quarantine": lambda each: each.protected,
}


def _page(request: ApiRequest) -> tuple[int, int]:
    start = request.query_integer("from", default=0)
    return start, max(1, request.query_integer("limit", default=100, most=PAGE_MAX))


def _backwards(request: ApiRequest, default: str = "f") -> bool:
    direction = request.query.get("dir", default)
    if direction not in ("f", "b"):
        raise InvalidParam("dir is neither f nor b")
    return direction == "b"


async def _of_user(admin: AdminApi, request: ApiRequest) -> list[Media]:
    """What a user uploaded, in the order that is asked for; newest first where none is."""
    user_id, order = request.params["user_id"], request.query.get("order_by")
    if order is not None and order not in ORDERS:
        raise InvalidParam(f"order_by is none of {', '.join(ORDERS)}")
    found, _ = await admin.database.read(
        lambda tx: list_media(tx, user_id=admin.account(tx, user_id).user_id, limit=ALL)
    )
    if order is not None or "dir" in request.query:
        found.sort(key=ORDERS[order or "created_ts"], reverse=_backwards(request))
    return found


@routes.route("GET", "/users/{user_id}/media")
async def user_media(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    start, limit = _page(request)
    found = await _of_user(admin, request)
    answer: dict[str, Any] = {
        "media": [each.to_json() for each in found[start : start + limit]],
        "total": len(found),
    }
    if start + limit < len(found):
        answer["next_token"] = start + limit
    return answer


@routes.route("DELETE", "/users/{user_id}/media")
async def delete_user_media(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    start, limit = _page(request)
    return await _delete(admin, (await _of_user(admin, request))[start : start + limit])


async def _delete(admin: AdminApi, found: Sequence[Media]) -> dict[str, Any]:
    await admin.media.delete(found)
    return {"deleted_media": [each.media_id for each in found], "total": len(found)}


@routes.route("GET", "/room/{room_id}/media")
async def room_media(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """The `mxc://` addresses in the events of a room; those of encrypted events are not known here."""
    named = await _named_in(admin, request.params["room_id"])
    return {
        "local": [f"mxc://{origin}/{media_id}" for origin, media_id in named if origin == admin.server_name],
        "remote": [f"mxc://{origin}/{media_id}" for origin, media_id in named if origin != admin.server_name],
    }


async def _named_in(admin: AdminApi, room_id: str) -> list[tuple[str, str]]:
    def query(tx: Tx) -> list[tuple[str, str]]:
        admin.require_room(tx, room_id)
        return media_of_room(tx, room_id)

    return await admin.database.read(query)


@routes.route("POST", "/room/{room_id}/media/quarantine")
@routes.route("POST", "/quarantine_media/{room_id}")
async def quarantine_room(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    named = await _named_in(admin, request.params["room_id"])
    held = await admin.database.read(lambda tx: [media(tx, *each) for each in named])
    found = [each for each in held if each is not None]
    return {"num_quarantined": await admin.media.quarantine(found, by=request.requester.user_id)}


@routes.route("POST", "/user/{user_id}/media/quarantine")
async def quarantine_user(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    found = await _of_user(admin, request)
    return {"num_quarantined": await admin.media.quarantine(found, by=request.requester.user_id)}


async def _one(admin: AdminApi, request: ApiRequest) -> Media:
    """Raises: NotFound."""
    found = await admin.media.find(request.params["server_name"], request.params["media_id"])
    if found is None:
        raise NotFound("this media is not held here")
    return found


@routes.route("POST", "/media/quarantine/{server_name}/{media_id}")
async def quarantine(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    await admin.media.quarantine([await _one(admin, request)], by=request.requester.user_id)
    return {}


@routes.route("POST", "/media/unquarantine/{server_name}/{media_id}")
async def unquarantine(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    await admin.media.quarantine([await _one(admin, request)], by=None)
    return {}


@routes.route("POST", "/media/protect/{media_id}")
async def protect(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    return await _protect(admin, request, True)


@routes.route("POST", "/media/unprotect/{media_id}")
async def unprotect(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    return await _protect(admin, request, False)


async def _protect(admin: AdminApi, request: ApiRequest, protected: bool) -> dict[str, Any]:
    if not await admin.media.protect(admin.server_name, request.params["media_id"], protected):
        raise NotFound("this media is not held here")
    return {}


@routes.route("GET", "/media/{server_name}/{media_id}")
async def media_details(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    return {"media_info": (await _one(admin, request)).to_json()}


@routes.route("DELETE", "/media/{server_name}/{media_id}")
async def delete_media(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    return await _delete(admin, [await _one(admin, request)])


@routes.route("POST", "/media/delete")
@routes.route("POST", "/media/{server_name}/delete")
async def delete_old_media(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """Uploads of this node that nobody read since `before_ts`; avatars stay unless `keep_profiles` is false."""
    before_ms = request.query_integer("before_ts", default=None)
    larger_than = request.query_integer("size_gt", default=0)
    keep_profiles = request.query_boolean("keep_profiles", default=True)

    def query(tx: Tx) -> list[Media]:
        numbers = own_media(tx, admin.server_name, before_ms=before_ms, larger_than=larger_than)
        found = [each for each in (media_numbered(tx, number) for number in numbers) if each is not None]
        shown = {uri for (uri,) in tx.all("SELECT avatar_url FROM users WHERE avatar_url IS NOT NULL")}
        return [each for each in found if not (keep_profiles and each.uri in shown)]

    return await _delete(admin, await admin.database.read(query))


@routes.route("POST", "/purge_media_cache")
async def purge_media_cache(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """Copies of other nodes' media that nobody read since `before_ts`."""
    before_ms = request.query_integer("before_ts", default=None)
    return {"deleted": await admin.media.purge_remote(before_ms=before_ms)}


@routes.route("GET", "/statistics/users/media")
async def media_statistics(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """What each user uploaded: how many files, how many octets."""
    start, limit = _page(request)
    order = request.query.get("order_by", "user_id")
    if order not in ("media_length", "media_count", "user_id", "displayname"):
        raise InvalidParam("order_by is none of media_length, media_count, user_id, displayname")
    rows = await admin.database.read(
        lambda tx: media_by_user(
            tx,
            since_ms=request.query_integer("from_ts", default=0),
            until_ms=request.query_integer("until_ts", default=2**53 - 1),
            part=request.query.get("search_term", ""),
        )
    )
    rows.sort(key=lambda row: (row[order] or 0) if order.startswith("media") else row[order] or "")
    if _backwards(request):
        rows.reverse()
    answer: dict[str, Any] = {"users": rows[start : start + limit], "total": len(rows)}
    if start + limit < len(rows):
        answer["next_token"] = start + limit
    return answer


@routes.route("GET", "/statistics/database/rooms")
async def room_statistics(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """The ten rooms whose events take the most octets."""
    return {"rooms": await admin.database.read(lambda tx: room_sizes(tx, most=10))}
