"""What a node that only receives pays for one more event of a room full of forks, counted, as the room grows.

Nothing that it does merges anything: what it holds as ends of the graph must come from the events alone. Some of them
it soft-fails, since a ban on another branch came first, and those who had not heard of the ban build upon them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from benchmarks.forked_rooms import ForkedRoom, room_with_forks
from p2pserver.errors import Verdict
from p2pserver.events.versions import V12
from p2pserver.store import graph_ends
from p2pserver.store import rooms as room_rows
from p2pserver.store.auth_index import StoredAuthIndex
from tests.rooms.servers import Server
from tests.store.integrity import graph_contradictions

AT_ONCE = 25
WINDOW = 250


class Receiver:
    """A server that is given a room from its create event on, and counts what that takes."""

    def __init__(self, room: ForkedRoom) -> None:
        self.server, self.room = Server("receiver"), room
        self.raws = [event.raw for event in room.events.values()]
        create = next(iter(room.events))
        self.server.run(
            lambda tx: room_rows.insert_room(tx, room.room_id, version="12", create_event_id=create, complete=True)
        )

    def work(self) -> list[tuple[int, int]]:
        """For each `WINDOW` of events: instructions of SQLite's virtual machine, and looks into the auth graph."""
        found: list[tuple[int, int]] = []
        steps = 0

        def step() -> int:
            nonlocal steps
            steps += 100
            return 0

        self.server.conn.set_progress_handler(step, 100)
        with looks_counted() as looks:
            for start in range(0, len(self.raws), AT_ONCE):
                self.server.receive(
                    self.room.room_id, self.raws[start : start + AT_ONCE], self.room.signers[0].server_name
                )
                if (start + AT_ONCE) % WINDOW == 0:
                    found.append((steps, looks[0]))
                    steps = looks[0] = 0
        self.server.conn.set_progress_handler(None, 0)
        return found


@contextmanager
def looks_counted() -> Iterator[list[int]]:
    looks = [0]
    node, citing = StoredAuthIndex.node, StoredAuthIndex.citing

    def counted_node(self: StoredAuthIndex, event_id: str) -> Any:
        looks[0] += 1
        return node(self, event_id)

    def counted_citing(self: StoredAuthIndex, event_id: str) -> Any:
        looks[0] += 1
        return citing(self, event_id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoredAuthIndex, "node", counted_node)
        patch.setattr(StoredAuthIndex, "citing", counted_citing)
        yield looks


def growth(work: list[tuple[int, int]], *, first: int) -> list[str]:
    """Where the last third of the windows from `first` on takes more than twice as much as the first third."""
    failures = []
    third = max(1, (len(work) - first) // 3)
    for number, what in enumerate(("SQLite steps", "looks into the auth graph")):
        early = sum(each[number] for each in work[first : first + third])
        late = sum(each[number] for each in work[-third:])
        if late > 2 * early:
            failures.append(f"{what}: {early // third // WINDOW} for an event, later {late // third // WINDOW}")
    return failures


def soft_failed(server: Server) -> int:
    return int(server.one("SELECT count(*) FROM events WHERE verdict = ?", Verdict.SOFT_FAILED.value))


def test_one_more_event_costs_the_same_as_the_room_of_forks_grows() -> None:
    receiver = Receiver(room_with_forks(V12, 1500, members=20))
    work = receiver.work()
    assert soft_failed(receiver.server) > 10
    assert growth(work, first=1) == []
    assert graph_contradictions(receiver.server.conn, receiver.room.room_id) == []


def test_ends_that_are_left_behind_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event whose only child is soft-failed stays an extremity, though everybody has merged it long ago."""
    monkeypatch.setattr(graph_ends, "_not_passed_over", lambda *_: [])
    receiver = Receiver(room_with_forks(V12, 750, members=20))
    assert growth(receiver.work(), first=0) != []
    assert graph_contradictions(receiver.server.conn, receiver.room.room_id) != []


@pytest.mark.long
def test_one_more_event_costs_the_same_up_to_ten_thousand() -> None:
    """From 1,000 events on, with as many members as the benchmark of the event loop has."""
    receiver = Receiver(room_with_forks(V12, 10_500))
    work = receiver.work()
    assert soft_failed(receiver.server) > 5
    assert growth(work, first=1000 // WINDOW) == []
