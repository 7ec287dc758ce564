"""Headers of media: what may be shown in place, under which name, which part of it, and for how long it may be kept.

Source: client-server API, "Content repository", "Serving inline content"; RFC 6266 (Content-Disposition), RFC 9110
(ranges, entity tags).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from p2pserver.store.media import Media

INLINE_TYPES: Final = frozenset(
    {
        "text/css",
        "text/plain",
        "text/csv",
        "application/json",
        "application/ld+json",
        "image/jpeg",
        "image/gif",
        "image/png",
        "image/apng",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "audio/mp4",
        "audio/webm",
        "audio/aac",
        "audio/mpeg",
        "audio/ogg",
        "audio/wave",
        "audio/wav",
        "audio/x-wav",
        "audio/x-pn-wav",
        "audio/flac",
        "audio/x-flac",
    }
)
"""What a browser shows without running anything in it."""

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; "
    "style-src 'unsafe-inline'; media-src 'self'; object-src 'self';",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
}
CACHED_S: Final = 365 * 24 * 3600

_PLAIN_NAME = re.compile(r"[A-Za-z0-9 !#$&'()+,.;=@^_`{}~-]+")
_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


class RangeNotSatisfiable(ValueError):
    """Nothing of the file is in the range."""


def disposition(content_type: str, filename: str | None, *, inline: bool | None = None) -> str:
    """The Content-Disposition of a file; `inline` None: as its type allows."""
    kind = content_type.partition(";")[0].strip().lower()
    shown = kind in INLINE_TYPES if inline is None else inline
    word = "inline" if shown else "attachment"
    if filename is None:
        return word
    if _PLAIN_NAME.fullmatch(filename):
        return f'{word}; filename="{filename}"'
    return f"{word}; filename*=utf-8''{quote(filename, safe='')}"


def content_headers(media: Media, *, content_type: str, needs_token: bool) -> dict[str, str]:
    """What every answer with octets of this media has. They never change, so they may be kept for ever."""
    assert media.sha256 is not None
    return {
        **SECURITY_HEADERS,
        "Content-Type": content_type,
        "ETag": f'"{media.sha256.hex()[:32]}"',
        "Cache-Control": f"{'private' if needs_token else 'public'}, max-age={CACHED_S}, immutable",
    }


def is_not_modified(headers: Mapping[str, str], etag: str) -> bool:
    """Whether the client has it already (`If-None-Match`)."""
    known = headers.get("if-none-match", "")
    return known.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]


def range_wanted(headers: Mapping[str, str], size: int, etag: str) -> tuple[int, int] | None:
    """(start, end) of the one range that is wanted, end not included; None: the whole.

    What is no range of octets, several of them, and a range of something else (`If-Range`) mean the whole.

    Raises: RangeNotSatisfiable.
    """
    found = _RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if found is None or found[1] + found[2] == "" or headers.get("if-range", etag).strip() != etag:
        return None
    if found[1] == "":
        length = min(int(found[2]), size)
        if length == 0:
            raise RangeNotSatisfiable
        return size - length, size
    start = int(found[1])
    end = min(int(found[2]) + 1, size) if found[2] else size
    if found[2] and int(found[2]) < start:
        return None
    if start >= size:
        raise RangeNotSatisfiable
    return start, end
