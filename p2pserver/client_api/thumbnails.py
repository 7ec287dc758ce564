"""Small pictures of large ones, made with Pillow where it is installed (`pip install p2pserver[media]`).

Bounded: one at a time, in a thread; only formats that browsers show; of at most `PIXELS_MAX` pixels by the file's own
header, before anything is decoded. The sizes are those that the specification recommends, so that a file has ten at
most. Source: client-server API, "Thumbnails".
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from p2pserver.errors import InvalidParam, MatrixError, NotFound, TooLarge
from p2pserver.rooms.media_library import MediaLibrary
from p2pserver.store.media import Media

FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP")
PIXELS_MAX: Final = 32_000_000
FILE_OCTETS_MAX: Final = 64 << 20
FRAMES_MAX: Final = 100
ANIMATED_PIXELS_MAX: Final = 16_000_000
"""Pixels of all frames of an animated thumbnail's source together, up to which it is animated."""
HOPELESS_MAX: Final = 1_000
DIMENSION_MAX: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, order=True)
class Size:
    width: int
    height: int
    method: str

    @property
    def name(self) -> str:
        return f"{self.width}x{self.height}-{self.method}"


SIZES: Final = (
    Size(32, 32, "crop"),
    Size(96, 96, "crop"),
    Size(320, 240, "scale"),
    Size(640, 480, "scale"),
    Size(800, 600, "scale"),
)


class CannotThumbnail(MatrixError):
    """The file is no picture that can be made smaller here."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    octets: bytes
    content_type: str


def chosen_size(width: int, height: int, method: str) -> Size:
    """The smallest of the sizes that covers what is wanted, else the largest of its method.

    Raises: InvalidParam, for what is no size.
    """
    if not (0 < width <= DIMENSION_MAX and 0 < height <= DIMENSION_MAX) or method not in ("crop", "scale"):
        raise InvalidParam("width and height are positive, method is crop or scale")
    alike = [size for size in SIZES if size.method == method]
    covering = [size for size in alike if size.width >= width and size.height >= height]
    if covering:
        return covering[0]
    if method == "crop":
        # Larger than an avatar: what is scaled covers it as well, and the client cuts it.
        return next((s for s in SIZES if s.method == "scale" and s.width >= width and s.height >= height), SIZES[-1])
    return alike[-1]


class Thumbnails:
    """Makes them, and keeps them beside the files. One per node."""

    def __init__(self, library: MediaLibrary) -> None:
        self._library = library
        self._one_at_a_time = asyncio.Semaphore(1)
        self._hopeless: dict[tuple[str, str], None] = {}

    async def thumbnail(self, media: Media, size: Size, *, animated: bool) -> Thumbnail:
        """Raises: CannotThumbnail; TooLarge, for a picture that would take too much memory."""
        assert media.sha256 is not None
        sha256, files = media.sha256, self._library.files
        path = files.thumbnail_path(sha256, size.name + ("-animated" if animated else ""))
        made = await files.run(lambda: _read(path))
        if made is None:
            if media.size > FILE_OCTETS_MAX:
                raise TooLarge("the file is too large for a thumbnail")
            async with self._one_at_a_time:
                made = await files.run(lambda: _read(path) or _write(path, files.path(sha256), size, animated))
        return made

    def is_hopeless(self, media_id: str, size: str) -> bool:
        """Whether no thumbnail of an upload of this node can be made, as was found out, or of no such size."""
        return (media_id, size) in self._hopeless or size not in (each.name for each in SIZES)

    async def publish(self, media_id: str, size: str) -> None:
        """Makes a thumbnail of an upload of this node for other nodes."""
        found = await self._library.find(self._library.server_name, media_id)
        if found is None or found.sha256 is None:
            return
        chosen = next(each for each in SIZES if each.name == size)
        try:
            made = await self.thumbnail(found, chosen, animated=False)
        except MatrixError:
            self._hopeless[media_id, size] = None
            while len(self._hopeless) > HOPELESS_MAX:
                del self._hopeless[next(iter(self._hopeless))]
        else:
            with suppress(NotFound):
                await self._library.publish_thumbnail(found, size, made.octets, made.content_type)


def _read(path: Path) -> Thumbnail | None:
    """A thumbnail that was made before: its file is its type in a line, then its octets."""
    try:
        kind, _, octets = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return Thumbnail(octets, kind.decode("ascii"))


def _write(path: Path, source: Path, size: Size, animated: bool) -> Thumbnail:
    made = make_thumbnail(source, size, animated=animated)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(made.content_type.encode("ascii") + b"\n" + made.octets)
    part.replace(path)
    return made


def make_thumbnail(source: Path, size: Size, *, animated: bool) -> Thumbnail:
    """Raises: CannotThumbnail; TooLarge."""
    try:
        from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
    except ImportError:
        raise CannotThumbnail("thumbnails need Pillow on the node: pip install 'p2pserver[media]'") from None

    def fitted(image: Image.Image) -> Image.Image:
        upright = ImageOps.exif_transpose(image)
        box = (min(size.width, upright.width), min(size.height, upright.height))
        if size.method == "crop":
            return ImageOps.fit(upright, box, Image.Resampling.LANCZOS)
        upright.thumbnail((size.width, size.height), Image.Resampling.LANCZOS)
        return upright

    try:
        with Image.open(source, formats=FORMATS) as image:
            pixels, frames = image.width * image.height, getattr(image, "n_frames", 1)
            if pixels > PIXELS_MAX:
                raise TooLarge(f"a picture of {pixels} pixels is too large for a thumbnail")
            if animated and 1 < frames <= FRAMES_MAX and pixels * frames <= ANIMATED_PIXELS_MAX:
                durations = [frame.info.get("duration", 100) for frame in ImageSequence.Iterator(image)]
                pictures = [fitted(frame.convert("RGBA")) for frame in ImageSequence.Iterator(image)]
                out = BytesIO()
                pictures[0].save(
                    out, "WEBP", save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=70
                )
                return Thumbnail(out.getvalue(), "image/webp")
            image.seek(0)
            image.draft("RGB", (2 * size.width, 2 * size.height))
            has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            picture = fitted(image.convert("RGBA" if has_alpha else "RGB"))
            out = BytesIO()
            if has_alpha:
                picture.save(out, "PNG", optimize=True)
                return Thumbnail(out.getvalue(), "image/png")
            picture.save(out, "JPEG", quality=80, optimize=True)
            return Thumbnail(out.getvalue(), "image/jpeg")
    except UnidentifiedImageError:
        raise CannotThumbnail("this is no picture of which a thumbnail can be made") from None
    except Image.DecompressionBombError:
        raise TooLarge("the picture is too large for a thumbnail") from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError) as error:
        # Whatever a decoder raises on a broken file, it is the file that is broken.
        raise CannotThumbnail(f"the picture is damaged: {error}") from None
