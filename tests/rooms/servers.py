"""Servers without a network: a `Rooms` each, on a plain connection, exchanging raw PDUs by hand."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from p2pserver.errors import Verdict
from p2pserver.events.pdu import Pdu
from p2pserver.events.signing import KeyLookup, SelfCertifyingKeys, Signer
from p2pserver.events.versions import ROOM_VERSIONS
from p2pserver.identifiers import KEY_ID, server_name_of
from p2pserver.meg.clock import HybridClock
from p2pserver.rooms.proof import digest_of_everything
from p2pserver.rooms.service import Rooms
from p2pserver.rooms.values import ReceiveReport, RoomDigest, RoomLimits
from p2pserver.store import events, outbox
from p2pserver.store.events import StoredEvent
from p2pserver.store.inline import SimulatedDisk
from p2pserver.store.tx import Tx

T = TypeVar("T")
START_MS = 1_700_000_000_000


class Server:
    """One node's rooms. `run` is one committed unit of work; what raises is undone."""

    def __init__(
        self,
        name: str,
        *,
        limits: RoomLimits | None = None,
        keys: KeyLookup | None = None,
        seed: int = 1,
        domain: str | None = None,
    ) -> None:
        key = hashlib.sha256(b"tests|" + name.encode()).digest()
        label = server_name_of(Signer("-", KEY_ID, key).verify_key, domain)
        self.signer = Signer(label, KEY_ID, key)
        self.name = label
        self.user = f"@{name}:{label}"
        self.now_ms = START_MS
        self._keys, self._limits, self._seed = keys or SelfCertifyingKeys(), limits, seed
        self.rooms = self.new_rooms()
        self.context = self.rooms.context
        self.conn: sqlite3.Connection = SimulatedDisk().conn
        self.caches: dict[str, Any] = {}
        self.topics: set[str] = set()

    def new_rooms(self) -> Rooms:
        """What a start of the process makes; all that lasts is in the database."""
        return Rooms(
            signer=self.signer,
            keys=self._keys,
            clock=HybridClock(build_ms=START_MS - 1000, trusted=True),
            wall_ms=self._wall_ms,
            rng=random.Random(self._seed),
            user_exists=lambda tx, user_id: user_id.endswith(f":{self.name}") and not user_id.startswith("@nobody"),
            limits=self._limits,
        )

    def _wall_ms(self) -> int:
        self.now_ms += 10
        return self.now_ms

    def run(self, unit: Callable[[Tx], T]) -> T:
        self.conn.execute("BEGIN IMMEDIATE")
        tx = Tx(self.conn, self.caches, told=True)
        try:
            result = unit(tx)
        except BaseException:
            self.caches.clear()
            self.conn.execute("ROLLBACK")
            raise
        self.conn.execute("UPDATE stream SET position = ?", (tx.position(),))
        self.conn.execute("COMMIT")
        self.topics = tx.promises()[1]
        return result

    def create(self, *, version: str = "12", public: bool = True, **content: Any) -> str:
        rule = "public" if public else "invite"
        state = [
            ("m.room.power_levels", "", power_levels(self, version)),
            ("m.room.join_rules", "", {"join_rule": rule}),
        ]
        return self.run(
            lambda tx: self.rooms.create(
                tx, version=version, creator=self.user, creation_content=content, state=state, creator_profile={}
            )
        )

    def send(self, room_id: str, body: str, *, sender: str | None = None) -> Pdu:
        return self.run(
            lambda tx: self.rooms.send(
                tx,
                room_id=room_id,
                sender=sender or self.user,
                event_type="m.room.message",
                content={"body": body, "msgtype": "m.text"},
            )
        )

    def set_state(self, room_id: str, event_type: str, state_key: str, content: dict[str, Any]) -> Pdu:
        return self.run(
            lambda tx: self.rooms.send(
                tx, room_id=room_id, sender=self.user, event_type=event_type, state_key=state_key, content=content
            )
        )

    def member(self, room_id: str, user_id: str, membership: str, *, sender: str | None = None) -> Pdu:
        return self.run(
            lambda tx: self.rooms.send(
                tx,
                room_id=room_id,
                sender=sender or self.user,
                event_type="m.room.member",
                state_key=user_id,
                content={"membership": membership},
            )
        )

    def redact(self, room_id: str, event_id: str) -> Pdu:
        return self.run(
            lambda tx: self.rooms.send(
                tx, room_id=room_id, sender=self.user, event_type="m.room.redaction", content={}, redacts=event_id
            )
        )

    def receive(self, room_id: str, raws: Sequence[object], source: str = "somebody") -> ReceiveReport:
        return self.run(lambda tx: self.rooms.receive(tx, room_id=room_id, raws=raws, source=source))

    def join(self, room_id: str, resident: Server) -> Pdu:
        offer = resident.run(
            lambda tx: resident.rooms.join_offer(
                tx, origin=self.name, room_id=room_id, user_id=self.user, versions=list(ROOM_VERSIONS)
            )
        )
        return self.run(
            lambda tx: self.rooms.join_with(tx, user_id=self.user, offer=offer, resident=resident.name, content={})
        )

    def serve(
        self, room_id: str, want: list[str], have: list[str], *, octets_max: int, origin: str
    ) -> list[dict[str, Any]]:
        return self.run(
            lambda tx: self.rooms.missing_for(
                tx, room_id=room_id, want=want, have=have, octets_max=octets_max, origin=origin
            )
        )[0]

    def owed_to(self, destination: str) -> list[outbox.OutboxItem]:
        return self.run(lambda tx: outbox.page(tx, destination, most=1000, octets_max=10**9))

    def stored(self, event_id: str) -> StoredEvent | None:
        return self.run(lambda tx: self.rooms.stored(tx, event_id))

    def graph(self, room_id: str) -> dict[str, dict[str, Any]]:
        """The raw events of the graph by ID, oldest first."""
        return self.run(
            lambda tx: {
                event_id: raw_of(tx, event_id)
                for (event_id,) in tx.all(
                    "SELECT event_id FROM events WHERE room_id = ? AND outlier = 0 ORDER BY depth, position", (room_id,)
                )
            }
        )

    def digest(self, room_id: str) -> bytes:
        """The SEC digest that is kept; in a complete room it must be the one that everything gives."""
        kept = self.kept_digest(room_id)
        if self.complete(room_id):
            assert kept == self.digest_of_everything(room_id)
        return kept.sec

    def kept_digest(self, room_id: str) -> RoomDigest:
        return self.run(lambda tx: self.rooms.digest(tx, room_id))

    def digest_of_everything(self, room_id: str) -> RoomDigest:
        return digest_of_everything(Tx(self.conn, {}), room_id)

    def operational(self, room_id: str) -> bytes:
        return self.run(lambda tx: self.rooms.digest(tx, room_id).operational)

    def complete(self, room_id: str) -> bool:
        return bool(self.one("SELECT complete FROM rooms WHERE room_id = ?", room_id))

    def verdict(self, event_id: str) -> Verdict | None:
        found = self.run(lambda tx: self.rooms.stored(tx, event_id))
        return None if found is None else found.verdict

    def position(self) -> int:
        return int(self.one("SELECT position FROM stream"))

    def one(self, sql: str, *parameters: Any) -> Any:
        row = self.conn.execute(sql, parameters).fetchone()
        return None if row is None else row[0]

    def column(self, sql: str, *parameters: Any) -> list[Any]:
        return [row[0] for row in self.conn.execute(sql, parameters)]


def raw_of(tx: Tx, event_id: str) -> dict[str, Any]:
    found = events.pdu(tx, event_id)
    assert found is not None
    return dict(found.raw)


def power_levels(creator: Server, version: str, **levels: Any) -> dict[str, Any]:
    users = {} if version == "12" else {creator.user: 100}
    return {"users": {**users, **levels.pop("users", {})}, **levels}


def deliver(room_id: str, sender: Server, receiver: Server, *, octets_max: int = 10_000) -> int:
    """Delivers what `sender` owes to `receiver`, then what that needs, asked for as peering does; returns how many."""
    items = sender.run(lambda tx: outbox.page(tx, receiver.name, most=1000, octets_max=10**9))
    raws = [item.payload for item in items if item.kind == "pdu" and item.room_id == room_id]
    receiver.receive(room_id, raws, sender.name)
    sender.run(lambda tx: outbox.forget_numbers(tx, receiver.name, [item.number for item in items]))
    return fetch(room_id, sender, receiver, octets_max=octets_max)


def fetch(room_id: str, sender: Server, receiver: Server, *, octets_max: int = 10_000) -> int:
    """Asks `sender` for everything that `receiver` wants, until nothing more comes."""
    total = 0
    for _ in range(1000):
        want = unknown_of(room_id, sender, receiver)
        if not want:
            return total
        have = receiver.run(lambda tx: receiver.rooms.have_sample(tx, room_id))
        raws = sender.serve(room_id, want, have, octets_max=octets_max, origin=receiver.name)
        report = receiver.receive(room_id, raws, sender.name)
        if not any(receipt.new for receipt in [*report.results, *report.released]):
            return total
        total += len(raws)
    raise AssertionError("the exchange does not end")


def unknown_of(room_id: str, sender: Server, receiver: Server) -> list[str]:
    theirs = leaves(sender, room_id)
    wanted = receiver.run(lambda tx: receiver.rooms.wanted(tx, room_id))
    unknown = receiver.run(lambda tx: [leaf for leaf in theirs if events.stored(tx, leaf) is None])
    return list(dict.fromkeys([*wanted, *unknown]))


def reconcile(room_id: str, one: Server, other: Server) -> None:
    """Both deliver to each other until neither gets anything new."""
    for _ in range(20):
        before = (one.position(), other.position())
        deliver(room_id, one, other)
        deliver(room_id, other, one)
        if (one.position(), other.position()) == before:
            return
    raise AssertionError("the exchange does not end")


def leaves(server: Server, room_id: str) -> list[str]:
    return server.run(lambda tx: server.rooms.leaves(tx, room_id))
