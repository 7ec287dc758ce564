"""Rooms of every version through the real receipt and the store: judged, joined, merged, redacted, with twins."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from p2pserver.errors import BadJson, Forbidden, Verdict
from p2pserver.events.build import build_event
from p2pserver.events.canonical import encode_canonical
from p2pserver.events.receipt import check_on_receipt
from p2pserver.events.signing import SelfCertifyingKeys, Signer, sign_event
from p2pserver.events.versions import ROOM_VERSIONS, V1, EventIds, rules_of
from p2pserver.identifiers import KEY_ID
from p2pserver.rooms.sending import found_room
from p2pserver.store import events, graph_ends
from p2pserver.wire.messages import Pdus, decode_message, encode_message
from tests.meg import old_version_checks as vectors
from tests.rooms.servers import Server

VERSIONS = pytest.mark.parametrize("version", list(ROOM_VERSIONS))
NAMES = [
    *vectors.of_version("1")[:6],
    *(name for number in range(2, 10) for name in vectors.of_version(str(number))[:1]),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_room_of_the_vectors_is_received(name: str) -> None:
    room = vectors.room_named(name)
    rules = rules_of(room["room_version"])
    judged = vectors.received(room)
    states = vectors.states_of(room, judged)
    server = Server("observer")
    create = check_on_receipt(room["events"][0]["pdu"], rules, SelfCertifyingKeys())
    server.run(lambda tx: found_room(server.context, tx, create))
    raws = [entry["pdu"] for entry in room["events"][1:]]
    random.Random(name).shuffle(raws)
    server.receive(create.room_id, raws[:9], source=judged[0].server)
    server.receive(create.room_id, raws[9:], source=judged[0].server)
    for entry in room["events"]:
        held = server.run(lambda tx, each=entry["event_id"]: events.stored(tx, each))
        assert held is not None
        is_rejected = held.verdict is Verdict.REJECTED
        assert is_rejected == (entry["verdict"] != "accepted"), entry["event_id"]
        before = server.run(lambda tx, each=entry["event_id"]: server.rooms.state_before(tx, each))
        assert before == states[entry["state_before"]], entry["event_id"]


@VERSIONS
def test_two_servers_share_a_room_and_merge_it(version: str) -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create(version=version)
    first = alice.send(room_id, "one")
    join = bob.join(room_id, alice)
    bob.receive(room_id, alice.run(_all), source=alice.name)
    alice.receive(room_id, [dict(join.raw)], source=bob.name)
    assert alice.digest(room_id) == bob.digest(room_id)
    topic = alice.set_state(room_id, "m.room.topic", "", {"topic": "alice"})
    fork = bob.send(room_id, "meanwhile")
    alice.receive(room_id, [dict(fork.raw)], source=bob.name)
    bob.receive(room_id, [dict(topic.raw)], source=alice.name)
    merged = alice.send(room_id, "merged")
    assert set(merged.prev_events) == {fork.event_id, topic.event_id}
    bob.receive(room_id, [over_the_wire(room_id, dict(merged.raw))], source=alice.name)
    assert alice.digest(room_id) == bob.digest(room_id)
    if rules_of(version).event_ids is EventIds.CHOSEN:
        assert all(pair[1]["sha256"] for pair in merged.raw["prev_events"] + merged.raw["auth_events"])
    redaction = alice.redact(room_id, first.event_id)
    bob.receive(room_id, [dict(redaction.raw)], source=alice.name)
    for server in (alice, bob):
        held = server.run(lambda tx: events.stored(tx, first.event_id))
        assert held is not None
        assert held.pdu.content == {}
        assert held.redacted_by == redaction.event_id
    with pytest.raises(Forbidden):
        bob.redact(room_id, merged.event_id)


def _all(tx: Any) -> list[dict[str, Any]]:
    return [json.loads(raw) for (raw,) in tx.all("SELECT raw FROM events ORDER BY position")]


def over_the_wire(room_id: str, raw: dict[str, Any]) -> dict[str, Any]:
    came = decode_message(encode_message(Pdus(room_id, (raw,), more=False, in_answer=False)))
    assert isinstance(came, Pdus)
    return dict(came.pdus[0])


@VERSIONS
def test_numbers_that_are_not_canonical_travel_as_they_are_or_not_at_all(version: str) -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create(version=version)
    join = bob.join(room_id, alice)
    bob.receive(room_id, alice.run(_all), source=alice.name)
    alice.receive(room_id, [dict(join.raw)], source=bob.name)
    content = {"body": "x", "n": [1.5, -0.0, 1e22, 2**60, 3.0]}
    if rules_of(version).strict_json:
        with pytest.raises(BadJson):
            alice.run(lambda tx: _send(alice, tx, room_id, content))
        return
    event = alice.run(lambda tx: _send(alice, tx, room_id, content))
    receipt = bob.receive(room_id, [over_the_wire(room_id, dict(event.raw))], source=alice.name).results[0]
    assert receipt.verdict is Verdict.ACCEPTED
    for server in (alice, bob):
        server.caches.clear()
        held = server.run(lambda tx: events.pdu(tx, event.event_id))
        assert held is not None
        assert not held.redacted_copy
        assert encode_canonical(dict(held.raw), loose=True) == encode_canonical(dict(event.raw), loose=True)


def _send(server: Server, tx: Any, room_id: str, content: dict[str, Any]) -> Any:
    return server.rooms.send(tx, room_id=room_id, sender=server.user, event_type="m.room.message", content=content)


class OrdinaryKeys(SelfCertifyingKeys):
    """Keys of nodes, and that of one server whose name is no key, as a door to other servers could bring it."""

    ordinary = Signer("ordinary.example", KEY_ID, bytes(range(32)))

    def verify_key(self, server_name: str, key_id: str, valid_at_ms: int | None = None) -> bytes | None:
        if server_name == self.ordinary.server_name:
            return self.ordinary.verify_key
        return super().verify_key(server_name, key_id, valid_at_ms)


def test_under_an_id_of_an_ordinary_server_the_first_event_counts() -> None:
    alice = Server("alice", keys=OrdinaryKeys())
    room_id, other_room = alice.create(version="1"), alice.create(version="1")
    user, signer = "@user:ordinary.example", OrdinaryKeys.ordinary

    def event(room: str, event_type: str, content: dict[str, Any], event_id: str, state_key: str | None) -> Any:
        state = alice.run(lambda tx: alice.rooms.current_state(tx, room))
        slots = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", user)]
        if event_type == "m.room.member":
            slots.append(("m.room.join_rules", ""))
        made = build_event(
            rules=V1,
            room_id=room,
            sender=user,
            event_type=event_type,
            state_key=state_key,
            content=content,
            prev_events=alice.run(lambda tx: graph_ends.extremities(tx, room)),
            auth_events=[state[slot] for slot in slots if slot in state],
            depth=9,
            origin_server_ts=alice.now_ms,
            signer=alice.signer,
        )
        bare = {key: made.raw[key] for key in made.raw if key not in ("hashes", "signatures")}
        return sign_event({**bare, "event_id": event_id}, V1, signer)

    def receive(room: str, raw: Any) -> tuple[Verdict | None, str]:
        receipt = alice.receive(room, [raw], source="ordinary.example").results[0]
        return receipt.verdict, receipt.reason

    join = event(room_id, "m.room.member", {"membership": "join"}, "$join:ordinary.example", user)
    assert receive(room_id, join)[0] is Verdict.ACCEPTED
    first = event(room_id, "m.room.message", {"body": "first"}, "$x:ordinary.example", None)
    twin = event(room_id, "m.room.message", {"body": "twin"}, "$x:ordinary.example", None)
    assert receive(room_id, first)[0] is Verdict.ACCEPTED
    refused = (Verdict.DROPPED, "another event has this ID here")
    assert receive(room_id, twin) == refused
    elsewhere = event(other_room, "m.room.member", {"membership": "join"}, "$x:ordinary.example", user)
    assert receive(other_room, elsewhere) == refused
    assert receive(room_id, first)[0] is Verdict.ACCEPTED
    held = alice.run(lambda tx: events.pdu(tx, "$x:ordinary.example"))
    assert held is not None
    assert held.content == {"body": "first"}
