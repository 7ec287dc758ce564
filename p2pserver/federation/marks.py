"""Marks: what a node gives to each peer to keep, and gets back at the next contact. See docs/backup.md.

    run 4 | tag 6 | stream position 6 and number of the contact 1, encrypted

No two contacts of a process have the same mark. The peer cannot read the position nor make a mark, and keeps the
newest. When the node's own database has gone back (a backup, a copied folder), or another node runs with its key, the
mark that comes back is of a run that the database does not know, or of a later position than the run had: the peer
cannot lie about that, only keep silent. `run` is a number that the process draws at its start; it is the same in all of
its marks, so a peer that hears of two runs by turns knows that two processes have one key.
"""

from __future__ import annotations

import hashlib
from hmac import compare_digest
from typing import Final, NamedTuple

from p2pserver.wire.messages import MARK_OCTETS

RUN_OCTETS: Final = 4
_TAG_OCTETS: Final = 6
_PLAIN_OCTETS: Final = MARK_OCTETS - RUN_OCTETS - _TAG_OCTETS


class Mark(NamedTuple):
    """How far the database of a run was."""

    run: bytes
    position: int


class Marks:
    """Makes and reads the marks that one peer keeps."""

    def __init__(self, seed: bytes, their_key: bytes) -> None:
        """`seed`: of our node key, 32 octets. `their_key`: of the peer."""
        self._key = hashlib.blake2b(their_key, key=seed, person=b"p2p marks", digest_size=32).digest()

    def make(self, run: bytes, position: int, contact: int) -> bytes:
        """MARK_OCTETS octets; the same for the same arguments. Of `contact` the lowest 8 bits count."""
        plain = (position << 8 | contact & 0xFF).to_bytes(_PLAIN_OCTETS, "big")
        tag = self._hash(run + plain, b"p2p mark tag", _TAG_OCTETS)
        return run + tag + self._crypt(run + tag, plain)

    def read(self, mark: bytes) -> Mark | None:
        """None for what we did not make."""
        if len(mark) != MARK_OCTETS:
            return None
        run, tag = mark[:RUN_OCTETS], mark[RUN_OCTETS : RUN_OCTETS + _TAG_OCTETS]
        plain = self._crypt(run + tag, mark[RUN_OCTETS + _TAG_OCTETS :])
        if not compare_digest(tag, self._hash(run + plain, b"p2p mark tag", _TAG_OCTETS)):
            return None
        return Mark(run, int.from_bytes(plain, "big") >> 8)

    def _crypt(self, head: bytes, octets: bytes) -> bytes:
        stream = self._hash(head, b"p2p mark bits", _PLAIN_OCTETS)
        return bytes(one ^ other for one, other in zip(octets, stream, strict=True))

    def _hash(self, octets: bytes, person: bytes, size: int) -> bytes:
        return hashlib.blake2b(octets, key=self._key, person=person, digest_size=size).digest()


def run_of(mark: bytes) -> bytes:
    """What a peer can read of our mark, or we of its: whether it is of the same process as another."""
    return mark[:RUN_OCTETS]
