"""Servers of `servers.py` on the database seam of the real node: shared commits, acknowledgements, power cuts.

A replica's units of work go through `InlineDatabase`, on an event loop with a virtual clock. `power_cut` ends the
process in the middle of one: what was committed stays, a new process starts on it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from p2pserver.store.inline import InlineDatabase, SimulatedDisk
from p2pserver.store.migrations import migrate
from p2pserver.store.tx import Tx
from tests.rooms.servers import Server
from transports.sim import VirtualTimeLoop

T = TypeVar("T")
Sabotage = Callable[[InlineDatabase], None]
COMMIT_TURNS = 5
"""Turns of the loop in which whoever does not wait for the commit has his answer."""


class PowerCut(BaseException):
    """Not an error that anybody may handle: the process is gone."""


class FileDisk:
    """The database as a real node has it: a file with its log. A power cut is a connection that never commits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.conn = self._connect()
        migrate(self.conn)

    def _connect(self) -> sqlite3.Connection:
        conn = sqlite3.connect(self._path, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            conn.execute(f"PRAGMA {pragma}")
        return conn

    def reopen(self) -> None:
        self.conn.close()
        self.conn = self._connect()


Disk = SimulatedDisk | FileDisk


class Replica(Server):
    """A server whose units of work are those of a running node."""

    def __init__(
        self,
        name: str,
        loop: VirtualTimeLoop,
        *,
        seed: int = 1,
        disk: Disk,
        sabotage: Sabotage | None = None,
    ) -> None:
        super().__init__(name, seed=seed)
        self.short = name
        self.guest = f"@guest:{self.name}"
        self._loop = loop
        self._disk = disk
        self._sabotage = sabotage
        self._open()

    def _open(self) -> None:
        self.conn = self._disk.conn
        self.database = InlineDatabase(self._disk)
        if self._sabotage is not None:
            self._sabotage(self.database)
        self.rooms = self.new_rooms()
        self.context = self.rooms.context

    def run(self, unit: Callable[[Tx], T]) -> T:
        return self._loop.run_until_complete(self.database.write(unit))

    def power_cut(self, unit: Callable[[Tx], T], *, statements: int | None = None) -> T | None:
        """The power goes at a statement of a unit, or after all of them and before the commit; then a restart.

        Returns what the unit returned to its caller before that, which a caller that waits for the commit never sees.
        """

        def until_it_goes(tx: Tx) -> T:
            if statements is not None:
                tx.conn = Failing(tx.conn, statements)  # type: ignore[assignment]
            return unit(tx)

        result = self._loop.run_until_complete(self._cut(until_it_goes))
        if isinstance(self._disk, FileDisk):
            self._disk.reopen()
        self._open()
        return result

    async def _cut(self, unit: Callable[[Tx], T]) -> T | None:
        database = self.database
        work = asyncio.ensure_future(cutting(database, unit))
        for _ in range(COMMIT_TURNS):
            await asyncio.sleep(0)
        told = work.result() if work.done() and not work.cancelled() and work.exception() is None else None
        database.crash()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return told


async def cutting(database: InlineDatabase, unit: Callable[[Tx], T]) -> T | None:
    try:
        return await database.write(unit)
    except PowerCut:
        return None


class Failing:
    """A connection that takes no further statement after some: not even the one that would undo the others."""

    def __init__(self, conn: sqlite3.Connection, statements: int) -> None:
        self._real, self._left = conn, statements

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise PowerCut

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self._count()
        return self._real.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        self._count()
        return self._real.executemany(sql, parameters)

    @property
    def in_transaction(self) -> bool:
        return self._real.in_transaction
