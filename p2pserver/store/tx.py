"""One unit of work on the database: statements, stream positions, and what happens after the commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

Parameters = Sequence[Any] | Mapping[str, Any]
_IDS_AT_ONCE = 500


class Tx:
    """What a unit of work sees of the database.

    `caches` lives as long as the connection and is emptied whenever anything is rolled back, so it may hold what was
    read or written inside a unit. Reader and writer connections have one each: a reader's may hold only what never
    changes. `told`: the caches are told of every change, since this connection makes them all.
    """

    __slots__ = ("_callbacks", "_position", "_topics", "caches", "conn", "told")

    def __init__(self, conn: sqlite3.Connection, caches: dict[str, Any], *, told: bool = False) -> None:
        self.conn = conn
        self.caches = caches
        self.told = told
        self._position: int | None = None
        """Read when it is first asked for: most reads never do."""
        self._callbacks: list[Callable[[], None]] = []
        self._topics: dict[str, None] = {}

    def execute(self, sql: str, params: Parameters = ()) -> sqlite3.Cursor:
        return self.conn.execute(sql, params)

    def many(self, sql: str, rows: Iterable[Parameters]) -> None:
        self.conn.executemany(sql, rows)

    def one(self, sql: str, params: Parameters = ()) -> tuple[Any, ...] | None:
        """The first row, or None."""
        row: tuple[Any, ...] | None = self.conn.execute(sql, params).fetchone()
        return row

    def all(self, sql: str, params: Parameters = ()) -> list[tuple[Any, ...]]:
        return self.conn.execute(sql, params).fetchall()

    def position(self) -> int:
        """The newest stream position: of the snapshot in a read, counting this commit's own in a write."""
        if self._position is None:
            self._position = self.conn.execute("SELECT position FROM stream").fetchone()[0]
        return self._position

    def next_position(self) -> int:
        """A stream position that nobody had before; it becomes visible with the commit, never earlier."""
        self._position = self.position() + 1
        return self._position

    def skip_positions(self, count: int) -> None:
        """Leaves so many positions out: nobody ever has them."""
        self._position = self.position() + count

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Runs `callback` on the event loop once this unit is durable; never, if it is rolled back."""
        self._callbacks.append(callback)

    def notify(self, topic: str) -> None:
        """Wakes whoever waits for `topic`, once this unit is durable."""
        self._topics[topic] = None

    def mark(self) -> tuple[int | None, int, int]:
        return self._position, len(self._callbacks), len(self._topics)

    def back_to(self, mark: tuple[int | None, int, int]) -> None:
        """Forgets what was asked for since `mark`; the statements are rolled back by the savepoint."""
        self._position, kept, topics = mark
        del self._callbacks[kept:]
        self._topics = dict.fromkeys(list(self._topics)[:topics])
        self.caches.clear()

    def promises(self) -> tuple[list[Callable[[], None]], list[str]]:
        """What to call, and the topics to notify, as they were asked for: the order must not depend on hashes."""
        return self._callbacks, list(self._topics)


def chunks(event_ids: Collection[str]) -> Iterable[list[str]]:
    """Some IDs in parts that fit into one statement, each once."""
    ids = list(dict.fromkeys(event_ids))
    for start in range(0, len(ids), _IDS_AT_ONCE):
        yield ids[start : start + _IDS_AT_ONCE]


def marks(values: Sequence[object]) -> str:
    """As many question marks as there are values, for `IN (...)`."""
    return ",".join("?" * len(values))
