"""What the handlers of the admin API work with, and how their routes come behind the check that an admin asks.

routes = AdminRoutes()

@routes.route("GET", "/rooms/{room_id}")
async def room_details(admin: AdminApi, request: ApiRequest) -> dict[str, Any]: ...
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from p2pserver.admin_api.jobs import Jobs
from p2pserver.errors import Forbidden, InvalidParam, MatrixError, NotFound
from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import rules_of
from p2pserver.http_api.password_checks import PasswordChecks
from p2pserver.http_api.routing import ApiRequest, Auth, Route, Routes
from p2pserver.identifiers import is_room_id, is_user_id, server_of
from p2pserver.rooms.media_library import MediaLibrary
from p2pserver.rooms.service import Rooms
from p2pserver.store.account_status import AccountStatus, account_status
from p2pserver.store.database import Database
from p2pserver.store.rooms import RoomRow, room
from p2pserver.store.tx import Tx

BASE = "/_synapse/admin"


class AppEdge(Protocol):
    """What the admin API asks of the edge for apps."""

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Runs `work` beside the requests."""

    def spread_profiles(self) -> None:
        """Brings member events up to changed profiles, beside the requests."""

    def shown(self, event: Pdu) -> dict[str, Any]:
        """An event as clients are shown it."""

    async def join(self, *, user_id: str, room_id: str, via: Iterable[str]) -> str:
        """Joins a local user to a room, through another server where that is needed."""


@dataclass(slots=True, kw_only=True)
class AdminApi:
    """One per node."""

    database: Database
    rooms: Rooms
    media: MediaLibrary
    passwords: PasswordChecks
    edge: AppEdge
    wall_ms: Callable[[], int]
    random_bytes: Callable[[int], bytes]
    registration_shared_secret: str | None
    default_room_version: str
    nonces: dict[str, int] = field(default_factory=dict)
    """Of registrations by shared secret, with the time when each expires."""
    jobs: Jobs = field(default_factory=Jobs)

    @property
    def server_name(self) -> str:
        return self.rooms.server_name

    def announcement_levels(self, owner: str) -> dict[str, Any]:
        """Power levels of a room in which only `owner`, who makes it, speaks."""
        users = {} if rules_of(self.default_room_version).room_id_is_create_hash else {owner: 100}
        return {"users": users, "users_default": -10, "events_default": 0, "invite": 50}

    def require_local(self, user_id: str) -> str:
        """Raises: MatrixError, if it is not a user ID of this node."""
        if not is_user_id(user_id) or server_of(user_id) != self.server_name:
            raise MatrixError("that is not a user of this node")
        return user_id

    def require_room_id(self, room_id: str) -> str:
        """Raises: InvalidParam."""
        if not is_room_id(room_id):
            raise InvalidParam("that is not a room ID")
        return room_id

    def require_room(self, tx: Tx, room_id: str) -> RoomRow:
        """Raises: InvalidParam, if it is no room ID; NotFound, if the room is not held here."""
        held = room(tx, self.require_room_id(room_id))
        if held is None:
            raise NotFound("this room is not held here")
        return held

    def account(self, tx: Tx, user_id: str) -> AccountStatus:
        """Raises: MatrixError, if it is not a user ID of this node; NotFound."""
        status = account_status(tx, self.require_local(user_id))
        if status is None:
            raise NotFound("there is no such user")
        return status


AdminHandler = Callable[[AdminApi, ApiRequest], Awaitable[Any]]


class AdminRoutes:
    """The operations of one module."""

    def __init__(self) -> None:
        self._routes = Routes()

    def route(
        self, method: str, path: str, *, versions: Iterable[str] = ("v1",), open_to_all: bool = False
    ) -> Callable[[AdminHandler], AdminHandler]:
        """Registers a handler below `/_synapse/admin/{version}`; unless `open_to_all`, for admins only."""
        if open_to_all:
            return self._routes.route(method, path, versions=versions, base=BASE, auth="none", pace="register")
        return self._routes.route(method, path, versions=versions, base=BASE)

    def bound_to(self, admin: AdminApi) -> Iterator[Route]:
        """The routes with handlers that know the node they belong to."""
        for route in self._routes.all:
            yield replace(route, handler=_bound(admin, route))


def _bound(admin: AdminApi, route: Route) -> Callable[[Any, ApiRequest], Awaitable[Any]]:
    async def handle(_: Any, request: ApiRequest) -> Any:
        if route.auth is not Auth.NONE and not request.requester.admin:
            raise Forbidden("you are not an admin of this node")
        return await route.handler(admin, request)

    return handle
