"""Accounts, for operators. Source: Synapse, "User Admin API"."""

from __future__ import annotations

import base64
from typing import Any

from p2pserver.admin_api.api import AdminApi, AdminRoutes
from p2pserver.errors import BadJson, Forbidden, InvalidParam, MatrixError, MissingParam, NotFound, UserInUse
from p2pserver.http_api.body_fields import optional_boolean, optional_list, optional_string, required_string
from p2pserver.http_api.routing import ApiRequest, ApiResponse
from p2pserver.rooms.departures import depart
from p2pserver.store.account_data import account_data_since
from p2pserver.store.account_list import ORDERS, UserFilter, list_users
from p2pserver.store.account_status import (
    AccountStatus,
    account_status,
    close_account,
    reopen_account,
    set_flag,
    set_user_type,
)
from p2pserver.store.accounts import check_new_user_id, is_name_taken, register_user, set_password, set_profile_field
from p2pserver.store.app_services import service_of_user
from p2pserver.store.devices import Device, delete_device, device_ids, devices_of, rename_device, whois
from p2pserver.store.own_rooms import joined_rooms_of, memberships_of
from p2pserver.store.pushers import pushers_of
from p2pserver.store.rate_overrides import rate_override, set_rate_override
from p2pserver.store.tokens import add_token, delete_expired_guests, delete_tokens
from p2pserver.store.tx import Tx

routes = AdminRoutes()

PAGE_MAX = 1000


@routes.route("GET", "/users", versions=("v2",))
async def users_v2(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """`deactivated` says whether such accounts are listed too."""
    return await _users(admin, request, None if request.query_boolean("deactivated") else False)


@routes.route("GET", "/users", versions=("v3",))
async def users_v3(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """`deactivated` says which accounts are listed, those or the others; all without it."""
    asked = request.query_boolean("deactivated") if "deactivated" in request.query else None
    return await _users(admin, request, asked)


async def _users(admin: AdminApi, request: ApiRequest, deactivated: bool | None) -> dict[str, Any]:
    start = request.query_integer("from", default=0)
    limit = max(1, request.query_integer("limit", default=100, most=PAGE_MAX))
    order = request.query.get("order_by", "name")
    if order not in ORDERS:
        raise InvalidParam(f"order_by is none of {', '.join(ORDERS)}")
    direction = request.query.get("dir", "f")
    if direction not in ("f", "b"):
        raise InvalidParam("dir is neither f nor b")
    found = UserFilter(
        name=request.query.get("name"),
        user_id=request.query.get("user_id"),
        deactivated=deactivated,
        admin=request.query_boolean("admins") if "admins" in request.query else None,
        with_locked=request.query_boolean("locked"),
        not_types=tuple(request.query_lists.get("not_user_type", ())),
    )
    rows, total = await admin.database.read(
        lambda tx: list_users(tx, found, start=start, limit=limit, order=order, backwards=direction == "b")
    )
    answer: dict[str, Any] = {"users": [_listed(status, seen) for status, seen in rows], "total": total}
    if start + limit < total:
        answer["next_token"] = str(start + len(rows))
    return answer


def _listed(status: AccountStatus, last_seen_ms: int | None) -> dict[str, Any]:
    return {
        "name": status.user_id,
        "user_type": status.user_type,
        "is_guest": False,
        "admin": status.admin,
        "deactivated": status.deactivated,
        "erased": status.erased,
        "locked": status.locked,
        "suspended": status.suspended,
        "shadow_banned": status.shadow_banned,
        "displayname": status.displayname,
        "avatar_url": status.avatar_url,
        "creation_ts": status.created_ms,
        "last_seen_ts": last_seen_ms,
        "approved": True,
    }


def _details(tx: Tx, status: AccountStatus) -> dict[str, Any]:
    seen = max((device.last_seen_ms for device in devices_of(tx, status.user_id)), default=None)
    return {
        **_listed(status, seen),
        "creation_ts": status.created_ms // 1000,
        "threepids": [],
        "external_ids": [],
        "appservice_id": service_of_user(tx, status.user_id),
        "consent_server_notice_sent": None,
        "consent_version": None,
        "consent_ts": None,
    }


@routes.route("GET", "/users/{user_id}", versions=("v2",))
async def user_details(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id = request.params["user_id"]
    return await admin.database.read(lambda tx: _details(tx, admin.account(tx, user_id)))


@routes.route("PUT", "/users/{user_id}", versions=("v2",))
async def put_user(admin: AdminApi, request: ApiRequest) -> ApiResponse:
    """Makes an account (201) or changes one (200); what the body does not name stays."""
    user_id = admin.require_local(request.params["user_id"])
    body = request.body
    password = optional_string(body, "password")
    log_out = optional_boolean(body, "logout_devices", default=True)
    flags = {name: _boolean(body, name) for name in ("admin", "locked", "deactivated") if body.get(name) is not None}
    profile = {name: optional_string(body, name) for name in ("displayname", "avatar_url") if name in body}
    user_type = optional_string(body, "user_type")
    if optional_list(body, "threepids") or optional_list(body, "external_ids"):
        raise InvalidParam("accounts of this node have no third-party or external IDs")
    if user_id == request.requester.user_id and (flags.get("admin") is False or flags.get("deactivated")):
        raise Forbidden("an admin does not take this from himself")
    if flags.get("locked") and flags.get("deactivated"):
        raise InvalidParam("an account is locked or deactivated, not both")
    password_hash = None if password is None else await admin.passwords.hash(password)

    def unit(tx: Tx) -> tuple[bool, dict[str, Any]]:
        status = account_status(tx, user_id)
        if status is None:
            register_user(tx, user_id, password_hash, created_ms=admin.wall_ms())
        elif status.deactivated and flags.get("deactivated") is False:
            if password_hash is None:
                raise MatrixError("an account that is opened again needs a password")
            reopen_account(tx, user_id)
        if status is not None and password_hash is not None:
            set_password(tx, user_id, password_hash, log_out=log_out)
        for name, value in profile.items():
            set_profile_field(tx, user_id, name, value or None)
        if "user_type" in body:
            set_user_type(tx, user_id, user_type)
        if "admin" in flags:
            set_flag(tx, user_id, "admin", flags["admin"])
        if "locked" in flags:
            set_flag(tx, user_id, "locked", flags["locked"])
        if flags.get("deactivated"):
            close_account(tx, user_id, erase=False)
        return status is None, _details(tx, admin.account(tx, user_id))

    is_new, details = await admin.database.write(unit)
    if profile:
        admin.edge.spread_profiles()
    if flags.get("deactivated"):
        admin.edge.spawn(depart(admin.database, admin.rooms), name="depart")
    return ApiResponse(status=201 if is_new else 200, body=details)


def _boolean(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None:
        raise MissingParam(f"`{name}` is missing")
    if not isinstance(value, bool):
        raise BadJson(f"`{name}` is not a boolean")
    return value


@routes.route("POST", "/deactivate/{user_id}")
async def deactivate(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id, erase = request.params["user_id"], optional_boolean(request.body, "erase")

    def unit(tx: Tx) -> None:
        close_account(tx, admin.account(tx, user_id).user_id, erase=erase)

    await admin.database.write(unit)
    admin.edge.spawn(depart(admin.database, admin.rooms), name="depart")
    return {"id_server_unbind_result": "no-support"}


@routes.route("POST", "/reset_password/{user_id}")
async def reset_password(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id = admin.require_local(request.params["user_id"])
    password = required_string(request.body, "new_password")
    log_out = optional_boolean(request.body, "logout_devices", default=True)
    password_hash = await admin.passwords.hash(password)
    await admin.database.write(lambda tx: set_password(tx, user_id, password_hash, log_out=log_out))
    return {}


@routes.route("GET", "/users/{user_id}/admin")
async def is_admin(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id = request.params["user_id"]
    return {"admin": await admin.database.read(lambda tx: admin.account(tx, user_id).admin)}


@routes.route("PUT", "/users/{user_id}/admin")
async def make_admin(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    value = _boolean(request.body, "admin")
    user_id = admin.require_local(request.params["user_id"])
    if user_id == request.requester.user_id and not value:
        raise MatrixError("an admin does not take this from himself")
    await admin.database.write(lambda tx: set_flag(tx, user_id, "admin", value))
    return {}


@routes.route("POST", "/users/{user_id}/login")
async def log_in_as(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """A token with which the operator acts as the user; no device of the user is made."""
    user_id = request.params["user_id"]
    if user_id == request.requester.user_id:
        raise MatrixError("this is not the way to log in as oneself")
    until_ms = request.body.get("valid_until_ms")
    if until_ms is not None and type(until_ms) is not int:
        raise BadJson("`valid_until_ms` is not an integer")
    token = base64.urlsafe_b64encode(admin.random_bytes(32)).decode().rstrip("=")
    device_id = "admin-" + base64.b32encode(admin.random_bytes(5)).decode()

    def unit(tx: Tx) -> None:
        status = admin.account(tx, user_id)
        if status.deactivated:
            raise MatrixError("this account is deactivated")
        delete_expired_guests(tx, user_id, now_ms=admin.wall_ms())
        add_token(tx, user_id, device_id, token=token, expires_ms=until_ms)

    await admin.database.write(unit)
    return {"access_token": token}


@routes.route("POST", "/users/{user_id}/shadow_ban")
async def shadow_ban(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id = admin.require_local(request.params["user_id"])
    await admin.database.write(lambda tx: set_flag(tx, user_id, "shadow_banned", True))
    return {}


@routes.route("DELETE", "/users/{user_id}/shadow_ban")
async def lift_shadow_ban(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id = admin.require_local(request.params["user_id"])
    await admin.database.write(lambda tx: set_flag(tx, user_id, "shadow_banned", False))
    return {}


@routes.route("PUT", "/suspend/{user_id}")
async def suspend(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    value = _boolean(request.body, "suspend")
    user_id = admin.require_local(request.params["user_id"])
    await admin.database.write(lambda tx: set_flag(tx, user_id, "suspended", value))
    return {f"user_{user_id}_suspended": value}


@routes.route("GET", "/users/{user_id}/override_ratelimit")
async def own_rate(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """`{}` where the user has the rates of everybody."""
    user_id = request.params["user_id"]
    return _rate(await admin.database.read(lambda tx: rate_override(tx, admin.account(tx, user_id).user_id)))


@routes.route("POST", "/users/{user_id}/override_ratelimit")
async def put_own_rate(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """Gives a user a request rate of his own; 0 a second: as many as he likes."""
    user_id, body = request.params["user_id"], request.body
    rate = tuple(body.get(name, 0) for name in ("messages_per_second", "burst_count"))
    if not all(type(number) is int and 0 <= number < 2**31 for number in rate):
        raise InvalidParam("`messages_per_second` and `burst_count` are integers of at least 0")
    await admin.database.write(lambda tx: set_rate_override(tx, admin.account(tx, user_id).user_id, rate))
    return _rate(rate)


@routes.route("DELETE", "/users/{user_id}/override_ratelimit")
async def drop_own_rate(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id = request.params["user_id"]
    await admin.database.write(lambda tx: set_rate_override(tx, admin.account(tx, user_id).user_id, None))
    return {}


def _rate(rate: tuple[float, int] | None) -> dict[str, Any]:
    return {} if rate is None else {"messages_per_second": int(rate[0]), "burst_count": rate[1]}


@routes.route("GET", "/users/{user_id}/accountdata")
async def account_data(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """What the user's clients keep here, globally and by room."""
    user_id = request.params["user_id"]
    found = await admin.database.read(
        lambda tx: account_data_since(tx, admin.account(tx, user_id).user_id, -1, tx.position())
    )
    rooms: dict[str, dict[str, Any]] = {}
    for each in found:
        if each.room_id is not None:
            rooms.setdefault(each.room_id, {})[each.type] = each.content
    mine = {each.type: each.content for each in found if each.room_id is None}
    return {"account_data": {"global": mine, "rooms": rooms}}


@routes.route("GET", "/users/{user_id}/pushers")
async def pushers(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id = request.params["user_id"]
    found = await admin.database.read(lambda tx: pushers_of(tx, admin.account(tx, user_id).user_id))
    return {"pushers": [dict(pusher.content) for pusher in found], "total": len(found)}


@routes.route("GET", "/whois/{user_id}")
async def who_is(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id = request.params["user_id"]
    return await admin.database.read(lambda tx: whois(tx, admin.account(tx, user_id).user_id))


@routes.route("GET", "/users/{user_id}/joined_rooms")
async def joined_rooms(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id = request.params["user_id"]
    found = await admin.database.read(lambda tx: joined_rooms_of(tx, admin.account(tx, user_id).user_id))
    return {"joined_rooms": found, "total": len(found)}


@routes.route("GET", "/users/{user_id}/memberships")
async def memberships(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id = request.params["user_id"]
    found = await admin.database.read(lambda tx: memberships_of(tx, admin.account(tx, user_id).user_id))
    return {"memberships": {each.room_id: each.membership for each in found}}


@routes.route("GET", "/username_available")
async def username_available(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    if "username" not in request.query:
        raise MissingParam("query parameter 'username' is missing")
    user_id = f"@{request.query['username']}:{admin.server_name}"

    def query(tx: Tx) -> None:
        check_new_user_id(user_id)
        if is_name_taken(tx, user_id):
            raise UserInUse("this user name is taken")

    await admin.database.read(query)
    return {"available": True}


def _device(user_id: str, device: Device) -> dict[str, Any]:
    return {**device.to_json(), "user_id": user_id, "last_seen_user_agent": None}


@routes.route("GET", "/users/{user_id}/devices", versions=("v2",))
async def devices(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id = request.params["user_id"]
    found = await admin.database.read(lambda tx: devices_of(tx, admin.account(tx, user_id).user_id))
    return {"devices": [_device(user_id, device) for device in found], "total": len(found)}


@routes.route("GET", "/users/{user_id}/devices/{device_id}", versions=("v2",))
async def device_details(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id, device_id = request.params["user_id"], request.params["device_id"]
    found = await admin.database.read(lambda tx: devices_of(tx, admin.account(tx, user_id).user_id, device_id))
    if not found:
        raise NotFound("there is no such device")
    return _device(user_id, found[0])


@routes.route("PUT", "/users/{user_id}/devices/{device_id}", versions=("v2",))
async def put_device(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id, device_id = request.params["user_id"], request.params["device_id"]
    name = required_string(request.body, "display_name")
    if not await admin.database.write(
        lambda tx: rename_device(tx, admin.account(tx, user_id).user_id, device_id, name)
    ):
        raise NotFound("there is no such device")
    return {}


@routes.route("DELETE", "/users/{user_id}/devices/{device_id}", versions=("v2",))
async def delete_one_device(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id, device_id = request.params["user_id"], request.params["device_id"]
    await admin.database.write(lambda tx: delete_device(tx, admin.account(tx, user_id).user_id, device_id))
    return {}


@routes.route("POST", "/users/{user_id}/delete_devices", versions=("v2",))
async def delete_devices(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    user_id = request.params["user_id"]
    named = optional_list(request.body, "devices")
    if "devices" not in request.body or not all(isinstance(device_id, str) for device_id in named):
        raise InvalidParam("`devices` is not a list of strings")

    def unit(tx: Tx) -> None:
        for device_id in named:
            delete_device(tx, admin.account(tx, user_id).user_id, device_id)

    await admin.database.write(unit)
    return {}


@routes.route("POST", "/users/{user_id}/logout")
async def log_out(admin: AdminApi, request: ApiRequest) -> dict[str, Any]:
    """Logs all devices of a user out."""
    user_id = request.params["user_id"]

    def unit(tx: Tx) -> None:
        for device_id in device_ids(tx, admin.account(tx, user_id).user_id):
            delete_device(tx, user_id, device_id)
        delete_tokens(tx, user_id)

    await admin.database.write(unit)
    return {}
