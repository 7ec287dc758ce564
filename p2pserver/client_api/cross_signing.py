"""Cross-signing: keys that vouch for devices, and the signatures by which people vouch for each other.

Source: client-server API, "Cross-signing", `/keys/device_signing/upload`, `/keys/signatures/upload`.
"""

from __future__ import annotations

from typing import Any

from p2pserver.client_api.app import ClientApi
from p2pserver.client_api.keys import check_cross_signing_key, check_signatures, check_size
from p2pserver.client_api.login import require_password
from p2pserver.errors import BadJson, Forbidden, InvalidParam, MatrixError, MissingParam, NotFound
from p2pserver.events.signing import signature_is_valid
from p2pserver.events.unpadded_base64 import decode_base64
from p2pserver.http_api.routing import ApiRequest, Routes
from p2pserver.identifiers import server_of
from p2pserver.store.device_keys import (
    USAGES,
    add_device_signature,
    add_master_signature,
    add_user_signature,
    cross_signing_keys,
    device_keys_of,
    put_cross_signing_keys,
    unsigned_part,
)
from p2pserver.store.device_list_cache import cached_keys
from p2pserver.store.devices import device_ids
from p2pserver.store.tx import Tx

routes = Routes()

OBJECTS_MAX = 1_000


class InvalidSignature(MatrixError):
    errcode = "M_INVALID_SIGNATURE"


@routes.route("POST", "/keys/device_signing/upload")
@routes.route("POST", "/keys/device_signing/upload", versions=("unstable",))
async def upload_keys(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /keys/device_signing/upload`: free for the first keys and for a repeat; else asks for the password."""
    user_id = request.requester.user_id
    public: dict[str, str] = {}
    keys: dict[str, dict[str, Any]] = {}
    for usage in USAGES:
        key = request.body.get(f"{usage}_key")
        if key is not None:
            public[usage] = check_cross_signing_key(key, user_id, usage)
            keys[usage] = key
    if not keys:
        raise MissingParam("there is no key to upload")
    held = await api.database.read(lambda tx: cross_signing_keys(tx, user_id))
    master = keys.get("master") or held.get("master")
    if master is None:
        raise MissingParam("there is no master key yet: `master_key` is missing")
    for usage, key in keys.items():
        if usage != "master":
            _check_signed_by(key, user_id, _public_of(master))
    if "master" in held and any(
        usage not in held or unsigned_part(held[usage]) != unsigned_part(key) for usage, key in keys.items()
    ):
        await require_password(api, request)

    def unit(tx: Tx) -> None:
        if set(public.values()) & set(device_ids(tx, user_id)):
            raise Forbidden("this key has the name of one of the user's devices")
        now_held = cross_signing_keys(tx, user_id)
        if now_held.get("master") != held.get("master"):
            raise Forbidden("the master key was replaced at the same time")
        put_cross_signing_keys(tx, user_id, keys)

    await api.database.write(unit)
    return {}


@routes.route("POST", "/keys/signatures/upload")
@routes.route("POST", "/keys/signatures/upload", versions=("unstable",))
async def upload_signatures(api: ClientApi, request: ApiRequest) -> dict[str, Any]:
    """`POST /keys/signatures/upload`: each object stands or falls alone."""
    user_id = request.requester.user_id
    signed: list[tuple[str, str, Any]] = []
    for target, objects in request.body.items():
        if not isinstance(objects, dict):
            raise BadJson("the signed objects of a user are not an object")
        signed += [(target, key_id, value) for key_id, value in objects.items()]
    if len(signed) > OBJECTS_MAX:
        raise InvalidParam(f"at most {OBJECTS_MAX} objects at once")

    def unit(tx: Tx) -> dict[str, Any]:
        failures: dict[str, Any] = {}
        for target, key_id, value in signed:
            try:
                if target == user_id:
                    _sign_own(tx, user_id, key_id, value)
                else:
                    _sign_other(tx, api.server_name, user_id, target, key_id, value)
            except MatrixError as error:
                failures.setdefault(target, {})[key_id] = error.body()
        return failures

    return {"failures": await api.database.write(unit)}


def _sign_own(tx: Tx, user_id: str, key_id: str, signed: Any) -> None:
    """Adds the user's signature on his own device (by his self-signing key) or master key (by one of his devices).

    Raises: NotFound, InvalidParam, InvalidSignature, TooLarge.
    """
    signatures = _signatures_of(signed, user_id)
    keys = cross_signing_keys(tx, user_id)
    device = device_keys_of(tx, user_id, key_id)
    if device is not None:
        _check_same(signed, device)
        public = _public_of(keys["self_signing"]) if "self_signing" in keys else None
        known = device.get("signatures", {}).get(user_id, {})
        for signer_key_id, signature in signatures.items():
            if public is not None and signer_key_id == f"ed25519:{public}":
                _check_signed_by(signed, user_id, public)
                add_device_signature(tx, user_id, key_id, signer_key_id, signature)
            elif known.get(signer_key_id) != signature:
                raise InvalidSignature("a device is signed by the self-signing key")
    elif "master" in keys and _public_of(keys["master"]) == key_id:
        _check_same(signed, keys["master"])
        for signer_key_id, signature in signatures.items():
            _check_signed_by(signed, user_id, _own_public_key(tx, user_id, signer_key_id, master=key_id), signer_key_id)
            add_master_signature(tx, user_id, signer_key_id, signature)
    else:
        raise NotFound("there is no such key")


def _own_public_key(tx: Tx, user_id: str, signer_key_id: str, *, master: str) -> str:
    """The Ed25519 key of a device of the user, or the master key itself.

    Raises: InvalidSignature, if it is neither.
    """
    device_id = signer_key_id.partition(":")[2]
    if device_id == master:
        return master
    public = (device_keys_of(tx, user_id, device_id) or {"keys": {}})["keys"].get(f"ed25519:{device_id}")
    if not isinstance(public, str):
        raise InvalidSignature("the signing key is not one of the user's")
    return public


def _sign_other(tx: Tx, server_name: str, user_id: str, target: str, key_id: str, signed: Any) -> None:
    """Adds the signature of the user's user-signing key on another user's master key.

    Raises: NotFound, InvalidParam, InvalidSignature, TooLarge.
    """
    signatures = _signatures_of(signed, user_id)
    if server_of(target) == server_name:
        master = cross_signing_keys(tx, target).get("master")
    else:
        cached = cached_keys(tx, target)
        master = None if cached is None else cached.master_key
    if master is None or _public_of(master) != key_id:
        raise NotFound("there is no such master key")
    _check_same(signed, master)
    own = cross_signing_keys(tx, user_id).get("user_signing")
    if own is None:
        raise NotFound("the user has no user-signing key")
    public = _public_of(own)
    signature = signatures.get(f"ed25519:{public}")
    if signature is None:
        raise InvalidSignature("another user's master key is signed by the user-signing key")
    _check_signed_by(signed, user_id, public)
    add_user_signature(tx, user_id, target, f"ed25519:{key_id}", f"ed25519:{public}", signature)


def _signatures_of(signed: Any, user_id: str) -> dict[str, str]:
    """The signatures of `user_id` on an object, which has some."""
    if not isinstance(signed, dict):
        raise BadJson("what is signed is not an object")
    check_size(signed)
    signatures = signed.get("signatures", {})
    check_signatures(signatures)
    own: dict[str, str] = signatures.get(user_id, {})
    if not own:
        raise InvalidParam("there is no signature of the user in it")
    return own


def _check_same(signed: dict[str, Any], held: dict[str, Any]) -> None:
    if unsigned_part(signed) != unsigned_part(held):
        raise InvalidParam("what is signed is not the key that is held here")


def _check_signed_by(signed: dict[str, Any], user_id: str, public: str, key_id: str | None = None) -> None:
    """Raises: InvalidSignature, unless `public`, named by `key_id` or itself, has signed the object."""
    try:
        octets = decode_base64(public)
    except ValueError as error:
        raise InvalidSignature("the signing key is not base64") from error
    if not signature_is_valid(signed, user_id, key_id or f"ed25519:{public}", octets):
        raise InvalidSignature("the signature does not match")


def _public_of(key: dict[str, Any]) -> str:
    (public,) = key["keys"].values()
    assert isinstance(public, str)
    return public
