"""The graph in Graphviz's language, for those who want to lay it out or search it with their own tools."""

from __future__ import annotations

from p2pserver.graph_view.colors import color_of
from p2pserver.graph_view.model import GraphEvent, Look, RoomGraph
from p2pserver.graph_view.text import printable

_SHAPES = {
    Look.MESSAGE: 'shape=ellipse, style="filled"',
    Look.STATE: 'shape=box, style="filled,rounded"',
    Look.HEALING: 'shape=diamond, style="filled"',
    Look.SOFT_FAILED: 'shape=ellipse, style="dashed", penwidth=2',
    Look.REJECTED: 'shape=octagon, style="solid", penwidth=2',
    Look.OUTLIER: 'shape=ellipse, style="dotted"',
}


def as_dot(graph: RoomGraph) -> str:
    """A digraph from each event to those that it cites; what is the same depth is on the same rank.

    Source: graphviz.org/doc/info/lang.html.
    """
    lines = [
        "digraph room {",
        f"  label={_quoted(graph.name or graph.room_id)};",
        "  rankdir=RL;",
        '  node [fontname="sans-serif", fontsize=10, fontcolor="white"];',
        '  edge [color="#6e7781", arrowsize=0.6];',
    ]
    shown = {event.event_id for event in graph.events}
    cited = {parent for event in graph.events for parent in event.prev_events}
    lines += [_node(event) for event in graph.events]
    for gap in graph.gaps:
        if gap.missing_event_id in cited - shown:
            shown.add(gap.missing_event_id)
            attributes = 'label="?", shape=ellipse, style="dashed", color="#6e7781", fontcolor="#6e7781"'
            lines.append(f"  {_quoted(gap.missing_event_id)} [{attributes}, tooltip={_quoted(*gap.told())}];")
    for event in graph.events:
        for parent in event.prev_events:
            if parent in shown:
                lines.append(f"  {_quoted(event.event_id)} -> {_quoted(parent)};")
    by_depth: dict[int, list[str]] = {}
    for event in graph.events:
        if not event.outlier:
            by_depth.setdefault(event.depth, []).append(_quoted(event.event_id))
    lines += ["  { rank=same; " + "; ".join(ids) + "; }" for ids in by_depth.values() if len(ids) > 1]
    return "\n".join([*lines, "}", ""])


def _node(event: GraphEvent) -> str:
    color = color_of(event.server)
    label = event.caption or event.event_id[:6]
    attributes = [
        f"label={_quoted(label)}",
        _SHAPES[event.look],
        f'color="{color}"',
        f"tooltip={_quoted(*event.told())}",
    ]
    if event.look in (Look.MESSAGE, Look.STATE, Look.HEALING):
        attributes.append(f'fillcolor="{color}"')
    else:
        attributes.append(f'fontcolor="{color}"')
    if event.extremity:
        attributes.append("peripheries=2")
    if event.is_redacted:
        attributes.append('fillcolor="#8c959f"')
    return f"  {_quoted(event.event_id)} [{', '.join(attributes)}];"


def _quoted(*lines: str) -> str:
    """A double-quoted ID: a quote is escaped, a backslash would begin an escape of the label."""
    escaped = (printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'
