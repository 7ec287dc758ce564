"""Units of work, shared commits, waiting for topics, migrations: on real files and on the simulated disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from p2pserver.store import database as database_module
from p2pserver.store.database import SqliteDatabase, Wakeups
from p2pserver.store.inline import InlineDatabase, SimulatedDisk
from p2pserver.store.migrations import SchemaTooNew, migrate
from p2pserver.store.tx import Tx
from transports.sim import run_virtual


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = await SqliteDatabase.open(tmp_path / "node.db")
    yield opened
    await opened.close()


def put(tx: Tx, name: str, value: str = "x") -> int:
    tx.execute("INSERT INTO node (name, value) VALUES (?, ?)", (name, value))
    tx.notify(f"topic:{name}")
    return tx.next_position()


def names(tx: Tx) -> list[str]:
    return [name for (name,) in tx.all("SELECT name FROM node ORDER BY name")]


async def test_what_was_written_is_read_and_survives_a_restart(tmp_path: Path) -> None:
    first = await SqliteDatabase.open(tmp_path / "node.db")
    assert await first.write(lambda tx: put(tx, "a")) == 1
    assert await first.read(names) == ["a"]
    await first.close()
    second = await SqliteDatabase.open(tmp_path / "node.db")
    assert second.position == 1
    assert await second.write(lambda tx: put(tx, "b")) == 2
    await second.close()


async def test_a_unit_that_fails_leaves_nothing_and_harms_no_other(database: SqliteDatabase) -> None:
    told: list[str] = []

    def failing(tx: Tx) -> None:
        put(tx, "bad")
        tx.after_commit(lambda: told.append("bad"))
        tx.caches["bad"] = True
        raise LookupError("on purpose")

    def good(tx: Tx, name: str) -> int:
        tx.after_commit(lambda: told.append(name))
        return put(tx, name)

    results = await asyncio.gather(
        database.write(lambda tx: good(tx, "a")),
        database.write(failing),
        database.write(lambda tx: good(tx, "b")),
        return_exceptions=True,
    )
    assert results[0] == 1
    assert isinstance(results[1], LookupError)
    assert results[2] == 2
    assert await database.read(names) == ["a", "b"]
    assert told == ["a", "b"]
    assert await database.write(lambda tx: "bad" in tx.caches) is False


async def test_units_that_wait_share_a_commit(database: SqliteDatabase, tmp_path: Path) -> None:
    commits: list[int] = []
    run_commit = database_module.run_commit

    def counting(conn: sqlite3.Connection, caches: dict[str, object], batch: list[database_module.Unit]) -> Tx:
        commits.append(len(batch))
        return run_commit(conn, caches, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database_module, "run_commit", counting)
        await asyncio.gather(*(database.write(lambda tx, n=n: put(tx, f"n{n}")) for n in range(100)))
    assert sum(commits) == 100
    assert len(commits) <= 3


async def test_a_full_disk_fails_the_unit_and_not_the_store(database: SqliteDatabase) -> None:
    def limit(tx: Tx) -> None:
        [pages] = tx.one("PRAGMA page_count") or (0,)
        tx.execute(f"PRAGMA max_page_count = {pages + 4}")

    await database.write(limit)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        await database.write(lambda tx: put(tx, "big", "x" * 1_000_000))
    await database.write(lambda tx: put(tx, "small"))
    assert await database.read(names) == ["small"]


async def test_another_process_may_write_between_two_units(database: SqliteDatabase, tmp_path: Path) -> None:
    await database.write(lambda tx: put(tx, "a"))
    other = await SqliteDatabase.open(tmp_path / "node.db")
    assert await other.write(lambda tx: put(tx, "b")) == 2
    await other.close()
    assert await database.write(lambda tx: put(tx, "c")) == 3


@pytest.mark.parametrize("kept_octets", [0, 50, 6_000, 30_000])
async def test_a_damaged_file_is_an_error_and_leaves_no_thread(tmp_path: Path, kept_octets: int) -> None:
    path = tmp_path / "p2pserver.db"
    await (await SqliteDatabase.open(path)).close()
    path.write_bytes(path.read_bytes()[:kept_octets] or b"no database" * 100)
    before = set(threading.enumerate())
    with pytest.raises(sqlite3.DatabaseError):
        await SqliteDatabase.open(path)
    for _ in range(500):
        if set(threading.enumerate()) <= before:
            break
        await asyncio.sleep(0.01)
    assert set(threading.enumerate()) <= before, "a thread of the database that could not be opened is left"


async def test_who_waits_for_a_topic_wakes_at_its_commit(database: SqliteDatabase) -> None:
    waiting = asyncio.create_task(database.wait(["topic:a", "topic:z"], after=0, timeout_s=20))
    await asyncio.sleep(0)
    await database.write(lambda tx: put(tx, "b"))
    assert not waiting.done()
    await database.write(lambda tx: put(tx, "a"))
    assert await waiting is True
    assert await database.wait(["topic:a"], after=1, timeout_s=20) is True
    assert await database.wait(["topic:a"], after=2, timeout_s=0.01) is False


async def test_who_waits_wakes_in_the_order_in_which_the_topics_were_notified(database: SqliteDatabase) -> None:
    """Whatever the hashes of the topics: what follows from a seed must not depend on the process."""
    woken: list[int] = []

    async def wait(number: int) -> None:
        await database.wait([f"topic:{number // 2}"], after=0, timeout_s=60)
        woken.append(number)

    waiting = [asyncio.create_task(wait(number)) for number in range(40)]
    await asyncio.sleep(0)
    await database.write(lambda tx: [put(tx, str(number)) for number in range(20)])
    await asyncio.gather(*waiting)
    assert woken == list(range(40))


async def test_forgotten_topics_wake_too_often_rather_than_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "TOPICS_MAX", 3)
    wakeups = Wakeups()
    for position, topic in enumerate("abcdefg", start=1):
        wakeups.notify([topic], position)
    assert await wakeups.wait(["a"], 0, 0.0) is True
    assert await wakeups.wait(["a"], 7, 0.0) is False
    assert await wakeups.wait(["g"], 6, 0.0) is True


def test_a_crash_on_the_simulated_disk_takes_what_is_not_committed() -> None:
    async def main() -> None:
        disk = SimulatedDisk()
        database = InlineDatabase(disk, commit_delay_s=0.01)
        await database.write(lambda tx: put(tx, "kept"))
        lost = asyncio.ensure_future(database.write(lambda tx: put(tx, "lost")))
        await asyncio.sleep(0.005)
        assert not lost.done()
        database.crash()
        await asyncio.gather(lost, return_exceptions=True)
        assert lost.cancelled()
        again = InlineDatabase(disk)
        assert await again.read(names) == ["kept"]
        assert await again.write(lambda tx: put(tx, "next")) == 2
        await again.close()

    run_virtual(main())


def test_every_earlier_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    newest = sqlite3.connect(tmp_path / "newest.db", isolation_level=None)
    migrate(newest)
    numbers = [number for (number,) in newest.execute("SELECT number FROM schema_migrations ORDER BY number")]
    tables = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    expected = newest.execute(tables).fetchall()
    newest.close()
    from p2pserver.store import migrations

    files = migrations._files()
    for stop in range(1, len(numbers)):
        with pytest.MonkeyPatch.context() as patch:
            older = sqlite3.connect(tmp_path / f"older{stop}.db", isolation_level=None)
            patch.setattr(migrations, "_files", lambda stop=stop: files[:stop])
            migrate(older)
        migrate(older)
        assert older.execute(tables).fetchall() == expected
        older.close()


def test_a_database_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    conn = sqlite3.connect(tmp_path / "node.db", isolation_level=None)
    migrate(conn)
    conn.execute("INSERT INTO schema_migrations (number, name) VALUES (9999, '9999_future.sql')")
    with pytest.raises(SchemaTooNew, match="newer p2pserver"):
        migrate(conn)
    conn.close()
