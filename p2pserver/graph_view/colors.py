"""One color per server, from its name alone: the same in every picture of every room, on every node."""

from __future__ import annotations

import colorsys
import hashlib

LUMINANCES = (0.13, 0.19, 0.26)
"""Relative luminance: a contrast of more than 3 to white and to the dark background of the pictures, #0d1117."""


def color_of(server: str) -> str:
    """`#rrggbb`. Hue, paleness and brightness all follow from the name."""
    digest = hashlib.sha256(server.encode("utf-8", "surrogatepass")).digest()
    hue = int.from_bytes(digest[:2]) / 65536
    saturation = 0.5 if digest[2] & 1 else 0.9
    wanted = LUMINANCES[digest[3] % len(LUMINANCES)]
    low, high = 0.0, 1.0
    for _ in range(12):
        lightness = (low + high) / 2
        if luminance(colorsys.hls_to_rgb(hue, lightness, saturation)) < wanted:
            low = lightness
        else:
            high = lightness
    return "#" + "".join(f"{round(part * 255):02x}" for part in colorsys.hls_to_rgb(hue, low, saturation))


def luminance(rgb: tuple[float, float, float]) -> float:
    """Relative luminance of sRGB parts from 0 to 1. Source: WCAG 2.2."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
