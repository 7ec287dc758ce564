"""Noise handshakes with X25519, ChaCha20-Poly1305 and BLAKE2s: XX, IK, and XXfallback where IK was tried in vain.

Only the primitives come from libraries (libsodium through pynacl, hashlib); the state machine is the one of "The Noise
Protocol Framework", revision 34, sections 5, 7 and 10, for these patterns:

    XX                   IK                    XXfallback
    -> e                 <- s, known before    -> e, known from IK
    <- e, ee, s, es      -> e, es, s, ss       <- e, ee, s, es
    -> s, se             <- e, ee, se          -> s, se

-> means: the initiator of the link sends. Nothing here keeps a nonce for transport messages: they carry theirs (section
11.4, out-of-order transport messages).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from nacl import bindings
from nacl.exceptions import CryptoError

from p2pserver.link.errors import RemoteLinkError

KEY_OCTETS = 32
TAG_OCTETS = 16


@dataclass(frozen=True, slots=True)
class Pattern:
    """Who sends which tokens: messages alternate, the first is the initiator's unless it is known already."""

    name: str
    messages: tuple[tuple[str, ...], ...]
    responder_first: bool = False

    def writes(self, index: int, *, initiator: bool) -> bool:
        """Whether that side sends the message."""
        return (index % 2 == 0) == (initiator != self.responder_first)


XX = Pattern("XX", (("e",), ("e", "ee", "s", "es"), ("s", "se")))
IK = Pattern("IK", (("e", "es", "s", "ss"), ("e", "ee", "se")))
XX_FALLBACK = Pattern("XXfallback", (("e", "ee", "s", "es"), ("s", "se")), responder_first=True)


class NoiseError(RemoteLinkError):
    """A message is malformed, was changed, or names a key with which nothing can be agreed."""


def _hash(data: bytes) -> bytes:
    return hashlib.blake2s(data).digest()


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "blake2s")


def _two_keys(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    """HKDF with two outputs (section 4.3)."""
    return three_keys(chaining_key, material)[:2]


def three_keys(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes, bytes]:
    """HKDF with three outputs of 32 octets (section 4.3)."""
    secret = _hmac(chaining_key, material)
    first = _hmac(secret, b"\x01")
    second = _hmac(secret, first + b"\x02")
    return first, second, _hmac(secret, second + b"\x03")


def _agree(secret: bytes, public: bytes) -> bytes:
    """Raises: NoiseError, if the result is all zeros, as it is for each key of small order."""
    try:
        return bindings.crypto_scalarmult(secret, public)
    except CryptoError as error:
        raise NoiseError("a key of small order") from error


def public_key_of(secret: bytes) -> bytes:
    """The X25519 public key of a 32-octet secret."""
    return bindings.crypto_scalarmult_base(secret)


class Cipher:
    """ChaCha20-Poly1305 with a nonce given for each message."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encrypt(self, nonce: int, associated: bytes, plaintext: bytes) -> bytes:
        """Ciphertext and 16 octets of tag."""
        return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(
            plaintext, associated, b"\0\0\0\0" + nonce.to_bytes(8, "little"), self._key
        )

    def decrypt(self, nonce: int, associated: bytes, ciphertext: bytes) -> bytes:
        """Raises: NoiseError, if the tag is wrong or missing."""
        if len(ciphertext) < TAG_OCTETS:
            raise NoiseError("no room for a tag")
        try:
            return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(
                ciphertext, associated, b"\0\0\0\0" + nonce.to_bytes(8, "little"), self._key
            )
        except CryptoError as error:
            raise NoiseError("wrong tag") from error


class NoiseHandshake:
    """One side of a handshake: its messages, read or written in turn, then `split`.

    A message that fails to be read leaves the handshake as it was, so that a forged or damaged one costs nothing.
    """

    __slots__ = (
        "_chaining",
        "_ephemeral",
        "_hash",
        "_initiator",
        "_key",
        "_nonce",
        "_remote_ephemeral",
        "_static",
        "done",
        "pattern",
        "remote_static",
    )

    def __init__(
        self,
        pattern: Pattern,
        *,
        initiator: bool,
        static: bytes,
        ephemeral: bytes,
        prologue: bytes,
        remote_static: bytes | None = None,
        first: bytes = b"",
    ) -> None:
        """`static` and `ephemeral` are 32-octet X25519 secrets; `ephemeral` must never be used for another handshake.

        `remote_static`: of the responder, which an initiator of IK must know. `first`: the initiator's ephemeral public
        key, which both know before XXfallback.
        """
        self.pattern = pattern
        self._initiator = initiator
        self._static = static
        self._ephemeral = ephemeral
        self._chaining = _hash(f"Noise_{pattern.name}_25519_ChaChaPoly_BLAKE2s".encode())
        self._hash = _hash(self._chaining + prologue)
        self._key: bytes | None = None
        self._nonce = 0
        self._remote_ephemeral = b"" if initiator else first
        self.remote_static = remote_static
        self.done = 0
        """Messages read and written so far."""
        if pattern is IK:
            known = remote_static if initiator else public_key_of(static)
            assert known is not None
            self._mix_hash(known)
        elif pattern is XX_FALLBACK:
            self._mix_hash(first)

    @property
    def handshake_hash(self) -> bytes:
        """32 octets that both sides share and nobody else can have made (channel binding, section 11.2)."""
        return self._hash

    def write(self, payload: bytes) -> bytes:
        """The next message, with `payload` as secret as the pattern makes it by then (section 7.7)."""
        self._check_turn(writes=True)
        out = bytearray()
        for word in self.pattern.messages[self.done]:
            if word == "e":
                public = public_key_of(self._ephemeral)
                out += public
                self._mix_hash(public)
            elif word == "s":
                out += self._encrypt_and_hash(public_key_of(self._static))
            else:
                self._mix_agreement(word)
        out += self._encrypt_and_hash(payload)
        self.done += 1
        return bytes(out)

    def read(self, message: bytes) -> bytes:
        """The payload of the other side's message. Raises: NoiseError, and then nothing has changed."""
        self._check_turn(writes=False)
        before = (self._chaining, self._hash, self._key, self._nonce, self._remote_ephemeral, self.remote_static)
        try:
            at = 0
            for word in self.pattern.messages[self.done]:
                if word == "e":
                    self._remote_ephemeral = _take(message, at, KEY_OCTETS)
                    self._mix_hash(self._remote_ephemeral)
                    at += KEY_OCTETS
                elif word == "s":
                    self.remote_static = self._decrypt_and_hash(_take(message, at, KEY_OCTETS + TAG_OCTETS))
                    at += KEY_OCTETS + TAG_OCTETS
                else:
                    self._mix_agreement(word)
            payload = self._decrypt_and_hash(message[at:])
        except NoiseError:
            self._chaining, self._hash, self._key, self._nonce, self._remote_ephemeral, self.remote_static = before
            raise
        self.done += 1
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """(key to send with, key to receive with), once all messages have passed."""
        assert self.done == len(self.pattern.messages)
        first, second = _two_keys(self._chaining, b"")
        return (first, second) if self._initiator else (second, first)

    def _check_turn(self, *, writes: bool) -> None:
        assert self.done < len(self.pattern.messages)
        assert self.pattern.writes(self.done, initiator=self._initiator) == writes

    def _mix_hash(self, data: bytes) -> None:
        self._hash = _hash(self._hash + data)

    def _mix_agreement(self, word: str) -> None:
        """`ee`, `es`, `se` or `ss`: first letter the initiator's key, second the responder's."""
        ours, theirs = (word[0], word[1]) if self._initiator else (word[1], word[0])
        secret = self._ephemeral if ours == "e" else self._static
        public = self._remote_ephemeral if theirs == "e" else self.remote_static
        assert public is not None
        self._chaining, self._key = _two_keys(self._chaining, _agree(secret, public))
        self._nonce = 0

    def _encrypt_and_hash(self, plaintext: bytes) -> bytes:
        if self._key is None:
            self._mix_hash(plaintext)
            return plaintext
        ciphertext = Cipher(self._key).encrypt(self._nonce, self._hash, plaintext)
        self._nonce += 1
        self._mix_hash(ciphertext)
        return ciphertext

    def _decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        if self._key is None:
            self._mix_hash(ciphertext)
            return ciphertext
        plaintext = Cipher(self._key).decrypt(self._nonce, self._hash, ciphertext)
        self._nonce += 1
        self._mix_hash(ciphertext)
        return plaintext


def _take(message: bytes, at: int, octets: int) -> bytes:
    if len(message) < at + octets:
        raise NoiseError("a message too short for its keys")
    return message[at : at + octets]
