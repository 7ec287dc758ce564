"""The event formats of all room versions: types, sizes in octets, counts, identifier grammar.

The fields are checked here; that the whole is canonical JSON and at most 65,536 octets is checked where it is encoded
(`receipt`, `build`). Source: server-server API, "PDUs"; client-server API, "Size limits"; room versions 1, 3, 4, 6, 12.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from p2pserver.events.canonical import INTEGER_MAX, check_canonical, is_flat_text
from p2pserver.events.versions import EventIds, RoomVersionRules
from p2pserver.identifiers import IDENTIFIER_OCTETS_MAX, is_chosen_event_id, is_room_id, is_user_id

EVENT_OCTETS_MAX = 65_536
"""Canonical JSON in federation form, `signatures` and `hashes` included, `unsigned` left out."""

LOOSE_DEPTH_MAX = 2**63 - 1
"""The largest depth until version 5; from 6 on it is that of all integers."""

PREV_EVENTS_MAX = 20
AUTH_EVENTS_MAX = 10
HASHES_MAX = 8
"""Of one cited event, in versions 1 and 2."""

_EVENT_ID_LENGTH = 44
_ESCAPED_OCTETS_MAX = 6
"""Of one character of ASCII."""
_BETWEEN_OCTETS_MAX = 6
"""Around the parts of an entry: quotes, a colon, a comma or braces."""
_CHOSEN, _HASH = EventIds.CHOSEN, EventIds.HASH
_HASHES = re.compile(r"\$[A-Za-z0-9+/]{43}(?:\n\$[A-Za-z0-9+/]{43})*+").fullmatch
_HASHES_URL_SAFE = re.compile(r"\$[A-Za-z0-9_-]{43}(?:\n\$[A-Za-z0-9_-]{43})*+").fullmatch
_ROOM_ID_V12 = re.compile(r"![A-Za-z0-9_-]{43}")

_FULLY_CHECKED = frozenset(
    {
        "type",
        "state_key",
        "room_id",
        "sender",
        "depth",
        "origin_server_ts",
        "prev_events",
        "auth_events",
        "signatures",
    }
)
_USUAL = _FULLY_CHECKED | {"content", "hashes"}


class MalformedEvent(ValueError):
    """The event does not follow the format of its room version."""


class OversizedEvent(MalformedEvent):
    """The event, or one of its fields, has more octets than the format allows."""


def check_fields(raw: Mapping[str, Any], rules: RoomVersionRules, *, limit_references: bool = True) -> int | None:
    """Check every field that the format names, in an object whose other fields may be anything.

    With `limit_references=False` the counts of prev_events and auth_events are not limited (answers to /backfill).
    Returns how many octets of canonical JSON `signatures` has at most; None, if that takes a closer look.

    Raises: OversizedEvent, MalformedEvent.
    """
    get = raw.get
    event_type = get("type")
    if type(event_type) is not str or len(event_type) > IDENTIFIER_OCTETS_MAX or not event_type.isascii():
        _short_string("type", event_type)
    state_key = get("state_key")
    if state_key is not None or "state_key" in raw:
        _short_string("state_key", state_key)
    sender = get("sender")
    if type(sender) is not str or len(sender) > IDENTIFIER_OCTETS_MAX or not _is_known_user_id(sender):
        _short_string("sender", sender)
        raise MalformedEvent("sender is not a user ID")

    is_create = event_type == "m.room.create"
    if is_create and state_key != "":
        raise MalformedEvent("a create event has an empty state_key")
    if rules.room_id_is_create_hash and is_create:
        if "room_id" in raw:
            raise MalformedEvent("the create event gives the room ID and has none")
    else:
        room_id = get("room_id")
        if type(room_id) is not str or len(room_id) > IDENTIFIER_OCTETS_MAX:
            _short_string("room_id", room_id)
        elif rules.room_id_is_create_hash:
            if not _is_known_room_id_of_12(room_id):
                raise MalformedEvent("room_id is not the hash of a create event")
        elif ":" not in room_id or not _is_known_room_id(room_id):
            _short_string("room_id", room_id)
            raise MalformedEvent("room_id is not a room ID")

    if type(get("content")) is not dict:
        raise MalformedEvent("content is not an object")
    depth = get("depth")
    if type(depth) is not int or not 0 <= depth <= (INTEGER_MAX if rules.strict_json else LOOSE_DEPTH_MAX):
        raise MalformedEvent(f"depth is not an integer from 0 to 2^{53 if rules.strict_json else 63} - 1")
    origin_server_ts = get("origin_server_ts")
    if type(origin_server_ts) is not int or not -INTEGER_MAX <= origin_server_ts <= INTEGER_MAX:
        raise MalformedEvent("origin_server_ts is not an integer in range")
    prev_events, auth_events = get("prev_events"), get("auth_events")
    if type(prev_events) is not list or (limit_references and len(prev_events) > PREV_EVENTS_MAX):
        raise _miscounted("prev_events", prev_events)
    if type(auth_events) is not list or (limit_references and len(auth_events) > AUTH_EVENTS_MAX):
        raise _miscounted("auth_events", auth_events)
    if rules.event_ids is _CHOSEN:
        _check_pairs("prev_events", prev_events)
        _check_pairs("auth_events", auth_events)
        if not is_chosen_event_id(get("event_id")):
            raise MalformedEvent("event_id is not an event ID with a server name")
    else:
        _check_hashes(prev_events + auth_events, rules)

    hashes = get("hashes")
    if type(hashes) is not dict or type(hashes.get("sha256")) is not str:
        raise MalformedEvent("hashes is not an object with a string sha256")
    signatures = get("signatures")
    if type(signatures) is not dict:
        raise MalformedEvent("signatures is not an object")
    count, characters, is_plain = 0, 0, True
    for server_name, own in signatures.items():
        if type(server_name) is not str or type(own) is not dict:
            raise MalformedEvent("signatures is not an object of objects")
        count += len(own)
        if count > EVENT_OCTETS_MAX:
            raise OversizedEvent("too many signatures")
        characters += len(server_name)
        is_plain = is_plain and server_name.isascii()
        for key_id, signature in own.items():
            if type(key_id) is not str or type(signature) is not str:
                raise MalformedEvent("a signature is not a string")
            characters += len(key_id) + len(signature)
            is_plain = is_plain and key_id.isascii() and signature.isascii()
    if not is_plain:
        return None
    return _ESCAPED_OCTETS_MAX * characters + _BETWEEN_OCTETS_MAX * (1 + len(signatures) + count)


def check_json(raw: Mapping[str, Any], *, loose: bool) -> None:
    """Check that what `check_fields` has passed is JSON all the way down (`check_canonical`).

    Raises: NotCanonical.
    """
    if _USUAL.issuperset(raw) and len(raw["hashes"]) == 1:
        content = raw["content"]
        if not is_flat_text(content) or len(content) > EVENT_OCTETS_MAX:
            check_canonical(content, inside=1, values_max=EVENT_OCTETS_MAX, loose=loose)
    else:
        unchecked = {key: value for key, value in raw.items() if key not in _FULLY_CHECKED}
        check_canonical(unchecked, values_max=EVENT_OCTETS_MAX, loose=loose)


def octets_of_identifier(text: str) -> int:
    """The size of a string in UTF-8; a lone surrogate, which has none, counts as three octets."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _short_string(name: str, value: object) -> str:
    if type(value) is not str:
        raise MalformedEvent(f"{name} is not a string")
    if len(value) > IDENTIFIER_OCTETS_MAX or octets_of_identifier(value) > IDENTIFIER_OCTETS_MAX:
        raise OversizedEvent(f"{name} is over {IDENTIFIER_OCTETS_MAX} octets")
    return value


def _miscounted(name: str, event_ids: object) -> MalformedEvent:
    if type(event_ids) is not list:
        return MalformedEvent(f"{name} is not a list")
    most = PREV_EVENTS_MAX if name == "prev_events" else AUTH_EVENTS_MAX
    return OversizedEvent(f"{name} has more than {most} entries")


def _check_hashes(event_ids: list[Any], rules: RoomVersionRules) -> None:
    """A list of event IDs that are hashes."""
    count = len(event_ids)
    if count == 0:
        return
    try:
        joined = "\n".join(event_ids)
    except TypeError:
        raise MalformedEvent("prev_events and auth_events are not lists of strings") from None
    matches = _HASHES if rules.event_ids is _HASH else _HASHES_URL_SAFE
    # As many newlines as the join put in, so that each entry is one event ID and none is two.
    if len(joined) != count * (_EVENT_ID_LENGTH + 1) - 1 or matches(joined) is None:
        raise MalformedEvent("prev_events or auth_events holds something that is not an event ID")


def _check_pairs(name: str, pairs: list[Any]) -> None:
    """A list of `[event ID, {algorithm: hash}]`, as versions 1 and 2 have it. Nothing compares the hashes."""
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2 or not is_chosen_event_id(pair[0]):
            raise MalformedEvent(f"{name} holds something that is not an event ID with its hashes")
        hashes = pair[1]
        if type(hashes) is not dict or len(hashes) > HASHES_MAX:
            raise MalformedEvent(f"{name} holds hashes that are not an object")
        if not all(type(key) is str and type(value) is str for key, value in hashes.items()):
            raise MalformedEvent(f"{name} holds a hash that is not a string")


_is_known_user_id = lru_cache(maxsize=4096)(is_user_id)
_is_known_room_id = lru_cache(maxsize=4096)(is_room_id)


@lru_cache(maxsize=4096)
def _is_known_room_id_of_12(text: str) -> bool:
    return _ROOM_ID_V12.fullmatch(text) is not None
