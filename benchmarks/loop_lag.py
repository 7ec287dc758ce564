"""How late the event loop of a node is while 10,000 events arrive from a peer, beside the same loop with nothing to do.

    python benchmarks/loop_lag.py [events]

The database is the real one: a file, a writer thread and a reader thread beside the loop, which has the same
interpreter lock. The events go through the node's own exchange (units of at most `PDUS_PER_UNIT_MAX` events, a commit
with fsync after each) in answers of 200, and are signed events of a room of 200 members that forks and merges all the
time. A second task reads the room's state ten times a second, as a client does. The lag is how late a timer of 1 ms
rings. What the link and the wire cost is not in it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from forked_rooms import START_MS, ForkedRoom, room_with_forks, signer_of
from side_by_side import header

from p2pserver.events.signing import SelfCertifyingKeys
from p2pserver.events.versions import V12
from p2pserver.meg.clock import HybridClock
from p2pserver.node.exchange import Exchange
from p2pserver.node.run import SWITCH_INTERVAL_S
from p2pserver.node.session import PDUS_PER_UNIT_MAX
from p2pserver.rooms.service import Rooms
from p2pserver.store import rooms as room_rows
from p2pserver.store.database import SqliteDatabase

TICK_S = 0.001
IDLE_S = 10.0
ANSWER = 200


class Lag:
    """A timer of 1 ms that notes how late it rings."""

    def __init__(self) -> None:
        self.late_s: list[float] = []
        self._task = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            due = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            self.late_s.append(time.perf_counter() - due)

    async def stop(self) -> str:
        self._task.cancel()
        ordered = sorted(self.late_s)

        def at(share: float) -> str:
            return f"{ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000:9.2f}"

        return f"{len(ordered):>9,} {at(0.5)} {at(0.99)} {at(0.999)} {ordered[-1] * 1000:9.2f}"


def rooms_of(name: str) -> Rooms:
    return Rooms(
        signer=signer_of(name),
        keys=SelfCertifyingKeys(),
        clock=HybridClock(build_ms=START_MS, trusted=True),
        wall_ms=lambda: START_MS,
        rng=random.Random(1),
        user_exists=lambda _tx, _user_id: False,
    )


async def receive_all(database: SqliteDatabase, rooms: Rooms, room: ForkedRoom, raws: list[Any]) -> None:
    nobody: Any = SimpleNamespace()
    exchange = Exchange(
        database=database,
        rooms=rooms,
        handlers={},
        mesh=nobody,
        gossip=nobody,
        clock=time.monotonic,
        wall_ms=lambda: START_MS,
        healer=nobody,
        media=nobody,
    )
    session: Any = SimpleNamespace(
        server_name=room.signers[0].server_name,
        pdus_per_unit=PDUS_PER_UNIT_MAX,
        peering=SimpleNamespace(received=lambda *_: None),
    )
    for start in range(0, len(raws), ANSWER):
        effect = SimpleNamespace(room_id=room.room_id, pdus=raws[start : start + ANSWER], asked=(), in_answer=True)
        await exchange._receive(session, effect)  # noqa: SLF001  # what `execute` calls


async def read_now_and_then(database: SqliteDatabase, rooms: Rooms, room_id: str, waits: list[float]) -> None:
    while True:
        started = time.perf_counter()
        await database.read(lambda tx: rooms.current_state(tx, room_id))
        waits.append(time.perf_counter() - started)
        await asyncio.sleep(0.1)


async def main(events: int) -> None:
    header(("p2pserver", "aiosqlite", "PyNaCl", "orjson"))
    print(f"# switch interval {sys.getswitchinterval() * 1000:g} ms")
    room = room_with_forks(V12, events)
    raws = [json.loads(json.dumps(event.raw)) for event in room.events.values()]
    with tempfile.TemporaryDirectory() as folder:
        database = await SqliteDatabase.open(Path(folder) / "node.db")
        try:
            await measure(database, room, raws)
        finally:
            await database.close()


async def measure(database: SqliteDatabase, room: ForkedRoom, raws: list[Any]) -> None:
    rooms = rooms_of("receiver")
    await database.write(
        lambda tx: room_rows.insert_room(
            tx, room.room_id, version="12", create_event_id=next(iter(room.events)), complete=True
        )
    )
    print(f"{'loop':24} {'ticks':>9} {'p50 ms':>9} {'p99':>9} {'p99.9':>9} {'max':>9}", flush=True)
    lag = Lag()
    await asyncio.sleep(IDLE_S)
    print(f"{'idle, before':24} {await lag.stop()}", flush=True)
    waits: list[float] = []
    reader = asyncio.create_task(read_now_and_then(database, rooms, room.room_id, waits))
    lag, started = Lag(), time.perf_counter()
    await receive_all(database, rooms, room, raws)
    seconds = time.perf_counter() - started
    print(f"{f'{len(raws):,} events arrive':24} {await lag.stop()}", flush=True)
    reader.cancel()
    lag = Lag()
    await asyncio.sleep(IDLE_S)
    print(f"{'idle, after':24} {await lag.stop()}", flush=True)
    held = await database.read(lambda tx: tx.all("SELECT verdict, count(*) FROM events GROUP BY verdict"))
    waits.sort()
    print(f"# {seconds:.1f} s, {len(raws) / seconds:.0f} events/s; held: {dict(held)}")
    print(f"# a read waited {waits[len(waits) // 2] * 1000:.0f} ms (p50), {waits[-1] * 1000:.0f} ms (max)")


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_INTERVAL_S)  # as `p2pserver run` does
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 10_000))
