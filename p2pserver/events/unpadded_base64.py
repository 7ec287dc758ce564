"""Base64 without padding, as Matrix writes keys, hashes and signatures.

Source: Matrix appendices, "Unpadded Base64".
"""

from __future__ import annotations

import binascii

_PADDING = ("", "=", "==", "=")
"""By the length of a text without it, modulo four; one character too many stays one."""
_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def encode_base64(octets: bytes) -> str:
    """Standard alphabet, no padding."""
    return binascii.b2a_base64(octets, newline=False).rstrip(b"=").decode("ascii")


def encode_base64url(octets: bytes) -> str:
    """URL-safe alphabet, no padding."""
    return binascii.b2a_base64(octets, newline=False).rstrip(b"=").translate(_TO_URL_SAFE).decode()


def decode_base64(text: str) -> bytes:
    """Standard alphabet, with no padding or with exactly the right one; unused bits of the last character are ignored.

    Raises: ValueError.
    """
    if text[-1:] != "=":
        return binascii.a2b_base64(text + _PADDING[len(text) % 4], strict_mode=True)
    digits = text.rstrip("=")
    if len(digits) % 4 == 1 or (len(digits) != len(text) and (len(text) % 4 or len(text) - len(digits) > 2)):
        raise ValueError("wrong length for base64")
    return binascii.a2b_base64(digits + "=" * (-len(digits) % 4), strict_mode=True)
