"""docs/media.md tells the numbers of the code, and names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from p2pserver.client_api import content, thumbnails
from p2pserver.federation import media_assembly, media_parts
from p2pserver.node import media_sources, media_transfers
from p2pserver.rooms import media_library, s2s_media
from p2pserver.rooms.media_library import MediaLibrary, MediaLimits
from p2pserver.store import media_transfers as rows
from p2pserver.wire import chunks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "media.md").read_text("utf-8")
WORDS = " ".join(PAGE.split())


def test_uploads_and_downloads() -> None:
    limits = MediaLimits()
    assert f"{limits.upload_octets >> 20} MiB a file" in WORDS
    assert f"{limits.user_octets >> 30} GiB a user, {limits.own_octets >> 30} GiB for all users" in WORDS
    assert f"beyond {limits.cache_octets >> 30} GiB" in WORDS
    assert f"{media_library.MEDIA_ID_OCTETS * 8} random bits" in WORDS
    assert f"within {media_library.ANNOUNCED_MS // 3_600_000} hours" in WORDS
    assert f"{media_library.ANNOUNCED_PER_USER_MAX} of a user's may wait" in WORDS
    assert f"({content.TIMEOUT_MS // 1000} seconds; {content.TIMEOUT_MS_MAX // 1000} at most)" in WORDS
    assert f"more than {thumbnails.PIXELS_MAX // 10**6} million pixels" in WORDS
    assert f"or {thumbnails.FILE_OCTETS_MAX >> 20} MiB, is 413" in WORDS
    assert f"({thumbnails.FRAMES_MAX} frames, {thumbnails.ANIMATED_PIXELS_MAX // 10**6} million pixels" in WORDS


def test_transfers() -> None:
    policy = media_assembly.MediaPolicy()
    assert f"A chunk has {chunks.CHUNK_OCTETS_LEAST // 1024} KiB" in WORDS
    assert f"{chunks.CHUNKS_MAX:,} of them at most" in WORDS
    assert f"first {chunks.CHUNK_HASH_OCTETS} octets" in WORDS
    assert (media_sources.SERVERS_ASKED_MAX, media_sources.SOURCES_MAX, rows.HOPS) == (8, 3, 2)
    assert s2s_media.HOPS_MAX > rows.HOPS
    assert (
        f"{rows.RELAYED_MAX} files are looked for in this way at most, {rows.RELAYED_PER_SERVER_MAX} for one" in WORDS
    )
    assert (media_sources.SOON_S, media_sources.LATER_S, media_sources.SLOW_TIMES) == (3.0, 30.0, 20)
    assert f"below {media_sources.SLOW_BIT_RATE // 1000} kbit/s" in WORDS
    assert (media_parts.SLOW_PART_S, media_parts.FAST_PART_S, media_parts.PART_OCTETS_LEAST) == (8.0, 2.0, 512)
    assert (media_sources.AT_ONCE, media_parts.SERVING_MAX) == (4, 4)
    assert f"--media-slow-seconds` ({policy.seconds_max:.0f}), or more than {policy.slow_s:.0f} seconds" in WORDS
    assert f"({media_assembly.QUESTION_OCTETS} octets)" in WORDS
    assert media_assembly.LINE_SHARE == 0.6
    assert (media_transfers.REQUESTED_MS_MAX, media_transfers.ASKED_MS_MAX) == (86_400_000, 7 * 86_400_000)
    assert media_transfers.RELAYED_MS_MAX == 600_000
    assert media_sources.DISTRUST_S == 600.0
    assert f"slower than {media_transfers.NEAR_BIT_RATE // 10**6} Mbit/s" in WORDS
    assert f"At most {rows.TRANSFERS_MAX} files" in WORDS
    assert (media_transfers.ANSWER_S, media_transfers.METERED_ANSWER_S) == (60.0, 3_700.0)


def test_what_is_named_is_there() -> None:
    for name in re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE):
        assert callable(getattr(MediaLibrary, name)), name
    folders = ("client_api", "rooms", "store", "federation", "node")
    for name in re.findall(r"`(?:p2pserver/\w+/)?(\w+\.py)`", PAGE):
        places = [ROOT / "p2pserver" / folder / name for folder in folders] + [ROOT / "tests" / "media" / name]
        assert any(place.exists() for place in places), name
