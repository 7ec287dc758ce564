"""The Noise handshakes XX, XXfallback and IK a second time, to hold the first against.

Written down step by step from the specification for these patterns, on other primitives (OpenSSL through
`cryptography`, with its HKDF), and with no code shared.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


@dataclass(frozen=True, slots=True)
class Transcript:
    """Everything that one run of the handshake makes."""

    messages: tuple[bytes, ...]
    handshake_hash: bytes
    initiator_key: bytes
    """What the initiator encrypts with."""
    responder_key: bytes


def _hash(*parts: bytes) -> bytes:
    digest = hashes.Hash(hashes.BLAKE2s(32))
    for part in parts:
        digest.update(part)
    return digest.finalize()


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    out = HKDF(algorithm=hashes.BLAKE2s(32), length=64, salt=chaining_key, info=b"").derive(material)
    return out[:32], out[32:]


def _seal(key: bytes, nonce: int, associated: bytes, plaintext: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(bytes(4) + nonce.to_bytes(8, "little"), plaintext, associated)


def run_handshake(
    prologue: bytes,
    initiator: tuple[bytes, bytes],
    responder: tuple[bytes, bytes],
    payloads: tuple[bytes, bytes, bytes],
    *,
    fallback: bool = False,
) -> Transcript:
    """XX. `initiator`, `responder`: (static secret, ephemeral secret).

    `fallback`: XXfallback, where the first message is but the key that both know, and no message.
    """
    i_s, i_e = (X25519PrivateKey.from_private_bytes(secret) for secret in initiator)
    r_s, r_e = (X25519PrivateKey.from_private_bytes(secret) for secret in responder)

    def public(secret: X25519PrivateKey) -> bytes:
        return secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def agree(secret: X25519PrivateKey, other: X25519PrivateKey) -> bytes:
        return secret.exchange(X25519PublicKey.from_public_bytes(public(other)))

    chain = _hash(b"Noise_XXfallback_25519_ChaChaPoly_BLAKE2s" if fallback else b"Noise_XX_25519_ChaChaPoly_BLAKE2s")
    h = _hash(chain, prologue)

    h = _hash(h, public(i_e))
    first = public(i_e) + payloads[0]
    if not fallback:
        h = _hash(h, payloads[0])

    h = _hash(h, public(r_e))
    chain, key = _hkdf(chain, agree(r_e, i_e))
    sealed_static = _seal(key, 0, h, public(r_s))
    h = _hash(h, sealed_static)
    chain, key = _hkdf(chain, agree(r_s, i_e))
    sealed_payload = _seal(key, 0, h, payloads[1])
    h = _hash(h, sealed_payload)
    second = public(r_e) + sealed_static + sealed_payload

    sealed_static = _seal(key, 1, h, public(i_s))
    h = _hash(h, sealed_static)
    chain, key = _hkdf(chain, agree(i_s, r_e))
    sealed_payload = _seal(key, 0, h, payloads[2])
    h = _hash(h, sealed_payload)
    third = sealed_static + sealed_payload

    initiator_key, responder_key = _hkdf(chain, b"")
    return Transcript((first, second, third), h, initiator_key, responder_key)


def run_ik(
    prologue: bytes,
    initiator: tuple[bytes, bytes],
    responder: tuple[bytes, bytes],
    payloads: tuple[bytes, bytes],
) -> Transcript:
    """IK. `initiator`, `responder`: (static secret, ephemeral secret)."""
    i_s, i_e = (X25519PrivateKey.from_private_bytes(secret) for secret in initiator)
    r_s, r_e = (X25519PrivateKey.from_private_bytes(secret) for secret in responder)

    def public(secret: X25519PrivateKey) -> bytes:
        return secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def agree(secret: X25519PrivateKey, other: X25519PrivateKey) -> bytes:
        return secret.exchange(X25519PublicKey.from_public_bytes(public(other)))

    chain = _hash(b"Noise_IK_25519_ChaChaPoly_BLAKE2s")
    h = _hash(_hash(chain, prologue), public(r_s))

    h = _hash(h, public(i_e))
    chain, key = _hkdf(chain, agree(i_e, r_s))
    sealed_static = _seal(key, 0, h, public(i_s))
    h = _hash(h, sealed_static)
    chain, key = _hkdf(chain, agree(i_s, r_s))
    sealed_payload = _seal(key, 0, h, payloads[0])
    h = _hash(h, sealed_payload)
    first = public(i_e) + sealed_static + sealed_payload

    h = _hash(h, public(r_e))
    chain, _ = _hkdf(chain, agree(r_e, i_e))
    chain, key = _hkdf(chain, agree(r_e, i_s))
    sealed_payload = _seal(key, 0, h, payloads[1])
    h = _hash(h, sealed_payload)
    second = public(r_e) + sealed_payload

    initiator_key, responder_key = _hkdf(chain, b"")
    return Transcript((first, second), h, initiator_key, responder_key)
