"""What another server may ask about the users of this one: profiles, search, keys. See docs/client-api.md.

Each function answers one question: `(tx, origin, body) -> answer`, inside a write unit. They raise a MatrixError, which
the asking side sees as the same error. Source: server-server API, "Querying for information", "Device Management",
"End-to-End Encryption"; the bodies are those of `/user/keys/query`, `/user/keys/claim`, `/user/devices/{userId}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from p2pserver.errors import BadJson, Forbidden, NotFound
from p2pserver.identifiers import server_of
from p2pserver.store.accounts import search_local_users, user_exists
from p2pserver.store.device_keys import local_keys
from p2pserver.store.one_time_keys import claim_key
from p2pserver.store.profiles import whole_profile
from p2pserver.store.tx import Tx

UserHandler: TypeAlias = Callable[[Tx, str, dict[str, Any]], dict[str, Any]]

USERS_PER_QUERY_MAX = 1_000
KEYS_PER_CLAIM_MAX = 1_000
SEARCH_RESULTS_MAX = 50


def user_handlers(server_name: str, *, private: bool) -> dict[str, UserHandler]:
    """The questions by name. A `private` node shows its users in no search."""

    def users(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
        if private:
            raise Forbidden("this node does not list its users")
        term, limit = body.get("search"), body.get("limit", 10)
        if not isinstance(term, str) or type(limit) is not int:
            raise BadJson("`search` is not a string or `limit` is not an integer")
        found = search_local_users(tx, term, max(1, min(limit, SEARCH_RESULTS_MAX)))
        return {"results": [user.to_json() for user in found]}

    def keys_query(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
        return query_keys(tx, server_name, body)

    def keys_claim(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"one_time_keys": claim_keys(tx, server_name, body.get("one_time_keys"))}

    return {
        "profile": _profile,
        "users": users,
        "keys_query": keys_query,
        "keys_claim": keys_claim,
        "devices": _devices,
    }


def _profile(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
    user_id = body.get("user_id")
    if not isinstance(user_id, str):
        raise BadJson("`user_id` is not a string")
    profile = whole_profile(tx, user_id)
    if profile is None:
        raise NotFound("there is no such user")
    return profile


def query_keys(tx: Tx, server_name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Public keys of users of this server; unknown ones have no entry.

    Raises: BadJson.
    """
    answer: dict[str, Any] = {"device_keys": {}, "master_keys": {}, "self_signing_keys": {}}
    asked = body.get("device_keys")
    if not isinstance(asked, dict) or len(asked) > USERS_PER_QUERY_MAX:
        raise BadJson("`device_keys` is not an object of bounded size")
    for user_id, devices in asked.items():
        if not isinstance(devices, list):
            raise BadJson("the devices asked for are not in a list")
        if server_of(user_id) != server_name or not user_exists(tx, user_id):
            continue
        keys = local_keys(tx, user_id, with_names=False)
        answer["device_keys"][user_id] = {
            device_id: value for device_id, value in keys.device_keys.items() if not devices or device_id in devices
        }
        if keys.master_key is not None:
            answer["master_keys"][user_id] = keys.master_key
        if keys.self_signing_key is not None:
            answer["self_signing_keys"][user_id] = keys.self_signing_key
    return answer


def claims_in(asked: object) -> Iterator[tuple[str, str, str]]:
    """(user, device, algorithm) of each key in `one_time_keys` of a claim.

    Raises: BadJson.
    """
    if not isinstance(asked, dict):
        raise BadJson("`one_time_keys` is not an object")
    for user_id, by_device in asked.items():
        if not isinstance(by_device, dict):
            raise BadJson("the keys asked for are not by device")
        for device_id, algorithm in by_device.items():
            if not isinstance(algorithm, str):
                raise BadJson("an algorithm is not a string")
            yield user_id, device_id, algorithm


def claim_keys(tx: Tx, server_name: str, asked: object) -> dict[str, dict[str, dict[str, Any]]]:
    """Hands out one key for each (user, device, algorithm) of this server that has one.

    Raises: BadJson.
    """
    claims = list(claims_in(asked))
    if len(claims) > KEYS_PER_CLAIM_MAX:
        raise BadJson("too many keys in one claim")
    claimed: dict[str, dict[str, dict[str, Any]]] = {}
    for user_id, device_id, algorithm in claims:
        if server_of(user_id) != server_name:
            continue
        key = claim_key(tx, user_id, device_id, algorithm)
        if key is not None:
            claimed.setdefault(user_id, {})[device_id] = {key[0]: key[1]}
    return claimed


def _devices(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
    user_id = body.get("user_id")
    if not isinstance(user_id, str) or not user_exists(tx, user_id):
        raise NotFound("there is no such user")
    keys = local_keys(tx, user_id, with_names=False)
    row = tx.one("SELECT position FROM device_list_changes WHERE user_id = ?", (user_id,))
    answer: dict[str, Any] = {
        "user_id": user_id,
        "stream_id": 0 if row is None else row[0],
        "devices": [{"device_id": device_id, "keys": value} for device_id, value in keys.device_keys.items()],
    }
    if keys.master_key is not None:
        answer["master_key"] = keys.master_key
    if keys.self_signing_key is not None:
        answer["self_signing_key"] = keys.self_signing_key
    return answer
