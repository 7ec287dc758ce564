"""JSON texts that are large, on a link where each octet takes time: deflated, where that is shorter.

A text begins with `{`, a packed one with an octet of 0, then raw deflate (RFC 1951) of the text. What is unpacked is
bounded before it is held: a few octets can stand for gigabytes.
"""

from __future__ import annotations

import zlib

from p2pserver.wire.fields import WireError

_PACKED = 0
_WORTH_OCTETS = 64
"""Less than this is not worth the time of either side."""


def pack(text: bytes) -> bytes:
    """The text of a JSON object, or what `unpack` makes it from."""
    if len(text) < _WORTH_OCTETS:
        return text
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = bytes([_PACKED]) + deflate.compress(text) + deflate.flush()
    return packed if len(packed) < len(text) else text


def unpack(data: bytes, octets_max: int) -> bytes:
    """The text again.

    Raises: WireError, for what is not deflate, or is more than `octets_max` octets when unpacked.
    """
    if not data.startswith(bytes([_PACKED])):
        return data
    inflate = zlib.decompressobj(-15)
    try:
        text = inflate.decompress(data[1:], octets_max)
    except zlib.error as error:
        raise WireError(f"not deflate: {error}") from None
    if not inflate.eof or inflate.unused_data:
        raise WireError("too much when unpacked, or cut off")
    return text
