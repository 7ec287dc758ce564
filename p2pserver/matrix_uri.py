"""Links to rooms, users and events: `matrix:` URIs and matrix.to addresses, read and written.

Source: Matrix appendices, "Matrix URIs", "matrix.to navigation"; MSC2312, MSC1704.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

from p2pserver.identifiers import (
    InvalidIdentifier,
    is_event_id,
    is_room_id,
    is_server_name,
    is_user_id,
    split_identifier,
)

VIA_MAX = 20
LINK_CHARACTERS_MAX = 4096
_TYPES = {"r": "#", "room": "#", "roomid": "!", "u": "@", "user": "@"}
"""The first words of a path; `room` and `user` are from before there was a standard."""
_EVENT_TYPES = ("e", "event")
_MATRIX_TO = re.compile(r"https?://matrix\.to/#/", re.IGNORECASE)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNESCAPED = "-._~!$&'()*+,;=:@"


class InvalidLink(ValueError):
    """The text begins like a link to something in Matrix and is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixLink:
    """What a link means: a room (by ID or alias), a user, or an event of a room."""

    target: str
    event_id: str | None = None
    via: tuple[str, ...] = ()
    action: str | None = None

    def uri(self) -> str:
        """The link as a `matrix:` URI, which applications on a device open without asking anybody."""
        kind = {"#": "r", "!": "roomid", "@": "u"}[self.target[0]]
        path = f"matrix:{kind}/{quote(self.target[1:], safe=_UNESCAPED)}"
        if self.event_id is not None:
            path += f"/e/{quote(self.event_id[1:], safe=_UNESCAPED)}"
        return path + _query([*(("via", server) for server in self.via), *_pair("action", self.action)])

    def matrix_to(self) -> str:
        """The link as an address of matrix.to: a web page that offers applications."""
        parts = [self.target, *([] if self.event_id is None else [self.event_id])]
        path = "/".join(quote(part, safe="") for part in parts)
        return f"https://matrix.to/#/{path}" + _query([("via", server) for server in self.via])


def is_link(text: str) -> bool:
    """Whether the text means to be a link, right or wrong."""
    return text[:7].lower() == "matrix:" or _MATRIX_TO.match(text) is not None


def read_link(text: str) -> MatrixLink:
    """What a `matrix:` URI or a matrix.to address means. Unknown parts of the query are ignored.

    Raises: InvalidLink.
    """
    if len(text) > LINK_CHARACTERS_MAX or not is_link(text):
        raise InvalidLink("that is neither a matrix: URI nor an address of matrix.to")
    matrix_to = _MATRIX_TO.match(text)
    rest = text[7:] if matrix_to is None else text[matrix_to.end() :]
    path, _, query = rest.partition("#")[0].partition("?")
    target, event_id = _of_uri(path) if matrix_to is None else _of_matrix_to(path)
    if event_id is not None and (not is_event_id(event_id) or target.startswith("@")):
        raise InvalidLink("the link names no event of a room")
    if not _is_target(target):
        raise InvalidLink("the link names neither a room nor a user")
    pairs = [_unescaped(pair).partition("=") for pair in query.split("&") if pair]
    via = dict.fromkeys(value for name, _, value in pairs if name == "via" and is_server_name(value))
    actions = [value for name, _, value in pairs if name == "action" and value in ("join", "chat")]
    return MatrixLink(
        target=target, event_id=event_id, via=tuple(via)[:VIA_MAX], action=actions[0] if actions else None
    )


def _of_uri(path: str) -> tuple[str, str | None]:
    """The target and the event in the path of a `matrix:` URI. An authority says how to get there, not what it is."""
    if path.startswith("//"):
        path = path[2:].partition("/")[2]
    parts = [_unescaped(part) for part in path.split("/")]
    sigil = _TYPES.get(parts[0])
    if sigil is None or len(parts) not in (2, 4) or (len(parts) == 4 and parts[2] not in _EVENT_TYPES):
        raise InvalidLink("the link names neither a room nor a user")
    return sigil + parts[1], f"${parts[3]}" if len(parts) == 4 else None


def _of_matrix_to(path: str) -> tuple[str, str | None]:
    """The identifiers have their sigils; one of room version 3 may hold `/`, escaped or not."""
    target, _, event = path.partition("/")
    return _unescaped(target), _unescaped(event) if event else None


def _unescaped(text: str) -> str:
    if _BAD_ESCAPE.search(text):
        raise InvalidLink("a percent sign is not followed by two hexadecimal digits")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidLink("the link is not UTF-8") from None


def _is_target(text: str) -> bool:
    if text.startswith("#"):
        try:
            split_identifier(text, "#")
        except InvalidIdentifier:
            return False
        return True
    return is_room_id(text) or is_user_id(text)


def _pair(name: str, value: str | None) -> list[tuple[str, str]]:
    return [] if value is None else [(name, value)]


def _query(pairs: Iterable[tuple[str, str]]) -> str:
    text = "&".join(f"{name}={quote(value, safe=':')}" for name, value in pairs)
    return f"?{text}" if text else ""
