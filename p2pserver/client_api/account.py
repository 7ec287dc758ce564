"""A user's own password and devices. Source: client-server API, "Account management", "Device Management"."""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.login import DISPLAY_NAME_CHARACTERS_MAX, require_password
from p2pserver.errors import BadJson, MissingParam, NotFound, TooLarge
from p2pserver.http_api.body_fields import optional_boolean, optional_string, required_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.rooms.departures import depart
from p2pserver.store.account_status import close_account
from p2pserver.store.accounts import set_password
from p2pserver.store.devices import add_device, delete_device, devices_of, rename_device
from p2pserver.store.tx import Tx

routes = Routes()


@routes.route("POST", "/account/password")
async def change_password(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /account/password`: asks for the old one; logs the other devices out unless told not to."""
    new_password = required_string(request.body, "new_password")
    log_out = optional_boolean(request.body, "logout_devices", default=True)
    await require_password(api, request)
    password_hash = await api.passwords.hash(new_password)
    requester = request.requester

    def unit(tx: Tx) -> None:
        set_password(tx, requester.user_id, password_hash, log_out=log_out, keep_device=requester.device_id)

    await api.database.write(unit)
    return {}


@routes.route("POST", "/account/deactivate")
async def deactivate(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /account/deactivate`: asks for the password. The rooms are left beside the requests that follow."""
    erase = optional_boolean(request.body, "erase")
    await require_password(api, request)
    user_id = request.requester.user_id
    await api.database.write(lambda tx: close_account(tx, user_id, erase=erase))
    api.spawn(depart(api.database, api.rooms), name="depart")
    return {"id_server_unbind_result": "no-support"}


@routes.route("GET", "/account/3pid")
async def third_party_ids(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /account/3pid`: none; Element's settings ask for them and show an error where they find no answer."""
    return {"threepids": []}


@routes.route("GET", "/devices")
async def list_devices(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /devices`."""
    user_id = request.requester.user_id
    devices = await api.database.read(lambda tx: devices_of(tx, user_id))
    return {"devices": [device.to_json() for device in devices]}


@routes.route("GET", "/devices/{device_id}")
async def get_device(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /devices/{deviceId}`."""
    user_id, device_id = request.requester.user_id, request.params["device_id"]
    devices = await api.database.read(lambda tx: devices_of(tx, user_id, device_id))
    if not devices:
        raise NotFound("there is no such device")
    return devices[0].to_json()


@routes.route("PUT", "/devices/{device_id}")
async def put_device(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /devices/{deviceId}`: another display name; an application service so makes a device (MSC4190)."""
    user_id, device_id = request.requester.user_id, request.params["device_id"]
    display_name = optional_string(request.body, "display_name")
    if display_name is not None and len(display_name) > DISPLAY_NAME_CHARACTERS_MAX:
        raise TooLarge(f"a device's name has at most {DISPLAY_NAME_CHARACTERS_MAX} characters")

    def unit(tx: Tx) -> None:
        if request.app_service is not None and not devices_of(tx, user_id, device_id):
            add_device(
                tx,
                user_id,
                device_id,
                display_name=display_name,
                now_ms=api.wall_ms(),
                ip=request.remote_address,
            )
        elif display_name is None:
            if not devices_of(tx, user_id, device_id):
                raise NotFound("there is no such device")
        elif not rename_device(tx, user_id, device_id, display_name):
            raise NotFound("there is no such device")

    await api.database.write(unit)
    return {}


@routes.route("DELETE", "/devices/{device_id}")
async def delete_one_device(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`DELETE /devices/{deviceId}`: asks for the password; 200 also for a device that is gone already."""
    await require_password(api, request)
    await _delete(api, request, [request.params["device_id"]])
    return {}


@routes.route("POST", "/delete_devices")
async def delete_many_devices(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /delete_devices`: asks for the password."""
    if "devices" not in request.body:
        raise MissingParam("`devices` is missing")
    device_ids = request.body["devices"]
    if not isinstance(device_ids, list) or not all(isinstance(device_id, str) for device_id in device_ids):
        raise BadJson("`devices` is not a list of strings")
    await require_password(api, request)
    await _delete(api, request, device_ids)
    return {}


async def _delete(api: ClientApi, request: ApiRequest, device_ids: list[str]) -> None:
    user_id = request.requester.user_id

    def unit(tx: Tx) -> None:
        for device_id in device_ids:
            delete_device(tx, user_id, device_id)

    await api.database.write(unit)
