"""The same SQL on a plain sqlite3 connection, for simulations on virtual time: a thread would bring real time back.

A commit takes `commit_delay_s` of the loop's time, during which a `crash()` loses it, as a power cut would.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import sqlite3
import tempfile
import uuid
import weakref
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from p2pserver.store.database import Unit, Wakeups, announce, run_read
from p2pserver.store.migrations import migrate
from p2pserver.store.tx import Tx

T = TypeVar("T")


class SimulatedDisk:
    """What survives a crash: the committed content of one database, in memory, and the files of media."""

    def __init__(self) -> None:
        self.media_folder = Path(tempfile.gettempdir()) / f"p2pserver-simulated-{uuid.uuid4().hex}"
        """Made when there is something to keep; gone with this object."""
        weakref.finalize(self, shutil.rmtree, self.media_folder, ignore_errors=True)
        self.conn = sqlite3.connect(":memory:", isolation_level=None, cached_statements=512)
        _migrated().backup(self.conn)


@functools.cache
def _migrated() -> sqlite3.Connection:
    """A database in which nothing but the migrations has happened, made once: a simulation copies it for each node."""
    conn = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    migrate(conn)
    return conn


class InlineDatabase:
    """A `Database` on a `SimulatedDisk`. Open a new one on the same disk after a crash."""

    def __init__(self, disk: SimulatedDisk, *, commit_delay_s: float = 0.004) -> None:
        self._conn = disk.conn
        self._caches: dict[str, Any] = {}
        self._delay_s = commit_delay_s
        self._wakeups = Wakeups()
        self._tx: Tx | None = None
        self._batch: list[Unit] = []
        self._timer: asyncio.TimerHandle | None = None
        self._committed: asyncio.Event = asyncio.Event()
        self._closed = False
        self._position: int = self._conn.execute("SELECT position FROM stream").fetchone()[0]

    @property
    def position(self) -> int:
        return self._position

    async def write(self, unit: Callable[[Tx], T]) -> T:
        if self._closed:
            raise sqlite3.ProgrammingError("the database is closed")
        waiting = Unit(unit, asyncio.get_running_loop().create_future())
        if self._tx is None:
            self._conn.execute("BEGIN IMMEDIATE")
            self._tx = Tx(self._conn, self._caches, told=True)
            self._committed.clear()
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._commit)
        waiting.run(self._tx)
        self._batch.append(waiting)
        result: T = await waiting.future
        return result

    async def read(self, query: Callable[[Tx], T]) -> T:
        while self._tx is not None:
            await self._committed.wait()
        if self._closed:
            raise sqlite3.ProgrammingError("the database is closed")
        return run_read(self._conn, self._caches, query, told=True)

    async def look_up(self, query: Callable[[Tx], T]) -> T:
        return await self.read(query)

    async def wait(self, topics: Collection[str], *, after: int, timeout_s: float | None) -> bool:
        return await self._wakeups.wait(topics, after, timeout_s)

    def wake(self, topics: Collection[str]) -> None:
        self._wakeups.wake(topics)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._commit()
        self._closed = True

    def crash(self) -> None:
        """The power goes: what is not committed is gone, and nobody is told anything any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._tx is not None:
            self._conn.execute("ROLLBACK")
            self._tx = None
        for unit in self._batch:
            unit.future.cancel()
        self._batch = []
        self._committed.set()

    def _commit(self) -> None:
        self._timer = None
        tx, batch = self._tx, self._batch
        if tx is None:
            return
        try:
            tx.execute("UPDATE stream SET position = ?", (tx.position(),))
            tx.execute("COMMIT")
        except sqlite3.Error as error:
            self._caches.clear()
            with contextlib.suppress(sqlite3.Error):
                self._conn.execute("ROLLBACK")
            for unit in batch:
                unit.error = error
        else:
            self._position = tx.position()
        self._tx, self._batch = None, []
        self._committed.set()
        announce(tx, self._wakeups, batch)
