"""What another server may ask about files: who says what they are, and the hashes of their chunks.

Whoever knows an ID is answered, as the specification has it; who has the file does not matter. With the manifest comes
a ticket, good for this asker, by which the octets are then asked for: nobody can try out hashes or numbers to learn
what is held here. Source: DESIGN, "Media"; server-server API, "Content Repository".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, Final, TypeAlias

from p2pserver.errors import BadJson, NotFound, NotYetUploaded
from p2pserver.events.unpadded_base64 import encode_base64
from p2pserver.federation.media_manifest import is_media_id, thumbnail_meant
from p2pserver.identifiers import is_server_name
from p2pserver.rooms.s2s import S2sHandler
from p2pserver.store.media import Media, chunks_of, media
from p2pserver.store.media_transfers import transfer, want_media
from p2pserver.store.tx import Tx

OfferThumbnail: TypeAlias = Callable[[Tx, str, str], bool]
"""`(tx, media_id, size)`: has the thumbnail made once the unit is over; False, if it cannot be made."""
HOPS_MAX: Final = 3
"""Over so many neighbors a file may be looked for, if nobody nearer has it."""
_MAC_OCTETS: Final = 8


class Tickets:
    """The number of a row, sealed for one server."""

    def __init__(self, seed: bytes) -> None:
        """`seed`: the secret of the node."""
        self._key = blake2b(seed, person=b"media tickets", digest_size=32).digest()

    def ticket(self, server: str, number: int) -> bytes:
        octets = number.to_bytes((number.bit_length() + 7) // 8 or 1, "big")
        return octets + self._mac(server, octets)

    def number(self, server: str, ticket: bytes) -> int | None:
        """None, if this server was not given the ticket."""
        octets, mac = ticket[:-_MAC_OCTETS], ticket[-_MAC_OCTETS:]
        return int.from_bytes(octets, "big") if compare_digest(mac, self._mac(server, octets)) else None

    def _mac(self, server: str, octets: bytes) -> bytes:
        return blake2b(octets + server.encode(), key=self._key, digest_size=_MAC_OCTETS).digest()


def media_handlers(
    server_name: str, *, tickets: Tickets, wall_ms: Callable[[], int], offer_thumbnail: OfferThumbnail
) -> dict[str, S2sHandler]:
    """The questions by name."""

    def manifest(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
        server, media_id = _named(body)
        found = _visible(tx, server, media_id)
        if found is not None and found.manifest is not None:
            ticket = tickets.ticket(origin, found.number)
            return {"manifest": json.loads(found.manifest), "ticket": encode_base64(ticket)}
        if server == server_name:
            if found is not None and (found.expires_ms or 0) > wall_ms():
                raise NotYetUploaded("this has not been uploaded yet")
            thumbnail = thumbnail_meant(media_id)
            of = None if thumbnail is None else _visible(tx, server, thumbnail[0])
            if thumbnail is not None and of is not None and of.sha256 is not None and offer_thumbnail(tx, *thumbnail):
                return {"looking": True}
            raise NotFound("there is no such media")
        hops = body.get("hops", 0)
        if type(hops) is int and hops > 0 and server != origin:
            wanted = want_media(
                tx,
                origin=server,
                media_id=media_id,
                now_ms=wall_ms(),
                hops=min(hops, HOPS_MAX) - 1,
                for_server=origin,
            )
            if wanted:
                return {"looking": True}  # an error would undo what was written
        if transfer(tx, server, media_id) is not None:
            return {"looking": True}
        raise NotFound("this media is not here")

    def chunks(tx: Tx, origin: str, body: dict[str, Any]) -> dict[str, Any]:
        found = _visible(tx, *_named(body))
        if found is None or found.sha256 is None:
            raise NotFound("this media is not here")
        return {"chunks": encode_base64(chunks_of(tx, found.sha256) or b"")}

    return {"media": manifest, "media_chunks": chunks}


def _visible(tx: Tx, server: str, media_id: str) -> Media | None:
    found = media(tx, server, media_id)
    if found is not None and found.quarantined_by is not None:
        raise NotFound("there is no such media")
    return found


def _named(body: dict[str, Any]) -> tuple[str, str]:
    origin, media_id = body.get("origin"), body.get("media_id")
    if not isinstance(origin, str) or not is_server_name(origin) or not isinstance(media_id, str):
        raise BadJson("origin is not a server name, or media_id is not a string")
    if not is_media_id(media_id):
        raise BadJson("media_id is not a media ID")
    return origin, media_id
