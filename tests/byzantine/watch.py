"""What is watched on the correct nodes while an attack goes on: errors, dead tasks, time on the writer, growth."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from p2pserver.federation.limits import PeeringLimits
from p2pserver.link.conversation import Conversation
from p2pserver.meg.parents import PREV_EVENTS_MAX
from p2pserver.node.simulation import Sabotage, SimulatedNode
from p2pserver.rooms.values import RoomLimits
from p2pserver.store.inline import InlineDatabase
from p2pserver.store.tx import Tx

T = TypeVar("T")

BLOCKED_S = 1.0
"""Of CPU time, for one unit of work on the writer."""
MARK_S = 0.05
"""By so much a unit may seem to take longer than it did."""
GROWTH_OCTETS_MAX = 32 * 1024 * 1024
"""How much the database of a node may grow in an attack, in an hour or less, unless the case says otherwise."""


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass(slots=True)
class Growth:
    """What an attack can make a node keep. Rows, unless the name says otherwise."""

    parked: int
    parked_octets: int
    gaps: int
    outliers: int
    outbox: int
    invites: int
    database_octets: int
    queued_octets: int
    """In memory, on the way to any one peer."""
    unbounded_caches: int
    """Caches of the database that forget nothing."""


class Watch(logging.Handler):
    """Collects what must not happen. `attach` is called for each correct node, each time it starts."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[str] = []
        self.longest_s = 0.0
        self.longest_unit = ""
        self._marked_s = self._marked_cpu_s = float("-inf")
        """When the CPU time was asked for, and what it was: to ask in each unit took a tenth of all time."""

    # Errors

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        self.errors.append(text)

    def loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    # Time

    def attach(self, sabotage: Sabotage | None) -> Sabotage:
        """Measures every unit of work of a database, with what `sabotage` did to it."""

        def prepare(database: InlineDatabase) -> None:
            if sabotage is not None:
                sabotage(database)
            write, read = database.write, database.read

            async def measured_write(unit: Callable[[Tx], T]) -> T:
                return await write(self._measured(unit))

            async def measured_read(query: Callable[[Tx], T]) -> T:
                return await read(self._measured(query))

            database.write = measured_write  # type: ignore[method-assign]
            database.read = measured_read  # type: ignore[method-assign]

        return prepare

    def _measured(self, unit: Callable[[Tx], T]) -> Callable[[Tx], T]:
        def run(tx: Tx) -> T:
            began_s = time.perf_counter()
            if began_s > self._marked_s + MARK_S:
                self._marked_s, self._marked_cpu_s = began_s, time.process_time()
            try:
                return unit(tx)
            finally:
                if time.perf_counter() - began_s > self.longest_s:  # otherwise its CPU time is not longer either
                    took_s = time.process_time() - self._marked_cpu_s
                    if took_s > self.longest_s:
                        self.longest_s, self.longest_unit = took_s, getattr(unit, "__qualname__", repr(unit))

        return run


def growth(node: SimulatedNode, room_id: str) -> Growth:
    conn = node.disk.conn

    def one(sql: str, *parameters: Any) -> int:
        return int(conn.execute(sql, parameters).fetchone()[0] or 0)

    return Growth(
        parked=one("SELECT count(*) FROM parked_pdus WHERE room_id = ?", room_id),
        parked_octets=one("SELECT sum(octets) FROM parked_pdus WHERE room_id = ?", room_id),
        gaps=one("SELECT count(*) FROM gaps WHERE room_id = ?", room_id),
        outliers=one("SELECT count(*) FROM events WHERE outlier = 1"),
        outbox=one("SELECT max(n) FROM (SELECT count(*) AS n FROM outbox GROUP BY destination)"),
        invites=one("SELECT count(*) FROM invites"),
        database_octets=one("PRAGMA page_count") * one("PRAGMA page_size"),
        unbounded_caches=sum(isinstance(cache, dict | list | set) for cache in _caches(node).values()),
        queued_octets=max((_queued(session) for session in node.running.mesh._sessions.values()), default=0),
    )


def _caches(node: SimulatedNode) -> dict[str, Any]:
    return {} if node.database is None else node.database._caches


def _queued(session: Any) -> int:
    conversation: Conversation = session.conversation
    return int(session.peering.octets_held + conversation.queued_octets + conversation.octets_held)


@dataclass(slots=True, kw_only=True)
class Budget:
    """The most that an attack may leave behind on a correct node."""

    database_octets: int = GROWTH_OCTETS_MAX
    outliers: int = 1_000
    outbox: int = 5_000
    limits: RoomLimits = field(default_factory=RoomLimits)

    def check(self, name: str, before: Growth, now: Growth) -> None:
        peering = PeeringLimits()
        bounds = {
            "parked": self.limits.parked_per_room,
            "parked_octets": self.limits.parked_octets_per_room,
            "outliers": self.outliers,
            "outbox": self.outbox,
            "invites": self.limits.invites_held,
            "database_octets": before.database_octets + self.database_octets,
            "gaps": PREV_EVENTS_MAX,
            "unbounded_caches": 0,
            "queued_octets": 4 * peering.queue_octets,
        }
        for what, most in bounds.items():
            if getattr(now, what) > most:
                raise Violation(f"{name} grew past its budget: {what} is {getattr(now, what)}, at most {most}")
