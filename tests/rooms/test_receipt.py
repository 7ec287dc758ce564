"""Receipt: what is dropped, parked, repeated; copies of one event; soft failure."""

from __future__ import annotations

import base64
import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from p2pserver.errors import Verdict
from p2pserver.events.build import build_event
from p2pserver.events.canonical import NotCanonical, decode_strict
from p2pserver.events.hashing import event_id_of
from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import ROOM_VERSIONS, V12
from p2pserver.store.tx import Tx
from tests.rooms.servers import Server, leaves, raw_of, reconcile


def shared_room(*, version: str = "12") -> tuple[str, Server, Server]:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create(version=version)
    bob.join(room_id, alice)
    reconcile(room_id, alice, bob)
    return room_id, alice, bob


def event_of(
    server: Server, room_id: str, prev_events: list[str], *, sender: str | None = None, body: str = "made by hand"
) -> Pdu:
    """A message on chosen parents, with the auth events that the server's current state gives."""
    state = server.run(lambda tx: server.rooms.current_state(tx, room_id))
    who = sender or server.user
    return build_event(
        rules=V12,
        room_id=room_id,
        sender=who,
        event_type="m.room.message",
        state_key=None,
        content={"body": body},
        prev_events=prev_events,
        auth_events=[state[slot] for slot in [("m.room.power_levels", ""), ("m.room.member", who)] if slot in state],
        depth=7,
        origin_server_ts=5,
        signer=server.signer,
    )


def contents_of(server: Server) -> list[tuple[Any, ...]]:
    tables = ("rooms", "events", "event_edges", "leaves", "forward_extremities", "current_state", "parked_pdus", "gaps")
    return [row for table in tables for row in server.conn.execute(f"SELECT * FROM {table} ORDER BY 1, 2")]


def test_event_is_taken_once_whoever_repeats_it() -> None:
    room_id, alice, bob = shared_room()
    event = alice.send(room_id, "once")
    first = bob.receive(room_id, [event.raw, event.raw], alice.name)
    assert [receipt.new for receipt in first.results] == [True, False]
    before = contents_of(bob)
    again = bob.receive(room_id, [event.raw], "carol.example")
    assert [(receipt.verdict, receipt.new) for receipt in again.results] == [(Verdict.ACCEPTED, False)]
    assert contents_of(bob) == before


def test_garbage_is_dropped_and_does_not_spoil_the_rest() -> None:
    room_id, alice, bob = shared_room()
    event = alice.send(room_id, "good")
    unsigned = {**event.raw, "signatures": {}}
    other_room = alice.send(alice.create(), "elsewhere")
    garbage: list[object] = [None, 1, [], "text", {}, {"type": 1}, unsigned, dict(other_room.raw)]
    report = bob.receive(room_id, [*garbage, event.raw], alice.name)
    assert [receipt.verdict for receipt in report.results] == [Verdict.DROPPED] * len(garbage) + [Verdict.ACCEPTED]


def test_mutations_of_valid_events_never_raise_and_never_get_in() -> None:
    """2,000 changes to a valid event: whatever is kept, is kept redacted or was not changed where it counts."""
    room_id, alice, bob = shared_room()
    event = alice.send(room_id, "target")
    rng = random.Random(7)
    values: list[Any] = [None, True, 0, -1, 2**60, 1.5, "", "x" * 300, [], ["$x"], {}, {"a": {}}]
    kept = 0
    for _ in range(2000):
        raw: dict[str, Any] = copy.deepcopy(dict(event.raw))
        target: dict[str, Any] = raw if rng.random() < 0.7 else raw["content"]
        name = rng.choice([*target, "extra"])
        if rng.random() < 0.3:
            target.pop(name, None)
        else:
            target[name] = rng.choice(values)
        receipt = bob.receive(room_id, [raw], alice.name).results[0]
        if receipt.event_id == event.event_id and receipt.verdict is not Verdict.DROPPED:
            kept += 1
        else:
            assert receipt.verdict is Verdict.DROPPED
    assert kept > 100
    held = bob.run(lambda tx: raw_of(tx, event.event_id))
    assert held["content"] in ({}, event.content)
    bob.receive(room_id, [event.raw], alice.name)
    assert bob.run(lambda tx: raw_of(tx, event.event_id)) == event.raw


def test_bytes_that_are_no_event_json_never_become_one() -> None:
    vectors = json.loads((Path(__file__).parent.parent / "vectors" / "canonical_json.json").read_text("utf-8"))
    for case in vectors["reject_as_event_json"]:
        with pytest.raises(NotCanonical):
            decode_strict(base64.b64decode(next(value for key, value in case.items() if "base64" in key)))


def test_other_rooms_and_unknown_rooms() -> None:
    room_id, alice, bob = shared_room()
    secret_id = alice.create()
    secret = alice.send(secret_id, "not yours")
    report = bob.receive(secret_id, [secret.raw], alice.name)
    assert [receipt.verdict for receipt in report.results] == [Verdict.DROPPED]
    assert bob.one("SELECT count(*) FROM events WHERE room_id = ?", secret_id) == 0
    assert bob.one("SELECT count(*) FROM parked_pdus") == 0
    confused = event_of(alice, room_id, [secret.event_id])
    assert alice.receive(room_id, [confused.raw]).results[0].verdict is Verdict.DROPPED
    assert bob.receive(room_id, [confused.raw]).results[0].verdict is None


def test_prev_events_odds() -> None:
    """B06: a repeated parent counts once; a rejected one is a parent like others; none at all is refused."""
    room_id, alice, bob = shared_room()
    none = event_of(alice, room_id, [])
    assert bob.receive(room_id, [none.raw]).results[0].verdict is Verdict.REJECTED
    last = alice.send(room_id, "last")
    twice = event_of(alice, room_id, [last.event_id, last.event_id])
    on_rejected = event_of(alice, room_id, [none.event_id, twice.event_id])
    report = bob.receive(room_id, [last.raw, twice.raw, on_rejected.raw])
    assert [receipt.verdict for receipt in report.results] == [Verdict.ACCEPTED] * 3
    assert bob.run(lambda tx: bob.rooms.leaves(tx, room_id)) == [on_rejected.event_id]


@pytest.mark.parametrize("order", ["cited first", "citing first"])
def test_event_with_a_rejected_auth_event_is_rejected(order: str) -> None:
    room_id, alice, bob = shared_room()
    state = alice.run(lambda tx: alice.rooms.current_state(tx, room_id))
    tip, joined = leaves(alice, room_id), state["m.room.member", bob.user]

    def made(event_type: str, state_key: str | None, content: dict[str, Any], levels: str) -> Pdu:
        return build_event(
            rules=V12,
            room_id=room_id,
            sender=bob.user,
            event_type=event_type,
            state_key=state_key,
            content=content,
            prev_events=tip,
            auth_events=[levels, joined],
            depth=9,
            origin_server_ts=9,
            signer=bob.signer,
        )

    grab = made("m.room.power_levels", "", {"users": {bob.user: 100}}, state["m.room.power_levels", ""])
    citing = made("m.room.message", None, {"body": "by the levels I gave myself"}, grab.event_id)
    for event in (grab, citing) if order == "cited first" else (citing, grab):
        alice.receive(room_id, [event.raw], bob.name)
    assert alice.verdict(grab.event_id) is Verdict.REJECTED
    assert alice.verdict(citing.event_id) is Verdict.REJECTED


def test_only_events_on_held_parents_are_applied_and_all_are_in_the_end() -> None:
    room_id, alice, bob = shared_room()
    built = [alice.send(room_id, f"{number}") for number in range(10)]
    missing = [bob.receive(room_id, [event.raw], alice.name).missing for event in reversed(built[1:])]
    assert missing[-1] == [built[0].event_id]
    assert bob.run(lambda tx: bob.rooms.wanted(tx, room_id)) == [built[0].event_id]
    assert all(bob.verdict(event.event_id) is None for event in built)
    report = bob.receive(room_id, [built[0].raw], alice.name)
    assert {receipt.event_id for receipt in report.released} == {event.event_id for event in built[1:]}
    assert bob.digest(room_id) == alice.digest(room_id)


def test_long_parked_chain_is_released_without_recursion() -> None:
    room_id, alice, bob = shared_room()

    def chain(tx: Tx) -> list[Pdu]:
        return [
            alice.rooms.send(tx, room_id=room_id, sender=alice.user, event_type="m.room.message", content={"n": number})
            for number in range(395)
        ]

    built = alice.run(chain)
    bob.receive(room_id, [event.raw for event in reversed(built[1:])], alice.name)
    assert len(bob.receive(room_id, [built[0].raw], alice.name).released) == len(built) - 1


@pytest.mark.parametrize("order", ["twin first", "genuine first"])
def test_genuine_copy_wins_over_the_redacted_one(order: str) -> None:
    """B03: a lying content hash leaves a redacted copy, which only a genuine copy replaces."""
    room_id, alice, bob = shared_room()
    genuine = alice.send(room_id, "pay Alice")
    twin = {**genuine.raw, "content": {"body": "pay Mallory", "msgtype": "m.text"}}
    copies = [twin, genuine.raw] if order == "twin first" else [genuine.raw, twin]
    for raw in copies:
        assert bob.receive(room_id, [raw], alice.name).results[0].event_id == genuine.event_id
    assert bob.run(lambda tx: raw_of(tx, genuine.event_id)) == genuine.raw
    assert bob.one("SELECT redacted_copy FROM events WHERE event_id = ?", genuine.event_id) == 0


def test_a_message_is_shown_when_its_genuine_copy_is_here_and_not_before() -> None:
    """Whoever is faster with a lying copy does not keep it from clients that have synced past that place."""
    room_id, alice, bob = shared_room()
    genuine = alice.send(room_id, "pay Alice")

    def shown() -> tuple[bool, int]:
        found = bob.stored(genuine.event_id)
        assert found is not None
        return bob.run(lambda tx: bob.rooms.visible_to(tx, bob.user, [found]))[0], found.position

    bob.receive(room_id, [{**genuine.raw, "content": {"body": "pay Mallory", "msgtype": "m.text"}}], alice.name)
    hidden, _ = shown()
    passed = bob.position()
    bob.receive(room_id, [genuine.raw], alice.name)
    visible, position = shown()
    assert (hidden, visible) == (False, True)
    assert position > passed


@pytest.mark.parametrize("order", ["twin first", "genuine first"])
def test_genuine_copy_wins_while_parked(order: str) -> None:
    room_id, alice, bob = shared_room()
    parent, genuine = alice.send(room_id, "parent"), alice.send(room_id, "pay Alice")
    twin = {**genuine.raw, "content": {"body": "pay Mallory", "msgtype": "m.text"}}
    for raw in [twin, genuine.raw] if order == "twin first" else [genuine.raw, twin]:
        assert bob.receive(room_id, [raw], alice.name).results[0].verdict is None
    bob.receive(room_id, [parent.raw], alice.name)
    assert bob.run(lambda tx: raw_of(tx, genuine.event_id)) == genuine.raw


def test_published_twins_have_one_place() -> None:
    """tests/vectors/event_ids.json: each pair has one event ID in the versions that are built here."""
    vectors = json.loads((Path(__file__).parent.parent / "vectors" / "event_ids.json").read_text("utf-8"))
    pairs = [pair for pair in vectors["same_id_twins"] if pair["room_version"] in ROOM_VERSIONS]
    assert pairs
    for pair in pairs:
        rules = ROOM_VERSIONS[pair["room_version"]]
        assert event_id_of(pair["genuine"], rules) == event_id_of(pair["twin"], rules) == pair["event_id"]


def test_banned_users_backdated_event_is_soft_failed() -> None:
    """B22: in the graph, shown to nobody, cited by nobody, without effect on the current state."""
    room_id, alice, bob = shared_room()
    before_ban = alice.run(lambda tx: alice.rooms.leaves(tx, room_id))
    ban = alice.member(room_id, bob.user, "ban")
    backdated = event_of(bob, room_id, before_ban, body="I was here before the ban")
    state = alice.operational(room_id)
    report = alice.receive(room_id, [backdated.raw], bob.name)
    assert report.results[0].verdict is Verdict.SOFT_FAILED
    assert alice.operational(room_id) == state
    stored = alice.run(lambda tx: alice.rooms.stored(tx, backdated.event_id))
    assert stored is not None
    assert alice.run(lambda tx: alice.rooms.visible_to(tx, alice.user, [stored])) == [False]
    assert alice.column("SELECT event_id FROM forward_extremities") == [ban.event_id]
    assert sorted(alice.run(lambda tx: alice.rooms.leaves(tx, room_id))) == sorted([ban.event_id, backdated.event_id])
    following = alice.send(room_id, "goes on")
    assert following.prev_events == (ban.event_id,)


def test_sec_digest_does_not_see_soft_failure() -> None:
    room_id, alice, bob = shared_room()
    carol = Server("carol")
    carol.join(room_id, alice)
    reconcile(room_id, alice, carol)
    reconcile(room_id, alice, bob)
    before_ban = alice.run(lambda tx: alice.rooms.leaves(tx, room_id))
    ban = alice.member(room_id, bob.user, "ban")
    backdated = event_of(bob, room_id, before_ban)
    for server, order in ((alice, [backdated]), (carol, [backdated, ban])):
        for event in order:
            server.receive(room_id, [event.raw])
    assert alice.verdict(backdated.event_id) is Verdict.SOFT_FAILED
    assert carol.verdict(backdated.event_id) is Verdict.ACCEPTED
    assert alice.digest(room_id) == carol.digest(room_id)


def test_topics_tell_who_waits() -> None:
    room_id, alice, bob = shared_room()
    event = alice.send(room_id, "wake up")
    assert {f"room:{room_id}", f"peer:{bob.name}", "pdus"} <= set(alice.topics)
    bob.receive(room_id, [event.raw], alice.name)
    assert {f"room:{room_id}", "pdus"} <= set(bob.topics)
    invite = alice.member(room_id, f"@second:{bob.name}", "invite")
    bob.receive(room_id, [invite.raw], alice.name)
    assert f"user:@second:{bob.name}" in bob.topics
    bob.receive(room_id, [invite.raw], alice.name)
    assert not bob.topics
