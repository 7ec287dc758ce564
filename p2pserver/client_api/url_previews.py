"""Previews of web pages that messages link to, where the operator has switched them on (`--url-previews`).

What a page says of itself (Open Graph, title, description); its picture becomes media of the user who asked. Answers
are kept for an hour. Source: client-server API, `GET /media/preview_url`; ogp.me.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin

from p2pserver.client_api.public_pages import Page, fetch
from p2pserver.errors import LimitExceeded, MatrixError
from p2pserver.federation.media_manifest import is_content_type
from p2pserver.rooms.media_library import MediaLibrary
from p2pserver.store.lru import Lru

if TYPE_CHECKING:
    import httpx

PICTURE_OCTETS_MAX: Final = 5 << 20
AT_ONCE_MAX: Final = 8
KEPT: Final = 500
KEPT_MS: Final = 3_600_000
TAGS_MAX: Final = 300
TAG_CHARACTERS_MAX: Final = 4_096
TEXT_CHARACTERS_MAX: Final = 1_000
FIELDS_MAX: Final = 20
_FIELD: Final = re.compile(r"og:[a-z_]{1,30}(:[a-z_]{1,30})?")
_PICTURE_FIELDS: Final = ("og:image", "og:image:url", "og:image:secure_url", "og:image:type")


class UrlPreviews:
    """One per node."""

    def __init__(self, media: MediaLibrary, wall_ms: Callable[[], int]) -> None:
        self._media = media
        self._wall_ms = wall_ms
        self._http: httpx.AsyncClient | None = None
        self._kept: Lru[str, tuple[int, dict[str, Any]]] = Lru(KEPT)
        self._busy = 0

    async def preview(self, url: str, *, user_id: str) -> dict[str, Any]:
        """Raises: InvalidParam, Forbidden, PageUnreachable, LimitExceeded."""
        kept = self._kept.get(url)
        if kept is not None and self._wall_ms() - kept[0] < KEPT_MS:
            return kept[1]
        if self._busy >= AT_ONCE_MAX:
            raise LimitExceeded("too many pages at once", retry_after_ms=2_000)
        self._busy += 1
        try:
            made = await self._make(url, user_id)
        finally:
            self._busy -= 1
        self._kept.put(url, (self._wall_ms(), made))
        return made

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def _make(self, url: str, user_id: str) -> dict[str, Any]:
        http = self._client()
        page = await fetch(http, url, accept="text/html,image/*;q=0.8", octets_max=PICTURE_OCTETS_MAX)
        if page.content_type.startswith("image/"):
            return {"og:url": page.url, **await self._as_media(page, user_id)}
        if page.content_type not in ("text/html", "application/xhtml+xml"):
            return {}
        said = await asyncio.to_thread(said_by, page)
        picture = said.pop("og:image", None)
        if picture is not None:
            try:
                found = await fetch(http, urljoin(page.url, picture), accept="image/*", octets_max=PICTURE_OCTETS_MAX)
                if found.content_type.startswith("image/"):
                    said |= await self._as_media(found, user_id)
            except MatrixError:
                pass  # a preview without its picture
        return {"og:url": page.url, **said}

    async def _as_media(self, picture: Page, user_id: str) -> dict[str, Any]:
        """Raises: TooLarge; Forbidden, beyond the user's quota."""

        async def parts() -> AsyncIterator[bytes]:
            yield picture.octets

        kind, size = picture.content_type, len(picture.octets)
        if not is_content_type(kind):
            return {}
        media_id = await self._media.upload(parts(), user_id=user_id, content_type=kind, filename=None, octets=size)
        address = f"mxc://{self._media.server_name}/{media_id}"
        return {"og:image": address, "og:image:type": kind, "matrix:image:size": size}

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            import httpx  # a node without previews does without it

            # Connections are not used again: one to an address was proved for one name only.
            limits = httpx.Limits(max_keepalive_connections=0)
            self._http = httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=10.0, limits=limits)
        return self._http


def said_by(page: Page) -> dict[str, Any]:
    """What a page says of itself, as short texts; `og:image` is its picture's address.

    Tags are looked for by how they begin, so that work is linear in the page, whatever is wrong with it.
    """
    try:
        text = page.octets.decode(page.charset or "utf-8", "replace")
    except LookupError:
        text = page.octets.decode("utf-8", "replace")
    metas = _metas(text)
    said = {
        name: _short(value)
        for name, value in metas.items()
        if _FIELD.fullmatch(name) and name not in _PICTURE_FIELDS and name != "og:url"
    }
    said = dict(list(said.items())[:FIELDS_MAX])
    _fill(said, "og:title", metas, ("twitter:title",), _title(text))
    _fill(said, "og:description", metas, ("twitter:description", "description"), None)
    for name in ("og:image", "og:image:secure_url", "og:image:url", "twitter:image"):
        if metas.get(name):
            said["og:image"] = metas[name].strip()
            break
    return {name: int(value) if _is_length(name, value) else value for name, value in said.items() if value}


def _is_length(name: str, value: str) -> bool:
    return name in ("og:image:width", "og:image:height") and value.isascii() and value.isdigit() and len(value) < 7


def _fill(said: dict[str, Any], name: str, metas: Mapping[str, str], others: tuple[str, ...], last: str | None) -> None:
    for value in (said.get(name), *(metas.get(other) for other in others), last):
        if value and value.strip():
            said[name] = _short(value)
            return


def _short(text: str) -> str:
    return " ".join(text.split())[:TEXT_CHARACTERS_MAX]


def _metas(text: str) -> dict[str, str]:
    """The contents of `meta` tags by property or name; of several of one name the first."""
    found: dict[str, str] = {}
    for tag in _tags(text, "<meta"):
        attributes = _attributes(tag)
        name = (attributes.get("property") or attributes.get("name") or "").lower()
        if name and "content" in attributes:
            found.setdefault(name, attributes["content"])
    return found


def _tags(text: str, begin: str) -> list[str]:
    found: list[str] = []
    lower, at = text.lower(), 0
    while len(found) < TAGS_MAX and (at := lower.find(begin, at)) >= 0:
        end = text.find(">", at, at + TAG_CHARACTERS_MAX)
        if end >= 0:
            found.append(text[at : end + 1])
        at += len(begin)
    return found


def _title(text: str) -> str | None:
    at = text.lower().find("<title")
    start = text.find(">", at, at + 200) if at >= 0 else -1
    end = text.find("<", start + 1, start + 1 + TAG_CHARACTERS_MAX) if start >= 0 else -1
    if end < 0:
        return None
    return unescape(text[start + 1 : end])


class _Attributes(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found = {name: value or "" for name, value in attrs}

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)


def _attributes(tag: str) -> dict[str, str]:
    parser = _Attributes()
    parser.feed(tag)
    return parser.found
