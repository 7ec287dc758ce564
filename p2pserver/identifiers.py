"""Names: servers, users, rooms, events, aliases.

A node's `server_name` is its Ed25519 public key in lower-case unpadded base32 (52 characters), optionally followed by a
domain. Only the canonical spelling counts: 52 base32 characters hold 260 bits, so 16 spellings decode to one key, and
the 15 others are refused. Source: docs/identity.md; Matrix appendices, "Identifier Grammar".
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection
from functools import lru_cache

KEY_ID = "ed25519:1"
"""The one signing key of a self-certifying server, whatever a key server says."""

PUBLIC_KEY_OCTETS = 32
SERVER_LABEL_LENGTH = 52
IDENTIFIER_OCTETS_MAX = 255
SERVER_NAME_LENGTH_MAX = 230
"""What a server name should not exceed, so that user IDs have room for a localpart."""

_LABEL = re.compile(r"[a-z2-7]{52}")
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SERVER_NAME = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,255})(?::[0-9]{1,5})?")
_LOCALPART = re.compile(r"[a-z0-9._=/+-]+")
_OLD_LOCALPART = re.compile(r"[!-9;-~]+")
_OPAQUE_PART = re.compile(r"[^\0:\ud800-\udfff]*")
_HASH_ID = re.compile(r"[A-Za-z0-9_-]{43}")
_HASH_ID_STANDARD = re.compile(r"[A-Za-z0-9+/]{43}")


class InvalidIdentifier(ValueError):
    """The text does not follow the grammar of the identifier it is used as."""


def server_name_of(public_key: bytes, domain: str | None = None) -> str:
    """The server name of a 32-octet Ed25519 public key, with `.domain` behind it where one is given.

    Raises: InvalidIdentifier, if the key has another length, `domain` is not a lower-case DNS name, or the whole is
    over 230 characters. Whether the key is a usable point of the curve is not looked at.
    """
    if len(public_key) != PUBLIC_KEY_OCTETS:
        raise InvalidIdentifier(f"a public key has {PUBLIC_KEY_OCTETS} octets")
    label = _label_of(public_key)
    if domain is None:
        return label
    check_domain(domain)
    return f"{label}.{domain}"


def check_domain(domain: str) -> None:
    """Raises: InvalidIdentifier, unless `domain` is a lower-case DNS name that leaves room for the key before it."""
    labels = domain.split(".")
    if not all(_DNS_LABEL.fullmatch(label) for label in labels):
        raise InvalidIdentifier(f"not a lower-case DNS name: {domain!r}")
    if SERVER_LABEL_LENGTH + 1 + len(domain) > SERVER_NAME_LENGTH_MAX:
        raise InvalidIdentifier(f"the domain is too long: {domain!r}")


def public_key_of(server_name: str) -> bytes | None:
    """The 32-octet key that a self-certifying server name spells canonically, or None for any other name."""
    return _key_in(server_name) if len(server_name) <= SERVER_NAME_LENGTH_MAX else None


@lru_cache(maxsize=4096)
def _key_in(server_name: str) -> bytes | None:
    label, _, domain = server_name.partition(".")
    if not _LABEL.fullmatch(label):
        return None
    if "." in server_name:
        try:
            check_domain(domain)
        except InvalidIdentifier:
            return None
    key = base64.b32decode(label.upper() + "====")
    return key if _label_of(key) == label else None


def _label_of(public_key: bytes) -> str:
    return base64.b32encode(public_key).decode("ascii").rstrip("=").lower()


def is_server_name(text: str) -> bool:
    """Whether the text follows the server name grammar of the specification (self-certifying or not)."""
    return len(text) <= IDENTIFIER_OCTETS_MAX and _SERVER_NAME.fullmatch(text) is not None


def split_identifier(identifier: str, sigil: str) -> tuple[str, str]:
    """(localpart, server name) of `@user:server` or `#alias:server`.

    Raises: InvalidIdentifier.
    """
    local, colon, server = identifier[1:].partition(":")
    if (
        not identifier.startswith(sigil)
        or not colon
        or not is_server_name(server)
        or _OPAQUE_PART.fullmatch(local) is None
    ):
        raise InvalidIdentifier(f"not an identifier of the form {sigil}localpart:server: {identifier[:300]!r}")
    if len(identifier.encode("utf-8")) > IDENTIFIER_OCTETS_MAX:
        raise InvalidIdentifier("identifier is over 255 octets")
    return local, server


def is_alias(text: str) -> bool:
    """Whether the text is a room alias."""
    try:
        split_identifier(text, "#")
    except InvalidIdentifier:
        return False
    return True


def is_media_uri(value: object) -> bool:
    """Whether it has the form in which profiles and rooms name a picture."""
    return isinstance(value, str) and value.startswith("mxc://")


def server_of(user_id: str) -> str:
    """The server name in a user ID, an alias, an event ID of versions 1 and 2: what follows the first colon, or ""."""
    return user_id.partition(":")[2]


def is_user_id(text: object) -> bool:
    """Whether `text` is a user ID by the historical grammar, which events may contain.

    A localpart of it has any characters but `:` and NUL, or none. Source: Matrix appendices, "Historical User IDs".
    """
    return isinstance(text, str) and len(text) <= IDENTIFIER_OCTETS_MAX and _is_short_user_id(text)


def are_user_ids(texts: Collection[str]) -> bool:
    """Whether all of them are user IDs by the historical grammar."""
    return max(map(len, texts), default=0) <= IDENTIFIER_OCTETS_MAX and all(map(_is_short_user_id, texts))


@lru_cache(maxsize=8192)
def _is_short_user_id(text: str) -> bool:
    if not text.startswith("@"):
        return False
    local, colon, server = text[1:].partition(":")
    return (
        bool(colon)
        and is_server_name(server)
        and _OPAQUE_PART.fullmatch(local) is not None
        and len(text.encode("utf-8")) <= IDENTIFIER_OCTETS_MAX
    )


def is_new_localpart(text: str) -> bool:
    """Whether a user may be registered under this localpart today: `a-z 0-9 . _ = - / +`."""
    return _LOCALPART.fullmatch(text) is not None


def is_old_localpart(text: str) -> bool:
    """Whether it is a localpart as users may have who are there already: printable ASCII without spaces and `:`."""
    return _OLD_LOCALPART.fullmatch(text) is not None


def is_event_id(text: object) -> bool:
    """Whether `text` is an event ID of any room version: `$` and 43 base64 characters, or `$opaque:server`."""
    if not isinstance(text, str) or not text.startswith("$"):
        return False
    digits = text[1:]
    return (
        _HASH_ID.fullmatch(digits) is not None
        or _HASH_ID_STANDARD.fullmatch(digits) is not None
        or is_chosen_event_id(text)
    )


def is_chosen_event_id(text: object) -> bool:
    """Whether `text` is an event ID of room versions 1 and 2: `$opaque:server`, of at most 255 octets."""
    return isinstance(text, str) and text.startswith("$") and _is_opaque_at_server(text)


def is_room_id(text: object) -> bool:
    """Whether `text` is a room ID: `!` and a hash (version 12), or `!opaque:server`."""
    if not isinstance(text, str) or not text.startswith("!"):
        return False
    return _HASH_ID.fullmatch(text[1:]) is not None or _is_opaque_at_server(text)


def _is_opaque_at_server(text: str) -> bool:
    opaque, colon, server = text[1:].partition(":")
    return (
        bool(opaque and colon)
        and is_server_name(server)
        and _OPAQUE_PART.fullmatch(opaque) is not None
        and len(text.encode("utf-8")) <= IDENTIFIER_OCTETS_MAX
    )
