"""Pictures of event graphs: everything is there, nothing is on top of something else, nothing can break out."""

from __future__ import annotations

import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter

import pydot
import pytest

from p2pserver.graph_view.colors import color_of, luminance
from p2pserver.graph_view.dot import as_dot
from p2pserver.graph_view.layout import LANES_MAX, OTHERS, Mark, Passing, lay_out
from p2pserver.graph_view.model import Look, RoomGraph
from p2pserver.graph_view.svg import as_svg
from tests.graph_view.graphs import event, every_kind, graph_of, random_graph

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = 'a"]; b -> c [<script>&]]>\x00\x1b[2J\u202e\ud800\\n\n'


def tooltips(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}title")]


def words(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def symbols(svg: str) -> dict[str, str]:
    """By event ID the markup of its symbol, less its place and its color."""
    found = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        title = group.find(f"{SVG}title")
        if title is None or not (title.text or "").startswith("$"):
            continue
        parts = []
        for child in list(group)[1:]:
            if child.tag == f"{SVG}text" and child.text != "?":
                continue
            kept = {key: value for key, value in child.attrib.items() if key in ("class", "stroke-dasharray", "rx")}
            parts.append((child.tag, "fill" in child.attrib, "stroke" in child.attrib, tuple(sorted(kept.items()))))
        found[(title.text or "").split("\n")[0]] = repr(parts)
    return found


def graph_sizes() -> list[RoomGraph]:
    return [
        graph_of(),
        graph_of(event("create", type="m.room.create", state_key="")),
        every_kind(),
        random_graph(60, servers=3, fork=0.1),
        random_graph(400, servers=5, fork=0.05),
        random_graph(1000, servers=40, fork=0.4),
    ]


def test_every_event_is_in_the_picture_with_its_verdict_and_reason() -> None:
    graph = every_kind()
    told = "\n".join(tooltips(as_svg(graph)))
    for each in graph.events:
        for word in (each.event_id, each.sender, each.type, each.verdict.replace("_", "-"), each.reason or ""):
            assert word in told
    assert "$missing" in told
    assert "b.example" in told


def test_each_kind_looks_like_no_other_even_without_color() -> None:
    found = symbols(as_svg(every_kind()))
    assert len(found) == len(every_kind().events) + 1
    assert len(set(found.values())) == len(found) - 1, "only create and ban, two state events, look alike"
    assert found["$create"] == found["$ban"]


def test_the_legend_names_what_is_shown_and_no_more() -> None:
    text = "\n".join(words(as_svg(every_kind())))
    assert all(look.value in text for look in Look)
    plain = "\n".join(words(as_svg(graph_of(event("create")))))
    assert Look.REJECTED.value not in plain
    assert "gap" not in plain


@pytest.mark.parametrize("graph", graph_sizes(), ids=lambda graph: str(len(graph.events)))
def test_nothing_lies_on_top_of_something_else(graph: RoomGraph) -> None:
    layout = lay_out(graph)
    passing = {id(place): place for line in layout.lines for place in line.between}
    places: list[Mark | Passing] = [*layout.marks, *passing.values()]
    taken = Counter((place.column, place.lane, place.row) for place in places)
    assert [place for place, count in taken.items() if count > 1] == []
    assert all(place.row >= 0 and place.lane for place in places)
    for line in layout.lines:
        if line.cited is not None:
            assert line.cited.column < line.mark.column
    drawn = [each.event_id for mark in layout.marks for each in mark.events]
    assert sorted(drawn) == sorted(each.event_id for each in graph.events)
    ET.fromstring(as_svg(graph))


def test_every_parent_that_is_shown_has_a_line() -> None:
    graph = random_graph(250, servers=4, fork=0.2)
    lines = {(line.mark.event.event_id, line.cited.event.event_id) for line in lay_out(graph).lines if line.cited}
    assert lines == {(each.event_id, parent) for each in graph.events for parent in each.prev_events}


def test_a_big_room_stays_a_picture() -> None:
    graph = random_graph(5000, servers=6, fork=0.02)
    svg = as_svg(graph)
    assert len(svg) < 2_000_000
    assert len(lay_out(graph).marks) < 2500
    told = " ".join(tooltips(svg))
    assert "plain events, one after the other" in told
    assert f"{graph.events[-1].event_id}" in told


def test_many_servers_share_a_lane_but_no_color_is_lost() -> None:
    layout = lay_out(random_graph(1000, servers=40, fork=0.4))
    assert len(layout.lanes) == LANES_MAX
    assert OTHERS in layout.lanes


def test_the_same_graph_gives_the_same_picture() -> None:
    assert as_svg(every_kind()) == as_svg(every_kind())


def test_colors_are_of_the_name_and_readable_on_white_and_on_dark() -> None:
    def contrast(one: float, other: float) -> float:
        light, dark = max(one, other), min(one, other)
        return (light + 0.05) / (dark + 0.05)

    colors = [color_of(f"server{number}.example") for number in range(200)]
    assert colors[7] == color_of("server7.example")
    assert len(set(colors)) > 190
    for color in colors:
        red, green, blue = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
        level = luminance((red, green, blue))
        assert contrast(level, 1.0) > 3
        assert contrast(level, luminance((13 / 255, 17 / 255, 23 / 255))) > 3


def hostile_graph() -> RoomGraph:
    return graph_of(
        event("create", type=HOSTILE, state_key=HOSTILE, reason=HOSTILE, server=HOSTILE, origin_server_ts=2**53 - 1),
        event("next", parents=("create",), depth=2**53 - 1, membership=HOSTILE, type="m.room.member", state_key="@x"),
        event("minus", parents=("create",), depth=2, origin_server_ts=-(2**53)),
        name=HOSTILE,
    )


def test_text_of_others_cannot_break_out() -> None:
    root = ET.fromstring(as_svg(hostile_graph()))
    assert not [element for element in root.iter() if "script" in element.tag]
    assert len(parsed(as_dot(hostile_graph())).get_edges()) == 2
    json.dumps(hostile_graph().as_json())


def parsed(dot: str) -> pydot.Dot:
    """Read by pydot's grammar, and by Graphviz itself where it is installed."""
    graphs = pydot.graph_from_dot_data(dot)
    assert graphs is not None
    if shutil.which("dot"):
        done = subprocess.run(["dot", "-Tsvg"], input=dot.encode(), capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    return graphs[0]


def test_dot_has_every_event_and_every_line() -> None:
    graph = every_kind()
    found = parsed(as_dot(graph))
    names = {node.get_name().strip('"') for node in found.get_nodes()} - {"node", "edge", "\\n"}
    assert names == {each.event_id for each in graph.events} | {"$missing"}
    edges = {(edge.get_source().strip('"'), edge.get_destination().strip('"')) for edge in found.get_edges()}
    assert edges == {(each.event_id, parent) for each in graph.events for parent in each.prev_events}
    shapes = Counter(node.get("shape") for node in found.get_nodes() if node.get_name() not in ("node", "edge"))
    assert shapes["octagon"] == shapes["diamond"] == 1


def test_json_has_everything() -> None:
    made = every_kind().as_json()
    assert [each["event_id"] for each in made["events"]] == [each.event_id for each in every_kind().events]
    assert made["events"][0]["server"] == "a.example"
    assert made["gaps"][0]["claimed_by"] == "b.example"
    assert json.loads(json.dumps(made)) == json.loads(json.dumps(every_kind().as_json()))
