"""Pictures made for tests."""

import random
from io import BytesIO
from typing import Any

from PIL import Image


def picture(width: int, height: int, kind: str = "PNG", *, mode: str = "RGB", **options: Any) -> bytes:
    """A gradient, so that a thumbnail of it has something to show."""
    image = Image.linear_gradient("L").resize((width, height)).convert(mode)
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def animation(frames: int, width: int = 64, height: int = 64) -> bytes:
    pictures = [Image.new("RGB", (width, height), (number * 20 % 256, 0, 90)) for number in range(frames)]
    out = BytesIO()
    pictures[0].save(out, "GIF", save_all=True, append_images=pictures[1:], duration=80, loop=0)
    return out.getvalue()


def opened(octets: bytes) -> Image.Image:
    image: Image.Image = Image.open(BytesIO(octets))
    image.load()
    return image


def noise(width: int, height: int) -> bytes:
    """A JPEG that hardly shrinks, as photographs are."""
    image = Image.frombytes("RGB", (width, height), random.Random(1).randbytes(3 * width * height))
    out = BytesIO()
    image.save(out, "JPEG", quality=95)
    return out.getvalue()
