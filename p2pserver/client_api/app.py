"""The Client-Server API as an ASGI application: what every request passes, whatever it asks.

    routing -> access token -> rate limit -> body -> handler -> JSON with CORS headers

Whatever goes wrong on the way becomes `{"errcode", "error"}`; nothing but such JSON leaves this file. A client that
hangs up stops a handler that only waits and reads; one that changes something runs to its end.
Source: client-server API, "API Standards".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pserver.client_api.account_standing import answer_in_the_shadow, check_standing
from p2pserver.client_api.app_service_calls import AppServiceCalls
from p2pserver.client_api.authentication import act_for, authenticate, token_in
from p2pserver.client_api.interactive_auth import InteractiveAuth
from p2pserver.client_api.join_progress import JoinProgress
from p2pserver.client_api.joining import Joins, retry_pending_joins
from p2pserver.client_api.lazy_members import LazyMembers
from p2pserver.client_api.rate_limits import RateLimits
from p2pserver.client_api.request_body import RequestBody, parse_object
from p2pserver.client_api.sliding_sync.connections import SlidingSyncs
from p2pserver.client_api.space_walks import SpaceWalks
from p2pserver.client_api.streamed_response import StreamedResponse
from p2pserver.client_api.thumbnails import Thumbnails
from p2pserver.errors import LimitExceeded, MatrixError
from p2pserver.http_api.asgi import Answer, ASGIApp, ClientDisconnect, Receive, Scope, Send, encoded, header_map
from p2pserver.http_api.json_text import encode_json
from p2pserver.http_api.password_checks import PasswordChecks
from p2pserver.http_api.routing import (
    ApiRequest,
    ApiResponse,
    LaterRoutes,
    Match,
    Requester,
    Route,
    Router,
    parse_query,
)
from p2pserver.rooms.app_services import AppServices
from p2pserver.rooms.departures import depart
from p2pserver.rooms.live import LIVE_TOPIC, LiveChanges, Typing
from p2pserver.rooms.media_library import MediaLibrary
from p2pserver.rooms.presence import Presence
from p2pserver.rooms.remote import RemoteServers
from p2pserver.rooms.remote_media import RemoteMedia
from p2pserver.rooms.service import Rooms
from p2pserver.rooms.unread import UnreadCounts
from p2pserver.store.database import Database
from p2pserver.store.devices import touch_device
from p2pserver.store.room_stream import small_rooms_of
from p2pserver.store.tokens import TokenOwner, note_token_used

if TYPE_CHECKING:
    from p2pserver.client_api.url_previews import UrlPreviews

log = logging.getLogger(__name__)

PRESENCE_WAKES_MAX = 100
"""Members of a room beyond which presence wakes nobody in it."""
SEEN_EVERY_MS = 5 * 60 * 1000

CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization",
}
_CORS = encoded(CORS_HEADERS)
_JSON = [*_CORS, (b"content-type", b"application/json")]
_AUTHORITY = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientApiConfig:
    """What this folder uses of the node's configuration; the fields mean what they mean in `Config`."""

    registration: str = "open"
    registration_token: str | None = None
    rate_limits: bool = True
    default_room_version: str = "12"
    private: bool = False
    support: tuple[str, ...] = ()
    url_previews: bool = False
    access_token_ms: int = 3_600_000
    """How long an access token holds that came with a refresh token."""


class ClientApi:
    """What handlers work with. One per node; `close` before the database is closed."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        remote: RemoteServers,
        media: MediaLibrary,
        remote_media: RemoteMedia,
        config: ClientApiConfig,
        wall_ms: Callable[[], int],
        monotonic_s: Callable[[], float] = time.monotonic,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        tell_join: Callable[[JoinProgress], None] = lambda progress: None,
        app_services: AppServices | None = None,
    ) -> None:
        """`tell_join` hears of joins that take long, every few seconds."""
        self.database = database
        self.rooms = rooms
        self.remote = remote
        self.media = media
        self.remote_media = remote_media
        self.thumbnails = Thumbnails(media)
        self.url_previews = _url_previews(media, wall_ms) if config.url_previews else None
        self.config = config
        self.app_services = app_services or AppServices()
        self.app_service_calls = AppServiceCalls()
        self.wall_ms = wall_ms
        self.random_bytes = random_bytes
        self.rate_limits = RateLimits(monotonic_s, enabled=config.rate_limits)
        self.interactive_auth = InteractiveAuth(monotonic_s, random_bytes)
        self.passwords = PasswordChecks() if config.rate_limits else PasswordChecks(waiting_max=None)
        self.lazy_members = LazyMembers()
        self.joins = Joins()
        self.space_walks = SpaceWalks()
        self.sliding_syncs = SlidingSyncs(random_bytes)
        self.unread = UnreadCounts()
        self.live = LiveChanges(wall_ms())
        self.typing = Typing(changes=self.live, clock_s=monotonic_s, call_later=_call_later, wake=database.wake)
        self.presence = Presence(
            changes=self.live,
            clock_s=monotonic_s,
            wall_ms=wall_ms,
            call_later=_call_later,
            changed=lambda user_id: self.spawn(_wake_room_mates(database, user_id), name="tell-presence"),
        )
        self.tell_join = tell_join
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiting: set[asyncio.Task[Any]] = set()
        self._closing = False

    @property
    def server_name(self) -> str:
        return self.rooms.server_name

    def asgi_app(self, more: Iterable[Route] = (), later: LaterRoutes | None = None) -> ASGIApp:
        """The application that the server, or a test, calls; `more` and `later` are routes of other edges."""
        from p2pserver.client_api.endpoints import all_routes

        return _Application(self, Router([*all_routes(), *more], later))

    def start(self) -> None:
        """Goes on with what the last run of the node left undone. Call inside the event loop."""
        from p2pserver.client_api.app_service_delivery import tell_app_services
        from p2pserver.client_api.delayed_events import send_delayed_events
        from p2pserver.client_api.profiles import spread_profiles
        from p2pserver.client_api.pushers import push_notifications

        self.spawn(spread_profiles(self), name="spread-profiles")
        self.spawn(depart(self.database, self.rooms), name="depart")
        self.spawn(retry_pending_joins(self), name="retry-joins")
        self.spawn(send_delayed_events(self), name="send-delayed-events")
        self.spawn(push_notifications(self), name="push-notifications")
        tell_app_services(self)

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Runs `work` beside the requests; `close` cancels it. What it raises is logged."""
        if self._closing:
            work.close()
            return
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def note_seen(self, owner: TokenOwner, remote_address: str) -> None:
        """Remembers, every few minutes at most, when and from where a device was heard of."""
        now_ms = self.wall_ms()
        if not owner.used:
            self.spawn(self._note_used(owner), name="token-used")
        if owner.last_seen_ms is not None and now_ms - owner.last_seen_ms >= SEEN_EVERY_MS:
            self.spawn(self._touch(owner, now_ms, remote_address), name="touch-device")

    async def _touch(self, owner: TokenOwner, now_ms: int, ip: str) -> None:
        await self.database.write(lambda tx: touch_device(tx, owner.user_id, owner.device_id, now_ms=now_ms, ip=ip))

    async def _note_used(self, owner: TokenOwner) -> None:
        await self.database.write(lambda tx: note_token_used(tx, owner.user_id, owner.device_id, owner.token_id))

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work failed", exc_info=error, extra={"task": task.get_name()})

    async def close(self) -> None:
        """Ends long polls and background work; requests that come later are answered 503."""
        self._closing = True
        tasks = [*self._tasks, *self._waiting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.joins.close()
        await self.app_service_calls.close()
        if self.url_previews is not None:
            await self.url_previews.close()

    async def run_handler(self, match: Match, request: ApiRequest, receive: Receive) -> Any:
        """The handler's answer.

        Raises: what the handler raises; ClientDisconnect, if the client hung up on a handler that may be stopped;
        ShuttingDown, if the node ends meanwhile.
        """
        if self._closing:
            raise ShuttingDown
        if not match.route.cancelable:
            return await match.route.handler(self, request)
        answer = asyncio.ensure_future(match.route.handler(self, request))
        hung_up = asyncio.ensure_future(_disconnected(receive))
        self._waiting.add(answer)
        try:
            await asyncio.wait((answer, hung_up), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                if answer.cancelled():
                    raise ShuttingDown
                return answer.result()
            raise ClientDisconnect
        finally:
            self._waiting.discard(answer)
            for task in (answer, hung_up):
                if not task.done():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task


class ShuttingDown(Exception):
    """The node is ending; the client may ask again."""


class _Application:
    """The ASGI callable."""

    def __init__(self, api: ClientApi, router: Router) -> None:
        self._api = api
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                answer = await self._answer(scope, receive)
            except ClientDisconnect:
                return
            await answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        headers = header_map(scope)
        body = RequestBody(receive)
        answer = await self._response(scope, headers, body, receive)
        if _has_body(headers) and not await body.drain():
            answer.headers.append((b"connection", b"close"))
        return answer

    async def _response(self, scope: Scope, headers: Mapping[str, str], body: RequestBody, receive: Receive) -> Answer:
        if scope["method"] == "OPTIONS":
            return Answer(204, _CORS)
        try:
            return _response_of(await self._handle(scope, headers, body, receive))
        except LimitExceeded as error:
            retry_after_s = -(-error.retry_after_ms // 1000)
            return json_response(error.http_status, error.body(), {"Retry-After": str(retry_after_s)})
        except MatrixError as error:
            return json_response(error.http_status, error.body())
        except ShuttingDown:
            return json_response(503, {"errcode": "M_UNKNOWN", "error": "the node is shutting down"})
        except ClientDisconnect:
            raise
        except Exception:
            # The edge of the process: a mistake of ours in one request must not cost the client its connection, and
            # never looks like a missing token or object, on which clients throw their keys away.
            log.exception("request failed", extra={"method": scope["method"], "path": scope["path"]})
            return json_response(500, {"errcode": "M_UNKNOWN", "error": "internal error"})

    async def _handle(self, scope: Scope, headers: Mapping[str, str], body: RequestBody, receive: Receive) -> Any:
        # The answer to a HEAD is that to a GET; whoever carries it keeps the body back.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        match = self._router.match(method, _raw_path(scope))
        query = parse_query(scope["query_string"])
        token = token_in(headers, query)
        service = None if token is None else self._api.app_services.by_token(token)
        if service is None:
            owner = await authenticate(self._api.database, match.route.auth, token, now_ms=self._api.wall_ms())
        else:
            owner = await act_for(self._api.database, match.route.auth, service, query)
        await check_standing(self._api, owner, match)
        client = scope.get("client")
        remote_address = client[0] if client is not None else ""
        who, own_rate = (remote_address, None) if owner is None else (owner.user_id, owner.rate)
        if service is None or (service.rate_limited and who != service.sender):
            self._api.rate_limits.take(match.route.pace, who, own_rate)
        requester = None
        if owner is not None:
            requester = Requester(
                user_id=owner.user_id, device_id=owner.device_id, token_id=owner.token_id, admin=owner.admin
            )
            self._api.note_seen(owner, remote_address)
        octets = await body.read() if _has_body(headers) and not match.route.streams else b""
        api_request = ApiRequest(
            method=method,
            path=match.path,
            params=match.params,
            query_lists=query,
            body={} if method == "GET" else parse_object(octets),
            authenticated=requester,
            remote_address=remote_address,
            base_url=_base_url(scope, headers),
            headers=headers,
            app_service=service,
            parts=body.parts() if match.route.streams else None,
        )
        if owner is not None and owner.shadow_banned:
            answer = await answer_in_the_shadow(self._api, match.route, api_request)
            if answer is not None:
                return answer
        return await self._api.run_handler(match, api_request, receive)


async def _wake_room_mates(database: Database, user_id: str) -> None:
    """Tells clients that somebody's presence changed; in large rooms they hear of it when something else happens."""
    rooms = await database.read(lambda tx: small_rooms_of(tx, user_id, members_max=PRESENCE_WAKES_MAX))
    database.wake([LIVE_TOPIC, f"user:{user_id}", *(f"room:{room_id}" for room_id in rooms)])


def _url_previews(media: MediaLibrary, wall_ms: Callable[[], int]) -> UrlPreviews:
    from p2pserver.client_api.url_previews import UrlPreviews  # with a parser of HTML, which no other part needs

    return UrlPreviews(media, wall_ms)


def _call_later(delay_s: float, callback: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_later(delay_s, callback)


def _raw_path(scope: Scope) -> bytes:
    raw: bytes = scope["raw_path"]
    return raw.partition(b"?")[0]


def _has_body(headers: Mapping[str, str]) -> bool:
    """Whether a body follows the headers: what HTTP says of it, so that a GET never waits for one."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _base_url(scope: Scope, headers: Mapping[str, str]) -> str:
    """How the client reached us, since a node has no name that resolves: by the Host header, if that is sane."""
    authority = headers.get("host", "")
    if not _AUTHORITY.fullmatch(authority):
        host, port = scope.get("server") or ("127.0.0.1", 8008)
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"{scope.get('scheme', 'http')}://{authority}"


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _live(receive: Receive, send: Send) -> None:
    """Starting and stopping is the node's business; the server is only told that it may go on."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def json_response(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON answer with CORS headers."""
    return Answer(status, [*_JSON, *encoded(headers)] if headers else _JSON, encode_json(body))


def _response_of(answer: Any) -> Answer:
    if not isinstance(answer, ApiResponse):
        return json_response(200, answer)
    if isinstance(answer.body, AsyncIterator):
        return StreamedResponse(answer.body, answer.status, [*_CORS, *encoded(answer.headers)])
    if isinstance(answer.body, bytes):
        return Answer(answer.status, [*_CORS, *encoded(answer.headers)], answer.body)
    return json_response(answer.status, answer.body, answer.headers)
