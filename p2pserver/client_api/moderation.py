"""What operators do to accounts by the Client-Server API itself: look one up, suspend it, lock it.

Source: client-server API, "Server Administration".
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.errors import BadJson, Forbidden, InvalidParam, MissingParam, NotFound
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_user_id, server_of
from p2pserver.store.account_status import AccountStatus, Flag, account_status, set_flag
from p2pserver.store.devices import whois
from p2pserver.store.tx import Tx

routes = Routes()

VERSIONS = ("v1", "unstable/uk.timedout.msc4323")


@routes.route("GET", "/admin/whois/{user_id}")
async def who_is(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /admin/whois/{userId}`: for the user himself and for admins."""
    user_id = request.params["user_id"]
    if user_id != request.requester.user_id and not request.requester.admin:
        raise Forbidden("only an admin may look others up")
    return await api.database.read(lambda tx: whois(tx, _local(api, tx, user_id).user_id))


@routes.route("GET", "/admin/suspend/{user_id}", versions=VERSIONS)
async def is_suspended(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /v1/admin/suspend/{userId}`."""
    _require_admin(request)
    status = await api.database.read(lambda tx: _local(api, tx, request.params["user_id"]))
    return {"suspended": status.suspended}


@routes.route("PUT", "/admin/suspend/{user_id}", versions=VERSIONS)
async def suspend(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /v1/admin/suspend/{userId}`."""
    return await _moderate(api, request, "suspended")


@routes.route("GET", "/admin/lock/{user_id}", versions=VERSIONS)
async def is_locked(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /v1/admin/lock/{userId}`."""
    _require_admin(request)
    status = await api.database.read(lambda tx: _local(api, tx, request.params["user_id"]))
    return {"locked": status.locked}


@routes.route("PUT", "/admin/lock/{user_id}", versions=VERSIONS)
async def lock(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /v1/admin/lock/{userId}`."""
    return await _moderate(api, request, "locked")


async def _moderate(api: ClientApi, request: ApiRequest, flag: Flag) -> dict[str, Any]:
    """Sets a flag of an account that is neither the requester's own nor another admin's."""
    _require_admin(request)
    if flag not in request.body:
        raise MissingParam(f"`{flag}` is missing")
    value = request.body[flag]
    if not isinstance(value, bool):
        raise BadJson(f"`{flag}` is not a boolean")

    def unit(tx: Tx) -> None:
        status = _local(api, tx, request.params["user_id"])
        if status.admin:
            raise Forbidden("an admin cannot be suspended or locked by another")
        set_flag(tx, status.user_id, flag, value)

    await api.database.write(unit)
    return {flag: value}


def _require_admin(request: ApiRequest) -> None:
    """Before any account is looked up, so that nobody learns who exists. Raises: Forbidden."""
    if not request.requester.admin:
        raise Forbidden("only an admin may do this")


def _local(api: ClientApi, tx: Tx, user_id: str) -> AccountStatus:
    """Raises: InvalidParam, if the user is not of this node; NotFound."""
    if not is_user_id(user_id) or server_of(user_id) != api.server_name:
        raise InvalidParam("that is not a user of this node")
    status = account_status(tx, user_id)
    if status is None or status.deactivated:
        raise NotFound("there is no such user")
    return status
