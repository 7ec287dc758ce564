"""Content hash, reference hash, event ID, room ID.

Every function raises `NotCanonical` where the event has no canonical JSON. Source: server-server API, "Calculating the
content hash for an event", "Calculating the reference hash for an event"; room version 12 (MSC4291) for room IDs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from p2pserver.events.canonical import encode_canonical
from p2pserver.events.redaction import redact
from p2pserver.events.unpadded_base64 import encode_base64, encode_base64url
from p2pserver.events.versions import RoomVersionRules

_OUTSIDE_CONTENT_HASH = frozenset({"unsigned", "signatures", "hashes"})


def content_hash(raw: Mapping[str, Any]) -> str:
    """SHA-256 of the whole event less `unsigned`, `signatures` and `hashes`, in unpadded standard base64."""
    hashed = {key: value for key, value in raw.items() if key not in _OUTSIDE_CONTENT_HASH}
    return encode_base64(hashlib.sha256(encode_canonical(hashed)).digest())


def protected_octets(raw: Mapping[str, Any], rules: RoomVersionRules) -> bytes:
    """The bytes that servers sign and that the reference hash covers: the redacted form less `signatures`."""
    redacted = redact(raw, rules)
    redacted.pop("signatures", None)
    return encode_canonical(redacted)


def reference_hash(raw: Mapping[str, Any], rules: RoomVersionRules) -> bytes:
    """SHA-256 (32 octets) of the redacted event less `signatures` and `unsigned`."""
    return hashlib.sha256(protected_octets(raw, rules)).digest()


def event_id_of(raw: Mapping[str, Any], rules: RoomVersionRules) -> str:
    """`$` and 43 characters: the reference hash in unpadded URL-safe base64 (room version 4 and later)."""
    return "$" + encode_base64url(reference_hash(raw, rules))


def room_id_of_create(raw: Mapping[str, Any], rules: RoomVersionRules) -> str:
    """The room ID that a create event gives: `!` and its hash (version 12), else its own `room_id`.

    Raises: KeyError, where a create event before version 12 has no `room_id`.
    """
    if rules.room_id_is_create_hash:
        return "!" + encode_base64url(reference_hash(raw, rules))
    room_id = raw["room_id"]
    if not isinstance(room_id, str):
        raise KeyError("room_id")
    return room_id
