"""Power cuts: at every statement of a commit, and by SIGKILL while a process writes."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from p2pserver.store.database import Unit, run_commit
from p2pserver.store.migrations import migrate
from tests.rooms.servers import Server, deliver, reconcile
from tests.store.integrity import inconsistencies


def file_server(path: Path) -> Server:
    """A server on a real file with the pragmas of the real store."""
    server = Server("alice")
    server.conn = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        server.conn.execute(f"PRAGMA {pragma}")
    migrate(server.conn)
    return server


def copies_at_each_statement(server: Server, path: Path, folder: Path, units: list[Unit]) -> list[Path]:
    """Commits the units together; what the disk held when each statement began, and at the end."""
    copies: list[Path] = []

    def copy(_: str) -> None:
        target = folder / f"{len(copies)}.db"
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                shutil.copyfile(source, target.with_name(target.name + suffix))
        copies.append(target)

    server.conn.set_trace_callback(copy)
    run_commit(server.conn, server.caches, units)
    server.conn.set_trace_callback(None)
    copy("")
    return copies


async def test_event_outbox_and_position_are_together_whenever_the_power_goes(tmp_path: Path) -> None:
    path, folder = tmp_path / "node.db", tmp_path / "copies"
    folder.mkdir()
    server, bob = file_server(path), Server("bob")
    room_id = server.create()
    bob.join(room_id, server)
    reconcile(room_id, server, bob)
    server.run(lambda tx: tx.execute("DELETE FROM outbox"))
    held = server.one("SELECT count(*) FROM events")

    def unit(number: int) -> Unit:
        return Unit(
            lambda tx: server.rooms.send(
                tx, room_id=room_id, sender=server.user, event_type="m.room.message", content={"body": str(number)}
            ),
            asyncio.get_running_loop().create_future(),
        )

    copies = copies_at_each_statement(server, path, folder, [unit(number) for number in range(4)])
    assert len(copies) > 80
    counts = []
    for each in copies:
        conn = sqlite3.connect(each, isolation_level=None)
        assert inconsistencies(conn, server=server.name, destination=bob.name) == []
        counts.append(conn.execute("SELECT count(*) FROM events").fetchone()[0] - held)
        conn.close()
    assert set(counts) == {0, 4}
    assert counts == sorted(counts)
    server.conn.close()


CHILD = """
import asyncio, sys
from pathlib import Path
from p2pserver.store.database import SqliteDatabase
from tests.rooms.servers import Server

async def main() -> None:
    server = Server("alice")
    database = await SqliteDatabase.open(Path(sys.argv[1]))
    async def write(number: int) -> None:
        event = await database.write(lambda tx: server.rooms.send(
            tx, room_id=sys.argv[2], sender=server.user, event_type="m.room.message", content={"n": number}))
        print(event.event_id, flush=True)
    number = 0
    while True:
        await asyncio.gather(*(write(number + each) for each in range(4)))
        number += 4

asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(4))
def test_killed_process_has_lost_nothing_that_it_acknowledged(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    server, bob = file_server(path), Server("bob")
    room_id = server.create()
    bob.join(room_id, server)
    deliver(room_id, bob, server)
    server.conn.close()
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(path), room_id], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(random.Random(seed).randint(5, 120))]
    process.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in process.stdout.read().splitlines() if len(line.strip()) == 44]
    process.wait()
    process.stdout.close()
    conn = sqlite3.connect(path, isolation_level=None)
    assert inconsistencies(conn, server=server.name, destination=bob.name) == []
    kept = {row[0] for row in conn.execute("SELECT event_id FROM events")}
    assert len(acknowledged) >= 5
    assert set(acknowledged) <= kept
    conn.close()
