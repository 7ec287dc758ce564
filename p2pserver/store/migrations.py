"""Numbered SQL files bring a database from any earlier state to the present one."""

from __future__ import annotations

import sqlite3
from pathlib import Path


class SchemaTooNew(Exception):
    """The file was written by a later version of p2pserver."""


class SchemaTooOld(Exception):
    """The file was written by an earlier version, and whoever opens it may not change it."""


def _files() -> list[tuple[int, str, str]]:
    return sorted(
        (int(entry.name.split("_", 1)[0]), entry.name, entry.read_text(encoding="utf-8"))
        for entry in Path(__file__).with_name("schema").glob("*.sql")
    )


def _statements(script: str) -> list[str]:
    statements, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    if current.strip() and not all(line.lstrip().startswith("--") for line in current.strip().splitlines()):
        raise ValueError(f"unfinished statement in a migration: {current!r}")
    return statements


def migrate(conn: sqlite3.Connection) -> None:
    """Applies, each in a transaction of its own, the migrations that `conn` has not seen.

    Raises: SchemaTooNew.
    """
    conn.execute("CREATE TABLE IF NOT EXISTS schema_migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    files = _files()
    done = _done(conn, files)
    for number, name, script in files:
        if number in done:
            continue
        conn.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(script):
                conn.execute(statement)
            conn.execute("INSERT INTO schema_migrations (number, name) VALUES (?, ?)", (number, name))
        except BaseException:  # whatever it is, what was begun is undone, and it is raised again
            conn.execute("ROLLBACK")
            raise
        conn.execute("COMMIT")


def check_is_current(conn: sqlite3.Connection) -> None:
    """For who only reads: the file has all migrations that this version knows, and no others.

    Raises: SchemaTooNew, SchemaTooOld; sqlite3.DatabaseError, if this is no database of a node.
    """
    files = _files()
    if conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_migrations'").fetchone() is None:
        raise sqlite3.DatabaseError("it has no tables of a node")
    missing = {number for number, _, _ in files} - _done(conn, files)
    if missing:
        raise SchemaTooOld(
            f"this database lacks migration {min(missing)}: start the node once with this version, which brings it up"
            " to date, or look with the version that wrote it"
        )


def _done(conn: sqlite3.Connection, files: list[tuple[int, str, str]]) -> set[int]:
    """The numbers of the migrations that the file has seen. Raises: SchemaTooNew."""
    done = {number for (number,) in conn.execute("SELECT number FROM schema_migrations")}
    unknown = done - {number for number, _, _ in files}
    if unknown:
        raise SchemaTooNew(
            f"this database has migration {max(unknown)}, which this version does not know: run a newer p2pserver"
        )
    return done
