"""Where everything of a room's graph goes: columns by depth, a lane for each server, rows inside the lanes.

The depth of an event is one more than the greatest of its parents, so every line goes from left to right. A line that
passes other columns gets a row of its own there, so that it crosses no event of its lane. Where the columns are more
than a line of the picture holds, the picture goes on below, as text does.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from p2pserver.graph_view.model import GraphEvent, GraphGap, RoomGraph

PLAIN_EVENTS_MAX = 300
"""Beyond this many events, what happened one after the other is drawn as one."""

LANES_MAX = 12
OTHERS = "other servers"
OUTLIERS = "outliers"
OUTLIERS_DRAWN_MAX = 60
PASSING_MAX = 20_000
"""Rows kept free for lines, all columns together; a hostile graph can ask for millions."""


@dataclass(slots=True, eq=False)
class Mark:
    """Something with a place: an event, a row of plain events drawn as one, or a gap. `row` counts inside its lane."""

    events: tuple[GraphEvent, ...] = ()
    gap: GraphGap | None = None
    column: int = 0
    lane: str = ""
    row: int = -1

    @property
    def event(self) -> GraphEvent:
        return self.events[0]


@dataclass(slots=True, eq=False)
class Passing:
    """A place that is kept free for a line."""

    column: int
    lane: str
    row: int = -1


@dataclass(slots=True, eq=False)
class Line:
    """From a mark to one that it cites, by what lies between, newest first. Without `cited`: to what is not shown."""

    mark: Mark
    cited: Mark | None
    between: list[Passing] = field(default_factory=list)


@dataclass(slots=True)
class Layout:
    """`columns` hold the depth that each stands for; `lanes` are in the order from the top."""

    marks: list[Mark]
    lines: list[Line]
    lanes: list[str]
    columns: list[int]
    times: list[int]
    outliers_left_out: int

    def rows(self, columns_per_line: int) -> dict[tuple[int, str], int]:
        """The rows that each lane needs in each line of the picture."""
        needed: dict[tuple[int, str], int] = {}
        for place in self._places():
            key = (place.column // columns_per_line, place.lane)
            needed[key] = max(needed.get(key, 0), place.row + 1)
        return needed

    def _places(self) -> Iterable[Mark | Passing]:
        yield from self.marks
        for line in self.lines:
            yield from line.between


def lay_out(graph: RoomGraph) -> Layout:
    """Every place that a picture of the graph needs. A pure function: the same graph gives the same picture."""
    placed = [event for event in graph.events if not event.outlier]
    outliers = [event for event in graph.events if event.outlier]
    marks, mark_of = _marks(placed)
    gap_marks = _gap_marks(graph.gaps, placed, mark_of)
    lines = _lines(marks, mark_of, gap_marks)
    columns = _columns(marks, gap_marks)
    lanes, lane_of = _lanes(placed, lines)
    for mark in marks:
        mark.lane = lane_of[mark.event.server]
    for line in lines:
        if line.cited is not None and line.cited.gap is not None and not line.cited.lane:
            line.cited.lane = line.mark.lane
    everything = [*marks, *(mark for mark in gap_marks.values() if mark.lane)]
    _pass_between(lines)
    _assign_rows(everything, lines)
    drawn = outliers[-OUTLIERS_DRAWN_MAX:]
    width = max(1, len(columns))
    for number, event in enumerate(drawn):
        everything.append(Mark((event,), column=number % width, lane=OUTLIERS, row=number // width))
    if drawn:
        lanes.append(OUTLIERS)
    times = [0] * len(columns)
    for mark in marks:
        times[mark.column] = max(times[mark.column], mark.events[-1].origin_server_ts)
    return Layout(
        everything,
        lines,
        lanes,
        columns or [0],
        times or [0],
        graph.outliers_held - len(drawn),
    )


def _marks(events: Sequence[GraphEvent]) -> tuple[list[Mark], dict[str, Mark]]:
    """A mark for each event; in a big graph one for each chain of plain events that nothing branches from."""
    mark_of: dict[str, Mark] = {}
    if len(events) <= PLAIN_EVENTS_MAX:
        marks = [Mark((event,)) for event in events]
        return marks, {mark.event.event_id: mark for mark in marks}
    cited_by = Counter(parent for event in events for parent in event.prev_events)
    by_id = {event.event_id: event for event in events}
    marks = []
    chains: dict[str, list[GraphEvent]] = {}
    for event in events:
        parent = event.prev_events[0] if len(event.prev_events) == 1 else ""
        before = by_id.get(parent)
        chain = chains.get(parent)
        if chain is not None and before is not None and cited_by[parent] == 1 and before.is_plain and event.is_plain:
            del chains[parent]
            chain.append(event)
        else:
            chain = [event]
        chains[event.event_id] = chain
    for chain in chains.values():
        mark = Mark(tuple(chain))
        marks.append(mark)
        mark_of.update((event.event_id, mark) for event in chain)
    marks.sort(key=lambda mark: (mark.event.depth, mark.event.position))
    return marks, mark_of


def _gap_marks(gaps: Sequence[GraphGap], events: Sequence[GraphEvent], mark_of: dict[str, Mark]) -> dict[str, Mark]:
    """A mark for each gap that an event of the picture cites."""
    cited = {parent for event in events for parent in event.prev_events}
    return {
        gap.missing_event_id: Mark(gap=gap)
        for gap in gaps
        if gap.missing_event_id in cited and gap.missing_event_id not in mark_of
    }


def _lines(marks: Sequence[Mark], mark_of: dict[str, Mark], gaps: dict[str, Mark]) -> list[Line]:
    lines: list[Line] = []
    for mark in marks:
        parents = mark.event.prev_events
        shown = [mark_of.get(parent) or gaps.get(parent) for parent in parents]
        lines += [Line(mark, cited) for cited in dict.fromkeys(each for each in shown if each is not None)]
        if None in shown:
            lines.append(Line(mark, None))
    return lines


def _columns(marks: Sequence[Mark], gaps: dict[str, Mark]) -> list[int]:
    """Gives every mark its column and returns the depths that the columns stand for."""
    before: dict[str, int] = {}
    for mark in marks:
        for parent in mark.event.prev_events:
            if parent in gaps:
                before[parent] = min(before.get(parent, mark.event.depth), mark.event.depth)
    depth_of_gap = {event_id: depth - 1 for event_id, depth in before.items()}
    depths = sorted({mark.event.depth for mark in marks} | set(depth_of_gap.values()))
    number = {depth: column for column, depth in enumerate(depths)}
    for mark in marks:
        mark.column = number[mark.event.depth]
    for event_id, depth in depth_of_gap.items():
        gaps[event_id].column = number[depth]
    return depths


def _lanes(events: Sequence[GraphEvent], lines: Sequence[Line]) -> tuple[list[str], dict[str, str]]:
    """The lanes from the top, and the lane of each server. The quietest share one where there are too many."""
    counts = Counter(event.server for event in events)
    servers = list(counts)
    lane_of = {server: server for server in servers}
    if len(servers) > LANES_MAX:
        loudest = {server for server, _ in counts.most_common(LANES_MAX - 1)}
        lane_of = {server: server if server in loudest else OTHERS for server in servers}
    lanes = list(dict.fromkeys(lane_of.values()))
    between: Counter[tuple[str, str]] = Counter()
    for line in lines:
        if line.cited is not None and line.cited.events:
            one, other = lane_of[line.mark.event.server], lane_of[line.cited.event.server]
            if one != other:
                between[one, other] += 1
    return _shorten(lanes, between), lane_of


def _shorten(lanes: list[str], between: Counter[tuple[str, str]]) -> list[str]:
    """Swaps lanes as long as that makes the lines between them shorter, all together."""

    def length(order: Sequence[str]) -> int:
        place = {lane: number for number, lane in enumerate(order)}
        return sum(count * abs(place[one] - place[other]) for (one, other), count in between.items())

    best = length(lanes)
    improved = True
    while improved:
        improved = False
        for one in range(1, len(lanes)):
            for other in range(one):
                tried = list(lanes)
                tried[one], tried[other] = tried[other], tried[one]
                if length(tried) < best:
                    lanes, best, improved = tried, length(tried), True
    return lanes


def _pass_between(lines: Sequence[Line]) -> None:
    """Keeps a place free in each column that lines pass, in the lane that they come from: one for all to one mark."""
    kept: dict[tuple[int, int], Passing] = {}
    for line in lines:
        if line.cited is None or len(kept) > PASSING_MAX:
            continue
        for column in range(line.mark.column - 1, line.cited.column, -1):
            key = (id(line.cited), column)
            if key not in kept:
                kept[key] = Passing(column, line.cited.lane)
            line.between.append(kept[key])


def _assign_rows(marks: Sequence[Mark], lines: Sequence[Line]) -> None:
    """From left to right: an event goes on in the row of what it cites, a line in its own, the rest where is room."""
    before: dict[int, Mark | Passing] = {}
    places: dict[int, dict[int, Mark | Passing]] = defaultdict(dict)
    for mark in marks:
        places[mark.column][id(mark)] = mark
    for line in lines:
        previous: Mark | Passing | None = line.cited
        for passing in reversed(line.between):
            if previous is not None:
                before[id(passing)] = previous
            places[passing.column][id(passing)] = passing
            previous = passing
        if previous is not None and previous.lane == line.mark.lane:
            before.setdefault(id(line.mark), previous)

    def urgency(place: Mark | Passing) -> tuple[int, int]:
        previous = before.get(id(place))
        row = 0 if previous is None else previous.row
        if isinstance(place, Passing):
            return (0 if isinstance(previous, Passing) else 2), row
        return (1 if previous is not None else 3), row

    for column in sorted(places):
        taken: set[tuple[str, int]] = set()
        for place in sorted(places[column].values(), key=urgency):
            previous = before.get(id(place))
            wanted = 0 if previous is None else max(0, previous.row)
            place.row = next(row for row in _nearest(wanted) if (place.lane, row) not in taken)
            taken.add((place.lane, place.row))


def _nearest(row: int) -> Iterable[int]:
    """The rows by their distance from this one, without end."""
    yield row
    distance = 0
    while True:
        distance += 1
        if row - distance >= 0:
            yield row - distance
        yield row + distance
