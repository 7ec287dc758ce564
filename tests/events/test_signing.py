"""Ed25519 as one deterministic function: what libraries disagree about is refused."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings

from p2pserver.events import signing
from p2pserver.events.signing import (
    SelfCertifyingKeys,
    Signer,
    is_safe_key,
    server_has_signed,
    sign_event,
    sign_json,
    signature_is_valid,
    signature_matches,
)
from p2pserver.events.unpadded_base64 import decode_base64, encode_base64, encode_base64url
from p2pserver.events.versions import V12
from p2pserver.identifiers import server_name_of
from tests.events.fuzzing import signer_of, valid_pdus
from tests.events.properties import steady

FIELD = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
POINT_OF_ORDER_2 = (FIELD - 1).to_bytes(32, "little")
SMALL_ORDER_KEYS = {
    "neutral": (1).to_bytes(32, "little"),
    "order 2": POINT_OF_ORDER_2,
    "order 4": bytes(32),
    "order 4, other sign": bytes(31) + b"\x80",
    "order 8": bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    "order 8, other": bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    "neutral, not canonical": (FIELD + 1).to_bytes(32, "little"),
    "order 4, not canonical": FIELD.to_bytes(32, "little"),
}


def scalar_of(seed: bytes) -> int:
    head = bytearray(hashlib.sha512(seed).digest()[:32])
    head[0] &= 248
    head[31] = (head[31] & 127) | 64
    return int.from_bytes(head, "little")


def base_times(scalar: int) -> bytes:
    return bindings.crypto_scalarmult_ed25519_base_noclamp((scalar % ORDER).to_bytes(32, "little"))


def challenge(r: bytes, key: bytes, data: bytes) -> int:
    return int.from_bytes(hashlib.sha512(r + key + data).digest(), "little") % ORDER


def forge(seed: bytes, data: bytes, *, torsion_in_r: bool = False, torsion_in_key: bool = False) -> tuple[bytes, bytes]:
    """(signature, key): by the rules for the seed, with a point of order 2 added to R or to the key."""
    key = base_times(scalar_of(seed))
    if torsion_in_key:
        key = bindings.crypto_core_ed25519_add(key, POINT_OF_ORDER_2)
    nonce = 20_240_511
    r = base_times(nonce)
    if torsion_in_r:
        r = bindings.crypto_core_ed25519_add(r, POINT_OF_ORDER_2)
    s = (nonce + challenge(r, key, data) * scalar_of(seed)) % ORDER
    return r + s.to_bytes(32, "little"), key


@steady
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_agrees_with_a_second_implementation(seed, data):
    signer = Signer("x", "ed25519:1", seed)
    other = Ed25519PrivateKey.from_private_bytes(seed)
    assert signer.verify_key == other.public_key().public_bytes_raw()
    assert signer.sign(data) == other.sign(data)
    assert signature_matches(signer.sign(data), data, signer.verify_key)
    assert not signature_matches(signer.sign(data), data + b"x", signer.verify_key)


def test_forged_signature_is_made_as_a_real_one_is():
    signature, key = forge(bytes(32), b"data")
    assert signature_matches(signature, b"data", key)


def test_a_part_of_small_order_in_r_is_refused():
    """Verification with and without the cofactor differ here; we and OpenSSL are without."""
    signature, key = forge(bytes(32), b"data", torsion_in_r=True)
    assert not signature_matches(signature, b"data", key)
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(key).verify(signature, b"data")


def test_a_library_that_verifies_with_the_cofactor_makes_no_difference(monkeypatch):
    """A model of one: what it does not object to is every signature here."""
    good, key = forge(bytes(32), b"data")
    mixed, _ = forge(bytes(32), b"data", torsion_in_r=True)
    monkeypatch.setattr(signing, "_opens", lambda _signed, _verify_key: True)
    signing._library_verifies_with_cofactor.cache_clear()
    try:
        assert signature_matches(good, b"data", key)
        assert not signature_matches(mixed, b"data", key)
    finally:
        signing._library_verifies_with_cofactor.cache_clear()


def test_the_probe_is_a_signature_with_a_part_of_small_order():
    assert forge(bytes(32), b"", torsion_in_r=True) == (signing._MIXED_ORDER_SIGNATURE, signing._MIXED_ORDER_KEY)


def test_a_part_of_small_order_in_the_key_is_refused():
    """Under such a key half of the signatures verify without the cofactor and all with it, so it is no key."""
    for number in range(8):
        data = f"data {number}".encode()
        signature, key = forge(bytes(32), data, torsion_in_key=True)
        assert not signature_matches(signature, data, key)
    assert not is_safe_key(key)
    assert SelfCertifyingKeys().verify_key(server_name_of(key), "ed25519:1") is None


@pytest.mark.parametrize("key", SMALL_ORDER_KEYS.values(), ids=SMALL_ORDER_KEYS)
def test_keys_of_small_order_are_refused(key):
    assert not is_safe_key(key)
    assert SelfCertifyingKeys().verify_key(server_name_of(key), "ed25519:1") is None
    # Anybody could sign anything under the neutral element with R = S·B.
    signature = base_times(5) + (5).to_bytes(32, "little")
    assert not signature_matches(signature, b"data", key)


def test_s_beyond_the_order_is_refused():
    signature, key = forge(bytes(32), b"data")
    s = int.from_bytes(signature[32:], "little")
    assert not signature_matches(signature[:32] + (s + ORDER).to_bytes(32, "little"), b"data", key)


@pytest.mark.parametrize("length", [0, 1, 63, 65, 128])
def test_signatures_of_another_length_are_refused(length):
    key = Signer("x", "ed25519:1", bytes(32)).verify_key
    assert not signature_matches(bytes(length), b"", key)
    assert not signature_matches(bytes(64), b"", key[:-1])


def test_signer_is_strict_and_keeps_its_seed_to_itself():
    seed = bytes(range(32))
    for key_id, octets in (("ed25519:1", seed[:31]), ("ed25519:1", seed + b"x"), ("curve25519:1", seed)):
        with pytest.raises(ValueError):
            Signer("x", key_id, octets)
    shown = repr(Signer("x", "ed25519:1", seed))
    assert shown == "Signer('x', 'ed25519:1')"


def test_keys_come_from_names():
    signer = signer_of("a")
    keys = SelfCertifyingKeys()
    assert keys.verify_key(signer.server_name, "ed25519:1") == signer.verify_key
    assert keys.verify_key(f"{signer.server_name}.mesh.example.org", "ed25519:1") == signer.verify_key
    for server_name in ("example.org", signer.server_name.upper(), f"{signer.server_name}:8448", "", "a" * 100_000):
        assert keys.verify_key(server_name, "ed25519:1") is None
    for key_id in ("ed25519:2", "ed25519:", "ed25519:auto", "curve25519:1", ""):
        assert keys.verify_key(signer.server_name, key_id) is None


def test_sign_json_leaves_the_object_and_other_signatures_alone():
    one, two = signer_of("a"), signer_of("b")
    obj = {"a": [1], "unsigned": {"age": 1.5}, "signatures": {"z": {"k": "v"}}}
    once = sign_json(obj, one)
    twice = sign_json(once, two)
    assert obj["signatures"] == {"z": {"k": "v"}}
    assert set(twice["signatures"]) == {"z", one.server_name, two.server_name}
    assert twice["unsigned"] == {"age": 1.5}
    for signer in (one, two):
        assert signature_is_valid(twice, signer.server_name, signer.key_id, signer.verify_key)
        assert not signature_is_valid({**twice, "a": [2]}, signer.server_name, signer.key_id, signer.verify_key)
    assert signature_is_valid({**twice, "unsigned": None}, one.server_name, one.key_id, one.verify_key)
    assert not signature_is_valid(twice, one.server_name, one.key_id, two.verify_key)
    assert not signature_is_valid(twice, one.server_name, "ed25519:2", one.verify_key)


@pytest.mark.parametrize(
    "signatures", [None, [], "x", {}, {"SERVER": None}, {"SERVER": []}, {"SERVER": {"ed25519:1": 5}}, {"SERVER": {}}]
)
def test_malformed_signatures_are_no_signatures(signatures):
    signer = signer_of("a")
    if isinstance(signatures, dict) and "SERVER" in signatures:
        signatures = {signer.server_name: signatures["SERVER"]}
    obj = {"a": 1, "signatures": signatures}
    assert not signature_is_valid(obj, signer.server_name, "ed25519:1", signer.verify_key)
    assert not server_has_signed(signatures, signer.server_name, b"", SelfCertifyingKeys(), None)


def test_an_object_without_canonical_form_has_no_valid_signature():
    signer = signer_of("a")
    signed = sign_json({"a": 1}, signer)
    assert not signature_is_valid({**signed, "a": 1.5}, signer.server_name, "ed25519:1", signer.verify_key)


def test_unknown_key_ids_and_algorithms_are_skipped():
    signer = signer_of("a")
    good = encode_base64(signer.sign(b"data"))
    own = {"rsa:1": "x", "ed25519:old": good, "ed25519:1": good, "": "", "ed25519:": "?"}
    assert server_has_signed({signer.server_name: own}, signer.server_name, b"data", SelfCertifyingKeys(), None)
    del own["ed25519:1"]
    assert not server_has_signed({signer.server_name: own}, signer.server_name, b"data", SelfCertifyingKeys(), None)


def test_a_second_server_can_sign_an_event():
    event = next(pdu for pdu in valid_pdus() if pdu.rules is V12 and pdu.type == "m.room.message")
    signed = sign_event(event.raw, V12, signer_of("second"))
    assert signed["hashes"] == event.raw["hashes"]
    assert set(signed["signatures"]) == {*event.raw["signatures"], signer_of("second").server_name}


@steady
@given(st.binary())
def test_base64_round_trip(octets):
    text = encode_base64(octets)
    assert "=" not in text
    assert decode_base64(text) == octets
    assert decode_base64(text + "=" * (-len(text) % 4)) == octets
    assert encode_base64url(octets) == text.replace("+", "-").replace("/", "_")


@pytest.mark.parametrize(
    "text", ["a", "aaaaa", "aa=", "aaa==", "====", "=", "aaaa====", "a-__", "aa a", "aa\n", "é", "aa=a"]
)
def test_base64_is_strict(text):
    with pytest.raises(ValueError):
        decode_base64(text)


def test_unused_bits_do_not_matter():
    assert decode_base64("AA") == decode_base64("AB") == decode_base64("AP==") == b"\0"
