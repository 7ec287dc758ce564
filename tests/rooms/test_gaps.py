"""Events that nobody has: a claim stands in for them, and gives way when they come after all."""

from __future__ import annotations

from typing import Any

import pytest

from p2pserver.errors import Forbidden, NotFound, Verdict
from p2pserver.rooms.values import ReceiveReport, RoomLimits
from tests.rooms.servers import Server, deliver, fetch, reconcile


def room_of_four() -> tuple[str, list[Server]]:
    servers = [Server(name) for name in ("alice", "bob", "carol", "dave")]
    room_id = servers[0].create()
    for server in servers[1:]:
        server.join(room_id, servers[0])
        reconcile(room_id, servers[0], server)
    for server in servers[1:]:
        reconcile(room_id, servers[0], server)
    return room_id, servers


def lacking(server: Server, room_id: str, missing: list[str], source: str) -> list[str]:
    return server.run(lambda tx: server.rooms.nobody_has(tx, room_id=room_id, event_ids=missing, source=source))


def claim_of(server: Server, room_id: str, event_id: str, origin: str) -> dict[str, Any]:
    return server.run(lambda tx: server.rooms.state_claim(tx, room_id=room_id, event_id=event_id, origin=origin))


def accept(server: Server, room_id: str, event_id: str, claim: dict[str, Any], source: str) -> ReceiveReport:
    return server.run(
        lambda tx: server.rooms.accept_state_claim(tx, room_id=room_id, event_id=event_id, claim=claim, source=source)
    )


def test_third_contact_in_vain_leads_to_a_gap_and_the_event_heals_it() -> None:
    room_id, (alice, bob, carol, dave) = room_of_four()
    withheld = alice.set_state(room_id, "m.room.topic", "", {"topic": "withheld"})
    held_up = alice.send(room_id, "built upon it")
    report = bob.receive(room_id, [held_up.raw], alice.name)
    assert report.results[0].verdict is None
    assert report.missing == [withheld.event_id]
    assert bob.run(lambda tx: bob.rooms.wanted(tx, room_id)) == [withheld.event_id]

    assert lacking(bob, room_id, [withheld.event_id], carol.name) == []
    assert lacking(bob, room_id, [withheld.event_id], carol.name) == []
    assert lacking(bob, room_id, [withheld.event_id], "stranger.example") == []
    assert lacking(bob, room_id, [withheld.event_id], dave.name) == []
    claim = claim_of(alice, room_id, held_up.event_id, bob.name)
    assert accept(bob, room_id, held_up.event_id, claim, alice.name).results == []
    assert lacking(bob, room_id, [withheld.event_id], alice.name) == [held_up.event_id]

    report = accept(bob, room_id, held_up.event_id, claim, alice.name)
    assert report.results[0].verdict is Verdict.ACCEPTED
    assert not bob.complete(room_id)
    topic = bob.run(lambda tx: bob.rooms.current_event(tx, room_id, "m.room.topic"))
    assert topic is not None
    assert topic.content == {"topic": "withheld"}
    answer = bob.send(room_id, "an answer over the gap")
    assert bob.run(lambda tx: bob.rooms.wanted(tx, room_id)) == [withheld.event_id]

    assert alice.receive(room_id, [answer.raw], bob.name).results[0].verdict is Verdict.ACCEPTED
    assert bob.receive(room_id, [withheld.raw], carol.name).results[0].verdict is Verdict.ACCEPTED
    assert bob.complete(room_id)
    assert bob.digest(room_id) == alice.digest(room_id)
    assert bob.operational(room_id) == alice.operational(room_id)


def test_lying_claim_over_a_gap_is_undone() -> None:
    """The claim leaves out the ban that the missing event was."""
    room_id, (alice, bob, carol, dave) = room_of_four()
    ban = alice.member(room_id, carol.user, "ban")
    held_up = alice.send(room_id, "built upon the ban")
    bob.receive(room_id, [held_up.raw], dave.name)
    for source in (carol.name, dave.name, alice.name):
        held = lacking(bob, room_id, [ban.event_id], source)
    assert held == [held_up.event_id]
    claim = claim_of(alice, room_id, held_up.event_id, bob.name)
    claim["state"] = [raw for raw in claim["state"] if raw.get("state_key") != carol.user]
    joins = carol.run(lambda tx: carol.rooms.current_event(tx, room_id, "m.room.member", carol.user))
    assert joins is not None
    claim["state"].append(dict(joins.raw))
    assert accept(bob, room_id, held_up.event_id, claim, dave.name).results[0].verdict is Verdict.ACCEPTED
    assert bob.run(lambda tx: bob.rooms.membership(tx, room_id, carol.user)) == "join"
    bob.receive(room_id, [ban.raw], alice.name)
    assert bob.complete(room_id)
    assert bob.run(lambda tx: bob.rooms.membership(tx, room_id, carol.user)) == "ban"
    assert bob.digest(room_id) == alice.digest(room_id)


@pytest.mark.parametrize(
    "change",
    [
        {"state": []},
        {"state": None},
        {"state": [1, 2]},
        {"auth_chain": "none"},
        {"depth": 0},
        {"depth": "deep"},
    ],
)
def test_claims_that_cannot_be_true_change_nothing(change: dict[str, Any]) -> None:
    room_id, (alice, bob, carol, dave) = room_of_four()
    withheld = alice.send(room_id, "withheld")
    held_up = alice.send(room_id, "held up")
    bob.receive(room_id, [held_up.raw], alice.name)
    for source in (carol.name, dave.name, alice.name):
        lacking(bob, room_id, [withheld.event_id], source)
    claim = {**claim_of(alice, room_id, held_up.event_id, bob.name), **change}
    events_before = bob.column("SELECT event_id FROM events ORDER BY event_id")
    assert accept(bob, room_id, held_up.event_id, claim, alice.name).results == []
    assert bob.column("SELECT event_id FROM events ORDER BY event_id") == events_before
    assert bob.complete(room_id)


def test_claims_are_for_members_and_known_events() -> None:
    room_id, (alice, bob, _, _) = room_of_four()
    event = alice.send(room_id, "something")
    with pytest.raises(Forbidden):
        claim_of(alice, room_id, event.event_id, "stranger.example")
    with pytest.raises(NotFound):
        claim_of(bob, room_id, event.event_id, alice.name)


def test_parked_events_are_bounded_and_the_oldest_give_way() -> None:
    alice = Server("alice")
    bob = Server("bob", limits=RoomLimits(parked_per_source=5, parked_per_room=8))
    room_id = alice.create()
    bob.join(room_id, alice)
    reconcile(room_id, alice, bob)
    alice.send(room_id, "never delivered")
    built = [alice.send(room_id, f"{number}") for number in range(20)]
    for number, event in enumerate(built):
        bob.receive(room_id, [event.raw], "one" if number < 10 else "two")
    parked = bob.column("SELECT event_id FROM parked_pdus ORDER BY number")
    assert parked == [event.event_id for event in [*built[7:10], *built[15:]]]
    assert bob.one("SELECT count(*) FROM parked_waits") == len(parked)
    reconcile(room_id, alice, bob)
    assert bob.digest(room_id) == alice.digest(room_id)
    assert bob.column("SELECT event_id FROM parked_pdus") == []


def test_parked_octets_are_bounded() -> None:
    alice = Server("alice")
    bob = Server("bob", limits=RoomLimits(parked_octets_per_room=20_000))
    room_id = alice.create()
    bob.join(room_id, alice)
    reconcile(room_id, alice, bob)
    alice.send(room_id, "never delivered")
    for _ in range(10):
        bob.receive(room_id, [alice.send(room_id, "x" * 5000).raw], alice.name)
    assert bob.one("SELECT sum(octets) FROM parked_pdus") <= 20_000


def test_join_through_a_server_that_has_a_gap_itself() -> None:
    room_id, (alice, bob, carol, dave) = room_of_four()
    withheld = alice.set_state(room_id, "m.room.topic", "", {"topic": "withheld"})
    held_up = alice.send(room_id, "built upon it")
    bob.receive(room_id, [held_up.raw], alice.name)
    for source in (carol.name, dave.name, alice.name):
        lacking(bob, room_id, [withheld.event_id], source)
    accept(bob, room_id, held_up.event_id, claim_of(alice, room_id, held_up.event_id, bob.name), alice.name)
    for number in range(40):
        bob.send(room_id, f"above the gap {number}")
    deliver(room_id, bob, alice)

    erin = Server("erin")
    erin.join(room_id, bob)
    deliver(room_id, erin, bob)
    fetch(room_id, bob, erin, octets_max=3000)
    assert erin.run(lambda tx: erin.rooms.wanted(tx, room_id)) != []
    for source in (carol.name, dave.name, bob.name):
        waiting = lacking(erin, room_id, [withheld.event_id], source)
    assert waiting == [held_up.event_id]
    accept(erin, room_id, held_up.event_id, claim_of(bob, room_id, held_up.event_id, erin.name), bob.name)
    fetch(room_id, bob, erin, octets_max=3000)
    assert erin.run(lambda tx: erin.rooms.wanted(tx, room_id)) == [withheld.event_id]
    assert not erin.complete(room_id)
    assert erin.one("SELECT count(*) FROM events WHERE position > 0 AND outlier = 0") == 1
    assert erin.operational(room_id) == bob.operational(room_id)
    reconcile(room_id, erin, alice)
    reconcile(room_id, bob, alice)
    assert erin.complete(room_id)
    assert bob.complete(room_id)
    assert erin.digest(room_id) == alice.digest(room_id) == bob.digest(room_id)
