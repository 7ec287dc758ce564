"""Logging in and out, registering. Source: client-server API, "Client Authentication", legacy API."""

from __future__ import annotations

import base64
import hmac
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.versions import well_known
from p2pserver.errors import (
    BadJson,
    Forbidden,
    GuestAccessForbidden,
    InvalidParam,
    MatrixError,
    MissingParam,
    UserInUse,
)
from p2pserver.http_api.body_fields import optional_boolean, optional_string, required_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.store.accounts import check_new_user_id, password_hash_of, register_user, user_exists
from p2pserver.store.devices import delete_device, device_ids, log_in_device
from p2pserver.store.tx import Tx

routes = Routes()

PASSWORD = "m.login.password"  # noqa: S105  # the name of a stage
DUMMY = "m.login.dummy"
TOKEN = "m.login.registration_token"  # noqa: S105
DEVICE_ID_CHARACTERS_MAX = 255
DISPLAY_NAME_CHARACTERS_MAX = 256


@routes.route("GET", "/login", auth="none")
async def login_flows(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /login`."""
    return {"flows": [{"type": PASSWORD}]}


@routes.route("POST", "/login", auth="none", pace="login")
async def login(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /login` with a password."""
    kind = required_string(request.body, "type")
    if kind != PASSWORD:
        raise MatrixError("this login type is not offered")
    device_id, display_name = _device_of(request)
    password = required_string(request.body, "password")
    user_id = _user_of(api, request.body)
    await check_password(api, user_id, password)

    def unit(tx: Tx) -> dict[str, Any]:
        return _log_in(api, tx, request, user_id, device_id, display_name)

    return await api.database.write(unit) | {"well_known": well_known(request)}


def _user_of(api: ClientApi, body: dict[str, Any]) -> str:
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

    Raises: Forbidden; LimitExceeded.
    """
    api.rate_limits.check_failed_logins(user_id)
    password_hash = await api.database.read(lambda tx: password_hash_of(tx, user_id))
    if not await api.passwords.matches(password_hash, password):
        api.rate_limits.note_failed_login(user_id)
        raise Forbidden("wrong user name or password")


async def require_password(api: ClientApi, request: ApiRequest) -> None:
    """Asks for the requester's password by user-interactive authentication.

    Raises: InteractiveAuthRequired, until the request carries it; LimitExceeded.
    """

    async def check(auth: dict[str, Any]) -> None:
        if ("identifier" in auth or "user" in auth) and _user_of(api, auth) != request.requester.user_id:
            raise Forbidden("that is another user")
        await check_password(api, request.requester.user_id, required_string(auth, "password"))

    await api.interactive_auth.require(request, PASSWORD, check)


def _device_of(request: ApiRequest) -> tuple[str | None, str | None]:
    """(device ID, display name) that a login or registration asks for."""
    device_id = optional_string(request.body, "device_id")
    if device_id is not None and (len(device_id) > DEVICE_ID_CHARACTERS_MAX or not device_id.isprintable()):
        raise InvalidParam("the device ID is too long or not printable")
    display_name = optional_string(request.body, "initial_device_display_name")
    return device_id or None, display_name if display_name is None else display_name[:DISPLAY_NAME_CHARACTERS_MAX]


def _log_in(
    api: ClientApi, tx: Tx, request: ApiRequest, user_id: str, device_id: str | None, display_name: str | None
) -> dict[str, Any]:
    """Makes or reuses the device and gives it a new token."""
    token = base64.urlsafe_b64encode(api.random_bytes(32)).decode().rstrip("=")
    if device_id is None:
        device_id = base64.b32encode(api.random_bytes(10)).decode()[:10]
    log_in_device(
        tx,
        user_id,
        device_id,
        token=token,
        display_name=display_name,
        now_ms=api.wall_ms(),
        ip=request.remote_address,
    )
    return {"user_id": user_id, "access_token": token, "device_id": device_id, "home_server": api.server_name}


@routes.route("POST", "/logout")
async def logout(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /logout`: deletes the device with its keys and queue."""
    requester = request.requester
    await api.database.write(lambda tx: delete_device(tx, requester.user_id, requester.device_id))
    return {}


@routes.route("POST", "/logout/all")
async def logout_all(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /logout/all`."""
    user_id = request.requester.user_id

    def unit(tx: Tx) -> None:
        for device_id in device_ids(tx, user_id):
            delete_device(tx, user_id, device_id)

    await api.database.write(unit)
    return {}


@routes.route("GET", "/account/whoami")
async def whoami(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /account/whoami`."""
    return {"user_id": request.requester.user_id, "device_id": request.requester.device_id, "is_guest": False}


@routes.route("GET", "/register/available", auth="none", pace="login")
async def available(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /register/available`."""
    if "username" not in request.query:
        raise MissingParam("query parameter 'username' is missing")
    user_id = f"@{request.query['username'].lower()}:{api.server_name}"
    await api.database.read(lambda tx: _check_available(tx, user_id))
    return {"available": True}


def _check_available(tx: Tx, user_id: str) -> None:
    check_new_user_id(user_id)
    if user_exists(tx, user_id):
        raise UserInUse("this user name is taken")


@routes.route("GET", "/register/m.login.registration_token/validity", versions=("v1",), auth="none", pace="login")
async def token_validity(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /v1/register/m.login.registration_token/validity`."""
    if "token" not in request.query:
        raise MissingParam("query parameter 'token' is missing")
    if api.config.registration != "token":
        raise Forbidden("registration by token is not open")
    return {"valid": _is_registration_token(api, request.query["token"])}


def _is_registration_token(api: ClientApi, token: str) -> bool:
    expected = api.config.registration_token
    return expected is not None and hmac.compare_digest(token.encode(), expected.encode())


@routes.route("POST", "/register", auth="none", pace="register")
async def register(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /register`: open with `m.login.dummy`, by token, or closed."""
    kind = request.query.get("kind", "user")
    if kind == "guest":
        raise GuestAccessForbidden("this node has no guests")
    if kind != "user":
        raise InvalidParam("`kind` is neither user nor guest")
    if api.config.registration == "closed":
        raise Forbidden("registration is closed; ask who runs this node")
    body = request.body
    username = optional_string(body, "username")
    password = optional_string(body, "password")
    inhibit_login = optional_boolean(body, "inhibit_login")
    device_id, display_name = _device_of(request)
    if username is None:
        username = "user" + base64.b32encode(api.random_bytes(5)).decode().lower()
    user_id = f"@{username.lower()}:{api.server_name}"
    await api.database.read(lambda tx: _check_available(tx, user_id))

    async def check(auth: dict[str, Any]) -> None:
        if api.config.registration == "token" and not _is_registration_token(api, required_string(auth, "token")):
            raise Forbidden("wrong registration token")

    stage = TOKEN if api.config.registration == "token" else DUMMY
    await api.interactive_auth.require(request, stage, check, bind_body=False)
    if password is None:
        raise MissingParam("`password` is missing")
    password_hash = await api.passwords.hash(password)

    def unit(tx: Tx) -> dict[str, Any]:
        register_user(tx, user_id, password_hash)
        if inhibit_login:
            return {"user_id": user_id, "home_server": api.server_name}
        return _log_in(api, tx, request, user_id, device_id, display_name)

    return await api.database.write(unit)
