"""Pushers: `/pushers`, and the work of pushing.

One task looks after all pushers: nothing is done when an event is sent, and nothing at all while there are no pushers.
Each pusher has its place in the stream, kept in the store, so that no notification is lost with a restart; one that
cannot deliver waits longer each time and goes on from there. Source: client-server API, "Push Notifications"; push
gateway API.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

from p2pserver.client_api.app import ClientApi
from p2pserver.errors import InvalidParam, MissingParam, TooLarge
from p2pserver.http_api.body_fields import optional_boolean, optional_string, required_object, required_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.rooms.pushing import badge, next_due, notification, unread_of
from p2pserver.store import pushers
from p2pserver.store.pushers import Pusher, PusherKey
from p2pserver.store.receipts import newest_receipt_of
from p2pserver.store.tx import Tx

log = logging.getLogger(__name__)

routes = Routes()

NOTIFY_PATH: Final = "/_matrix/push/v1/notify"
APP_ID_CHARACTERS_MAX, PUSHKEY_OCTETS_MAX, CONTENT_OCTETS_MAX = 64, 512, 8_192
TIMEOUT_S: Final = 30.0
ANSWER_OCTETS_MAX: Final = 64 * 1024
AT_ONCE_MAX: Final = 8
WAIT_FIRST_S, WAIT_MAX_S = 1.0, 3_600.0
"""After a failure, and at most: each wait is twice the one before."""
NOTE_EVERY: Final = 1_000
"""Positions without anything to push after which the place of a pusher is written down."""
GIVE_UP_S: Final = 24 * 3_600.0
"""What could not be pushed for so long is left out."""


@routes.route("GET", "/pushers")
async def get_pushers(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /pushers`."""
    user_id = request.requester.user_id
    found = await api.database.read(lambda tx: pushers.pushers_of(tx, user_id))
    return {"pushers": [dict(pusher.content) for pusher in found]}


@routes.route("POST", "/pushers/set")
async def set_pusher(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /pushers/set`."""
    body, requester = request.body, request.requester
    app_id, pushkey = required_string(body, "app_id"), required_string(body, "pushkey")
    if len(app_id) > APP_ID_CHARACTERS_MAX or len(pushkey.encode()) > PUSHKEY_OCTETS_MAX:
        raise InvalidParam("`app_id` or `pushkey` is too long")
    key = (requester.user_id, app_id, pushkey)
    if "kind" not in body:
        raise MissingParam("`kind` is missing")
    if body["kind"] is None:
        await api.database.write(lambda tx: pushers.delete_pusher(tx, key))
        return {}
    if body["kind"] != "http":
        raise InvalidParam("this server has pushers of the kind http only")
    content = {
        "kind": "http",
        "app_id": app_id,
        "pushkey": pushkey,
        **{name: required_string(body, name) for name in ("app_display_name", "device_display_name", "lang")},
        "profile_tag": optional_string(body, "profile_tag") or "",
        "data": _data_of(body),
    }
    if len(json.dumps(content)) > CONTENT_OCTETS_MAX:
        raise TooLarge(f"a pusher has at most {CONTENT_OCTETS_MAX} octets")
    append = optional_boolean(body, "append")
    await api.database.write(
        lambda tx: pushers.put_pusher(
            tx, key, device_id=requester.device_id, content=content, set_ms=api.wall_ms(), for_others_too=append
        )
    )
    return {}


def _data_of(body: dict[str, Any]) -> dict[str, Any]:
    """Raises: MissingParam, InvalidParam. Plain HTTP is for gateways on the own device or network."""
    data = required_object(body, "data")
    url = data.get("url")
    if not isinstance(url, str):
        raise MissingParam("`data.url` is missing")
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("https", "http") and parts.hostname is not None and parts.path == NOTIFY_PATH
    except ValueError:
        is_good = False
    if not is_good:
        raise InvalidParam(f"`data.url` is not an address that ends in {NOTIFY_PATH}")
    return data


# Pushing


@dataclass(slots=True)
class _Progress:
    """What is remembered of one pusher while the node runs."""

    position: int
    """Events up to here have been pushed, or need not be; the store may know less of it."""
    looked_at: int = -1
    """The position of the database when there was nothing more to do."""
    badge: int | None = None
    """The count that the gateway was told last."""
    read_at: int = 0
    """The position of the user's newest receipt when the count was made."""
    busy: bool = False
    failing_since: float | None = None
    wait_s: float = 0.0
    again_at: float = 0.0

    def is_ready(self, position: int, now: float) -> bool:
        if self.busy:
            return False
        return self.again_at <= now if self.failing_since is not None else position > self.looked_at


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look into the store found for a pusher: a body to send, and up to where it goes."""

    body: dict[str, Any] | None
    reached: int
    upto: int
    unread: int | None
    read_at: int


async def push_notifications(api: ClientApi) -> None:
    """Pushes what is due, for ever."""
    await _Pushing(api).run()


class _Pushing:
    def __init__(self, api: ClientApi) -> None:
        self._api = api
        self._progress: dict[PusherKey, _Progress] = {}
        self._at_once = asyncio.Semaphore(AT_ONCE_MAX)
        self._http: Any = None

    async def run(self) -> None:
        database, loop = self._api.database, asyncio.get_running_loop()
        try:
            while True:
                known = await database.read(pushers.all_pushers)
                position, now = database.position, loop.time()
                self._progress = {
                    pusher.key: self._progress.get(pusher.key) or _Progress(pusher.position) for pusher in known
                }
                for pusher in known:
                    progress = self._progress[pusher.key]
                    if progress.is_ready(position, now):
                        progress.busy = True
                        self._api.spawn(self._serve(pusher, progress), name="push")
                topics = [pushers.TOPIC]
                if known:
                    topics += ["pdus", "receipts", *{f"user:{pusher.user_id}": None for pusher in known}]
                waits = [
                    each.again_at
                    for each in self._progress.values()
                    if each.failing_since is not None and not each.busy
                ]
                wait_s = None if not waits else max(0.01, min(waits) - loop.time())
                await database.wait(topics, after=position, timeout_s=wait_s)
        finally:
            if self._http is not None:
                await self._http.aclose()

    async def _serve(self, pusher: Pusher, progress: _Progress) -> None:
        """Pushes what is due for one pusher until there is no more, or it fails."""
        database = self._api.database
        try:
            async with self._at_once:
                while await self._push_next(pusher, progress):
                    pass
        finally:
            progress.busy = False
            if database.position > progress.looked_at or progress.failing_since is not None:
                database.wake([pushers.TOPIC])

    async def _push_next(self, pusher: Pusher, progress: _Progress) -> bool:
        """Whether there may be more to push now."""
        database, now = self._api.database, asyncio.get_running_loop().time
        look = await database.read(lambda tx: self._look(tx, pusher, progress))
        if look.body is not None:
            delivered = await self._deliver(pusher, look.body)
            if delivered is None:
                return await self._failed(pusher, progress, look, now())
            if not delivered:
                await database.write(lambda tx: pushers.delete_pusher(tx, pusher.key))
                progress.looked_at = look.upto
                return False
            progress.failing_since = None
            await database.write(lambda tx: pushers.note_pushed(tx, pusher.key, look.reached))
        elif look.reached - pusher.position > NOTE_EVERY:
            await database.write(lambda tx: pushers.note_pushed(tx, pusher.key, look.reached))
        progress.position = look.reached
        if look.unread is not None:
            progress.badge, progress.read_at = look.unread, look.read_at
        if look.reached < look.upto:
            return True
        progress.looked_at = look.upto
        return False

    def _look(self, tx: Tx, pusher: Pusher, progress: _Progress) -> _Look:
        unread = self._api.unread
        due, reached = next_due(tx, unread, replace(pusher, position=progress.position))
        read_at = newest_receipt_of(tx, pusher.user_id)
        count = body = None
        if due is not None:
            count = unread_of(tx, unread, pusher.user_id)
            body = notification(tx, pusher, due, unread=count)
        elif progress.badge is not None and read_at > progress.read_at:
            count = unread_of(tx, unread, pusher.user_id)
            body = None if count == progress.badge else badge(pusher, unread=count)
        return _Look(body, reached, tx.position(), count, read_at)

    async def _failed(self, pusher: Pusher, progress: _Progress, look: _Look, now: float) -> bool:
        """Waits longer each time; what could not be pushed for a day is left out."""
        if progress.failing_since is None:
            progress.failing_since, progress.wait_s = now, WAIT_FIRST_S
        else:
            progress.wait_s = min(2 * progress.wait_s, WAIT_MAX_S)
        progress.again_at = now + progress.wait_s
        if now - progress.failing_since >= GIVE_UP_S:
            progress.position, progress.failing_since = look.upto, now
            await self._api.database.write(lambda tx: pushers.note_pushed(tx, pusher.key, look.upto))
        return False

    async def _deliver(self, pusher: Pusher, body: dict[str, Any]) -> bool | None:
        """True: it is with the gateway; False: the gateway knows the pushkey no more; None: it failed."""
        import httpx  # a node without pushers does without it

        if self._http is None:
            self._http = httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False)
        try:
            async with self._http.stream("POST", pusher.content["data"]["url"], json=body) as answer:
                octets = b""
                async for part in answer.aiter_bytes():
                    octets += part
                    if len(octets) > ANSWER_OCTETS_MAX:
                        return None
                if answer.status_code != 200:
                    return None
                rejected = json.loads(octets).get("rejected", [])
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError, RecursionError) as error:
            log.info("push failed", extra={"app_id": pusher.app_id, "reason": type(error).__name__})
            return None
        return not (isinstance(rejected, list) and pusher.pushkey in rejected)
