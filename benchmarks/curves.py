"""Curves as a small SVG picture: lines for what was measured, rings for what is exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]
COLORS = ("#1b6ca8", "#c1440e", "#3a7d44", "#7b2d8b", "#b8860b", "#444444")
WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 40, 50


@dataclass(frozen=True, slots=True)
class Curve:
    label: str
    measured: Sequence[Point]
    exact: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Axes:
    """Both axes are logarithmic; all values are at least 1."""

    x_most: float
    y_most: float

    def place(self, point: Point) -> Point:
        x, y = (math.log(max(1.0, value)) for value in point)
        across = LEFT + x / math.log(self.x_most) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - y / math.log(self.y_most) * (HEIGHT - TOP - BOTTOM)


def picture(title: str, x_label: str, y_label: str, curves: Sequence[Curve]) -> str:
    """The text of an SVG file."""
    points = [point for curve in curves for point in (*curve.measured, *curve.exact)]
    axes = Axes(max(x for x, _ in points), max(y for _, y in points) * 1.3)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="20" text-anchor="middle" font-size="15">{escape(title)}</text>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>',
        (
            f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" '
            f'transform="rotate(-90 16 {HEIGHT / 2})">{escape(y_label)}</text>'
        ),
    ]
    for step in range(int(math.log10(axes.x_most)) + 1):
        x, _ = axes.place((10.0**step, 1))
        parts.append(_line(x, TOP, x, HEIGHT - BOTTOM) + _text(x, HEIGHT - BOTTOM + 16, f"{10**step}", "middle"))
    for step in range(int(math.log10(axes.y_most)) + 1):
        _, y = axes.place((1, 10.0**step))
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y) + _text(LEFT - 6, y + 4, f"{10**step}", "end"))
    for number, curve in enumerate(curves):
        color = COLORS[number % len(COLORS)]
        places = [axes.place(point) for point in curve.measured]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="none" stroke="{color}"/>'
            for x, y in map(axes.place, curve.exact)
        ]
        y = HEIGHT - BOTTOM - 110 + 16 * number
        parts.append(f'<rect x="{LEFT + 16}" y="{y - 9}" width="18" height="3" fill="{color}"/>')
        parts.append(_text(LEFT + 40, y - 3, curve.label, "start"))
    return "\n".join([*parts, "</svg>", ""])


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
