"""The width chain with real events: signed, judged and stored by the code of a node."""

from __future__ import annotations

import random
from typing import Any

from p2pserver.errors import Verdict
from p2pserver.events.build import build_event
from p2pserver.events.pdu import Pdu
from p2pserver.events.signing import SelfCertifyingKeys
from p2pserver.meg.clock import HybridClock
from p2pserver.node.identity import identity_of
from p2pserver.rooms import sending
from p2pserver.rooms.service import Rooms
from p2pserver.store import events, graph_ends
from p2pserver.store.inline import SimulatedDisk
from p2pserver.store.tx import Tx

START_MS = 1_790_000_000_000


class RealRoom:
    """A public room in one store, with u0 branches, and k members for each of `rounds` rounds, each on its own server.

    All of them share the store: in a round each builds its event on what lies there, and then all events arrive.
    """

    def __init__(self, u0: int, k: int, rounds: int, *, seed: str) -> None:
        self._rng = random.Random(f"real {seed}")
        self._now_ms = START_MS
        self._conn = SimulatedDisk().conn
        self._caches: dict[str, Any] = {}
        self._conn.execute("BEGIN")
        self._tx = Tx(self._conn, self._caches)
        founder, *members = (self._server() for _ in range(1 + u0 + k * rounds))
        self._observer = founder
        levels = {"users": {}, "users_default": 0, "events_default": 0}
        self.room_id = founder.create(
            self._tx,
            version="12",
            creator=user_of(founder),
            creation_content={},
            state=[("m.room.power_levels", "", levels), ("m.room.join_rules", "", {"join_rule": "public"})],
            creator_profile={},
        )
        for member in members:
            self._deliver([self._build(member, "m.room.member", {"membership": "join"}, user_of(member))])
        self._deliver([self._build(member, "m.room.message", {"body": "a branch"}) for member in members[:u0]])
        self._rounds = [members[u0 + k * number : u0 + k * (number + 1)] for number in range(rounds)]
        assert self._width() == u0
        self._conn.execute("SAVEPOINT start")

    def _server(self) -> Rooms:
        identity = identity_of(self._rng.randbytes(32))
        return Rooms(
            signer=identity.signer,
            keys=SelfCertifyingKeys(),
            clock=HybridClock(build_ms=START_MS - 1000, trusted=True),
            wall_ms=self._wall_ms,
            rng=random.Random(self._rng.getrandbits(64)),
            user_exists=lambda tx, user_id: True,
        )

    def _wall_ms(self) -> int:
        self._now_ms += 10
        return self._now_ms

    def _width(self) -> int:
        return len(graph_ends.extremities(self._tx, self.room_id))

    def trial(self, d: int) -> list[int]:
        """The width after each round. The store is as before when it returns."""
        widths = []
        for authors in self._rounds:
            self._deliver([self._build(author, "m.room.message", {"body": "on all"}, most=d) for author in authors])
            widths.append(self._width())
        self._conn.execute("ROLLBACK TO start")
        self._caches.clear()
        return widths

    def _build(
        self, author: Rooms, event_type: str, content: dict[str, Any], state_key: str | None = None, *, most: int = 20
    ) -> Pdu:
        """What `sending.append` does before it keeps the event, with another limit on the parents."""
        tx, context = self._tx, author.context
        room = sending.room_of(tx, self.room_id)
        parents = sending.parents_for(context, tx, self.room_id, most=most)
        facts = events.facts(tx, parents)
        before = sending.state_after_parents(tx, room, facts)
        sender = user_of(author)
        return build_event(
            rules=room.rules,
            room_id=self.room_id,
            sender=sender,
            event_type=event_type,
            state_key=state_key,
            content=content,
            prev_events=parents,
            auth_events=sending.auth_events_for(room.rules, before, sender, event_type, state_key, content),
            depth=1 + max(fact.depth for fact in facts.values()),
            origin_server_ts=context.clock.stamp(wall_ms=context.wall_ms(), parents_ts=[]),
            signer=context.signer,
        )

    def _deliver(self, built: list[Pdu]) -> None:
        report = self._observer.receive(
            self._tx, room_id=self.room_id, raws=[event.raw for event in built], source=self._observer.server_name
        )
        refused = [receipt for receipt in report.results if receipt.verdict is not Verdict.ACCEPTED]
        assert not refused, refused


def user_of(server: Rooms) -> str:
    return f"@user:{server.server_name}"
