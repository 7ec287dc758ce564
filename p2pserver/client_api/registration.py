"""Registering. Source: client-server API, "Account registration and management", "Token-authenticated registration"."""

from __future__ import annotations

import base64
import hmac
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.login import APP_SERVICE, Device, log_in, service_of
from p2pserver.errors import Exclusive, Forbidden, GuestAccessForbidden, InvalidParam, MissingParam, UserInUse
from p2pserver.http_api.body_fields import optional_boolean, optional_string, required_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.rooms.app_services import AppService
from p2pserver.store.accounts import NOTICES_LOCALPART, check_new_user_id, is_name_taken, register_user
from p2pserver.store.app_services import note_registered_by
from p2pserver.store.registration_tokens import registration_token, use_registration_token
from p2pserver.store.tx import Tx

routes = Routes()

DUMMY = "m.login.dummy"
TOKEN = "m.login.registration_token"  # noqa: S105  # the name of a stage


@routes.route("GET", "/register/available", auth="none", pace="login")
async def available(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /register/available`."""
    if "username" not in request.query:
        raise MissingParam("query parameter 'username' is missing")
    user_id = f"@{request.query['username'].lower()}:{api.server_name}"
    await api.database.read(lambda tx: _check_available(api, tx, user_id))
    return {"available": True}


def _check_available(api: ClientApi, tx: Tx, user_id: str, *, by: AppService | None = None) -> None:
    """Raises: InvalidUsername; Exclusive, for the names of the node itself and of other services; UserInUse."""
    check_new_user_id(user_id)
    if api.app_services.is_taken_user(user_id, by=by):
        raise Exclusive("this user name belongs to an application service")
    if user_id.startswith(f"@{NOTICES_LOCALPART}:"):
        raise Exclusive("this user name belongs to the node itself")
    if is_name_taken(tx, user_id):
        raise UserInUse("this user name is taken")


@routes.route("GET", "/register/m.login.registration_token/validity", versions=("v1",), auth="none", pace="login")
async def token_validity(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /v1/register/m.login.registration_token/validity`."""
    if "token" not in request.query:
        raise MissingParam("query parameter 'token' is missing")
    if api.config.registration != "token":
        raise Forbidden("registration by token is not open")
    return {"valid": await _is_valid(api, request.query["token"])}


async def _is_valid(api: ClientApi, token: str) -> bool:
    """Whether it is the token of the settings, or one that an operator made and that allows another registration."""
    if _is_of_the_settings(api, token):
        return True
    found = await api.database.read(lambda tx: registration_token(tx, token))
    return found is not None and found.is_valid(api.wall_ms())


def _is_of_the_settings(api: ClientApi, token: str) -> bool:
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
    if request.body.get("type") == APP_SERVICE:
        return await _register_by_service(api, request)
    if api.config.registration == "closed":
        raise Forbidden("registration is closed; ask who runs this node")
    body = request.body
    username = optional_string(body, "username")
    password = optional_string(body, "password")
    inhibit_login = optional_boolean(body, "inhibit_login")
    device = Device.asked_for(request)
    if username is None:
        username = "user" + base64.b32encode(api.random_bytes(5)).decode().lower()
    user_id = f"@{username.lower()}:{api.server_name}"
    await api.database.read(lambda tx: _check_available(api, tx, user_id))
    token: str | None = None

    async def check(auth: dict[str, Any]) -> None:
        nonlocal token
        if api.config.registration == "token":
            token = required_string(auth, "token")
            if not await _is_valid(api, token):
                raise Forbidden("wrong registration token")

    stage = TOKEN if api.config.registration == "token" else DUMMY
    await api.interactive_auth.require(request, stage, check, bind_body=False)
    if password is None:
        raise MissingParam("`password` is missing")
    password_hash = await api.passwords.hash(password)

    def unit(tx: Tx) -> dict[str, Any]:
        now_ms = api.wall_ms()
        by_operator = token if token is not None and not _is_of_the_settings(api, token) else None
        if by_operator is not None and not use_registration_token(tx, by_operator, now_ms=now_ms):
            raise Forbidden("this registration token is used up or has expired")
        register_user(tx, user_id, password_hash, created_ms=now_ms)
        if inhibit_login:
            return {"user_id": user_id, "home_server": api.server_name}
        return log_in(api, tx, request, user_id, device)

    return await api.database.write(unit)


async def _register_by_service(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """A user of the application service that asks, in every mode of registration; he has no password."""
    service = service_of(request)
    user_id = f"@{required_string(request.body, 'username').lower()}:{api.server_name}"
    inhibit_login = optional_boolean(request.body, "inhibit_login")
    device = Device.asked_for(request)
    if not service.may_act_as(user_id):
        raise Exclusive("this user name is not in the namespaces of the application service")

    def unit(tx: Tx) -> dict[str, Any]:
        _check_available(api, tx, user_id, by=service)
        register_user(tx, user_id, None, created_ms=api.wall_ms())
        note_registered_by(tx, user_id, service.service_id)
        if inhibit_login:
            return {"user_id": user_id, "home_server": api.server_name}
        return log_in(api, tx, request, user_id, device)

    return await api.database.write(unit)
