"""Server-side key backups: what a user's next device needs to read old messages, encrypted by the last one.

Clients make one right after the first login and tell the user that setting up failed if they cannot.
Source: client-server API, "Server-side key backups".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.errors import BadJson, InvalidParam, MatrixError, MissingParam, NotFound, TooLarge
from p2pserver.http_api.body_fields import optional_string, required_object, required_string
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_room_id
from p2pserver.store.key_backups import (
    BackedUpKey,
    KeyBackup,
    KeysWanted,
    add_key_backup,
    backed_up_key_count,
    backed_up_keys,
    delete_backed_up_keys,
    delete_key_backup,
    key_backup,
    key_backup_versions,
    put_backed_up_keys,
    set_auth_data,
)
from p2pserver.store.tx import Tx

routes = Routes()

VERSIONS_MAX = 20
KEYS_PER_USER_MAX = 50_000
OBJECT_OCTETS_MAX = 16 * 1024
"""Of the `auth_data` of a backup, and of the `session_data` of a key."""
NAME_CHARACTERS_MAX = 255


class WrongKeysVersion(MatrixError):
    """Keys go into the newest backup alone; `current_version` tells which that is."""

    errcode, http_status = "M_WRONG_ROOM_KEYS_VERSION", 403


@routes.route("POST", "/room_keys/version")
async def create_version(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /room_keys/version`."""
    user_id = request.requester.user_id
    algorithm, auth_data = _algorithm(request), _bounded(required_object(request.body, "auth_data"), "auth_data")

    def unit(tx: Tx) -> int:
        if len(key_backup_versions(tx, user_id)) >= VERSIONS_MAX:
            raise TooLarge(f"an account keeps {VERSIONS_MAX} key backups at most")
        return add_key_backup(tx, user_id, algorithm, auth_data)

    return {"version": str(await api.database.write(unit))}


@routes.route("GET", "/room_keys/version")
@routes.route("GET", "/room_keys/version/{version}")
async def read_version(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /room_keys/version[/{version}]`: without one, the newest."""
    user_id, version = request.requester.user_id, request.params.get("version")

    def unit(tx: Tx) -> dict[str, Any]:
        backup = key_backup(tx, user_id) if version is None else _backup(tx, user_id, _number(version))
        if backup is None:
            raise NotFound("no current backup version")
        return {
            "version": str(backup.version),
            "algorithm": backup.algorithm,
            "auth_data": backup.auth_data,
            **_state(tx, user_id, backup.version),
        }

    return await api.database.read(unit)


@routes.route("PUT", "/room_keys/version/{version}")
async def update_version(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /room_keys/version/{version}`: other `auth_data` for the same algorithm."""
    user_id, version = request.requester.user_id, request.params["version"]
    algorithm, auth_data = _algorithm(request), _bounded(required_object(request.body, "auth_data"), "auth_data")
    if optional_string(request.body, "version") not in (None, version):
        raise InvalidParam("`version` is not the one in the path")

    def unit(tx: Tx) -> None:
        backup = _backup(tx, user_id, _number(version))
        if algorithm != backup.algorithm:
            raise InvalidParam("the algorithm of a backup does not change")
        set_auth_data(tx, user_id, backup.version, auth_data)

    await api.database.write(unit)
    return {}


@routes.route("DELETE", "/room_keys/version/{version}")
async def delete_version(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`DELETE /room_keys/version/{version}`: with all its keys."""
    user_id, number = request.requester.user_id, _number(request.params["version"])
    if not await api.database.write(lambda tx: delete_key_backup(tx, user_id, number)):
        raise NotFound("there is no such backup")
    return {}


@routes.route("PUT", "/room_keys/keys")
@routes.route("PUT", "/room_keys/keys/{room_id}")
@routes.route("PUT", "/room_keys/keys/{room_id}/{session_id}")
async def put_keys(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`PUT /room_keys/keys[/{roomId}[/{sessionId}]]`: into the newest backup."""
    user_id, number, wanted = request.requester.user_id, _version_asked(request), _wanted(request)
    keys = list(_keys_of(request.body, wanted))

    def unit(tx: Tx) -> dict[str, Any]:
        _backup(tx, user_id, number)
        newest = key_backup_versions(tx, user_id)[-1]
        if newest != number:
            raise WrongKeysVersion("this is not the newest backup", current_version=str(newest))
        put_backed_up_keys(tx, user_id, number, keys)
        if backed_up_key_count(tx, user_id) > KEYS_PER_USER_MAX:
            raise TooLarge(f"an account keeps {KEYS_PER_USER_MAX} keys at most")
        return _state(tx, user_id, number)

    return await api.database.write(unit)


@routes.route("GET", "/room_keys/keys")
@routes.route("GET", "/room_keys/keys/{room_id}")
@routes.route("GET", "/room_keys/keys/{room_id}/{session_id}")
async def read_keys(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /room_keys/keys[/{roomId}[/{sessionId}]]`."""
    user_id, number, wanted = request.requester.user_id, _version_asked(request), _wanted(request)

    def unit(tx: Tx) -> list[BackedUpKey]:
        _backup(tx, user_id, number)
        return backed_up_keys(tx, user_id, number, wanted)

    keys = await api.database.read(unit)
    if wanted.session_id is not None:
        if not keys:
            raise NotFound("there is no key of that Megolm session")
        return keys[0].to_json()
    rooms: dict[str, dict[str, Any]] = {}
    for key in keys:
        rooms.setdefault(key.room_id, {"sessions": {}})["sessions"][key.session_id] = key.to_json()
    return {"rooms": rooms} if wanted.room_id is None else rooms.get(wanted.room_id, {"sessions": {}})


@routes.route("DELETE", "/room_keys/keys")
@routes.route("DELETE", "/room_keys/keys/{room_id}")
@routes.route("DELETE", "/room_keys/keys/{room_id}/{session_id}")
async def delete_keys(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`DELETE /room_keys/keys[/{roomId}[/{sessionId}]]`."""
    user_id, number, wanted = request.requester.user_id, _version_asked(request), _wanted(request)

    def unit(tx: Tx) -> dict[str, Any]:
        _backup(tx, user_id, number)
        delete_backed_up_keys(tx, user_id, number, wanted)
        return _state(tx, user_id, number)

    return await api.database.write(unit)


def _backup(tx: Tx, user_id: str, number: int) -> KeyBackup:
    """Raises: NotFound."""
    backup = key_backup(tx, user_id, number)
    if backup is None:
        raise NotFound("there is no such backup")
    return backup


def _state(tx: Tx, user_id: str, number: int) -> dict[str, Any]:
    """By which clients see whether another device has written."""
    return {
        "count": backed_up_key_count(tx, user_id, number),
        "etag": str(_backup(tx, user_id, number).changes),
    }


def _number(version: str) -> int:
    """Raises: NotFound, for what cannot be a version."""
    if not re.fullmatch(r"[1-9][0-9]{0,15}", version, re.ASCII):
        raise NotFound("there is no such backup")
    return int(version)


def _version_asked(request: ApiRequest) -> int:
    """Raises: MissingParam, NotFound."""
    if "version" not in request.query:
        raise MissingParam("query parameter 'version' is missing")
    return _number(request.query["version"])


def _wanted(request: ApiRequest) -> KeysWanted:
    """Raises: InvalidParam."""
    wanted = KeysWanted(room_id=request.params.get("room_id"), session_id=request.params.get("session_id"))
    if wanted.room_id is not None:
        _check_room_id(wanted.room_id)
    return wanted


def _algorithm(request: ApiRequest) -> str:
    """Raises: MissingParam, BadJson, InvalidParam."""
    algorithm = required_string(request.body, "algorithm")
    if len(algorithm) > NAME_CHARACTERS_MAX:
        raise InvalidParam("the name of the algorithm is too long")
    return algorithm


def _keys_of(body: dict[str, Any], wanted: KeysWanted) -> Iterable[BackedUpKey]:
    """The keys in a body of the shape that belongs to the path.

    Raises: MissingParam, BadJson, InvalidParam, TooLarge.
    """
    if wanted.room_id is None:
        for room_id, room in required_object(body, "rooms").items():
            _check_room_id(room_id)
            yield from _keys_of(_object(room, "a room"), KeysWanted(room_id=room_id))
    elif wanted.session_id is None:
        for session_id, key in required_object(body, "sessions").items():
            yield _key(wanted.room_id, session_id, _object(key, "a session"))
    else:
        yield _key(wanted.room_id, wanted.session_id, body)


def _key(room_id: str, session_id: str, body: dict[str, Any]) -> BackedUpKey:
    if not 0 < len(session_id) <= NAME_CHARACTERS_MAX:
        raise InvalidParam("a session ID is empty or too long")
    is_verified = body.get("is_verified")
    if not isinstance(is_verified, bool):
        raise BadJson("`is_verified` is not a boolean")
    return BackedUpKey(
        room_id=room_id,
        session_id=session_id,
        first_message_index=_count(body, "first_message_index"),
        forwarded_count=_count(body, "forwarded_count"),
        is_verified=is_verified,
        session_data=_bounded(required_object(body, "session_data"), "session_data"),
    )


def _count(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if type(value) is not int or value < 0:
        raise BadJson(f"`{name}` is not an integer of at least 0")
    return value


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadJson(f"{name} is not an object")
    return value


def _bounded(value: dict[str, Any], name: str) -> dict[str, Any]:
    if len(json.dumps(value)) > OBJECT_OCTETS_MAX:
        raise TooLarge(f"`{name}` is over {OBJECT_OCTETS_MAX} octets")
    return value


def _check_room_id(room_id: str) -> None:
    if not is_room_id(room_id):
        raise InvalidParam("that is not a room ID")
