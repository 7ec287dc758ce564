"""The graph as a picture: time goes to the right, each server has a lane, a line leads to what an event cites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

from p2pserver.graph_view.colors import color_of
from p2pserver.graph_view.layout import OTHERS, Layout, Mark, Passing, lay_out
from p2pserver.graph_view.model import GraphEvent, Look, RoomGraph
from p2pserver.graph_view.symbols import (
    bar,
    event_symbol,
    extremity_ring,
    gap_symbol,
    look_symbol,
    number,
    row_symbol,
    torn,
)
from p2pserver.graph_view.text import shortened, xml_text

WIDTH = 1200
"""Pixels of a line of the picture; a short history makes a narrower one."""

NARROWEST = 640
LEFT, RIGHT, TOP, LEGEND_COLUMN = 128, 34, 58, 300
CAPTIONS_MIN_STEP = 40
GRAY = "#6e7781"

_STYLE = """
text{font-family:system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;font-size:11px;fill:#1f2328}
.title{font-size:15px;font-weight:600}.strong{font-weight:600}.quiet{fill:#6e7781}.small{font-size:9px}
.paper{fill:#fff}.ink{fill:#1f2328}.lane{fill:#6e7781;fill-opacity:.07}.axis{stroke:#6e7781;stroke-opacity:.25}
.cut{stroke:#fff;stroke-width:1.8;fill:none}.line{stroke:#6e7781;stroke-width:1.4;fill:none}
.open{stroke-dasharray:1.5 3}.gap{stroke:#6e7781;stroke-width:1.5;stroke-dasharray:3 2.5}
@media (prefers-color-scheme:dark){text,.ink{fill:#e6edf3}.quiet{fill:#9198a1}.paper{fill:#0d1117}
.cut{stroke:#0d1117}.line{stroke:#9198a1}}
""".strip().replace("\n", "")


@dataclass(slots=True)
class _Picture:
    graph: RoomGraph
    layout: Layout
    captions: Mapping[str, str]
    step: float
    radius: float
    row_height: float
    columns_per_line: int
    out: list[str] = field(default_factory=list)
    lane_tops: dict[tuple[int, str], float] = field(default_factory=dict)
    heights: dict[tuple[int, str], int] = field(default_factory=dict)
    bottom: float = TOP

    def x(self, place: Mark | Passing) -> float:
        return LEFT + (place.column % self.columns_per_line + 0.5) * self.step

    def y(self, place: Mark | Passing) -> float:
        return self.lane_tops[self.strip(place), place.lane] + (place.row + 0.5) * self.row_height

    def strip(self, place: Mark | Passing) -> int:
        return place.column // self.columns_per_line

    @property
    def width(self) -> float:
        columns = min(len(self.layout.columns), self.columns_per_line)
        return max(NARROWEST, LEFT + columns * self.step + RIGHT)


def as_svg(graph: RoomGraph, *, captions: Mapping[str, str] | None = None) -> str:
    """An SVG document that needs nothing else. `captions`: words under events by ID, in place of the usual ones."""
    layout = lay_out(graph)
    picture = _scaled(graph, layout, captions or {})
    _measure(picture)
    draw_lanes(picture)
    _draw_lines(picture)
    for mark in layout.marks:
        _draw_mark(picture, mark)
    _draw_legend(picture)
    width, height = number(picture.width), number(picture.bottom)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' role="img"><title>{xml_text("Event graph of " + (graph.name or graph.room_id))}</title>'
        f'<style>{_STYLE}</style><rect width="{width}" height="{height}" class="paper"/>'
    )
    return "\n".join([head, *_title(graph), *picture.out, "</svg>", ""])


def _scaled(graph: RoomGraph, layout: Layout, captions: Mapping[str, str]) -> _Picture:
    """The fewer columns, the more room for each."""
    columns = len(layout.columns)
    step = next((step for most, step in ((14, 72), (24, 46), (80, 40), (300, 28), (1200, 20)) if columns <= most), 14)
    per_line = int((WIDTH - LEFT - RIGHT) // step)
    if columns <= per_line * 1.2:
        per_line = max(1, columns)
    has_captions = step >= CAPTIONS_MIN_STEP
    radius = min(8.0, step * 0.22)
    return _Picture(graph, layout, captions, step, radius, 38 if has_captions else radius * 3.9, per_line)


def _measure(picture: _Picture) -> None:
    """Where each lane begins in each line of the picture. A lane in which nothing happens there is left out."""
    layout = picture.layout
    rows = layout.rows(picture.columns_per_line)
    y = float(TOP)
    for strip in range((len(layout.columns) - 1) // picture.columns_per_line + 1):
        y += 26
        for lane in layout.lanes:
            count = rows.get((strip, lane), 0)
            if count:
                picture.lane_tops[strip, lane] = y
                picture.heights[strip, lane] = count
                y += max(count * picture.row_height, 32) + 4
        y += 10
    picture.bottom = y


def _title(graph: RoomGraph) -> list[str]:
    events = [event for event in graph.events if not event.outlier]
    width = sum(event.extremity for event in graph.events)
    shown = (
        f"{graph.events_held:,} events"
        if len(events) == graph.events_held
        else (f"the last {len(events):,} of {graph.events_held:,} events")
    )
    branches = "1 forward extremity" if width == 1 else f"{width} forward extremities"
    facts = [f"room version {graph.version}", shown, branches]
    facts.append("complete" if graph.complete else f"partial: {len(graph.gaps)} gap{'s' * (len(graph.gaps) != 1)}")
    name = graph.name or "(no name)"
    return [
        f'<text class="title" x="14" y="24">{xml_text(shortened(name, 60))}</text>',
        f'<text class="quiet" x="14" y="41">{xml_text(", ".join(facts))}</text>',
        f'<text class="quiet small" x="14" y="55">{xml_text(graph.room_id)}</text>',
    ]


def draw_lanes(picture: _Picture) -> None:
    """The band of each server with its name, and above them depth and time."""
    people = _people(picture.graph)
    for (strip, lane), top in picture.lane_tops.items():
        height = max(picture.heights[strip, lane] * picture.row_height, 32)
        right = picture.width - RIGHT / 2
        picture.out.append(
            f'<rect class="lane" x="8" y="{number(top)}" width="{number(right - 8)}" height="{number(height)}" rx="4"/>'
        )
        label, under = people.get(lane, (lane, ""))
        color = color_of(lane) if lane in people else GRAY
        picture.out.append(
            f"<g><title>{xml_text(lane)}</title>"
            f'<rect x="8" y="{number(top)}" width="4" height="{number(height)}" fill="{color}" rx="2"/>'
            f'<text class="strong" x="18" y="{number(top + 14)}">{xml_text(shortened(label, 16))}</text>'
            f'<text class="quiet small" x="18" y="{number(top + 26)}">{xml_text(shortened(under, 20))}</text></g>'
        )
    for strip in sorted({strip for strip, _ in picture.lane_tops}):
        _draw_axis(picture, strip)


def _people(graph: RoomGraph) -> dict[str, tuple[str, str]]:
    """For each server the people that it speaks for, as far as they fit, and its own name."""
    found: dict[str, Counter[str]] = {}
    for event in graph.events:
        found.setdefault(event.server, Counter())[event.sender[1:].partition(":")[0]] += 1
    return {
        server: (", ".join(name for name, _ in names.most_common(2)), shortened(server, 20))
        for server, names in found.items()
    }


def _draw_axis(picture: _Picture, strip: int) -> None:
    layout, step = picture.layout, picture.step
    first = strip * picture.columns_per_line
    last = min(first + picture.columns_per_line, len(layout.columns))
    tops = [top for (number_, _), top in picture.lane_tops.items() if number_ == strip]
    ends = [
        top + max(picture.heights[key] * picture.row_height, 32)
        for key, top in picture.lane_tops.items()
        if key[0] == strip
    ]
    y = min(tops) - 8
    every = max(1, round(92 / step + 0.49))
    said = "depth · claimed time" if any(time > 0 for time in layout.times) else "depth"
    picture.out.append(f'<text class="quiet small" x="18" y="{number(y)}">{said}</text>')
    day, free_from = "", 0.0
    for column in range(first, last, every):
        x = LEFT + (column - first + 0.5) * step
        time = datetime.fromtimestamp(min(max(layout.times[column], 0), 253_402_300_799_000) / 1000, UTC)
        if x + 60 > picture.width:
            break
        if x - 3 < free_from:  # a day before it takes the place
            continue
        text = f"{time:%H:%M:%S}" if day == f"{time:%Y-%m-%d}" else f"{time:%Y-%m-%d %H:%M}"
        day = f"{time:%Y-%m-%d}"
        shown = f"{layout.columns[column]:,} · {text}" if layout.times[column] > 0 else f"{layout.columns[column]:,}"
        free_from = x + 6.5 * len(shown)
        picture.out.append(
            f'<path class="axis" d="M{number(x)} {number(y + 3)}V{number(max(ends))}"/>'
            f'<text class="quiet small" x="{number(x - 3)}" y="{number(y)}">{shown}</text>'
        )


def _draw_lines(picture: _Picture) -> None:
    """Lines to one mark share their way as long as they can, so what they share is drawn once."""
    drawn: set[tuple[int, int]] = set()
    for line in picture.layout.lines:
        if line.cited is None:
            x, y = picture.x(line.mark), picture.y(line.mark)
            picture.out.append(f'<path class="line open" d="M{number(x)} {number(y)}h{number(-picture.step * 0.7)}"/>')
            continue
        path = ""
        places: list[Mark | Passing] = [line.mark, *line.between, line.cited]
        for newer, older in pairwise(places):
            if (id(newer), id(older)) in drawn:
                break
            drawn.add((id(newer), id(older)))
            path += _segment(picture, newer, older, begins=not path)
        if path:
            kind = "line open" if line.cited.gap is not None else "line"
            picture.out.append(f'<path class="{kind}" d="{path}"/>')


def _segment(picture: _Picture, newer: Mark | Passing, older: Mark | Passing, *, begins: bool) -> str:
    x1, y1, x2, y2 = picture.x(newer), picture.y(newer), picture.x(older), picture.y(older)
    start = f"M{number(x1)} {number(y1)}" if begins else ""
    if picture.strip(newer) != picture.strip(older):  # out to the left here, in from the right further up
        over = picture.step * 0.2
        edge = LEFT + picture.columns_per_line * picture.step
        return f"{start}H{number(LEFT - over)}M{number(edge + over)} {number(y2)}H{number(x2)}"
    if abs(y1 - y2) < 0.1:
        return f"{start}H{number(x2)}"
    bend = min((x1 - x2) * 0.5, picture.step * 0.6)
    return f"{start}C{number(x1 - bend)} {number(y1)} {number(x2 + bend)} {number(y2)} {number(x2)} {number(y2)}"


def _draw_mark(picture: _Picture, mark: Mark) -> None:
    x, y, r = picture.x(mark), picture.y(mark), picture.radius
    if mark.gap is not None:
        symbol, told, caption = gap_symbol(x, y, r), mark.gap.told(), ""
    elif len(mark.events) > 1:
        symbol, told, caption = row_symbol(len(mark.events), _color_of_row(mark), x, y, r), _told_of_row(mark), ""
    else:
        event = mark.event
        symbol, told = event_symbol(event, color_of(event.server), x, y, r), _told(event)
        caption = picture.captions.get(event.event_id, event.caption if picture.step >= CAPTIONS_MIN_STEP else "")
    title = "&#10;".join(xml_text(line) for line in told)
    picture.out.append(f"<g><title>{title}</title>{symbol}{_caption(picture, caption, x, y)}</g>")


def _caption(picture: _Picture, caption: str, x: float, y: float) -> str:
    if not caption:
        return ""
    below = number(y + picture.radius * 1.6 + 9)
    text = xml_text(shortened(caption, max(4, int(picture.step * 1.3 / 5))))
    return f'<text class="small" x="{number(x)}" y="{below}" text-anchor="middle">{text}</text>'


def _told(event: GraphEvent) -> list[str]:
    time = datetime.fromtimestamp(min(max(event.origin_server_ts, 0), 253_402_300_799_000) / 1000, UTC)
    return [*event.told(), f"depth {event.depth}, claims to be of {time:%Y-%m-%d %H:%M:%S} UTC"]


def _color_of_row(mark: Mark) -> str:
    servers = {event.server for event in mark.events}
    return color_of(mark.event.server) if len(servers) == 1 else GRAY


def _told_of_row(mark: Mark) -> list[str]:
    kinds = Counter(event.type for event in mark.events)
    senders = Counter(event.sender for event in mark.events)
    return [
        f"{len(mark.events)} plain events, one after the other",
        *(f"{count} × {kind}" for kind, count in kinds.most_common(5)),
        *(f"{count} from {sender}" for sender, count in senders.most_common(5)),
        f"from {mark.events[0].event_id}",
        f"to {mark.events[-1].event_id}",
    ]


def _draw_legend(picture: _Picture) -> None:
    """What of all this the picture shows, with its symbol."""
    items = _legend_items(picture)
    per_row = max(1, int((picture.width - 20) // LEGEND_COLUMN))
    y = picture.bottom + 10
    picture.out.append(f'<path class="axis" d="M14 {number(y - 12)}H{number(picture.width - 14)}"/>')
    for index, (symbol, text) in enumerate(items):
        x = 28 + index % per_row * LEGEND_COLUMN
        top = y + index // per_row * 22 + 4
        picture.out.append(
            symbol(x, top) + f'<text class="small" x="{number(x + 18)}" y="{number(top + 3)}">{xml_text(text)}</text>'
        )
    picture.bottom = y + ((len(items) - 1) // per_row + 1) * 22 + 2


def _legend_items(picture: _Picture) -> list[tuple[Callable[[float, float], str], str]]:
    r = 6.0
    events = [event for mark in picture.layout.marks for event in mark.events]
    singles = [mark.event for mark in picture.layout.marks if len(mark.events) == 1]
    looks = {event.look for event in singles} | {Look.MESSAGE, Look.STATE}
    items: list[tuple[Callable[[float, float], str], str]] = [
        (lambda x, y, look=look: look_symbol(look, GRAY, x, y, r), look.value)  # type: ignore[misc]
        for look in (Look.MESSAGE, Look.STATE, Look.HEALING, Look.SOFT_FAILED, Look.REJECTED, Look.OUTLIER)
        if look in looks
    ]
    if any(event.extremity for event in events):
        items.append(
            (
                lambda x, y: look_symbol(Look.MESSAGE, GRAY, x, y, r * 0.8) + extremity_ring(GRAY, x, y, r * 0.8),
                "forward extremity: nothing accepted cites it yet",
            )
        )
    if any(event.redacted_copy for event in events):
        items.append(
            (
                lambda x, y: look_symbol(Look.MESSAGE, GRAY, x, y, r) + torn(Look.MESSAGE, GRAY, x, y, r),
                "redacted copy: content did not match its hash",
            )
        )
    if any(event.redacted_by and not event.redacted_copy for event in events):
        items.append(
            (lambda x, y: look_symbol(Look.MESSAGE, GRAY, x, y, r) + bar(x, y, r), "redacted by somebody who may")
        )
    if any(mark.gap is not None for mark in picture.layout.marks):
        items.append((lambda x, y: gap_symbol(x, y, r), "gap: cited, and not held here"))
    if len(singles) + sum(mark.gap is not None for mark in picture.layout.marks) < len(picture.layout.marks):
        items.append((lambda x, y: row_symbol(9, GRAY, x, y, r), "so many plain events, one after the other"))
    items.append(
        (
            lambda x, y: f'<path class="line" d="M{number(x - 8)} {number(y)}h16"/>',
            "leads to what an event cites (left)",
        )
    )
    if any(line.cited is None for line in picture.layout.lines):
        items.append(
            (
                lambda x, y: f'<path class="line open" d="M{number(x - 8)} {number(y)}h16"/>',
                "cites what is not shown here",
            )
        )
    if picture.layout.outliers_left_out > 0:
        items.append((lambda x, y: "", f"{picture.layout.outliers_left_out:,} more outliers are not drawn"))
    if OTHERS in picture.layout.lanes:
        items.append((lambda x, y: "", "the quietest servers share a lane, in their own colors"))
    return items
