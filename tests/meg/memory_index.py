"""The index over auth graphs in dictionaries, and auth graphs of any shape to hold it against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from p2pserver.events.pdu import Pdu
from p2pserver.meg.auth_index import AuthNode, NotIndexed, node_for
from p2pserver.meg.chains import EventFacts
from p2pserver.meg.state import StateSlot


class MemoryIndex:
    """Counts the questions that it is asked."""

    def __init__(self) -> None:
        self.nodes: dict[str, AuthNode] = {}
        self.cited_by: dict[str, list[tuple[str, StateSlot]]] = {}
        self.slots: dict[str, StateSlot] = {}
        self.asked = 0

    @classmethod
    def of(cls, events: Mapping[str, Pdu]) -> MemoryIndex:
        """Of events in any order; what cites an unknown event is not indexed, nor is what cites that."""
        index = cls()
        for event in events.values():
            facts = EventFacts.of(event)
            if facts.slot is not None:
                index.slots[event.event_id] = facts.slot
                for cited in dict.fromkeys(event.auth_events):
                    index.cited_by.setdefault(cited, []).append((event.event_id, facts.slot))
        waiting = list(events.values())
        while waiting:
            left = []
            for event in waiting:
                facts = EventFacts.of(event)
                if all(each in index.nodes for each in facts.auth_ids):
                    index.add(event.event_id, facts)
                else:
                    left.append(event)
            if len(left) == len(waiting):
                break
            waiting = left
        return index

    def add(self, event_id: str, facts: EventFacts) -> None:
        spine = next((each for each in facts.auth_ids if self.slots.get(each) == facts.slot), None)
        self.nodes[event_id] = node_for(self, facts.auth_ids, spine)

    def node(self, event_id: str) -> AuthNode:
        self.asked += 1
        if event_id not in self.nodes:
            raise NotIndexed(event_id)
        return self.nodes[event_id]

    def citing(self, event_id: str) -> Iterator[tuple[str, StateSlot]]:
        for each in self.cited_by.get(event_id, ()):
            self.asked += 1
            yield each
