"""What an origin says of a file of its own: a signed JSON object that anybody can carry and everybody can check.

    {"origin", "media_id", "sha256", "size", "content_type", "filename"?, "chunks"?, "signatures"}

`sha256` and `chunks` are unpadded base64. `chunks` is there where the file has more than one chunk: the SHA-256 of the
joined hashes of its chunks, which travel beside it. Source: DESIGN, "Media"; Matrix appendices, "Signing JSON".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from p2pserver.events.signing import KeyLookup, Signer, sign_json, signature_is_valid
from p2pserver.events.unpadded_base64 import decode_base64, encode_base64
from p2pserver.identifiers import KEY_ID
from p2pserver.wire.chunks import chunk_octets

SIZE_MAX: Final = 2**40
CONTENT_TYPE_LENGTH_MAX: Final = 255
FILENAME_LENGTH_MAX: Final = 255

_MEDIA_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")
_THUMBNAIL_ID = re.compile(r"([A-Za-z0-9_-]+)_thumbnail_([0-9]{1,4}x[0-9]{1,4}-(?:crop|scale))")
_CONTENT_TYPE = re.compile(r"[!-~]+/[!-~]+(?:[ -~]*[!-~])?")


class BadManifest(ValueError):
    """It does not say what was asked, or its origin did not say it."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked manifest. `chunks`: the SHA-256 of the joined hashes of the chunks; None: the file is one chunk."""

    origin: str
    media_id: str
    sha256: bytes
    size: int
    content_type: str
    filename: str | None
    chunks: bytes | None

    @property
    def chunk_octets(self) -> int:
        return chunk_octets(self.size)

    @property
    def chunk_count(self) -> int:
        return -(-self.size // self.chunk_octets)


def is_media_id(text: object) -> bool:
    """Whether `text` can be the path of an `mxc://` URI. Source: client-server API, "Matrix Content (mxc://) URIs"."""
    return isinstance(text, str) and _MEDIA_ID.fullmatch(text) is not None


def thumbnail_id(media_id: str, size: str) -> str:
    """The ID under which an origin gives other nodes a thumbnail of a file of its own; `size` as in `320x240-scale`."""
    return f"{media_id}_thumbnail_{size}"


def thumbnail_meant(media_id: str) -> tuple[str, str] | None:
    """(media ID of the file, size), if the ID is that of a thumbnail."""
    found = _THUMBNAIL_ID.fullmatch(media_id)
    return None if found is None else (found[1], found[2])


def is_content_type(text: object) -> bool:
    """Whether `text` can stand in a Content-Type header as it is."""
    return isinstance(text, str) and len(text) <= CONTENT_TYPE_LENGTH_MAX and _CONTENT_TYPE.fullmatch(text) is not None


def is_filename(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= FILENAME_LENGTH_MAX and text.isprintable()


def make_manifest(
    signer: Signer,
    *,
    media_id: str,
    digest: bytes,
    size: int,
    content_type: str,
    filename: str | None,
    chunks: bytes,
) -> dict[str, Any]:
    """The signed object. `digest`: the SHA-256 of the file; `chunks`: the joined hashes, b"" if there is one only."""
    manifest: dict[str, Any] = {
        "origin": signer.server_name,
        "media_id": media_id,
        "sha256": encode_base64(digest),
        "size": size,
        "content_type": content_type,
    }
    if filename is not None:
        manifest["filename"] = filename
    if chunks:
        manifest["chunks"] = encode_base64(sha256(chunks).digest())
    return sign_json(manifest, signer)


def check_manifest(raw: Mapping[str, Any], keys: KeyLookup, *, origin: str, media_id: str) -> Manifest:
    """What the origin says of this ID.

    Raises: BadManifest.
    """
    if raw.get("origin") != origin or raw.get("media_id") != media_id:
        raise BadManifest("it is of another file")
    key = keys.verify_key(origin, KEY_ID, None)
    if key is None or not signature_is_valid(raw, origin, KEY_ID, key):
        raise BadManifest("its origin did not sign it")
    size, content_type, filename = raw.get("size"), raw.get("content_type"), raw.get("filename")
    if type(size) is not int or not 0 <= size <= SIZE_MAX:
        raise BadManifest("its size is none")
    if not is_content_type(content_type) or not (filename is None or is_filename(filename)):
        raise BadManifest("its type or file name is none")
    return Manifest(
        origin=origin,
        media_id=media_id,
        sha256=_digest(raw.get("sha256")),
        size=size,
        content_type=str(content_type),
        filename=filename,
        chunks=None if size <= chunk_octets(size) else _digest(raw.get("chunks")),
    )


def _digest(text: object) -> bytes:
    try:
        digest = decode_base64(text) if isinstance(text, str) else b""
    except ValueError:
        digest = b""
    if len(digest) != sha256().digest_size:
        raise BadManifest("a hash is missing")
    return digest
