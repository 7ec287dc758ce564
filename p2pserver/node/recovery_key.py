"""The key of a node on paper: 56 letters and digits in groups of four, and the domain behind them if there is one.

    abcd-efgh-....-wxyz[.mesh.example.org]

Base32 of the Ed25519 seed (32 octets) and a checksum of 3 octets over seed and domain. Case, spaces, dashes and line
breaks do not matter, and 0, 1 and 8, which base32 has not, are read as the letters that they look like.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from p2pserver.identifiers import InvalidIdentifier, check_domain

GROUP_CHARACTERS: Final = 4
_SEED_OCTETS: Final = 32
_CHECKSUM_OCTETS: Final = 3
_CHARACTERS: Final = (_SEED_OCTETS + _CHECKSUM_OCTETS) * 8 // 5
_LOOKS_LIKE: Final = str.maketrans("018", "OLB")


class RecoveryKeyError(ValueError):
    """What should be a recovery key is none; the text is one line that says why."""


def encode_recovery_key(seed: bytes, domain: str | None) -> str:
    """One line of text that `decode_recovery_key` takes."""
    body = seed + _checksum(seed, domain)
    letters = base64.b32encode(body).decode("ascii").lower()
    groups = [letters[at : at + GROUP_CHARACTERS] for at in range(0, len(letters), GROUP_CHARACTERS)]
    return "-".join(groups) + ("" if domain is None else f".{domain}")


def decode_recovery_key(text: str) -> tuple[bytes, str | None]:
    """(seed, domain). Raises: RecoveryKeyError."""
    joined = "".join(text.split())
    letters, _, domain = joined.partition(".")
    letters = letters.replace("-", "").upper().translate(_LOOKS_LIKE)
    if len(letters) != _CHARACTERS:
        raise RecoveryKeyError(f"a recovery key has {_CHARACTERS} letters and digits, and this has {len(letters)}")
    try:
        octets = base64.b32decode(letters)
    except ValueError:
        raise RecoveryKeyError("a recovery key has only the letters a to z and the digits 2 to 7") from None
    found = domain.lower() or None
    if found is not None:
        try:
            check_domain(found)
        except InvalidIdentifier as error:
            raise RecoveryKeyError(f"what stands behind the dot is no domain: {error}") from None
    seed, checksum = octets[:_SEED_OCTETS], octets[_SEED_OCTETS:]
    if checksum != _checksum(seed, found):
        raise RecoveryKeyError("a character of this recovery key is wrong, or its domain: compare it with the paper")
    return seed, found


def _checksum(seed: bytes, domain: str | None) -> bytes:
    return hashlib.blake2b(
        seed + (domain or "").encode("ascii"), digest_size=_CHECKSUM_OCTETS, person=b"p2p recovery key"
    ).digest()
