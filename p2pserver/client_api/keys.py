"""Device and one-time keys: upload, query, claim, changes. Source: client-server API, "End-to-End Encryption".

Nothing here waits for a server that is away: its users' keys come from what it last answered, and only if there is no
such answer does its name go into `failures`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.federated_json import octets_on_the_way
from p2pserver.client_api.stream_token import StreamToken
from p2pserver.errors import BadJson, InvalidParam, MatrixError, MissingParam, TooLarge
from p2pserver.http_api.body_fields import optional_integer, optional_object, required_object
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import is_user_id, server_of
from p2pserver.rooms.s2s_users import KEYS_PER_CLAIM_MAX, USERS_PER_QUERY_MAX, claim_keys, claims_in
from p2pserver.store.accounts import user_exists
from p2pserver.store.device_keys import cross_signing_keys, local_keys, put_device_keys, with_user_signatures
from p2pserver.store.device_list_cache import UserKeys, cached_keys, remember_keys
from p2pserver.store.device_lists import device_list_changes
from p2pserver.store.one_time_keys import otk_counts, put_fallback_keys, put_one_time_keys
from p2pserver.store.tx import Tx

routes = Routes()

TIMEOUT_MS_DEFAULT = 10_000
KEY_OCTETS_MAX = 16 * 1024
DEVICES_PER_USER_MAX = 1_000
IDENTIFIER_CHARACTERS_MAX = 255
USERS_PER_QUESTION = 200
CLAIMS_PER_QUESTION = 50
"""Another server is asked in parts, so that no question is longer than a conversation takes."""


@routes.route("POST", "/keys/upload")
@routes.route("POST", "/keys/upload/{device_id}", versions=("r0",))
async def upload(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /keys/upload`; the answer counts one-time keys, also if none were sent."""
    requester = request.requester
    if not requester.device_id:
        raise InvalidParam("an application service says by device_id whose keys these are")
    device_keys = request.body.get("device_keys")
    if device_keys is not None:
        check_device_keys(device_keys, requester.user_id, requester.device_id)
    one_time_keys = optional_object(request.body, "one_time_keys")
    fallback_keys = optional_object(request.body, "fallback_keys")
    for key_id, key in [*one_time_keys.items(), *fallback_keys.items()]:
        check_one_time_key(key_id, key)

    def unit(tx: Tx) -> dict[str, int]:
        user_id, device_id = requester.user_id, requester.device_id
        if device_keys is not None:
            put_device_keys(tx, user_id, device_id, device_keys)
        if one_time_keys:
            put_one_time_keys(tx, user_id, device_id, one_time_keys)
        if fallback_keys:
            put_fallback_keys(tx, user_id, device_id, fallback_keys)
        return otk_counts(tx, user_id, device_id)

    return {"one_time_key_counts": await api.database.write(unit)}


def check_device_keys(keys: object, user_id: str, device_id: str) -> None:
    """Raises: BadJson, InvalidParam, TooLarge."""
    if not isinstance(keys, dict):
        raise BadJson("`device_keys` is not an object")
    if keys.get("user_id") != user_id or keys.get("device_id") != device_id:
        raise InvalidParam("the keys name another user or device than the one that uploads them")
    algorithms, by_id, signatures = keys.get("algorithms"), keys.get("keys"), keys.get("signatures", {})
    if not isinstance(algorithms, list) or not all(isinstance(algorithm, str) for algorithm in algorithms):
        raise InvalidParam("`algorithms` is not a list of strings")
    if not isinstance(by_id, dict) or not all(isinstance(key, str) for key in by_id.values()):
        raise InvalidParam("`keys` is not an object of strings")
    check_signatures(signatures)
    check_size(keys)


def check_signatures(signatures: object) -> None:
    """Raises: InvalidParam, unless it is an object of objects of strings."""
    if not isinstance(signatures, dict) or not all(
        isinstance(by_key, dict) and all(isinstance(signature, str) for signature in by_key.values())
        for by_key in signatures.values()
    ):
        raise InvalidParam("`signatures` is not an object of objects of strings")


def check_size(value: object) -> None:
    """Raises: BadJson, if other servers could not be sent it; TooLarge."""
    if octets_on_the_way(value) > KEY_OCTETS_MAX:
        raise TooLarge(f"a key is over {KEY_OCTETS_MAX} octets")


def check_one_time_key(key_id: str, key: object) -> None:
    """Raises: InvalidParam, BadJson, TooLarge."""
    algorithm, colon, name = key_id.partition(":")
    if not algorithm or not colon or not name or len(key_id) > 255:
        raise InvalidParam(f"{key_id[:255]!r} is not of the form algorithm:id")
    if not isinstance(key, str) and not (isinstance(key, dict) and isinstance(key.get("key"), str)):
        raise InvalidParam("a one-time key is neither a string nor an object with a `key`")
    check_size(key)


@routes.route("POST", "/keys/query")
async def query(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /keys/query`: users that do not exist have no entry."""
    asked = _asked_devices(request.body)
    by_server: dict[str, list[str]] = {}
    for user_id in asked:
        by_server.setdefault(server_of(user_id), []).append(user_id)
    own = by_server.pop(api.server_name, [])
    timeout_s = _timeout_s(request.body)
    questions = [
        (server, user_ids[first : first + USERS_PER_QUESTION])
        for server, user_ids in by_server.items()
        for first in range(0, len(user_ids), USERS_PER_QUESTION)
    ]
    answers = await asyncio.gather(*(_query_server(api, *question, timeout_s) for question in questions))
    fresh = {user_id: keys for answer in answers if answer is not None for user_id, keys in answer.items()}
    away = [question for question, answer in zip(questions, answers, strict=True) if answer is None]
    viewer = request.requester.user_id

    def unit(tx: Tx) -> dict[str, Any]:
        found = {user_id: local_keys(tx, user_id, with_names=True) for user_id in own if user_exists(tx, user_id)}
        for user_id, keys in fresh.items():
            remember_keys(tx, user_id, keys)
            found[user_id] = keys
        failures: dict[str, Any] = {}
        for server, user_ids in away:
            for user_id in user_ids:
                cached = cached_keys(tx, user_id)
                if cached is not None:
                    found[user_id] = cached
                else:
                    failures[server] = {}
        answer = _shown(tx, viewer, asked, found)
        return answer | {"failures": failures}

    return await (api.database.write(unit) if fresh else api.database.read(unit))


def _shown(
    tx: Tx, viewer: str, asked: Mapping[str, list[str]], found: Mapping[str, UserKeys]
) -> dict[str, dict[str, Any]]:
    """The keys as `viewer` may see them: the devices that he asked for, his own signatures, his user-signing key."""
    device_keys: dict[str, Any] = {}
    master_keys: dict[str, Any] = {}
    self_signing_keys: dict[str, Any] = {}
    user_signing_keys: dict[str, Any] = {}
    for user_id, keys in found.items():
        wanted = asked[user_id]
        device_keys[user_id] = {
            device_id: value for device_id, value in keys.device_keys.items() if not wanted or device_id in wanted
        }
        if keys.master_key is not None:
            master_keys[user_id] = with_user_signatures(tx, viewer, user_id, keys.master_key)
        if keys.self_signing_key is not None:
            self_signing_keys[user_id] = keys.self_signing_key
    if viewer in found and "user_signing" in (own := cross_signing_keys(tx, viewer)):
        user_signing_keys[viewer] = own["user_signing"]
    return {
        "device_keys": device_keys,
        "master_keys": master_keys,
        "self_signing_keys": self_signing_keys,
        "user_signing_keys": user_signing_keys,
    }


def _asked_devices(body: Mapping[str, Any]) -> dict[str, list[str]]:
    """The devices asked for by user, an empty list for all; without what are no user IDs.

    Raises: MissingParam, BadJson, InvalidParam.
    """
    asked = required_object(body, "device_keys")
    if len(asked) > USERS_PER_QUERY_MAX:
        raise InvalidParam(f"at most {USERS_PER_QUERY_MAX} users at once")
    for devices in asked.values():
        if not isinstance(devices, list) or not all(isinstance(device_id, str) for device_id in devices):
            raise BadJson("the devices of a user are not a list of strings")
    return {user_id: devices for user_id, devices in asked.items() if is_user_id(user_id)}


def _timeout_s(body: Mapping[str, Any]) -> float:
    milliseconds = optional_integer(body, "timeout", default=TIMEOUT_MS_DEFAULT, most=TIMEOUT_MS_DEFAULT)
    return milliseconds / 1000


async def _query_server(
    api: ClientApi, server: str, user_ids: list[str], timeout_s: float
) -> dict[str, UserKeys] | None:
    """What another server says about the keys of its users; None, if it cannot be asked now."""
    question: dict[str, dict[str, list[str]]] = {"device_keys": {user_id: [] for user_id in user_ids}}
    try:
        answer = await api.remote.ask(server, "keys_query", question, timeout_s=timeout_s)
    except MatrixError:
        return None
    checked = ((user_id, _checked_keys(answer, user_id)) for user_id in user_ids)
    return {user_id: keys for user_id, keys in checked if keys is not None}


def _checked_keys(answer: Mapping[str, Any], user_id: str) -> UserKeys | None:
    """One user's keys from another server's answer, without what is not about him; None, if it does not know him."""
    devices = _member(answer, "device_keys", user_id)
    if devices is None:
        return None
    kept = {}
    for device_id, value in list(devices.items())[:DEVICES_PER_USER_MAX]:
        try:
            check_device_keys(value, user_id, device_id)
        except MatrixError:
            continue
        kept[device_id] = {name: member for name, member in value.items() if name != "unsigned"}
    return UserKeys(
        device_keys=kept,
        master_key=_checked_cross_signing_key(_member(answer, "master_keys", user_id), user_id, "master"),
        self_signing_key=_checked_cross_signing_key(
            _member(answer, "self_signing_keys", user_id), user_id, "self_signing"
        ),
    )


def _member(answer: Mapping[str, Any], name: str, user_id: str) -> dict[str, Any] | None:
    by_user = answer.get(name)
    value = by_user.get(user_id) if isinstance(by_user, dict) else None
    return value if isinstance(value, dict) else None


def _checked_cross_signing_key(key: dict[str, Any] | None, user_id: str, usage: str) -> dict[str, Any] | None:
    """A key with the signatures of its owner alone; None, if it is not what it should be."""
    if key is None:
        return None
    try:
        check_cross_signing_key(key, user_id, usage)
    except MatrixError:
        return None
    own = key.get("signatures", {}).get(user_id)
    unsigned = {name: member for name, member in key.items() if name not in ("signatures", "unsigned")}
    return unsigned if own is None else {**unsigned, "signatures": {user_id: own}}


def check_cross_signing_key(key: object, user_id: str, usage: str) -> str:
    """Returns the public key, in unpadded base64, of a cross-signing key object.

    Raises: BadJson, InvalidParam, TooLarge.
    """
    if not isinstance(key, dict):
        raise BadJson("a cross-signing key is not an object")
    if key.get("user_id") != user_id:
        raise InvalidParam("a cross-signing key names another user")
    usages, by_id = key.get("usage"), key.get("keys")
    if not isinstance(usages, list) or usage not in usages:
        raise InvalidParam(f"a cross-signing key is not for {usage!r}")
    if not isinstance(by_id, dict) or len(by_id) != 1:
        raise InvalidParam("a cross-signing key object holds one key")
    ((key_id, public),) = by_id.items()
    if not isinstance(public, str) or key_id != f"ed25519:{public}":
        raise InvalidParam("a cross-signing key is named by itself")
    check_signatures(key.get("signatures", {}))
    check_size(key)
    return public


@routes.route("POST", "/keys/claim")
async def claim(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /keys/claim`: one key for each device that has one; a server that is away is among the failures at once."""
    asked = required_object(request.body, "one_time_keys")
    claims = list(claims_in(asked))
    if len(claims) > KEYS_PER_CLAIM_MAX:
        raise InvalidParam(f"at most {KEYS_PER_CLAIM_MAX} keys at once")
    by_server: dict[str, list[tuple[str, str, str]]] = {}
    for user_id, device_id, algorithm in claims:
        if len(device_id) > IDENTIFIER_CHARACTERS_MAX or len(algorithm) > IDENTIFIER_CHARACTERS_MAX:
            raise InvalidParam("a device ID or an algorithm is too long")
        if is_user_id(user_id):
            by_server.setdefault(server_of(user_id), []).append((user_id, device_id, algorithm))
    own = _by_user_and_device(by_server.pop(api.server_name, []))
    claimed = await api.database.write(lambda tx: claim_keys(tx, api.server_name, own)) if own else {}
    timeout_s = _timeout_s(request.body)
    questions = [
        (server, _by_user_and_device(of_server[first : first + CLAIMS_PER_QUESTION]))
        for server, of_server in by_server.items()
        for first in range(0, len(of_server), CLAIMS_PER_QUESTION)
    ]
    answers = await asyncio.gather(*(_claim_from_server(api, *question, timeout_s) for question in questions))
    failures: dict[str, Any] = {}
    for (server, _), answer in zip(questions, answers, strict=True):
        if answer is None:
            failures[server] = {}
        else:
            for user_id, by_device in answer.items():
                claimed.setdefault(user_id, {}).update(by_device)
    return {"one_time_keys": claimed, "failures": failures}


def _by_user_and_device(claims: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    wanted: dict[str, dict[str, str]] = {}
    for user_id, device_id, algorithm in claims:
        wanted.setdefault(user_id, {})[device_id] = algorithm
    return wanted


async def _claim_from_server(
    api: ClientApi, server: str, wanted: dict[str, dict[str, str]], timeout_s: float
) -> dict[str, dict[str, dict[str, Any]]] | None:
    """Keys of another server's users, no more than were asked for; None, if it cannot be asked now."""
    try:
        answer = await api.remote.ask(server, "keys_claim", {"one_time_keys": wanted}, timeout_s=timeout_s)
    except MatrixError:
        return None
    claimed: dict[str, dict[str, dict[str, Any]]] = {}
    for user_id, by_device in wanted.items():
        given = _member(answer, "one_time_keys", user_id) or {}
        for device_id, algorithm in by_device.items():
            keys = given.get(device_id)
            if not isinstance(keys, dict) or len(keys) != 1:
                continue
            ((key_id, key),) = keys.items()
            try:
                check_one_time_key(key_id, key)
            except MatrixError:
                continue
            if key_id.partition(":")[0] == algorithm:
                claimed.setdefault(user_id, {})[device_id] = {key_id: key}
    return claimed


@routes.route("GET", "/keys/changes")
async def changes(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`GET /keys/changes`: agrees with `device_lists` of a sync over the same span."""
    if "from" not in request.query or "to" not in request.query:
        raise MissingParam("query parameters 'from' and 'to' are required")
    since, upto = (StreamToken.parse(request.query[name]).position for name in ("from", "to"))
    user_id = request.requester.user_id
    changed, left = await api.database.read(lambda tx: device_list_changes(tx, user_id, since, upto))
    return {"changed": changed, "left": left}
