"""The chunks by which a file is checked on its way between nodes: how large they are, and what names them."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

CHUNK_OCTETS_LEAST: Final = 4096
CHUNKS_MAX: Final = 1024
CHUNK_HASH_OCTETS: Final = 16


def chunk_octets(size: int) -> int:
    """How large the chunks of a file of this size are: a power of two, 4 KiB or more, so that there are 1,024 at most.

    A file of one chunk needs no hashes beside its own.
    """
    octets = CHUNK_OCTETS_LEAST
    while octets * CHUNKS_MAX < size:
        octets *= 2
    return octets


def chunk_hash(chunk: bytes) -> bytes:
    """The first 16 octets of the SHA-256."""
    return sha256(chunk).digest()[:CHUNK_HASH_OCTETS]
