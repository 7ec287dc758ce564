"""Content hash, reference hash, event ID, room ID.

Every function raises `NotCanonical` where the event has no canonical JSON (in versions that allow it: no loose form).
Source: server-server API, "Calculating the content hash for an event", "Calculating the reference hash for an event";
room version 12 (MSC4291) for room IDs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from p2pserver.events.canonical import encode_canonical
from p2pserver.events.redaction import redact
from p2pserver.events.unpadded_base64 import encode_base64, encode_base64url
from p2pserver.events.versions import EventIds, RoomVersionRules

_CHOSEN, _HASH_URL_SAFE = EventIds.CHOSEN, EventIds.HASH_URL_SAFE
_OUTSIDE_CONTENT_HASH = ("unsigned", "signatures", "hashes")


def content_hash(raw: Mapping[str, Any], rules: RoomVersionRules) -> str:
    """SHA-256 of the whole event less `unsigned`, `signatures` and `hashes`, in unpadded standard base64."""
    hashed = dict(raw)
    for key in _OUTSIDE_CONTENT_HASH:
        hashed.pop(key, None)
    return encode_base64(hashlib.sha256(encode_canonical(hashed, loose=not rules.strict_json)).digest())


def protected_octets(raw: Mapping[str, Any], rules: RoomVersionRules) -> bytes:
    """The bytes that servers sign and that the reference hash covers: the redacted form less `signatures`."""
    redacted = redact(raw, rules)
    redacted.pop("signatures", None)
    return encode_canonical(redacted, loose=not rules.strict_json)


def reference_hash(raw: Mapping[str, Any], rules: RoomVersionRules) -> bytes:
    """SHA-256 (32 octets) of the redacted event less `signatures` and `unsigned`."""
    return hashlib.sha256(protected_octets(raw, rules)).digest()


def event_id_of(raw: Mapping[str, Any], rules: RoomVersionRules) -> str:
    """`$` and 43 characters, the reference hash in unpadded base64; before version 3, the `event_id` that it carries.

    Raises: KeyError, where an event of version 1 or 2 has no `event_id`.
    """
    if rules.event_ids is _CHOSEN:
        event_id = raw["event_id"]
        if not isinstance(event_id, str):
            raise KeyError("event_id")
        return event_id
    return spell_event_id(reference_hash(raw, rules), rules)


def spell_event_id(digest: bytes, rules: RoomVersionRules) -> str:
    """The event ID that a reference hash gives, in version 3 and later."""
    if rules.event_ids is _HASH_URL_SAFE:
        return "$" + encode_base64url(digest)
    return "$" + encode_base64(digest)


def bound_event_id(raw: Mapping[str, Any], rules: RoomVersionRules, server_name: str) -> str:
    """The one event ID that a node may choose for an event of version 1 or 2: `$`, 86 characters, `:` and its name.

    The characters are two hashes in URL-safe base64, of the redacted form and of the whole event, each less `event_id`,
    `hashes`, `signatures` and `unsigned`. So the ID fixes the event, as in later versions: nobody can give it twice,
    and no two events can cite each other. The first half can be checked on a redacted copy too.
    Source: docs/event-graph.md.
    """
    return f"${_id_part(redact(raw, rules), rules)}{_id_part(raw, rules)}:{server_name}"


def _id_part(raw: Mapping[str, Any], rules: RoomVersionRules) -> str:
    hashed = {key: value for key, value in raw.items() if key not in _OUTSIDE_CONTENT_HASH and key != "event_id"}
    return encode_base64url(hashlib.sha256(encode_canonical(hashed, loose=not rules.strict_json)).digest())


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
