"""The content repository: uploads, downloads, thumbnails. See docs/media.md.

Source: client-server API, "Content repository".
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.content_headers import (
    RangeNotSatisfiable,
    content_headers,
    disposition,
    is_not_modified,
    range_wanted,
)
from p2pserver.client_api.thumbnails import Size, chosen_size
from p2pserver.errors import MatrixError, MissingParam, NotFound, NotYetUploaded, Unrecognized
from p2pserver.federation.media_manifest import is_content_type, is_filename, is_media_id, thumbnail_id
from p2pserver.http_api.routing import ApiRequest, ApiResponse, Routes
from p2pserver.identifiers import is_server_name
from p2pserver.rooms.media_library import UNKNOWN_TYPE
from p2pserver.store.media import Media, topic
from p2pserver.store.runs import life

TIMEOUT_MS = 20_000
TIMEOUT_MS_MAX = 60_000
IN_VAIN_S = 2.0
"""So long a client that names no `timeout_ms` waits for what nobody in reach has: ten pictures of somebody who is away
would else take the six connections that a browser opens, and its messages would wait behind them."""
LEGACY = "/_matrix/media"
FETCH = "/org.p2pserver/media/fetch/{server_name}/{media_id}"
"""Below `unstable`, since no specification has it."""

routes = Routes()


@routes.route("GET", "/config", versions=("v3", "r0"), base=LEGACY)
@routes.route("GET", "/media/config", versions=("v1",))
async def media_config(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /media/config`."""
    return {"m.upload.size": api.media.limits.upload_octets}


@routes.route("POST", "/upload", versions=("v3", "r0"), base=LEGACY, streams=True)
async def upload(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /upload`: answered once the file is durable."""
    media_id = await _take(api, request, announced=None)
    return {"content_uri": f"mxc://{api.server_name}/{media_id}"}


@routes.route("POST", "/create", versions=("v1",), base=LEGACY)
async def create(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /create`: an ID for what is uploaded later."""
    media_id, expires_ms = await api.media.announce(request.requester.user_id)
    return {"content_uri": f"mxc://{api.server_name}/{media_id}", "unused_expires_at": expires_ms}


@routes.route("PUT", "/upload/{server_name}/{media_id}", versions=("v3", "r0"), base=LEGACY, streams=True)
async def upload_created(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /upload/{serverName}/{mediaId}`."""
    if request.params["server_name"] != api.server_name:
        raise NotFound("this ID was not given out here")
    await _take(api, request, announced=request.params["media_id"])
    return {}


async def _take(api: ClientApi, request: ApiRequest, *, announced: str | None) -> str:
    """Stores the body; the media ID. A type or name that could not stand in a header is left out."""
    assert request.parts is not None
    content_type, filename = request.headers.get("content-type"), request.query.get("filename")
    length = request.headers.get("content-length", "")
    return await api.media.upload(
        request.parts,
        user_id=request.requester.user_id,
        content_type=content_type if is_content_type(content_type) else None,
        filename=filename if is_filename(filename) else None,
        announced=announced,
        octets=int(length) if length.isascii() and length.isdigit() and len(length) <= 15 else None,
    )


@routes.route("GET", "/preview_url", versions=("v3", "r0"), base=LEGACY, cancelable=False)
@routes.route("GET", "/media/preview_url", versions=("v1",), cancelable=False)
async def preview_url(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /media/preview_url`: as if it were not there, unless the operator has switched it on."""
    if api.url_previews is None:
        raise Unrecognized("previews of web pages are switched off here")
    if "url" not in request.query:
        raise MissingParam("query parameter 'url' is missing")
    return await api.url_previews.preview(request.query["url"], user_id=request.requester.user_id)


@routes.route("GET", "/media/download/{server_name}/{media_id}", versions=("v1",))
@routes.route("GET", "/media/download/{server_name}/{media_id}/{file_name}", versions=("v1",))
async def download(api: ClientApi, request: ApiRequest) -> ApiResponse:
    """`GET /media/download/{serverName}/{mediaId}`."""
    return await _file(api, request, await _wanted(api, request))


@routes.route("GET", "/download/{server_name}/{media_id}", versions=("v3", "r0"), base=LEGACY, auth="optional")
@routes.route(
    "GET", "/download/{server_name}/{media_id}/{file_name}", versions=("v3", "r0"), base=LEGACY, auth="optional"
)
async def legacy_download(api: ClientApi, request: ApiRequest) -> ApiResponse:
    """The same without a token, for what was stored before the freeze; with a token, for everything."""
    return await _file(api, request, await _wanted(api, request, legacy=True))


@routes.route("GET", "/media/thumbnail/{server_name}/{media_id}", versions=("v1",))
async def thumbnail(api: ClientApi, request: ApiRequest) -> ApiResponse:
    """`GET /media/thumbnail/{serverName}/{mediaId}`."""
    return await _thumbnail(api, request, legacy=False)


@routes.route("GET", "/thumbnail/{server_name}/{media_id}", versions=("v3", "r0"), base=LEGACY, auth="optional")
async def legacy_thumbnail(api: ClientApi, request: ApiRequest) -> ApiResponse:
    """The same without a token; see `legacy_download`."""
    return await _thumbnail(api, request, legacy=True)


async def _remote_thumbnail(api: ClientApi, request: ApiRequest, size: Size, *, legacy: bool) -> Media | None:
    """The thumbnail as its origin made it, where the picture is not here and far away; None: make it from the picture.

    Raises: as `_wanted`.
    """
    origin, media_id = request.params["server_name"], request.params["media_id"]
    if origin == api.server_name or not is_server_name(origin) or not is_media_id(media_id):
        return None
    if await api.media.find(origin, media_id) is not None:
        return None
    small = thumbnail_id(media_id, size.name)
    if await api.media.find(origin, small) is None and not api.remote_media.is_far(origin):
        return None
    try:
        return await _wanted(api, request, legacy=legacy, media_id=small)
    except NotFound:
        return None  # its origin cannot make one
    except NotYetUploaded:
        if origin not in api.remote.connected():  # somebody else may have the picture itself
            with suppress(MatrixError):
                await api.remote_media.fetch(origin, media_id, timeout_s=0.0)
        raise


async def _wanted(api: ClientApi, request: ApiRequest, *, legacy: bool = False, media_id: str | None = None) -> Media:
    """The media that is asked for, once its octets are here. `media_id`: instead of the one in the path.

    Raises: NotFound; NotYetUploaded, if they do not come in time.
    """
    origin, media_id = request.params["server_name"], media_id or request.params["media_id"]
    timeout_ms = request.query_integer("timeout_ms", default=TIMEOUT_MS, most=TIMEOUT_MS_MAX)
    allow_remote = request.query_boolean("allow_remote", default=True)
    if not is_server_name(origin) or not is_media_id(media_id):
        raise NotFound("there is no such media")
    anonymous = legacy and request.authenticated is None
    in_vain_s = None if "timeout_ms" in request.query else IN_VAIN_S
    deadline = asyncio.get_running_loop().time() + timeout_ms / 1000
    while True:
        position = api.database.position
        found = await api.media.find(origin, media_id)
        if found is not None and (found.quarantined_by is not None or (anonymous and found.needs_token)):
            raise NotFound("there is no such media")
        if found is not None and found.sha256 is not None:
            await api.media.note_read(found)
            return found
        is_ours = origin == api.server_name
        if is_ours and found is None and await api.database.read(life) > 0:
            is_ours = False  # it may have been uploaded at a time that this database does not know; others may have it
        if is_ours:
            if found is None or (found.expires_ms or 0) <= api.wall_ms():
                raise NotFound("there is no such media")
        elif not allow_remote or (anonymous and api.media.limits.needs_token):
            raise NotFound("this media is not here")
        left_s = deadline - asyncio.get_running_loop().time()
        if not is_ours:
            await api.remote_media.fetch(origin, media_id, timeout_s=left_s, in_vain_s=in_vain_s)
            continue
        if not await api.database.wait([topic(origin, media_id)], after=position, timeout_s=left_s):
            raise NotYetUploaded("this has not been uploaded yet")


@routes.route("GET", FETCH, versions=("unstable",))
async def fetch_progress(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """How far the transfer of another node's media is."""
    return await _progress(api, request.params["server_name"], request.params["media_id"])


async def _progress(api: ClientApi, origin: str, media_id: str) -> dict[str, Any]:
    found = await api.media.find(origin, media_id)
    if found is not None and found.sha256 is not None:
        return {"state": "here", "octets": found.size, "size": found.size, "seconds_left": 0}
    progress = await api.remote_media.progress(origin, media_id)
    if progress is None:
        raise NotFound("nobody asked for this media")
    return progress.to_json()


@routes.route("POST", FETCH, versions=("unstable",))
async def fetch(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """Asks for another node's media by name: it is fetched however long that takes. Answered at once."""
    origin, media_id = request.params["server_name"], request.params["media_id"]
    if not is_server_name(origin) or not is_media_id(media_id) or origin == api.server_name:
        raise NotFound("there is no such media elsewhere")
    await api.remote_media.ask_for(origin, media_id)
    return await _progress(api, origin, media_id)


@routes.route("DELETE", FETCH, versions=("unstable",))
async def give_up(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """Ends a transfer."""
    if not await api.remote_media.give_up(request.params["server_name"], request.params["media_id"]):
        raise NotFound("nobody asked for this media")
    return {}


async def _file(api: ClientApi, request: ApiRequest, media: Media) -> ApiResponse:
    """The octets, or the part of them that is wanted."""
    assert media.sha256 is not None
    sha256, path = media.sha256, api.media.files.path(media.sha256)
    if not await api.media.files.run(lambda: path.is_file() and path.stat().st_size == media.size):
        raise NotFound("the file is damaged on this node")
    content_type = media.content_type or UNKNOWN_TYPE
    headers = content_headers(media, content_type=content_type, needs_token=media.needs_token)
    given = request.params.get("file_name")
    headers["Content-Disposition"] = disposition(content_type, given if is_filename(given) else media.filename)
    if is_not_modified(request.headers, headers["ETag"]):
        return ApiResponse(status=304, body=b"", headers=headers)
    headers["Accept-Ranges"] = "bytes"
    status, start, end = 200, 0, media.size
    try:
        wanted = range_wanted(request.headers, media.size, headers["ETag"])
    except RangeNotSatisfiable:
        return ApiResponse(status=416, body=b"", headers={**headers, "Content-Range": f"bytes */{media.size}"})
    if wanted is not None:
        status, (start, end) = 206, wanted
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{media.size}"
    headers["Content-Length"] = str(end - start)
    return ApiResponse(status=status, body=api.media.octets(sha256, start, end), headers=headers)


async def _thumbnail(api: ClientApi, request: ApiRequest, *, legacy: bool) -> ApiResponse:
    size = chosen_size(
        request.query_integer("width", default=None),
        request.query_integer("height", default=None),
        request.query.get("method", "scale"),
    )
    animated = request.query_boolean("animated")
    if not animated and (small := await _remote_thumbnail(api, request, size, legacy=legacy)) is not None:
        return await _file(api, request, small)
    media = await _wanted(api, request, legacy=legacy)
    made = await api.thumbnails.thumbnail(media, size, animated=animated)
    headers = content_headers(media, content_type=made.content_type, needs_token=media.needs_token)
    headers["ETag"] = f'{headers["ETag"][:-1]}-{size.name}{"-animated" if animated else ""}"'
    extension = made.content_type.partition("/")[2]
    headers["Content-Disposition"] = disposition(made.content_type, f"thumbnail.{extension}", inline=True)
    if is_not_modified(request.headers, headers["ETag"]):
        return ApiResponse(status=304, body=b"", headers=headers)
    return ApiResponse(body=made.octets, headers=headers)
