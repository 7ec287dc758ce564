"""What one more event costs, counted in the work of SQLite, in a small room and in one ten times as large."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from p2pserver.events.versions import rules_of
from p2pserver.rooms import state as room_states
from p2pserver.store import graph_ends, graph_walks
from p2pserver.store.tx import Tx
from tests.rooms.servers import Server, deliver

GROWING = re.compile(
    r"SCAN (?:events|event_edges|auth_edges|auth_nodes|state_group\w*|outbox|current_state\w*|e|x|c|a)\b"
)


class Work:
    """Counts instructions of SQLite's virtual machine, and keeps the statements."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.steps = 0
        self.statements: set[str] = set()

    def of(self, action: Callable[[], Any]) -> int:
        self.steps = 0
        conn = self.server.conn
        conn.set_progress_handler(self._step, 10)
        conn.set_trace_callback(self.statements.add)
        action()
        conn.set_progress_handler(None, 0)
        conn.set_trace_callback(None)
        return self.steps

    def _step(self) -> int:
        self.steps += 10
        return 0

    def scans(self) -> list[str]:
        """Statements that look at every row of a table that grows with the room."""
        found = []
        for statement in sorted(self.statements):
            if statement.split(" ", 1)[0] not in ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH"):
                continue
            plan = self.server.conn.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            found += [f"{row[3]}: {statement}" for row in plan if GROWING.match(row[3])]
        return found


class Pair:
    """Two servers in one room, of which one is measured."""

    def __init__(self) -> None:
        self.one, self.other = Server("one"), Server("other", seed=2)
        self.room_id = self.one.create()
        deliver(self.room_id, self.one, self.other)
        self.other.join(self.room_id, self.one)
        deliver(self.room_id, self.other, self.one)
        self.work = Work(self.one)
        self.number = 0

    def grow(self, messages: int) -> None:
        """Messages of both, and a profile change with every tenth."""
        for number in range(messages):
            sender, receiver = (self.one, self.other) if number % 2 else (self.other, self.one)
            sender.send(self.room_id, f"message {number}")
            if number % 10 == 0:
                self.rename(sender)
            self.bring(sender, receiver)

    def rename(self, server: Server) -> None:
        self.number += 1
        content = {"membership": "join", "displayname": f"name {self.number}"}
        server.set_state(self.room_id, "m.room.member", server.user, content)

    def bring(self, sender: Server, receiver: Server) -> None:
        deliver(self.room_id, sender, receiver)

    def costs(self) -> dict[str, int]:
        """The work of one event of each kind, the second of its kind: the first may fill a cache."""
        costs: dict[str, int] = {}
        for _ in range(2):
            costs["send"] = self.work.of(lambda: self.one.send(self.room_id, "one more"))
            costs["state"] = self.work.of(lambda: self.rename(self.one))
            self.bring(self.one, self.other)
            for kind, action in (("receive", lambda: self.other.send(self.room_id, "one more")), ("fork", self.fork)):
                action()
                owed = [item.payload for item in self.other.owed_to(self.one.name) if item.kind == "pdu"]
                costs[kind] = self.work.of(lambda: self.one.receive(self.room_id, owed, self.other.name))  # noqa: B023
                self.bring(self.other, self.one)
                self.bring(self.one, self.other)
            costs["meet"] = self.work.of(self.meet)
        return costs

    def fork(self) -> None:
        self.rename(self.one)
        self.rename(self.other)

    def meet(self) -> None:
        """What two nodes ask of the room when they meet."""

        def ask(tx: Tx) -> None:
            graph_walks.held_sample(tx, self.room_id, most=32, history_only=False)
            self.one.rooms.leaves(tx, self.room_id)
            self.one.rooms.standing(tx, self.room_id)
            self.one.rooms.wanted(tx, self.room_id)

        self.one.run(ask)


def growth_failures(pair: Pair) -> list[str]:
    pair.grow(60)
    small = pair.costs()
    pair.grow(900)
    large = pair.costs()
    failures = [f"{kind}: {small[kind]} {large[kind]}" for kind in small if large[kind] > 1.3 * small[kind] + 300]
    return failures + pair.work.scans()


def test_one_more_event_costs_the_same_in_a_large_room() -> None:
    assert growth_failures(Pair()) == []


def test_looking_at_every_event_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    extend = graph_ends.extend_leaves

    def with_a_scan(tx: Tx, event: Any, around: graph_ends.Surroundings) -> None:
        extend(tx, event, around)
        tx.all("SELECT event_id FROM events WHERE verdict = 'rejected'")

    monkeypatch.setattr(graph_ends, "extend_leaves", with_a_scan)
    failures = growth_failures(Pair())
    assert any("SCAN events" in failure for failure in failures)
    assert any(failure.startswith("send") for failure in failures)


def test_a_walk_reads_nothing_that_one_before_it_has_read() -> None:
    """What a peer lacks, at the other end of the room, is found again and again."""
    pair = Pair()
    pair.grow(60)
    everything = len(pair.one.graph(pair.room_id))

    def walk() -> None:
        newest = pair.one.run(lambda tx: graph_ends.leaves(tx, pair.room_id))
        found = pair.one.run(lambda tx: graph_walks.lacking(tx, pair.room_id, want=newest, have=[], most=10_000))
        assert len(found) == everything

    first = pair.work.of(walk)
    assert pair.work.of(walk) < first / 5
    pair.one.send(pair.room_id, "one more")
    everything += 1
    assert pair.work.of(walk) < first / 5


def test_states_that_nobody_refers_to_are_dropped() -> None:
    """A room that forks and joins again makes states that were only ever the current one."""
    pair = Pair()
    for _ in range(30):
        pair.one.set_state(pair.room_id, "m.test", "one", {"number": pair.number})
        pair.rename(pair.other)
        deliver(pair.room_id, pair.one, pair.other)
        deliver(pair.room_id, pair.other, pair.one)
    used = pair.one.one(
        "SELECT count(*) FROM state_groups AS g WHERE EXISTS (SELECT 1 FROM events WHERE state_after = g.group_id)"
        " OR EXISTS (SELECT 1 FROM events WHERE state_before = g.group_id)"
        " OR EXISTS (SELECT 1 FROM state_groups WHERE prev_group = g.group_id)"
    )
    assert pair.one.one("SELECT count(*) FROM state_groups") <= used + 1


def test_a_state_that_was_dropped_is_resolved_again() -> None:
    server = Server("one")
    room_id = server.create()
    groups = server.column("SELECT DISTINCT state_after FROM events ORDER BY 1 DESC LIMIT 2")
    rules = rules_of("12")

    def twice(tx: Tx) -> tuple[int, int]:
        first = room_states.resolved_group(tx, room_id, rules, groups)
        tx.caches["resolutions"].put(frozenset(groups), (10**9, 2))
        return first, room_states.resolved_group(tx, room_id, rules, groups)

    first, second = server.run(twice)
    assert first == second
