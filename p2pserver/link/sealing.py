"""Datagrams after the handshake: a short header, encrypted frames, and a tag of 8 octets.

    link tag 1 | counter 1, 2 or 4 | ciphertext | tag 8

ChaCha20 encrypts, and keyed BLAKE2b with 8 octets of output over counter, header and ciphertext is the tag: encrypt,
then authenticate, with two keys. The tag of ChaCha20-Poly1305 must not be cut: of 8 octets of Poly1305 only some 50
bits are hard to guess, of 8 octets of a pseudo-random function all 64 (docs/link.md, "The tag").
"""

from __future__ import annotations

import hashlib
from hmac import compare_digest

from nacl import bindings

from p2pserver.link.errors import RemoteLinkError
from p2pserver.link.frames import nearest
from p2pserver.link.limits import REKEY_DATAGRAMS, REKEY_S, REPLAY_WINDOW
from p2pserver.link.noise import three_keys

SECURED = 0x80
"""The highest bit of the first octet; the others are the link tag."""
TAG_OCTETS = 8
SHORT_HEADER_OCTETS = 2
"""Where the counter takes one octet."""
COUNTER_BITS = (7, 14, 30)
TINY_DATAGRAM_OCTETS = 64
SHORT_DISTANCE = 60
_POLY1305_OCTETS = 16


def link_tag_of(handshake_hash: bytes) -> int:
    """The first octet of all secured datagrams of a pipe."""
    return SECURED | handshake_hash[0]


class Keys:
    """The keys of one direction in one phase, from its secret; `following` is the secret of the next phase."""

    __slots__ = ("_encryption", "_mac", "following")

    def __init__(self, secret: bytes) -> None:
        self.following, self._encryption, mac = three_keys(secret, b"")
        self._mac = hashlib.blake2b(key=mac, digest_size=TAG_OCTETS)

    def tag(self, counter: int, header: bytes, ciphertext: bytes) -> bytes:
        """8 octets that only a holder of the key can make."""
        mac = self._mac.copy()
        mac.update(counter.to_bytes(8, "little") + header)
        mac.update(ciphertext)
        return mac.digest()

    def crypt(self, counter: int, octets: bytes) -> bytes:
        """Encrypt or decrypt: ChaCha20 from block 1, as in RFC 8439; the Poly1305 tag of libsodium is cut off."""
        nonce = b"\0\0\0\0" + counter.to_bytes(8, "little")
        sealed = bindings.crypto_aead_chacha20poly1305_ietf_encrypt(octets, None, nonce, self._encryption)
        return sealed[:-_POLY1305_OCTETS]


def counter_octets(distance: int, datagram_octets_max: int) -> int:
    """How many octets of a counter the peer needs that has acknowledged the one `distance` before.

    One octet does for datagrams that come up to 63 places late, and is worth it where they are tiny.
    """
    if distance < SHORT_DISTANCE and datagram_octets_max < TINY_DATAGRAM_OCTETS:
        return 1
    return 2 if distance < 1 << 12 else 4


class Sealer:
    """The sending side."""

    __slots__ = ("_began_at", "_keys", "_link_tag", "_octets_max", "_phase_from", "counter")

    def __init__(self, secret: bytes, link_tag: int, datagram_octets_max: int, now: float) -> None:
        self._keys = Keys(secret)
        self._phase_from = 0
        """The first counter of this phase."""
        self._began_at = now
        self._octets_max = datagram_octets_max
        self._link_tag = link_tag
        self.counter = 0
        """Of the next datagram."""

    def room(self, acknowledged: int) -> int:
        """Octets for frames in the next datagram; `acknowledged`: the highest counter that was, or -1."""
        return self._octets_max - 1 - counter_octets(self.counter - acknowledged, self._octets_max) - TAG_OCTETS

    def is_short(self, acknowledged: int) -> bool:
        """Whether the counter of the next datagram takes one octet."""
        return counter_octets(self.counter - acknowledged, self._octets_max) == 1

    def rekey_if_due(self, acknowledged: int, now: float) -> None:
        """The next phase begins when this one was long enough, and the peer is known to have taken part in it.

        So the peer is never more than one phase behind.
        """
        if acknowledged < self._phase_from:
            return
        if self.counter - self._phase_from >= REKEY_DATAGRAMS or now - self._began_at >= REKEY_S:
            self._keys = Keys(self._keys.following)
            self._phase_from = self.counter
            self._began_at = now

    def seal(self, frames: bytes, acknowledged: int) -> bytes:
        """The next datagram."""
        counter = self.counter
        octets = counter_octets(counter - acknowledged, self._octets_max)
        form = octets >> 1
        low = counter & ((1 << COUNTER_BITS[form]) - 1)
        prefix = (0, 0x8000, 0xC000_0000)[form]
        header = bytes((self._link_tag,)) + (prefix | low).to_bytes(octets, "big")
        ciphertext = self._keys.crypt(counter, frames)
        self.counter += 1
        return b"".join((header, ciphertext, self._keys.tag(counter, header, ciphertext)))


class Opener:
    """The receiving side: the keys of the present phase, of the next, and of the one before while some may be late."""

    __slots__ = ("_before", "_keys", "_next", "_phase_from", "link_tag")

    def __init__(self, secret: bytes, link_tag: int) -> None:
        self._keys = Keys(secret)
        self._before: Keys | None = None
        self._next: Keys | None = None
        self._phase_from = 0
        """The lowest counter of this phase that arrived."""
        self.link_tag = link_tag

    def counter_of(self, datagram: bytes, highest: int) -> tuple[int, int]:
        """(counter, octets of the header); `highest`: the highest counter that arrived, or -1.

        Raises: RemoteLinkError, if the datagram is too short.
        """
        form = (0, 0, 1, 2)[datagram[1] >> 6] if len(datagram) > 1 else 0
        end = 2 + (0, 1, 3)[form]
        if len(datagram) < end + TAG_OCTETS:
            raise RemoteLinkError("no room for a tag")
        bits = COUNTER_BITS[form]
        low = int.from_bytes(datagram[1:end], "big") & ((1 << bits) - 1)
        counter = nearest(low, bits, highest + 1)
        return counter if counter >= 0 else counter + (1 << bits), end

    def open(self, datagram: bytes, counter: int, header_octets: int, highest: int) -> bytes:
        """The frames; `highest` as before. Raises: RemoteLinkError, if the tag is wrong."""
        header, ciphertext, tag = datagram[:header_octets], datagram[header_octets:-TAG_OCTETS], datagram[-TAG_OCTETS:]
        if compare_digest(self._keys.tag(counter, header, ciphertext), tag):
            return self._keys.crypt(counter, ciphertext)
        if counter < highest:
            if highest - self._phase_from >= REPLAY_WINDOW:
                self._before = None
            other = self._before
        else:
            if self._next is None:
                self._next = Keys(self._keys.following)
            other = self._next
        if other is None or not compare_digest(other.tag(counter, header, ciphertext), tag):
            raise RemoteLinkError("wrong tag")
        if other is self._next:
            self._before, self._keys, self._next = self._keys, other, None
            self._phase_from = counter
        return other.crypt(counter, ciphertext)
