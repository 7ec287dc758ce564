"""The database as the rest of the node sees it: units of work, durable when they return.

    result = await database.write(lambda tx: rooms.send(tx, ...))

Each unit is one plain function that runs on the database thread inside a savepoint. Units that arrive while a commit is
under way share the next one, so that the cost of an fsync is shared. `write` returns after the commit, never before:
nothing is acknowledged that a power cut could take back. There is one writer, so units need no locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiosqlite

from p2pserver.store.migrations import migrate
from p2pserver.store.tx import Tx

T = TypeVar("T")
UNITS_PER_COMMIT_MAX = 256
TOPICS_MAX = 20_000
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA busy_timeout = 10000",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -8192",
)
_LOOK_UP_PRAGMAS = ("PRAGMA query_only = ON", "PRAGMA cache_size = -512")


class Database(Protocol):
    """What `rooms`, `client_api` and `node` ask of the store."""

    @property
    def position(self) -> int:
        """The newest committed stream position."""

    async def write(self, unit: Callable[[Tx], T]) -> T:
        """Runs `unit` and returns what it returned, once that is durable. What it raises is raised here, undone."""

    async def read(self, query: Callable[[Tx], T]) -> T:
        """Runs `query` on one consistent snapshot of committed data."""

    async def look_up(self, query: Callable[[Tx], T]) -> T:
        """The same for one statement that finds a few rows by key, at once, without waiting for other reads."""

    async def wait(self, topics: Collection[str], *, after: int, timeout_s: float | None) -> bool:
        """True as soon as one of `topics` was notified by a commit newer than `after`; False at the timeout, if any."""

    def wake(self, topics: Collection[str]) -> None:
        """Lets those who wait for one of `topics` look again, though nothing was committed."""

    async def close(self) -> None: ...


class Unit:
    """A function waiting for its turn on the database thread, and the caller waiting for it."""

    __slots__ = ("error", "function", "future", "result")

    def __init__(self, function: Callable[[Tx], Any], future: asyncio.Future[Any]) -> None:
        self.function = function
        self.future = future
        self.result: Any = None
        self.error: Exception | None = None

    def run(self, tx: Tx) -> None:
        """Raises: sqlite3.Error, if the error was such (a full disk) that SQLite undid the whole transaction."""
        mark = tx.mark()
        tx.execute("SAVEPOINT unit")
        try:
            self.result = self.function(tx)
        except Exception as error:  # the caller gets it, and this thread goes on
            if not tx.conn.in_transaction:
                raise
            tx.execute("ROLLBACK TO unit")
            tx.back_to(mark)
            self.error = error
        tx.execute("RELEASE unit")

    def settle(self) -> None:
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Wakeups:
    """Who waits for which topic. A topic remembers the position of its last notification.

    Past `TOPICS_MAX` topics all are forgotten at once; who waits from before that moment is woken to look for himself.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._forgotten_until = -1
        self._waiting: dict[str, dict[asyncio.Future[None], None]] = {}
        """In the order in which they came, so that a simulation repeats itself."""

    def notify(self, topics: Collection[str], position: int) -> None:
        for topic in topics:
            if len(self._last) >= TOPICS_MAX:
                self._last.clear()
                self._forgotten_until = position
            self._last[topic] = position
        self.wake(topics)

    def wake(self, topics: Collection[str]) -> None:
        for topic in topics:
            for future in self._waiting.pop(topic, ()):
                if not future.done():
                    future.set_result(None)

    async def wait(self, topics: Collection[str], after: int, timeout_s: float | None) -> bool:
        if any(self._last.get(topic, self._forgotten_until) > after for topic in topics):
            return True
        if timeout_s is not None and timeout_s <= 0:
            return False
        future = asyncio.get_running_loop().create_future()
        for topic in topics:
            self._waiting.setdefault(topic, {})[future] = None
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            for topic in topics:
                waiting = self._waiting.get(topic)
                if waiting is not None:
                    waiting.pop(future, None)
                    if not waiting:
                        del self._waiting[topic]
        return True


class _DatabaseThread(aiosqlite.Connection):
    """aiosqlite's connection and thread, with whole functions instead of single statements."""

    _ending: asyncio.Future[Any] | None = None

    def stop(self) -> asyncio.Future[Any] | None:
        self._ending = super().stop()
        return self._ending

    async def call(self, function: Callable[[sqlite3.Connection], T]) -> T:
        result: T = await self._execute(function, self._conn)  # type: ignore[no-untyped-call]
        return result

    async def opened(self) -> _DatabaseThread:
        try:
            await self
        except BaseException:  # whatever it is, what was begun is undone, and it is raised again
            if self._ending is not None:  # else the thread would report its end to a loop that may be closed by then
                await self._ending
            raise
        return self


class SqliteDatabase:
    """The real store: one file, one writer thread, one reader thread (WAL lets it read beside the writer).

    What every request looks up, the owner of its token, is read on the event loop itself: some 20 µs, where two
    changes of threads take ten times that.
    """

    def __init__(
        self, writer: _DatabaseThread, reader: _DatabaseThread, looking_up: sqlite3.Connection, position: int
    ) -> None:
        self._writer, self._reader, self._looking_up = writer, reader, looking_up
        self._writer_caches: dict[str, Any] = {}
        self._reader_caches: dict[str, Any] = {}
        self._position = position
        self._pending: list[Unit] = []
        self._flusher: asyncio.Task[None] | None = None
        self._wakeups = Wakeups()
        self._closed = False

    @classmethod
    async def open(cls, path: Path) -> SqliteDatabase:
        """Opens (or makes) the file, brings its schema up to date.

        Raises: SchemaTooNew; sqlite3.Error, if it cannot be used: damaged, no database, not ours to write.
        """

        def connect() -> sqlite3.Connection:
            conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
            for pragma in _PRAGMAS:
                conn.execute(pragma)
            return conn

        def connect_to_look_up(_: sqlite3.Connection) -> sqlite3.Connection:
            conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=16, timeout=0)
            for pragma in _LOOK_UP_PRAGMAS:
                conn.execute(pragma)
            return conn

        async with contextlib.AsyncExitStack() as on_failure:
            writer = await _DatabaseThread(connect, iter_chunk_size=64).opened()
            on_failure.push_async_callback(writer.close)
            await writer.call(migrate)
            reader = await _DatabaseThread(connect, iter_chunk_size=64).opened()
            on_failure.push_async_callback(reader.close)
            looking_up = await reader.call(connect_to_look_up)
            on_failure.callback(looking_up.close)
            position = await writer.call(lambda conn: conn.execute("SELECT position FROM stream").fetchone()[0])
            on_failure.pop_all()
        return cls(writer, reader, looking_up, position)

    @property
    def position(self) -> int:
        return self._position

    async def write(self, unit: Callable[[Tx], T]) -> T:
        if self._closed:
            raise sqlite3.ProgrammingError("the database is closed")
        waiting = Unit(unit, asyncio.get_running_loop().create_future())
        self._pending.append(waiting)
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush(), name="database-flush")
        result: T = await waiting.future
        return result

    async def read(self, query: Callable[[Tx], T]) -> T:
        return await self._reader.call(lambda conn: run_read(conn, self._reader_caches, query))

    async def look_up(self, query: Callable[[Tx], T]) -> T:
        try:
            return query(Tx(self._looking_up, {}))
        except sqlite3.OperationalError:  # somebody else holds the file for a moment: the reader can wait for him
            return await self.read(query)

    async def wait(self, topics: Collection[str], *, after: int, timeout_s: float | None) -> bool:
        return await self._wakeups.wait(topics, after, timeout_s)

    def wake(self, topics: Collection[str]) -> None:
        self._wakeups.wake(topics)

    async def close(self) -> None:
        self._closed = True
        if self._flusher is not None:
            await self._flusher
        self._looking_up.close()
        await self._reader.close()
        with contextlib.suppress(sqlite3.Error):  # a damaged file must not keep the thread, and the process, alive
            await self._writer.call(lambda conn: conn.execute("PRAGMA optimize"))
        await self._writer.close()

    async def _flush(self) -> None:
        while self._pending:
            batch, self._pending = self._pending[:UNITS_PER_COMMIT_MAX], self._pending[UNITS_PER_COMMIT_MAX:]

            def commit(conn: sqlite3.Connection, batch: list[Unit] = batch) -> Tx:
                return run_commit(conn, self._writer_caches, batch)

            try:
                tx = await self._writer.call(commit)
            except Exception as error:  # noqa: BLE001  # a failed commit fails each unit in it, no more
                for unit in batch:
                    unit.error = error
                    unit.settle()
                continue
            self._position = tx.position()
            announce(tx, self._wakeups, batch)
        self._flusher = None


def run_commit(conn: sqlite3.Connection, caches: dict[str, Any], batch: list[Unit]) -> Tx:
    """Runs the units, each in its savepoint, and commits them together; all or nothing if the commit itself fails."""
    conn.execute("BEGIN IMMEDIATE")
    try:
        tx = Tx(conn, caches, told=True)
        for unit in batch:
            unit.run(tx)
        conn.execute("UPDATE stream SET position = ?", (tx.position(),))
        conn.execute("COMMIT")
    except BaseException:  # whatever it is, what was begun is undone, and it is raised again
        caches.clear()
        with contextlib.suppress(sqlite3.Error):
            conn.execute("ROLLBACK")
        raise
    return tx


def run_read(conn: sqlite3.Connection, caches: dict[str, Any], query: Callable[[Tx], T], *, told: bool = False) -> T:
    """Runs `query` inside a read transaction, so that everything it sees is of one moment."""
    conn.execute("BEGIN")
    try:
        return query(Tx(conn, caches, told=told))
    finally:
        conn.execute("COMMIT")


def announce(tx: Tx, wakeups: Wakeups, batch: list[Unit]) -> None:
    """After the commit: the callers get their results, then callbacks run and waiters wake."""
    for unit in batch:
        unit.settle()
    callbacks, topics = tx.promises()
    wakeups.notify(topics, tx.position())
    for callback in callbacks:
        callback()
