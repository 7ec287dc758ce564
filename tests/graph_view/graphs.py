"""Room graphs for the tests: every kind of event, hostile text, and random graphs of any size."""

from __future__ import annotations

import random
from typing import Any

from p2pserver.graph_view.model import HEALING_TYPE, GraphEvent, GraphGap, RoomGraph

START_MS = 1_790_000_000_000


def event(
    name: str, *, parents: tuple[str, ...] = (), depth: int = 1, server: str = "a.example", **fields: Any
) -> GraphEvent:
    defaults: dict[str, Any] = {
        "sender": f"@{server[0]}:{server}",
        "type": "m.room.message",
        "state_key": None,
        "membership": None,
        "position": depth,
        "origin_server_ts": START_MS + depth * 60_000,
        "verdict": "accepted",
        "reason": None,
        "outlier": False,
        "redacted_copy": False,
        "redacted_by": None,
        "extremity": False,
    }
    return GraphEvent(
        event_id=f"${name}", depth=depth, prev_events=tuple(f"${each}" for each in parents), **{**defaults, **fields}
    )


def graph_of(*events: GraphEvent, gaps: tuple[GraphGap, ...] = (), **fields: Any) -> RoomGraph:
    placed = sorted((each for each in events if not each.outlier), key=lambda each: (each.depth, each.position))
    outliers = tuple(each for each in events if each.outlier)
    defaults: dict[str, Any] = {
        "room_id": "!room:a.example",
        "version": "12",
        "name": "harbor",
        "complete": not gaps,
        "events_held": len(placed),
        "outliers_held": len(outliers),
    }
    return RoomGraph(events=(*placed, *outliers), gaps=gaps, **{**defaults, **fields})


def every_kind() -> RoomGraph:
    """A fork and its merge, and one event of each look."""
    b, c = {"server": "b.example"}, {"server": "c.example"}
    return graph_of(
        event("create", type="m.room.create", state_key=""),
        event("ban", parents=("create",), depth=2, type="m.room.member", state_key="@c:c.example", membership="ban"),
        event("late", parents=("create",), depth=2, verdict="soft_failed", reason="by the current state: no", **c),
        event("bad", parents=("late",), depth=3, verdict="rejected", reason="by its auth events: no", **c),
        event("gone", parents=("create",), depth=2, redacted_by="$redaction", **b),
        event("torn", parents=("gone",), depth=3, redacted_copy=True, **b),
        event("heal", parents=("ban", "torn"), depth=4, type=HEALING_TYPE, extremity=True),
        event("far", parents=("missing",), depth=9, extremity=True, **b),
        event("claimed", depth=0, outlier=True, type="m.room.name", state_key="", **b),
        gaps=(GraphGap(missing_event_id="$missing", depth=8, claimed_by="b.example", history=True),),
    )


def random_graph(count: int, *, servers: int, fork: float, seed: int = 1) -> RoomGraph:
    rng = random.Random(seed)
    heads: list[str] = []
    made: list[str] = []
    events: list[GraphEvent] = []
    depths: dict[str, int] = {}
    for number in range(count):
        if not heads:
            parents: list[str] = []
        elif rng.random() < fork:
            parents = [rng.choice(made[-30:])]
        else:
            parents = rng.sample(heads, min(len(heads), rng.choice((1, 2, 20))))
        name = f"e{number}"
        depths[name] = 1 + max((depths[parent] for parent in parents), default=0)
        server = f"s{rng.randrange(servers)}.example"
        events.append(event(name, parents=tuple(parents), depth=depths[name], server=server, position=number))
        made.append(name)
        heads = [head for head in heads if head not in parents] + [name]
    return graph_of(*events)
