"""Logging in and out, refreshing tokens. Source: client-server API, "Client Authentication", legacy API."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.authentication import token_in
from p2pserver.client_api.versions import well_known
from p2pserver.errors import (
    BadJson,
    Exclusive,
    Forbidden,
    InvalidParam,
    MatrixError,
    MissingToken,
    UnknownToken,
    UserDeactivated,
    UserLocked,
)
from p2pserver.http_api.body_fields import optional_boolean, optional_string, required_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.rooms.app_services import AppService
from p2pserver.store.account_status import account_status
from p2pserver.store.accounts import password_hash_of, user_exists
from p2pserver.store.devices import delete_device, log_in_device, log_out_everywhere
from p2pserver.store.tokens import add_short_lived_token, delete_tokens, refresh, take_login_token
from p2pserver.store.tx import Tx

routes = Routes()

PASSWORD = "m.login.password"  # noqa: S105  # the name of a stage
LOGIN_TOKEN = "m.login.token"  # noqa: S105
APP_SERVICE = "m.login.application_service"
LOGIN_TOKEN_MS = 2 * 60 * 1000
DEVICE_ID_CHARACTERS_MAX = 255
DISPLAY_NAME_CHARACTERS_MAX = 256


@routes.route("GET", "/login", auth="none")
async def login_flows(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /login`."""
    flows: list[dict[str, Any]] = [{"type": PASSWORD}, {"type": LOGIN_TOKEN, "get_login_token": True}]
    return {"flows": [*flows, *([{"type": APP_SERVICE}] if api.app_services.all else [])]}


@routes.route("POST", "/login", auth="none", pace="login")
async def login(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /login` with a password, with a token that another device of the user asked for, or by his service."""
    kind = required_string(request.body, "type")
    if kind not in (PASSWORD, LOGIN_TOKEN, APP_SERVICE):
        raise MatrixError("this login type is not offered")
    device = Device.asked_for(request)
    if kind == LOGIN_TOKEN:
        return await _log_in_by_token(api, request, device)
    if kind == APP_SERVICE:
        return await _log_in_by_service(api, request, device)
    password = required_string(request.body, "password")
    user_id = user_of(api, request.body)
    await check_password(api, user_id, password)

    def unit(tx: Tx) -> dict[str, Any]:
        return log_in(api, tx, request, user_id, device)

    return await api.database.write(unit) | {"well_known": well_known(request)}


async def _log_in_by_token(api: ClientApi, request: ApiRequest, device: Device) -> dict[str, Any]:
    token = required_string(request.body, "token")

    def unit(tx: Tx) -> dict[str, Any] | None:
        user_id = take_login_token(tx, token, now_ms=api.wall_ms())
        return None if user_id is None else log_in(api, tx, request, user_id, device)

    answer = await api.database.write(unit)
    if answer is None:
        raise Forbidden("this login token is not known, was used or has expired")
    return answer | {"well_known": well_known(request)}


async def _log_in_by_service(api: ClientApi, request: ApiRequest, device: Device) -> dict[str, Any]:
    """A device for one of the users of the application service that asks."""
    service, user_id = service_of(request), user_of(api, request.body)
    if not service.may_act_as(user_id):
        raise Exclusive("the user is not in the namespaces of this application service")

    def unit(tx: Tx) -> dict[str, Any]:
        if not user_exists(tx, user_id):
            raise Forbidden("there is no such user")
        return log_in(api, tx, request, user_id, device)

    return await api.database.write(unit) | {"well_known": well_known(request)}


def service_of(request: ApiRequest) -> AppService:
    """The application service that asks. Raises: MissingToken, UnknownToken."""
    if request.app_service is not None:
        return request.app_service
    if token_in(request.headers, request.query_lists) is None:
        raise MissingToken("an application service shows its token")
    raise UnknownToken("this is no token of an application service", soft_logout=False)


def user_of(api: ClientApi, body: dict[str, Any]) -> str:
    """The user that an `identifier` object, or the older top-level `user`, names.

    Raises: BadJson, MissingParam; Forbidden, for identifiers that are not offered.
    """
    identifier = body.get("identifier")
    if identifier is None:
        name = required_string(body, "user")
    elif not isinstance(identifier, dict):
        raise BadJson("`identifier` is not an object")
    elif required_string(identifier, "type") != "m.id.user":
        raise Forbidden("only m.id.user can log in here")
    else:
        name = required_string(identifier, "user")
    return name if name.startswith("@") else f"@{name.lower()}:{api.server_name}"


async def check_password(api: ClientApi, user_id: str, password: str) -> None:
    """Returns if it is the user's password; says no more about a user who does not exist than about a wrong one.

    Raises: Forbidden; UserDeactivated; LimitExceeded.
    """
    api.rate_limits.check_failed_logins(user_id)

    def stored(tx: Tx) -> str | None:
        status = account_status(tx, user_id)
        if status is not None and status.deactivated:
            raise UserDeactivated("this account is deactivated")
        return password_hash_of(tx, user_id)

    password_hash = await api.database.read(stored)
    if not await api.passwords.matches(
        password_hash, password, allowed=lambda: api.rate_limits.check_failed_logins(user_id)
    ):
        api.rate_limits.note_failed_login(user_id)
        raise Forbidden("wrong user name or password")


async def require_password(api: ClientApi, request: ApiRequest) -> None:
    """Asks for the requester's password by user-interactive authentication.

    An application service vouches for its users.

    Raises: InteractiveAuthRequired, until the request carries it; LimitExceeded.
    """
    if request.app_service is not None:
        return

    async def check(auth: dict[str, Any]) -> None:
        if ("identifier" in auth or "user" in auth) and user_of(api, auth) != request.requester.user_id:
            raise Forbidden("that is another user")
        await check_password(api, request.requester.user_id, required_string(auth, "password"))

    await api.interactive_auth.require(request, PASSWORD, check)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The device that a login or a registration asks for."""

    device_id: str | None
    display_name: str | None
    refreshable: bool
    """Whether the client can refresh an access token that expires."""

    @classmethod
    def asked_for(cls, request: ApiRequest) -> Device:
        """Raises: BadJson, InvalidParam."""
        device_id = optional_string(request.body, "device_id")
        if device_id is not None and (len(device_id) > DEVICE_ID_CHARACTERS_MAX or not device_id.isprintable()):
            raise InvalidParam("the device ID is too long or not printable")
        display_name = optional_string(request.body, "initial_device_display_name")
        return cls(
            device_id=device_id or None,
            display_name=None if display_name is None else display_name[:DISPLAY_NAME_CHARACTERS_MAX],
            refreshable=optional_boolean(request.body, "refresh_token"),
        )


def log_in(api: ClientApi, tx: Tx, request: ApiRequest, user_id: str, device: Device) -> dict[str, Any]:
    """Makes or reuses the device and gives it a new token.

    Raises: UserLocked.
    """
    status = account_status(tx, user_id)
    if status is not None and status.locked:
        raise UserLocked("this account is locked; ask who runs this node")
    now_ms = api.wall_ms()
    token = new_token(api)
    device_id = device.device_id or base64.b32encode(api.random_bytes(10)).decode()[:10]
    refresh_token = new_token(api) if device.refreshable else None
    log_in_device(
        tx,
        user_id,
        device_id,
        token=token,
        display_name=device.display_name,
        now_ms=now_ms,
        ip=request.remote_address,
        expires_ms=now_ms + api.config.access_token_ms if device.refreshable else None,
        refresh_token=refresh_token,
    )
    answer: dict[str, Any] = {
        "user_id": user_id,
        "access_token": token,
        "device_id": device_id,
        "home_server": api.server_name,
    }
    if refresh_token is not None:
        answer |= {"refresh_token": refresh_token, "expires_in_ms": api.config.access_token_ms}
    return answer


def new_token(api: ClientApi) -> str:
    """256 random bits in URL-safe base64."""
    return base64.urlsafe_b64encode(api.random_bytes(32)).decode().rstrip("=")


@routes.route("POST", "/refresh", auth="none")
async def refresh_tokens(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /refresh`: a new access token and a new refresh token for those a device has."""
    old = required_string(request.body, "refresh_token")
    token, new = new_token(api), new_token(api)
    expires_ms = api.wall_ms() + api.config.access_token_ms

    def unit(tx: Tx) -> None:
        found = refresh(tx, old, token=token, new_refresh_token=new, expires_ms=expires_ms)
        if found is None:
            raise UnknownToken("this refresh token is not known, or was used", soft_logout=False)
        status = account_status(tx, found[0])
        if status is not None and status.locked:
            raise UserLocked("this account is locked; ask who runs this node")

    await api.database.write(unit)
    return {"access_token": token, "refresh_token": new, "expires_in_ms": api.config.access_token_ms}


@routes.route("POST", "/login/get_token", versions=("v1",))
async def get_login_token(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /v1/login/get_token`: asks for the password; the token logs in one further device of the user."""
    await require_password(api, request)
    user_id, token = request.requester.user_id, new_token(api)
    await api.database.write(
        lambda tx: add_short_lived_token(tx, "login", user_id, token, now_ms=api.wall_ms(), lifetime_ms=LOGIN_TOKEN_MS)
    )
    return {"login_token": token, "expires_in_ms": LOGIN_TOKEN_MS}


@routes.route("POST", "/logout")
async def logout(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /logout`: deletes the device with its keys and queue."""
    requester = request.requester

    def unit(tx: Tx) -> None:
        delete_device(tx, requester.user_id, requester.device_id)
        delete_tokens(tx, requester.user_id, requester.device_id)

    await api.database.write(unit)
    return {}


@routes.route("POST", "/logout/all")
async def logout_all(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /logout/all`; a dehydrated device stays."""
    user_id = request.requester.user_id
    await api.database.write(lambda tx: log_out_everywhere(tx, user_id))
    return {}


@routes.route("GET", "/account/whoami")
async def whoami(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /account/whoami`."""
    requester = request.requester
    device = {"device_id": requester.device_id} if requester.device_id else {}
    return {"user_id": requester.user_id, **device, "is_guest": False}
