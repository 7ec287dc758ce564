"""Dehydrated devices: what is written to who is logged in nowhere waits for his next device. Source: MSC3814."""

from __future__ import annotations

import json
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.keys import IDENTIFIER_CHARACTERS_MAX, check_device_keys, check_one_time_key
from p2pserver.client_api.login import DISPLAY_NAME_CHARACTERS_MAX
from p2pserver.errors import Forbidden, InvalidParam, NotFound, TooLarge
from p2pserver.http_api.body_fields import optional_object, optional_string, required_object, required_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.store.dehydrated_devices import dehydrated_device, put_dehydrated_device
from p2pserver.store.devices import delete_device
from p2pserver.store.one_time_keys import put_fallback_keys, put_one_time_keys
from p2pserver.store.to_device import to_device_since
from p2pserver.store.tx import Tx

routes = Routes()

PATH = "/org.matrix.msc3814.v1/dehydrated_device"
DEVICE_DATA_OCTETS_MAX = 64 * 1024
EVENTS_PER_ANSWER_MAX = 100


@routes.route("PUT", PATH, versions=("unstable",))
async def put(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /dehydrated_device`: in place of the one that there was, with all its keys, or not at all."""
    user_id, body = request.requester.user_id, request.body
    device_id = required_string(body, "device_id")
    device_data, device_keys = required_object(body, "device_data"), required_object(body, "device_keys")
    display_name = optional_string(body, "initial_device_display_name")
    one_time_keys, fallback_keys = optional_object(body, "one_time_keys"), optional_object(body, "fallback_keys")
    if not 0 < len(device_id) <= IDENTIFIER_CHARACTERS_MAX:
        raise InvalidParam("a device ID is empty or too long")
    if display_name is not None and len(display_name) > DISPLAY_NAME_CHARACTERS_MAX:
        raise TooLarge(f"a device's name has at most {DISPLAY_NAME_CHARACTERS_MAX} characters")
    required_string(device_data, "algorithm")
    if len(json.dumps(device_data)) > DEVICE_DATA_OCTETS_MAX:
        raise TooLarge(f"`device_data` is over {DEVICE_DATA_OCTETS_MAX} octets")
    check_device_keys(device_keys, user_id, device_id)
    for key_id, key in [*one_time_keys.items(), *fallback_keys.items()]:
        check_one_time_key(key_id, key)

    def unit(tx: Tx) -> None:
        put_dehydrated_device(
            tx,
            user_id,
            device_id,
            device_data=device_data,
            device_keys=device_keys,
            display_name=display_name,
            now_ms=api.wall_ms(),
            ip=request.remote_address,
        )
        put_one_time_keys(tx, user_id, device_id, one_time_keys)
        put_fallback_keys(tx, user_id, device_id, fallback_keys)

    await api.database.write(unit)
    return {"device_id": device_id}


@routes.route("GET", PATH, versions=("unstable",))
async def get(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /dehydrated_device`: as it was uploaded. Clients take M_NOT_FOUND for a server that could keep one."""
    device_id, device_data = await api.database.read(lambda tx: _held(tx, request.requester.user_id))
    return {"device_id": device_id, "device_data": device_data}


@routes.route("DELETE", PATH, versions=("unstable",))
async def delete(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`DELETE /dehydrated_device`: with its keys and its queue."""
    user_id = request.requester.user_id

    def unit(tx: Tx) -> str:
        device_id, _ = _held(tx, user_id)
        delete_device(tx, user_id, device_id)
        return device_id

    return {"device_id": await api.database.write(unit)}


@routes.route("POST", PATH + "/{device_id}/events", versions=("unstable",))
async def events(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /dehydrated_device/{deviceId}/events`: the next of its to-device messages, none when all were seen.

    Nothing is deleted before the device itself is: a client that is stopped halfway begins again.
    """
    user_id, device_id = request.requester.user_id, request.params["device_id"]
    since = _position(optional_string(request.body, "next_batch"))
    limit = request.query_integer("limit", default=EVENTS_PER_ANSWER_MAX, least=1, most=EVENTS_PER_ANSWER_MAX)

    def unit(tx: Tx) -> list[tuple[int, dict[str, Any]]]:
        held = dehydrated_device(tx, user_id)
        if held is None or held[0] != device_id:
            raise Forbidden("this is not the ID of your dehydrated device")
        return to_device_since(tx, user_id, device_id, since, tx.position(), limit)

    messages = await api.database.read(unit)
    return {
        "events": [message for _, message in messages],
        "next_batch": f"d{messages[-1][0] if messages else since}",
    }


def _held(tx: Tx, user_id: str) -> tuple[str, dict[str, Any]]:
    held = dehydrated_device(tx, user_id)
    if held is None:
        raise NotFound("there is no dehydrated device")
    return held


def _position(next_batch: str | None) -> int:
    """Raises: InvalidParam."""
    if next_batch is None:
        return 0
    digits = next_batch.removeprefix("d")
    if digits == next_batch or not digits.isascii() or not digits.isdecimal() or len(digits) > 18:
        raise InvalidParam("`next_batch` is not of this server")
    return int(digits)
