"""Uploads and downloads on one node."""

import asyncio
import os
import random
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from p2pserver.client_api.content_headers import INLINE_TYPES, disposition
from p2pserver.http_api.asgi import ClientDisconnect
from p2pserver.rooms.media_library import ANNOUNCED_MS, ANNOUNCED_PER_USER_MAX, MediaLimits
from p2pserver.store.inline import SimulatedDisk
from tests.client_api.harness import Node, running_node
from tests.media.asking import LEGACY, V1, get, upload, uploaded

OCTETS = random.Random(5).randbytes(700_000)


def files_of(node: Node) -> list[Path]:
    folder = node.disk.media_folder
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


async def test_what_is_uploaded_comes_back() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        where = await uploaded(alice, OCTETS, "image/png", filename="Fjord.png")
        got = await get(alice, f"/download/{where}")
        assert (got.status, got.body) == (200, OCTETS)
        assert got.headers["content-type"] == "image/png"
        assert got.headers["content-length"] == str(len(OCTETS))
        assert got.headers["content-disposition"] == 'inline; filename="Fjord.png"'
        assert "sandbox" in got.headers["content-security-policy"]
        assert got.headers["cross-origin-resource-policy"] == "cross-origin"
        assert got.headers["access-control-allow-origin"] == "*"
        assert "immutable" in got.headers["cache-control"]
        again = await get(alice, f"/download/{where}", headers={"If-None-Match": got.headers["etag"]})
        assert (again.status, again.body) == (304, b"")


async def test_a_token_is_needed() -> None:
    async with running_node() as node:
        alice, stranger = await node.register("alice"), node.stranger()
        where = await uploaded(alice, b"text")
        assert (await get(stranger, f"/download/{where}")).errcode == "M_MISSING_TOKEN"
        assert (await get(stranger, f"/thumbnail/{where}", width=32, height=32)).errcode == "M_MISSING_TOKEN"
        assert (await stranger.ask("POST", f"{LEGACY}/upload", b"x")).errcode == "M_MISSING_TOKEN"
        assert (await stranger.ask("GET", f"{V1}/config")).errcode == "M_MISSING_TOKEN"


async def test_old_clients_get_what_was_stored_before_the_freeze() -> None:
    disk = SimulatedDisk()
    async with running_node(disk=disk, media_limits=MediaLimits(needs_token=False)) as node:
        alice = await node.register("alice")
        before = await uploaded(alice, b"before")
    async with running_node(disk=disk) as node:
        alice, stranger = await node.log_in("alice"), node.stranger()
        after = await uploaded(alice, b"after")
        for version in ("v3", "r0"):
            base = f"/_matrix/media/{version}"
            assert (await get(stranger, f"{base}/download/{before}")).body == b"before"
            assert (await get(stranger, f"{base}/download/{before}/other.txt")).status == 200
            assert (await get(stranger, f"{base}/download/{after}")).errcode == "M_NOT_FOUND"
            assert (await get(stranger, f"{base}/thumbnail/{after}", width=9, height=9)).errcode == "M_NOT_FOUND"
            assert (await get(alice, f"{base}/download/{after}")).body == b"after"
        assert (await get(alice, f"/download/{before}")).body == b"before"


async def test_the_same_octets_are_kept_once_and_go_with_the_last_of_their_names() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        first, second = await uploaded(alice, OCTETS), await uploaded(bob, OCTETS, filename="mine.txt")
        assert first != second
        assert [path.stat().st_size for path in files_of(node)] == [len(OCTETS)]
        media = [await node.api.media.find(*where.split("/")) for where in (first, second)]
        await node.api.media.delete([media[0]])  # type: ignore[list-item]
        assert (await get(bob, f"/download/{first}")).errcode == "M_NOT_FOUND"
        assert (await get(alice, f"/download/{second}")).body == OCTETS
        await node.api.media.delete([media[1]])  # type: ignore[list-item]
        assert files_of(node) == []


@pytest.mark.parametrize(
    ("wanted", "status", "start", "end"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=500000-", 206, 500_000, 700_000),
        ("bytes=-100", 206, 699_900, 700_000),
        ("bytes=699999-9999999", 206, 699_999, 700_000),
        ("bytes=0-1,5-6", 200, 0, 700_000),
        ("bytes=9-3", 200, 0, 700_000),
        ("pages=1-2", 200, 0, 700_000),
    ],
)
async def test_a_part_can_be_asked_for(wanted: str, status: int, start: int, end: int) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        where = await uploaded(alice, OCTETS, "video/mp4")
        got = await get(alice, f"/download/{where}", headers={"Range": wanted})
        assert (got.status, got.body) == (status, OCTETS[start:end])
        if status == 206:
            assert got.headers["content-range"] == f"bytes {start}-{end - 1}/700000"
        old = await get(alice, f"/download/{where}", headers={"Range": wanted, "If-Range": '"other"'})
        assert old.status == 200


async def test_a_part_that_is_not_there_is_416() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        where = await uploaded(alice, b"short")
        got = await get(alice, f"/download/{where}", headers={"Range": "bytes=5-"})
        assert (got.status, got.headers["content-range"]) == (416, "bytes */5")
        empty = await uploaded(alice, b"")
        assert (await get(alice, f"/download/{empty}")).body == b""
        assert (await get(alice, f"/download/{empty}", headers={"Range": "bytes=0-"})).status == 416


def test_only_what_runs_nowhere_is_shown_in_place() -> None:
    assert disposition("image/png", None) == "inline"
    assert disposition("audio/ogg; codecs=opus", "voice message.ogg") == 'inline; filename="voice message.ogg"'
    for kind in ("text/html", "image/svg+xml", "application/pdf", "application/octet-stream", "video/x-matroska", ""):
        assert kind not in INLINE_TYPES
        assert disposition(kind, None) == "attachment"
    assert disposition("text/html", 'a"b\\c.html') == "attachment; filename*=utf-8''a%22b%5Cc.html"
    assert disposition("text/plain", "Käse/..;x") == "inline; filename*=utf-8''K%C3%A4se%2F..%3Bx"


async def test_names_and_types_stay_what_they_were() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        voice = await uploaded(alice, b"OggS", "audio/ogg; codecs=opus", filename="Sprachnachricht ü.ogg")
        got = await get(alice, f"/download/{voice}")
        assert got.headers["content-type"] == "audio/ogg; codecs=opus"
        assert got.headers["content-disposition"] == "inline; filename*=utf-8''Sprachnachricht%20%C3%BC.ogg"
        renamed = await get(alice, f"/download/{voice}/other%20name.ogg")
        assert renamed.headers["content-disposition"] == 'inline; filename="other name.ogg"'
        page = await uploaded(alice, b"<script>", "text/html")
        assert (await get(alice, f"/download/{page}")).headers["content-disposition"] == "attachment"
        odd = await uploaded(alice, b"?", "application/x-nobody-knows-this")
        assert (await get(alice, f"/download/{odd}")).headers["content-type"] == "application/x-nobody-knows-this"
        bare = await upload(alice, b"?", content_type=None)
        where = bare.json()["content_uri"].removeprefix("mxc://")
        assert (await get(alice, f"/download/{where}")).headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("told", [True, False])
async def test_what_is_too_large_is_refused_and_leaves_nothing(told: bool) -> None:
    async with running_node(media_limits=MediaLimits(upload_octets=10_000)) as node:
        alice = await node.register("alice")
        assert (await alice.ask("GET", f"{V1}/config"))["m.upload.size"] == 10_000
        assert (await alice.ask("GET", f"{LEGACY}/config"))["m.upload.size"] == 10_000

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield bytes(1000)

        answer = await upload(alice, bytes(10_001) if told else parts())
        assert (answer.status_code, answer.json()["errcode"]) == (413, "M_TOO_LARGE")
        assert files_of(node) == []
        assert (await upload(alice, bytes(10_000))).status_code == 200


async def test_an_upload_that_breaks_off_leaves_nothing() -> None:
    async with running_node() as node:
        alice = await node.register("alice")

        async def parts() -> AsyncIterator[bytes]:
            yield bytes(600_000)
            assert len(files_of(node)) == 1
            raise ClientDisconnect

        with pytest.raises(ClientDisconnect):
            await node.api.media.upload(parts(), user_id=alice.user_id, content_type=None, filename=None)
        assert files_of(node) == []


async def test_quotas() -> None:
    limits = MediaLimits(user_octets=5_000, own_octets=7_000)
    async with running_node(media_limits=limits) as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        assert (await upload(alice, bytes(4_000))).status_code == 200
        refused = await upload(alice, bytes(1_001))
        assert (refused.status_code, refused.json()["errcode"]) == (403, "M_FORBIDDEN")
        assert (await upload(alice, bytes(1_000))).status_code == 200
        assert (await upload(bob, b"x" * 2_001)).status_code == 403
        assert (await upload(bob, b"x" * 2_000)).status_code == 200
        both = await asyncio.gather(*(upload(bob, bytes([number]) * 2_000) for number in range(3)))
        assert {answer.status_code for answer in both} == {403}


async def test_an_id_can_be_had_before_the_upload() -> None:
    async with running_node() as node:
        alice, bob = await node.register("alice"), await node.register("bob")
        created = await alice.ask("POST", "/_matrix/media/v1/create", {})
        where = created["content_uri"].removeprefix("mxc://")
        assert created["unused_expires_at"] > node.api.wall_ms()
        early = await get(bob, f"/download/{where}", timeout_ms=0)
        assert (early.status, early.errcode) == (504, "M_NOT_YET_UPLOADED")
        waiting = asyncio.create_task(get(bob, f"/download/{where}"))
        await asyncio.sleep(0.01)
        path = f"{LEGACY}/upload/{where}"
        assert (await upload(bob, b"not mine", path=path, method="PUT")).json()["errcode"] == "M_FORBIDDEN"
        done = await upload(alice, b"late", path=path, method="PUT", content_type="text/plain", filename="a.txt")
        assert (done.status_code, done.json()) == (200, {})
        got = await asyncio.wait_for(waiting, 10)
        assert (got.status, got.body) == (200, b"late")
        assert got.headers["content-disposition"] == 'inline; filename="a.txt"'
        again = await upload(alice, b"again", path=path, method="PUT")
        assert (again.status_code, again.json()["errcode"]) == (409, "M_CANNOT_OVERWRITE_MEDIA")
        for missing in (f"{LEGACY}/upload/{node.server_name}/nothing", f"{LEGACY}/upload/other.example/x"):
            assert (await upload(alice, b"x", path=missing, method="PUT")).json()["errcode"] == "M_NOT_FOUND"


async def test_an_id_expires_and_only_so_many_are_given_out() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        ids = [(await alice.ask("POST", "/_matrix/media/v1/create", {})).body for _ in range(ANNOUNCED_PER_USER_MAX)]
        refused = await alice.ask("POST", "/_matrix/media/v1/create", {})
        assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
        where = ids[0]["content_uri"].removeprefix("mxc://")
        node.now_ms[0] += ANNOUNCED_MS
        late = await upload(alice, b"late", path=f"{LEGACY}/upload/{where}", method="PUT")
        assert (late.status_code, late.json()["errcode"]) == (404, "M_NOT_FOUND")
        assert (await get(alice, f"/download/{where}")).errcode == "M_NOT_FOUND"
        assert (await alice.ask("POST", "/_matrix/media/v1/create", {})).status == 200


@pytest.mark.parametrize("where", ["{own}/nothing", "nowhere.example/abc", "{own}/a%2Fb", "not a server/abc"])
async def test_what_is_not_there_is_not_found(where: str) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        path = f"/download/{where.format(own=node.server_name)}"
        assert (await get(alice, path, allow_remote="false")).errcode == "M_NOT_FOUND"


async def test_previews_of_pages_are_off() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        for path in (f"{V1}/preview_url", f"{LEGACY}/preview_url", "/_matrix/media/r0/preview_url"):
            answer = await alice.get(path, url="http://127.0.0.1/")
            assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")


async def test_a_crash_between_file_and_row_leaves_no_stray_file() -> None:
    disk = SimulatedDisk()
    async with running_node(disk=disk) as node:
        alice = await node.register("alice")
        kept = await uploaded(alice, b"kept")
        incoming = node.api.media.files.incoming("half")
        await incoming.write(OCTETS)
        stray = node.api.media.files.incoming("stray")
        await stray.write(b"whole, but its unit never ran")
        node.api.media.files.keep(stray.path, stray.finish())
        assert len(files_of(node)) == 3
        assert incoming._file is not None
        incoming._file.close()
    async with running_node(disk=disk) as node:
        alice = await node.log_in("alice")
        assert len(files_of(node)) == 1
        assert (await get(alice, f"/download/{kept}")).body == b"kept"


async def test_a_full_disk_is_told() -> None:
    async with running_node() as node:
        alice = await node.register("alice")

        async def full(self: Any, octets: bytes) -> None:
            raise OSError(28, "No space left on device")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("p2pserver.store.media_files.Incoming.write", full)
            answer = await upload(alice, b"x")
        assert (answer.status_code, answer.json()["errcode"]) == (507, "M_UNKNOWN")


async def test_a_file_that_is_gone_is_not_found() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        where = await uploaded(alice, b"damaged")
        files_of(node)[0].write_bytes(b"dam")
        assert (await get(alice, f"/download/{where}")).errcode == "M_NOT_FOUND"
        again = await uploaded(alice, b"damaged")
        assert (await get(alice, f"/download/{again}")).body == b"damaged"


async def test_what_operators_do() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        library = node.api.media
        wheres = [await uploaded(alice, bytes([number]) * 100) for number in range(3)]
        page, count = await library.list_uploads(user_id=alice.user_id, limit=2)
        assert count == 3
        assert [f"{media.origin}/{media.media_id}" for media in page] == wheres[:0:-1]
        assert page[0].to_json()["media_length"] == 100
        assert await library.protect(node.server_name, page[0].media_id, True)
        assert await library.quarantine(page, by="@admin:here") == 1
        assert (await get(alice, f"/download/{wheres[1]}")).errcode == "M_NOT_FOUND"
        assert (await get(alice, f"/download/{wheres[2]}")).status == 200
        assert await library.quarantine(page, by=None) == 2
        assert (await get(alice, f"/download/{wheres[1]}")).status == 200
        assert await library.delete_own(before_ms=node.api.wall_ms() + 10) == 2
        assert (await library.list_uploads())[1] == 1
        assert await library.prune() == await library.purge_remote(before_ms=2**53) == 0
        assert (await get(alice, f"/download/{wheres[2]}")).status == 200


async def test_uploads_under_way_count() -> None:
    async with running_node(media_limits=MediaLimits(user_octets=10_000)) as node:
        alice = await node.register("alice")
        goes_on = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield bytes(6_000)
            await goes_on.wait()

        first = asyncio.create_task(upload(alice, slowly()))
        while (alice.user_id, 6_000) not in node.api.media._arriving.values():  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert (await upload(alice, bytes(5_000))).status_code == 403
        assert (await upload(alice, bytes(3_000))).status_code == 200
        goes_on.set()
        assert (await first).status_code == 200
        assert not node.api.media._arriving


async def test_a_file_is_durable_before_its_row_and_its_row_before_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        steps: list[str] = []
        fsync, replace, write = os.fsync, Path.replace, node.database.write

        def noted_fsync(number: int) -> None:
            steps.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
            fsync(number)

        def noted_replace(self: Path, target: Path) -> Path:
            steps.append("renamed")
            return replace(self, target)

        async def noted_write(unit: Any) -> Any:
            result = await write(unit)
            steps.append("committed")
            return result

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(Path, "replace", noted_replace)
        monkeypatch.setattr(node.database, "write", noted_write)
        await uploaded(alice, OCTETS)
        steps.append("answered")
        assert steps == ["file", "renamed", "folder", "folder", "committed", "answered"]


@pytest.mark.parametrize("seed", range(4))
async def test_rows_and_files_agree_whatever_happens_at_once(seed: int) -> None:
    """The same few contents are uploaded, deleted and read side by side, with real threads."""
    rng = random.Random(seed)
    async with running_node() as node:
        alice = await node.register("alice")
        library = node.api.media
        library.files._threads = True
        contents = [rng.randbytes(size) for size in (10, 5_000, 300_000)]
        known: dict[str, bytes] = {}

        async def put() -> None:
            await asyncio.sleep(rng.random() / 50)
            content = rng.choice(contents)
            known[await uploaded(alice, content)] = content

        async def drop() -> None:
            await asyncio.sleep(rng.random() / 50)
            if known:
                where = rng.choice(list(known))
                del known[where]
                found = await library.find(*where.split("/"))
                assert found is not None
                await library.delete([found])

        for _ in range(4):
            await asyncio.gather(*(rng.choice((put, put, drop))() for _ in range(8)))
            for where, content in known.items():
                assert (await get(alice, f"/download/{where}")).body == content
        assert len(files_of(node)) == len(set(known.values()))
