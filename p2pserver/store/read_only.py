"""A node's database for those who only look: never migrated, never written, also while a node runs on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pserver.store.migrations import check_is_current
from p2pserver.store.tx import Tx


@contextmanager
def snapshot(path: Path) -> Iterator[Tx]:
    """All that is committed in the file, as of one moment.

    Raises: SchemaTooNew, SchemaTooOld; sqlite3.Error, if there is no such file or it is no database.
    """
    conn = _connect(path)
    try:
        conn.execute("PRAGMA busy_timeout = 10000")
        conn.execute("PRAGMA cache_size = -16384")
        conn.execute("BEGIN")
        check_is_current(conn)
        yield Tx(conn, {})
    finally:
        conn.close()


def _connect(path: Path) -> sqlite3.Connection:
    """Where nobody may write to the folder, SQLite cannot share the file with a node; then no node can be running."""
    address = path.absolute().as_uri()
    conn = sqlite3.connect(f"{address}?mode=ro", uri=True, isolation_level=None)
    try:
        conn.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        conn.close()
        log = path.with_name(path.name + "-wal")
        if not path.is_file() or (log.exists() and log.stat().st_size > 0):
            raise
        return sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, isolation_level=None)
    except BaseException:  # whatever it is, the connection is closed, and it is raised again
        conn.close()
        raise
    return conn
