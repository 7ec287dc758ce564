"""Accounts by shared secret, and registration tokens.

Source: Synapse, "Shared-Secret Registration", "Registration Tokens".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Any

from p2pserver.admin_api.api import AdminApi, AdminRoutes
from p2pserver.errors import Forbidden, InvalidParam, MatrixError, NotFound
from p2pserver.http_api.body_fields import optional_boolean, optional_string, required_string
from p2pserver.http_api.routing import ApiRequest
from p2pserver.store.accounts import register_user, set_profile_field
from p2pserver.store.devices import log_in_device
from p2pserver.store.registration_tokens import (
    delete_registration_token,
    put_registration_token,
    registration_token,
    registration_tokens,
)
from p2pserver.store.tx import Tx

routes = AdminRoutes()

NONCE_MS = 60_000
NONCES_MAX = 1000
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_TOKEN_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-"  # noqa: S105


@routes.route("GET", "/register", open_to_all=True)
async def nonce(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """A nonce for one registration within a minute."""
    _shared_secret(admin)
    now_ms = admin.wall_ms()
    for old, expires_ms in list(admin.nonces.items()):
        if expires_ms <= now_ms or len(admin.nonces) >= NONCES_MAX:
            del admin.nonces[old]
    made = admin.random_bytes(32).hex()
    admin.nonces[made] = now_ms + NONCE_MS
    return {"nonce": made}


@routes.route("POST", "/register", open_to_all=True)
async def register(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """Makes an account for who knows the shared secret: HMAC-SHA1 over nonce, name, password and whether an admin."""
    secret, body = _shared_secret(admin), request.body
    given, name, password = (required_string(body, field) for field in ("nonce", "username", "password"))
    mac, user_type = required_string(body, "mac"), optional_string(body, "user_type")
    displayname = optional_string(body, "displayname")
    is_admin, inhibit_login = optional_boolean(body, "admin"), optional_boolean(body, "inhibit_login")
    if admin.nonces.pop(given, 0) <= admin.wall_ms():
        raise MatrixError("this nonce is not known, was used or has expired")
    parts = [given, name, password, "admin" if is_admin else "notadmin", *([] if user_type is None else [user_type])]
    wanted = hmac.new(secret.encode(), "\0".join(parts).encode("utf-8", "surrogatepass"), hashlib.sha1).hexdigest()
    if not hmac.compare_digest(wanted.encode(), mac.encode("utf-8", "surrogatepass")):
        raise Forbidden("the HMAC is wrong")
    user_id = f"@{name.lower()}:{admin.server_name}"
    password_hash = await admin.passwords.hash(password)
    token = base64.urlsafe_b64encode(admin.random_bytes(32)).decode().rstrip("=")
    device_id = base64.b32encode(admin.random_bytes(10)).decode()[:10]

    def unit(tx: Tx) -> dict[str, Any]:
        now_ms = admin.wall_ms()
        register_user(tx, user_id, password_hash, admin=is_admin, created_ms=now_ms, user_type=user_type)
        if displayname is not None:
            set_profile_field(tx, user_id, "displayname", displayname or None)
        answer = {"user_id": user_id, "home_server": admin.server_name}
        if inhibit_login:
            return answer
        log_in_device(tx, user_id, device_id, token=token, display_name=None, now_ms=now_ms, ip=request.remote_address)
        return {**answer, "access_token": token, "device_id": device_id}

    return await admin.database.write(unit)


def _shared_secret(admin: AdminApi) -> str:
    """Raises: MatrixError, if the settings name none."""
    if admin.registration_shared_secret is None:
        raise MatrixError("this node has no registration_shared_secret")
    return admin.registration_shared_secret


@routes.route("GET", "/registration_tokens")
async def list_tokens(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    wanted = request.query_boolean("valid") if "valid" in request.query else None
    now_ms = admin.wall_ms()
    found = await admin.database.read(registration_tokens)
    shown = [token.to_json() for token in found if wanted is None or token.is_valid(now_ms) == wanted]
    return {"registration_tokens": shown}


@routes.route("GET", "/registration_tokens/{token}")
async def token_details(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    return await admin.database.read(lambda tx: _details(tx, request.params["token"]))


def _details(tx: Tx, token: str) -> dict[str, Any]:
    found = registration_token(tx, token)
    if found is None:
        raise NotFound("there is no such registration token")
    return found.to_json()


@routes.route("POST", "/registration_tokens/new")
async def new_token(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    body = request.body
    token = optional_string(body, "token")
    length = _bound(body, "length")
    if token is None:
        length = 16 if length is None else length
        if not 1 <= length <= 64:
            raise InvalidParam("a token has 1 to 64 characters")
        token = "".join(_TOKEN_LETTERS[octet % len(_TOKEN_LETTERS)] for octet in admin.random_bytes(length))
    if not _TOKEN.fullmatch(token):
        raise InvalidParam("a token is 1 to 64 characters of A-Z a-z 0-9 . _ ~ -")
    uses_allowed, expires_ms = _bound(body, "uses_allowed"), _expiry(admin, body)

    def unit(tx: Tx) -> dict[str, Any]:
        if registration_token(tx, token) is not None:
            raise InvalidParam(f"there is a token {token} already")
        put_registration_token(tx, token, uses_allowed=uses_allowed, expires_ms=expires_ms)
        return _details(tx, token)

    return await admin.database.write(unit)


@routes.route("PUT", "/registration_tokens/{token}")
async def change_token(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    body, token = request.body, request.params["token"]
    uses_allowed, expires_ms = _bound(body, "uses_allowed"), _expiry(admin, body)

    def unit(tx: Tx) -> dict[str, Any]:
        found = registration_token(tx, token)
        if found is None:
            raise NotFound("there is no such registration token")
        put_registration_token(
            tx,
            token,
            uses_allowed=uses_allowed if "uses_allowed" in body else found.uses_allowed,
            expires_ms=expires_ms if "expiry_time" in body else found.expires_ms,
        )
        return _details(tx, token)

    return await admin.database.write(unit)


@routes.route("DELETE", "/registration_tokens/{token}")
async def delete_token(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    token = request.params["token"]
    if not await admin.database.write(lambda tx: delete_registration_token(tx, token)):
        raise NotFound("there is no such registration token")
    return {}


def _bound(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise InvalidParam(f"`{name}` is neither null nor an integer of at least 0")
    return value


def _expiry(admin: AdminApi, body: dict[str, Any]) -> int | None:
    value = _bound(body, "expiry_time")
    if value is not None and value < admin.wall_ms():
        raise InvalidParam("`expiry_time` lies in the past")
    return value
