"""The bond between a node's Ed25519 key and the static key of its handshakes, and what a handshake says of a node.

A node has one key. The X25519 key of its handshakes is that key converted to the Montgomery curve (RFC 7748, section
4.1), so the holder of a static key holds the node key too: nothing needs to be signed. The conversion forgets the sign
of x, so a holder may show its key or the negative of it; both are its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest

from nacl import bindings
from nacl.exceptions import CryptoError

from p2pserver.link.errors import PeerRefused

INTRODUCTION_VERSION = 1
KEY_OCTETS = 32
EPOCH_OCTETS = 8


@dataclass(frozen=True, slots=True)
class Introduction:
    """The payload of handshake messages 2 and 3: version, Ed25519 key, epoch; what follows is ignored today."""

    node_key: bytes
    epoch: int
    """A random number of 64 bits that the process drew when it started."""

    def encode(self) -> bytes:
        return bytes((INTRODUCTION_VERSION,)) + self.node_key + self.epoch.to_bytes(EPOCH_OCTETS, "big")

    @classmethod
    def decode(cls, payload: bytes) -> Introduction:
        """Raises: PeerRefused, since an authentic peer that speaks another language will not learn ours."""
        if payload[:1] != bytes((INTRODUCTION_VERSION,)):
            raise PeerRefused(f"introduction version {payload[:1].hex() or 'missing'}")
        if len(payload) < 1 + KEY_OCTETS + EPOCH_OCTETS:
            raise PeerRefused("an introduction too short")
        epoch = int.from_bytes(payload[1 + KEY_OCTETS : 1 + KEY_OCTETS + EPOCH_OCTETS], "big")
        return cls(payload[1 : 1 + KEY_OCTETS], epoch)


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


def check_bond(node_key: bytes, static_key: bytes) -> None:
    """Raises: PeerRefused, unless the handshake's static key is the converted node key."""
    if not compare_digest(static_key_of(node_key), static_key):
        raise PeerRefused("the static key does not belong to the node key")
