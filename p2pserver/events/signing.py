"""Ed25519 signatures of JSON objects and events, and where the keys to check them come from.

Source: Matrix appendices, "Signing JSON"; server-server API, "Signing Events".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import Any, Protocol, TypeAlias

from nacl._sodium import ffi, lib  # type: ignore[import-not-found]
from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.signing import SigningKey

from p2pserver.events.canonical import NotCanonical, encode_canonical
from p2pserver.events.hashing import content_hash, protected_octets
from p2pserver.events.unpadded_base64 import decode_base64, encode_base64
from p2pserver.events.versions import RoomVersionRules
from p2pserver.identifiers import IDENTIFIER_OCTETS_MAX, KEY_ID, public_key_of

SEED_OCTETS = 32
VERIFY_KEY_OCTETS = 32
SIGNATURE_OCTETS = 64

_MIXED_ORDER_KEY = bytes.fromhex("3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29")
_MIXED_ORDER_SIGNATURE = bytes.fromhex(
    "ec6952fb7b02f1921da51d8f00ca7e52037241ef0f1bf245e67d62139856678a"
    "46993434a195266f383c19878866fb82100db90b38c18ffcd287e1cf67c4e207"
)
"""Of no octets; made by that key's rules but for a point of order 2 added to R, so valid only with the cofactor."""


Claim: TypeAlias = tuple[bytes, bytes]
"""A signature of 64 octets, and the safe key (`is_safe_key`) by which it would be one."""


class Signer:
    """A server's signing key: its name, its key ID and a 32-octet Ed25519 seed, which is never shown."""

    __slots__ = ("_signing_key", "key_id", "server_name")

    def __init__(self, server_name: str, key_id: str, seed: bytes) -> None:
        """Raises: ValueError, if the seed is not 32 octets or the key ID not of the algorithm `ed25519`."""
        if not key_id.startswith("ed25519:"):
            raise ValueError("only ed25519 keys sign")
        if len(seed) != SEED_OCTETS:
            raise ValueError(f"a seed has {SEED_OCTETS} octets")
        self.server_name = server_name
        self.key_id = key_id
        self._signing_key = SigningKey(seed)

    def __repr__(self) -> str:
        return f"Signer({self.server_name!r}, {self.key_id!r})"

    @property
    def verify_key(self) -> bytes:
        """The public key, 32 octets."""
        return bytes(self._signing_key.verify_key)

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`, 64 octets."""
        return self._signing_key.sign(data).signature


class KeyLookup(Protocol):
    """Which key a server signs with, under a key ID."""

    def verify_key(self, server_name: str, key_id: str, valid_at_ms: int | None) -> bytes | None:
        """The 32-octet Ed25519 key, or None where this server has no such key as far as is known.

        With `valid_at_ms` (ms since 1970), only a key that was valid then; None: one that ever was.
        Source: room version 5, "Signing key validity period".
        """


class SelfCertifyingKeys:
    """Keys of servers whose name is their key: known without asking anybody, the same everywhere and for ever."""

    def verify_key(self, server_name: str, key_id: str, valid_at_ms: int | None = None) -> bytes | None:
        """The key spelled by the name under `ed25519:1`, at any time; None for other IDs, other names, unsafe keys."""
        if key_id != KEY_ID or len(server_name) > IDENTIFIER_OCTETS_MAX:
            return None
        return _key_of_name(server_name)


@lru_cache(maxsize=4096)
def _key_of_name(server_name: str) -> bytes | None:
    key = public_key_of(server_name)
    return key if key is not None and is_safe_key(key) else None


def is_safe_key(verify_key: bytes) -> bool:
    """Whether the octets are the canonical spelling of a point of the prime-order subgroup other than the neutral one.

    Under any other key, implementations of Ed25519 disagree on which signatures are valid.
    """
    return len(verify_key) == VERIFY_KEY_OCTETS and _is_proper_point(verify_key)


@lru_cache(maxsize=4096)
def _is_proper_point(octets: bytes) -> bool:
    return crypto_core_ed25519_is_valid_point(octets)


def signature_matches(signature: bytes, data: bytes, verify_key: bytes) -> bool:
    """Whether this is the key's signature of the data, by the strictest reading, whichever library is installed.

    Refused are an unsafe key (`is_safe_key`), a non-canonical S, and an R of small order or with a part of small order.
    The last is accepted by versions of libsodium that verify with the cofactor: two nodes would disagree about an event
    whose author made it so.
    """
    if len(signature) != SIGNATURE_OCTETS or not is_safe_key(verify_key):
        return False
    return has_genuine(((signature, verify_key),), data)


def _opens(signed: bytes, verify_key: bytes) -> bool:
    """`nacl.bindings.crypto_sign_open` without the message, which it would copy twice and libsodium once more."""
    return bool(lib.crypto_sign_open(ffi.NULL, ffi.NULL, signed, len(signed), verify_key) == 0)


@cache
def _library_verifies_with_cofactor() -> bool:
    return _opens(_MIXED_ORDER_SIGNATURE, _MIXED_ORDER_KEY)


def sign_json(obj: Mapping[str, Any], signer: Signer) -> dict[str, Any]:
    """A copy of the object with the signer's signature added; other signatures and `unsigned` stay as they are.

    Raises: NotCanonical.
    """
    return _with_signature(obj, signer, _signed_octets(obj))


def signature_is_valid(obj: Mapping[str, Any], server_name: str, key_id: str, verify_key: bytes) -> bool:
    """Whether a JSON object (not an event) carries this entity's signature under this key ID and key."""
    signature = _signature_of(obj.get("signatures"), server_name, key_id)
    if signature is None:
        return False
    try:
        return signature_matches(signature, _signed_octets(obj), verify_key)
    except NotCanonical:
        return False


def sign_event(raw: Mapping[str, Any], rules: RoomVersionRules, signer: Signer) -> dict[str, Any]:
    """A copy of the event with its content hash and the signer's signature; other signatures stay as they are.

    Raises: NotCanonical.
    """
    hashed = {**raw, "hashes": {"sha256": content_hash(raw, rules)}}
    return _with_signature(hashed, signer, protected_octets(hashed, rules))


def server_has_signed(
    signatures: object, server_name: str, data: bytes, keys: KeyLookup, valid_at_ms: int | None
) -> bool:
    """Whether `signatures` holds one of this server's signatures of the data that verifies under a known key.

    `valid_at_ms` as in `KeyLookup.verify_key`.

    Key IDs that are unknown, of another algorithm, or hold no signature are skipped.
    """
    return has_genuine(claims_of(signatures, server_name, keys, valid_at_ms), data)


def claims_of(signatures: object, server_name: str, keys: KeyLookup, valid_at_ms: int | None) -> list[Claim]:
    """The first half of `server_has_signed`: what may be this server's signatures, in the order of `signatures`."""
    own = signatures.get(server_name) if isinstance(signatures, dict) else None
    if not isinstance(own, dict):
        return []
    claims: list[Claim] = []
    for key_id, text in own.items():
        if not isinstance(key_id, str) or not isinstance(text, str) or not key_id.startswith("ed25519:"):
            continue
        verify_key = keys.verify_key(server_name, key_id, valid_at_ms)
        if verify_key is None:
            continue
        try:
            signature = decode_base64(text)
        except ValueError:
            continue
        if len(signature) == SIGNATURE_OCTETS and is_safe_key(verify_key):
            claims.append((signature, verify_key))
    return claims


def has_genuine(claims: Iterable[Claim], data: bytes) -> bool:
    """The second half: whether one of the claims is its key's signature of the data."""
    for signature, verify_key in claims:
        if _opens(signature + data, verify_key) and (
            not _library_verifies_with_cofactor() or crypto_core_ed25519_is_valid_point(signature[:32])
        ):
            return True
    return False


def _signature_of(signatures: object, server_name: str, key_id: str) -> bytes | None:
    own = signatures.get(server_name) if isinstance(signatures, dict) else None
    return _decode_signature(own.get(key_id)) if isinstance(own, dict) else None


def _decode_signature(text: object) -> bytes | None:
    if not isinstance(text, str):
        return None
    try:
        return decode_base64(text)
    except ValueError:
        return None


def _signed_octets(obj: Mapping[str, Any]) -> bytes:
    return encode_canonical({key: value for key, value in obj.items() if key not in {"signatures", "unsigned"}})


def _with_signature(obj: Mapping[str, Any], signer: Signer, data: bytes) -> dict[str, Any]:
    signatures = dict(obj.get("signatures", {}))
    own = dict(signatures.get(signer.server_name, {}))
    own[signer.key_id] = encode_base64(signer.sign(data))
    signatures[signer.server_name] = own
    return {**obj, "signatures": signatures}
