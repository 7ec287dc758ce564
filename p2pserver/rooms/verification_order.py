"""Who cites whom in a stored room, read from the events themselves, and an order in which parents come first."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from p2pserver.events.receipt import load_pdu
from p2pserver.store.rooms import RoomRow
from p2pserver.store.tx import Tx


@dataclass(slots=True)
class Node:
    """One event by its number in the order of depth and arrival, as stored.

    `parents` and `auth` are numbers of this room's events; `elsewhere` are parents that are no events of its graph.
    """

    number: int
    event_id: str
    outlier: bool
    parents: tuple[int, ...] = ()
    auth: tuple[int, ...] = ()
    elsewhere: tuple[str, ...] = ()
    children: int = 0
    children_to_come: int = 0
    stands: bool = False
    """Not rejected."""
    accepted: bool = False
    below_standing: bool = False
    """An event that stands leads back here, over none but such as do not."""
    below_accepted: bool = False

    @property
    def is_extremity(self) -> bool:
        """Accepted, and no accepted event leads back to it."""
        return self.accepted and not self.below_accepted

    @property
    def is_accepted_leaf(self) -> bool:
        """Not rejected, and no such event leads back to it."""
        return self.stands and not self.below_standing


@dataclass(slots=True)
class Order:
    nodes: list[Node]
    numbers: dict[str, int]
    waits_for: list[int] = field(default_factory=list)

    def is_outlier(self, event_id: str) -> bool:
        number = self.numbers.get(event_id)
        return number is not None and self.nodes[number].outlier

    def parents_first(self) -> Iterator[Node]:
        """Every event after its parents and auth events; among those that are free, as they are stored."""
        cited_by: list[list[int]] = [[] for _ in self.nodes]
        self.waits_for = [0] * len(self.nodes)
        for node in self.nodes:
            for cited in {*node.parents, *node.auth}:
                cited_by[cited].append(node.number)
                self.waits_for[node.number] += 1
        free = [number for number, count in enumerate(self.waits_for) if count == 0]
        while free:
            number = heapq.heappop(free)
            yield self.nodes[number]
            for child in cited_by[number]:
                self.waits_for[child] -= 1
                if self.waits_for[child] == 0:
                    heapq.heappush(free, child)

    def note_verdict(self, node: Node, *, stands: bool, accepted: bool) -> None:
        """An event has been judged, after its parents."""
        node.stands, node.accepted = stands, accepted
        for number in node.parents:
            self.nodes[number].children_to_come -= 1
        waiting = list(node.parents) if stands else []
        while waiting:
            each = self.nodes[waiting.pop()]
            if not each.below_standing:
                each.below_standing = True
                waiting += () if each.stands else each.parents
        waiting = list(node.parents) if accepted else []
        while waiting:
            each = self.nodes[waiting.pop()]
            if not each.below_accepted:
                each.below_accepted = True
                waiting += () if each.accepted else each.parents

    def not_reached(self) -> Iterator[str]:
        return (node.event_id for node, count in zip(self.nodes, self.waits_for, strict=True) if count)


def read_order(tx: Tx, room: RoomRow) -> Order:
    """Reads each event of a room once. An event that cannot be read stands alone: whoever checks it will say why."""
    ids = tx.all(
        "SELECT event_id, outlier FROM events WHERE room_id = ? ORDER BY outlier DESC, depth, position, event_id",
        (room.room_id,),
    )
    nodes = [Node(number, event_id, bool(outlier)) for number, (event_id, outlier) in enumerate(ids)]
    numbers = {node.event_id: node.number for node in nodes}
    for node in nodes:
        [(raw,)] = tx.all("SELECT raw FROM events WHERE event_id = ?", (node.event_id,))
        try:
            event = load_pdu(json.loads(raw), room.rules, event_id=node.event_id)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        if not all(isinstance(each, str) for each in (*event.prev_events, *event.auth_events)):
            continue
        node.auth = _known(numbers, event.auth_events)
        if room.rules.room_id_is_create_hash and node.event_id != room.create_event_id:
            node.auth += _known(numbers, (room.create_event_id,))
        if node.outlier:
            continue
        placed = [each for each in event.prev_events if each in numbers and not nodes[numbers[each]].outlier]
        node.parents = _known(numbers, placed)
        node.elsewhere = tuple(each for each in event.prev_events if each not in placed)
        for parent in node.parents:
            nodes[parent].children += 1
            nodes[parent].children_to_come += 1
    return Order(nodes, numbers)


def _known(numbers: dict[str, int], event_ids: tuple[str, ...] | list[str]) -> tuple[int, ...]:
    return tuple(numbers[each] for each in dict.fromkeys(event_ids) if each in numbers)
