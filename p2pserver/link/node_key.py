"""The bond between a node's Ed25519 key and the static key of its handshakes, and what a handshake says of a node.

A node has one key. The X25519 key of its handshakes is that key converted to the Montgomery curve (RFC 7748, section
4.1), so whoever proves to hold a static key holds the node key too, and the node key need not be sent: it is the
static key converted back. The conversion forgets the sign of x, which is told; a holder may show its key or the
negative of it, and both are its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from nacl import bindings
from nacl.exceptions import CryptoError

from p2pserver.link.errors import PeerRefused

KEY_OCTETS = 32
EPOCH_OCTETS = 6
EPOCHS = 1 << 8 * EPOCH_OCTETS
"""Epochs are random numbers below this. A process needs another one than the process that its peer met last."""
INTRODUCTION_OCTETS = 1 + EPOCH_OCTETS
_PRIME = 2**255 - 19


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a side says of itself in the handshake: the sign of its node key, its epoch; what follows is ignored."""

    sign: int
    epoch: int
    """A random number below `EPOCHS` that the process drew when it started."""

    def encode(self) -> bytes:
        return bytes((self.sign,)) + self.epoch.to_bytes(EPOCH_OCTETS, "big")

    @classmethod
    def decode(cls, payload: bytes) -> Introduction:
        """Raises: PeerRefused, since an authentic peer that speaks another language will not learn ours."""
        if len(payload) < INTRODUCTION_OCTETS:
            raise PeerRefused("an introduction too short")
        return cls(payload[0] & 1, int.from_bytes(payload[1:INTRODUCTION_OCTETS], "big"))


def sign_of(node_key: bytes) -> int:
    """The sign of x in an Ed25519 public key, 0 or 1."""
    return node_key[31] >> 7


def node_key_of(seed: bytes) -> bytes:
    """The Ed25519 public key of a 32-octet seed."""
    public, _ = bindings.crypto_sign_seed_keypair(seed)
    return public


def static_secret_of(seed: bytes) -> bytes:
    """The X25519 secret that a node uses in handshakes, from the 32-octet seed of its Ed25519 key."""
    _, secret = bindings.crypto_sign_seed_keypair(seed)
    return bindings.crypto_sign_ed25519_sk_to_curve25519(secret)


def static_key_of(node_key: bytes) -> bytes:
    """The X25519 public key that belongs to an Ed25519 public key.

    Raises: PeerRefused, if `node_key` is not a canonical point of the prime-order group (so also for small orders).
    """
    try:
        if not bindings.crypto_core_ed25519_is_valid_point(node_key):
            raise PeerRefused("not a valid Ed25519 key")
        return bindings.crypto_sign_ed25519_pk_to_curve25519(node_key)
    except CryptoError as error:
        raise PeerRefused("not a valid Ed25519 key") from error


def node_key_from(static_key: bytes, sign: int) -> bytes:
    """The Ed25519 public key with that sign that belongs to an X25519 public key.

    Raises: PeerRefused, if there is none: y = (u - 1) / (u + 1) must be that of a point of the prime-order group.
    """
    u = int.from_bytes(static_key, "little")
    if u >= _PRIME - 1:
        raise PeerRefused("not a valid static key")
    y = (u - 1) * pow(u + 1, -1, _PRIME) % _PRIME
    node_key = (y | sign << 255).to_bytes(KEY_OCTETS, "little")
    static_key_of(node_key)
    return node_key


def is_node_key(key: bytes) -> bool:
    """Whether it is an Ed25519 key that a node may have."""
    try:
        static_key_of(key)
    except PeerRefused:
        return False
    return True
