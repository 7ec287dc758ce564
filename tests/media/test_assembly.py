"""The pure parts: chunks, manifests, what is worth a link."""

from __future__ import annotations

import random
from typing import Any

import pytest

from p2pserver.events.signing import SelfCertifyingKeys, Signer
from p2pserver.federation.media_assembly import Assembly, LinkRate, MediaPolicy
from p2pserver.federation.media_manifest import BadManifest, Manifest, check_manifest, is_content_type, make_manifest
from p2pserver.federation.media_parts import part_octets_on
from p2pserver.identifiers import KEY_ID, server_name_of
from p2pserver.store.media_files import MediaFiles
from p2pserver.wire.chunks import CHUNK_HASH_OCTETS, CHUNK_OCTETS_LEAST, CHUNKS_MAX, chunk_hash, chunk_octets

SEED = bytes(range(32))
NAME = server_name_of(Signer("x", KEY_ID, SEED).verify_key)
SIGNER = Signer(NAME, KEY_ID, SEED)


def hashes_of(content: bytes) -> bytes:
    size = chunk_octets(len(content))
    if len(content) <= size:
        return b""
    return b"".join(chunk_hash(content[at : at + size]) for at in range(0, len(content), size))


def raw_manifest(content: bytes, **fields: Any) -> dict[str, Any]:
    import hashlib

    made = {
        "media_id": "boat",
        "digest": hashlib.sha256(content).digest(),
        "size": len(content),
        "content_type": "image/png",
        "filename": "boat.png",
        "chunks": hashes_of(content),
    }
    return make_manifest(SIGNER, **(made | fields))


def checked(raw: dict[str, Any]) -> Manifest:
    return check_manifest(raw, SelfCertifyingKeys(), origin=NAME, media_id="boat")


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 4 << 20, (4 << 20) + 1, 100 << 20])
def test_there_are_few_chunks_whatever_the_size(size: int) -> None:
    octets = chunk_octets(size)
    assert octets >= CHUNK_OCTETS_LEAST
    assert octets & (octets - 1) == 0
    assert -(-size // octets) <= CHUNKS_MAX


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 50_000])
def test_chunks_come_in_any_order(size: int, tmp_path: Any) -> None:
    rng = random.Random(size)
    content = rng.randbytes(size)
    raw = raw_manifest(content)
    manifest = checked(raw)
    assembly = Assembly(manifest, hashes_of(content))
    collected = bytearray(size)
    spans = []
    while (span := assembly.take(rng.randrange(20_000))) is not None:
        spans.append(span)
    assert sum(span.octets for span in spans) == size
    rng.shuffle(spans)
    for span in spans:
        good, bad = assembly.put(span, content[span.start : span.start + span.octets])
        assert not bad
        for start, chunk in good:
            collected[start : start + len(chunk)] = chunk
    assert assembly.is_whole
    assert assembly.octets_held == size
    assert bytes(collected) == content


def test_of_a_span_the_right_chunks_count() -> None:
    content = random.Random(3).randbytes(40_000)
    assembly = Assembly(checked(raw_manifest(content)), hashes_of(content))
    span = assembly.take(40_000)
    assert span is not None
    assert assembly.take(1) is None
    wrong = bytearray(content)
    wrong[9_000] ^= 1
    good, bad = assembly.put(span, bytes(wrong))
    assert bad
    assert len(good) == 9
    left = assembly.take(40_000)
    assert left is not None
    assert (left.start, left.octets) == (8192, 4096)
    short, bad = assembly.put(left, content[8192:9000])
    assert (short, bad) == ([], True)
    assembly.found(2, content[8192:12_288])
    assert assembly.is_whole


def test_hashes_of_another_file_are_refused() -> None:
    content = random.Random(3).randbytes(40_000)
    manifest = checked(raw_manifest(content))
    for wrong in (b"", hashes_of(content)[:-CHUNK_HASH_OCTETS], bytes(len(hashes_of(content)))):
        with pytest.raises(BadManifest):
            Assembly(manifest, wrong)


def test_a_manifest_says_what_its_origin_signed() -> None:
    content = random.Random(4).randbytes(9_000)
    manifest = checked(raw_manifest(content))
    assert (manifest.size, manifest.content_type, manifest.filename) == (9_000, "image/png", "boat.png")
    assert checked(raw_manifest(b"", filename=None)).filename is None


@pytest.mark.parametrize(
    "fields",
    [
        {"media_id": "other"},
        {"size": -1},
        {"size": True},
        {"size": 2**41},
        {"content_type": "image/png\r\nX-Evil: 1"},
        {"content_type": ""},
        {"filename": "a\nb"},
        {"filename": ""},
        {"digest": b"short"},
        {"chunks": b""},
    ],
)
def test_a_signed_manifest_can_still_be_nonsense(fields: dict[str, Any]) -> None:
    with pytest.raises(BadManifest):
        checked(raw_manifest(random.Random(4).randbytes(9_000), **fields))


def test_types_that_can_stand_in_a_header() -> None:
    for good in ("image/png", "audio/ogg; codecs=opus", "text/plain;charset=UTF-8", "application/x-anything"):
        assert is_content_type(good)
    for bad in ("", "png", "image/", "/png", "image/png ", "image/png\n", "bild/käse", "a/" + "b" * 300, None, 5):
        assert not is_content_type(bad)


def test_what_is_fetched_without_a_word() -> None:
    """A picture of 2 MB over LoRa (5,470 bit/s, 1 %), over a serial line, over Bluetooth, over a LAN."""
    lora = LinkRate(bit_rate=5_470, airtime_ms_per_hour=36_000)
    serial, bluetooth, lan = LinkRate(bit_rate=9_600), LinkRate(bit_rate=300_000), LinkRate(bit_rate=None)
    policy, photo = MediaPolicy(), 2_000_000
    assert [policy.allows(photo, "image/jpeg", link) for link in (lora, serial, bluetooth, lan)] == [
        False,
        False,
        False,
        True,
    ]
    assert [policy.allows(20_000, "image/jpeg", link) for link in (lora, serial, bluetooth, lan)] == [
        False,
        True,
        True,
        True,
    ]
    assert lora.seconds_for(photo) > 200 * 3600
    assert not policy.may_ask(lora)
    assert not policy.may_ask(LinkRate(bit_rate=1_200))
    assert policy.may_ask(serial)
    pictures = MediaPolicy(slow_types=("image/*", "audio/ogg"))
    assert pictures.allows(20_000, "Image/PNG; x=y", serial)
    assert pictures.allows(20_000, "audio/ogg; codecs=opus", serial)
    assert not pictures.allows(20_000, "video/mp4", serial)
    assert pictures.allows(20_000, "video/mp4", lan)
    assert MediaPolicy(seconds_max=1e9).allows(photo, "video/mp4", lora)


def test_parts_fit_the_link() -> None:
    assert [part_octets_on(rate) for rate in (None, 10**9, 100_000, 9_600, 1_200, 300)] == [
        65_536,
        65_536,
        25_000,
        9_600,
        1_200,
        512,
    ]


async def test_the_hashes_of_a_file_on_the_disk_are_the_same(tmp_path: Any) -> None:
    content = random.Random(9).randbytes(70_000)
    incoming = MediaFiles(tmp_path).incoming("x")
    await incoming.write(content)
    assert incoming.finish().chunks == hashes_of(content)
