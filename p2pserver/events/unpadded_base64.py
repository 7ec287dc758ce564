"""Base64 without padding, as Matrix writes keys, hashes and signatures.

Source: Matrix appendices, "Unpadded Base64".
"""

from __future__ import annotations

import binascii
import re

_STANDARD = re.compile(r"[A-Za-z0-9+/]*")


def encode_base64(octets: bytes) -> str:
    """Standard alphabet, no padding."""
    return binascii.b2a_base64(octets, newline=False).rstrip(b"=").decode("ascii")


def encode_base64url(octets: bytes) -> str:
    """URL-safe alphabet, no padding."""
    return encode_base64(octets).replace("+", "-").replace("/", "_")


def decode_base64(text: str) -> bytes:
    """Standard alphabet, with no padding or with exactly the right one; unused bits of the last character are ignored.

    Raises: ValueError.
    """
    digits = text.rstrip("=")
    if len(digits) % 4 == 1 or (len(digits) != len(text) and (len(text) % 4 or len(text) - len(digits) > 2)):
        raise ValueError("wrong length for base64")
    if _STANDARD.fullmatch(digits) is None:
        raise ValueError("a character outside the base64 alphabet")
    return binascii.a2b_base64(digits + "=" * (-len(digits) % 4))
