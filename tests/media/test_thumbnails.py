"""Small pictures of large ones."""

from pathlib import Path

import pytest

from p2pserver.client_api.thumbnails import SIZES, chosen_size
from p2pserver.errors import InvalidParam
from tests.client_api.harness import running_node
from tests.media.asking import Got, get, uploaded
from tests.media.pictures import animation, opened, picture


@pytest.mark.parametrize(
    ("width", "height", "method", "name"),
    [
        (1, 1, "crop", "32x32-crop"),
        (32, 32, "crop", "32x32-crop"),
        (33, 32, "crop", "96x96-crop"),
        (97, 97, "crop", "320x240-scale"),
        (2000, 2000, "crop", "800x600-scale"),
        (1, 1, "scale", "320x240-scale"),
        (321, 1, "scale", "640x480-scale"),
        (640, 481, "scale", "800x600-scale"),
        (9999, 1, "scale", "800x600-scale"),
    ],
)
def test_the_sizes_are_those_of_the_specification(width: int, height: int, method: str, name: str) -> None:
    assert chosen_size(width, height, method).name == name
    assert len(SIZES) == 5


@pytest.mark.parametrize(
    ("width", "height", "method"), [(0, 5, "crop"), (5, 0, "scale"), (2**31, 5, "crop"), (5, 5, "")]
)
def test_what_is_no_size(width: int, height: int, method: str) -> None:
    with pytest.raises(InvalidParam):
        chosen_size(width, height, method)


async def test_pictures_of_all_kinds() -> None:
    async with running_node() as node:
        alice = await node.register("alice")

        async def thumbnail(octets: bytes, kind: str, *, method: str = "scale", animated: str = "", **size: int) -> Got:
            where = await uploaded(alice, octets, kind)
            query = {"width": 100, "height": 100, "method": method, **size}
            if animated:
                query["animated"] = animated  # type: ignore[assignment]
            got = await get(alice, f"/thumbnail/{where}", **query)
            assert got.status == 200, got.body
            assert got.headers["content-disposition"].startswith("inline; filename=")
            assert "sandbox" in got.headers["content-security-policy"]
            return got

        wide = await thumbnail(picture(1000, 500, "JPEG"), "image/jpeg")
        assert wide.headers["content-type"] == "image/jpeg"
        assert opened(wide.body).size == (320, 160)
        cut = await thumbnail(picture(1000, 500, "WEBP"), "image/webp", method="crop", width=90, height=90)
        assert opened(cut.body).size == (96, 96)
        clear = await thumbnail(picture(700, 700, "PNG", mode="RGBA"), "image/png")
        assert (clear.headers["content-type"], opened(clear.body).mode) == ("image/png", "RGBA")
        small = await thumbnail(picture(20, 10), "image/png", width=800, height=600)
        assert opened(small.body).size == (20, 10), "nothing is enlarged"
        turned = picture(400, 200, "JPEG", exif=_exif_turned())
        assert opened((await thumbnail(turned, "image/jpeg")).body).size == (120, 240), "upright, without Exif"
        for animated in ("", "false"):
            still = await thumbnail(animation(5), "image/gif", animated=animated)
            assert getattr(opened(still.body), "n_frames", 1) == 1
        moving = await thumbnail(animation(5), "image/gif", animated="true")
        assert moving.headers["content-type"] == "image/webp"
        assert opened(moving.body).n_frames == 5  # type: ignore[attr-defined]
        one = await thumbnail(picture(400, 200, "JPEG"), "image/jpeg", animated="true")
        assert one.headers["content-type"] == "image/jpeg"


def _exif_turned() -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


async def test_a_thumbnail_is_made_once_and_goes_with_its_file() -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        where = await uploaded(alice, picture(500, 500), "image/png")
        got = await get(alice, f"/thumbnail/{where}", width=32, height=32, method="crop")
        made = _files(node.disk.media_folder / "thumbnails")
        assert [path.name for path in made] == ["32x32-crop"]
        made[0].write_bytes(b"image/png\nkept")
        again = await get(alice, f"/thumbnail/{where}", width=32, height=32, method="crop")
        assert again.body == b"kept"
        known = {"If-None-Match": again.headers["etag"]}
        assert (
            await get(alice, f"/thumbnail/{where}", width=32, height=32, method="crop", headers=known)
        ).status == 304
        assert got.headers["etag"] != (await get(alice, f"/download/{where}")).headers["etag"]
        found = await node.api.media.find(*where.split("/"))
        assert found is not None
        await node.api.media.delete([found])
        assert not _files(node.disk.media_folder)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_what_cannot_be_made_small_is_told() -> None:
    async with running_node() as node:
        alice = await node.register("alice")

        async def errcode(octets: bytes, kind: str = "image/png", **query: object) -> tuple[int, str]:
            where = await uploaded(alice, octets, kind)
            got = await get(alice, f"/thumbnail/{where}", **({"width": 9, "height": 9} | query))
            return got.status, got.errcode

        assert await errcode(bytes(5000)) == (400, "M_UNKNOWN"), "an encrypted file looks like nothing"
        assert await errcode(b"<svg/>", "image/svg+xml") == (400, "M_UNKNOWN")
        half = picture(300, 300)
        assert await errcode(half[: len(half) // 2]) == (400, "M_UNKNOWN")
        assert await errcode(b"") == (400, "M_UNKNOWN")
        assert await errcode(_bomb(60_000, 60_000)) == (413, "M_TOO_LARGE")
        assert await errcode(_bomb(6_000, 6_000)) == (413, "M_TOO_LARGE")
        assert await errcode(picture(5, 5), width="wide") == (400, "M_INVALID_PARAM")
        assert await errcode(picture(5, 5), width=-1) == (400, "M_INVALID_PARAM")
        where = await uploaded(alice, picture(5, 5), "image/png")
        assert (await get(alice, f"/thumbnail/{where}", height=3)).errcode == "M_MISSING_PARAM"
        assert (await get(alice, f"/thumbnail/{node.server_name}/none", width=3, height=3)).errcode == "M_NOT_FOUND"


def _bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be large: only its header is whole."""
    import struct
    import zlib

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(bytes(1000))) + part(b"IEND", b"")


async def test_without_pillow_the_answer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_node() as node:
        alice = await node.register("alice")
        where = await uploaded(alice, picture(50, 50), "image/png")
        monkeypatch.setitem(__import__("sys").modules, "PIL", None)
        got = await get(alice, f"/thumbnail/{where}", width=9, height=9)
        assert (got.status, got.errcode) == (400, "M_UNKNOWN")
        assert b"p2pserver[media]" in got.body
        assert (await get(alice, f"/download/{where}")).status == 200
