"""What one more event costs in a room of 1,000 to 100,000 events, sent and received: whole units of work on SQLite.

    python benchmarks/room_growth.py [members] [events ...]      # 2 members, if nothing is said

The room is grown by the same code that is measured. Two servers hold it: one sends, the other receives what the first
sent, as raw PDUs, with the check on receipt. Of twenty events two are topics and one is a profile change; every
hundredth makes a fork, which the next one joins. Times are CPU times of single units in microseconds, without the
commit; `sqlite steps` is the number of instructions of SQLite's virtual machine for the median unit.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forked_rooms import START_MS, signer_of
from side_by_side import header

from p2pserver.events.signing import SelfCertifyingKeys
from p2pserver.meg.clock import HybridClock
from p2pserver.rooms.service import Rooms
from p2pserver.store import outbox
from p2pserver.store.migrations import migrate
from p2pserver.store.tx import Tx

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
SAMPLE = 400


class Host:
    """One node's rooms on a file of its own; `run` is one unit, and returns its CPU seconds without the commit."""

    def __init__(self, name: str, folder: Path) -> None:
        self.signer = signer_of(name)
        self.name, self.user = self.signer.server_name, f"@{name}:{self.signer.server_name}"
        self.now_ms = START_MS
        self.rooms = Rooms(
            signer=self.signer,
            keys=SelfCertifyingKeys(),
            clock=HybridClock(build_ms=START_MS - 1000, trusted=True),
            wall_ms=self._wall_ms,
            rng=random.Random(name),
            user_exists=lambda _tx, user_id: user_id.endswith(self.name),
        )
        self.conn = sqlite3.connect(folder / f"{name}.db", isolation_level=None, cached_statements=512)
        self.conn.execute("PRAGMA journal_mode = WAL")
        self.conn.execute("PRAGMA synchronous = OFF")
        migrate(self.conn)
        self.caches: dict[str, Any] = {}
        self.result: Any = None

    def _wall_ms(self) -> int:
        self.now_ms += 10
        return self.now_ms

    def run(self, unit: Callable[[Tx], Any]) -> float:
        self.conn.execute("BEGIN IMMEDIATE")
        tx = Tx(self.conn, self.caches)
        started = time.process_time()
        self.result = unit(tx)
        seconds = time.process_time() - started
        self.conn.execute("UPDATE stream SET position = ?", (tx.position(),))
        self.conn.execute("COMMIT")
        return seconds

    def steps_of(self, unit: Callable[[Tx], Any]) -> int:
        steps = [0]

        def count() -> int:
            steps[0] += 10
            return 0

        self.conn.set_progress_handler(count, 10)
        self.run(unit)
        self.conn.set_progress_handler(None, 0)
        return steps[0]


class Growth:
    """A room on two hosts, with further members whose events the first host makes."""

    def __init__(self, members: int, folder: Path) -> None:
        self.one, self.other = Host("one", folder), Host("other", folder)
        self.users = [self.one.user, *(f"@user{number}:{self.one.name}" for number in range(members - 2))]
        one, other = self.one, self.other
        one.run(
            lambda tx: one.rooms.create(
                tx,
                version="12",
                creator=one.user,
                creation_content={},
                state=[
                    ("m.room.power_levels", "", {"events": {"m.room.topic": 0}}),
                    ("m.room.join_rules", "", {"join_rule": "public"}),
                ],
                creator_profile={},
            )
        )
        self.room_id = str(one.result)
        one.run(
            lambda tx: one.rooms.join_offer(
                tx, origin=other.name, room_id=self.room_id, user_id=other.user, versions=["12"]
            )
        )
        offer = one.result
        other.run(lambda tx: other.rooms.join_with(tx, user_id=other.user, offer=offer, resident=one.name, content={}))
        self.bring(other, one)
        self.fetch_history()
        self.events = 6
        self.number = 0
        for user in self.users[1:]:
            self.events += 1
            self.one.run(lambda tx, user=user: self.send(tx, one, user, "m.room.member", user, {"membership": "join"}))
            self.bring(one, other)

    def fetch_history(self) -> None:
        one, other = self.one, self.other
        for _ in range(20):
            other.run(lambda tx: (other.rooms.wanted(tx, self.room_id), other.rooms.have_sample(tx, self.room_id)))
            want, have = other.result
            if not want:
                return
            one.run(
                lambda tx, want=want, have=have: one.rooms.missing_for(
                    tx, room_id=self.room_id, want=want, have=have, octets_max=10**6, origin=other.name
                )
            )
            raws = one.result[0]
            other.run(lambda tx, raws=raws: other.rooms.receive(tx, room_id=self.room_id, raws=raws, source=one.name))
        raise AssertionError("the history does not come")

    def send(self, tx: Tx, host: Host, sender: str, kind: str, key: str | None, content: dict[str, Any]) -> Any:
        return host.rooms.send(tx, room_id=self.room_id, sender=sender, event_type=kind, state_key=key, content=content)

    def next_event(self) -> Callable[[Tx], Any]:
        self.number += 1
        number, user = self.number, self.users[self.number % len(self.users)]
        if number % 10 == 0:
            return lambda tx: self.send(tx, self.one, self.one.user, "m.room.topic", "", {"topic": f"{number}"})
        if number % 20 == 11:
            content = {"membership": "join", "displayname": f"name {number}"}
            return lambda tx: self.send(tx, self.one, user, "m.room.member", user, content)
        return lambda tx: self.send(
            tx, self.one, user, "m.room.message", None, {"body": f"{number}", "msgtype": "m.text"}
        )

    def bring(self, sender: Host, receiver: Host) -> float:
        """What is owed, one unit; the CPU seconds of the receiver."""
        sender.run(lambda tx: outbox.page(tx, receiver.name, most=1000, octets_max=10**9))
        items = sender.result
        raws = [item.payload for item in items if item.kind == "pdu"]
        seconds = receiver.run(
            lambda tx: receiver.rooms.receive(tx, room_id=self.room_id, raws=raws, source=sender.name)
        )
        sender.run(lambda tx: outbox.forget_numbers(tx, receiver.name, [item.number for item in items]))
        return seconds

    def step(self) -> tuple[float, float]:
        """One event sent, one received."""
        if self.number % 100 == 99:
            body = {"body": f"fork {self.number}", "msgtype": "m.text"}
            self.other.run(lambda tx: self.send(tx, self.other, self.other.user, "m.room.message", None, body))
            self.events += 1
        sent = self.one.run(self.next_event())
        received = self.bring(self.one, self.other)
        self.bring(self.other, self.one)
        self.events += 1
        return sent, received

    def line(self) -> str:
        times = [self.step() for _ in range(SAMPLE)]
        cells = [f"{self.events:>9,}"]
        for index in (0, 1):
            ordered = sorted(each[index] * 1e6 for each in times)
            cells += [f"{ordered[len(ordered) // 2]:>9.0f}", f"{ordered[len(ordered) * 99 // 100]:>9.0f}"]
        steps = sorted(self.one.steps_of(self.next_event()) for _ in range(20))
        self.bring(self.one, self.other)
        self.events += 20
        return " ".join([*cells, f"{steps[10]:>13,}"])


def main(members: int, sizes: tuple[int, ...]) -> None:
    header()
    print(f"# {members} members")
    print(f"{'events':>9} {'send p50':>9} {'p99':>9} {'recv p50':>9} {'p99':>9} {'sqlite steps':>13}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        growth = Growth(members, Path(folder))
        for size in sizes:
            while growth.events < size:
                growth.step()
            print(growth.line(), flush=True)


if __name__ == "__main__":
    arguments = [int(each.replace(",", "")) for each in sys.argv[1:]]
    main(arguments[0] if arguments else 2, tuple(arguments[1:]) or SIZES)
