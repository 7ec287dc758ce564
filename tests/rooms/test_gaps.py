"""Events that wait for others: bounded, and judged when what they wait for comes after all."""

from __future__ import annotations

from p2pserver.errors import Verdict
from p2pserver.rooms.values import RoomLimits
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


def test_nothing_stands_in_for_a_parent_and_it_heals_all_when_it_comes() -> None:
    room_id, (alice, bob, carol, _) = room_of_four()
    withheld = alice.set_state(room_id, "m.room.topic", "", {"topic": "withheld"})
    held_up = alice.send(room_id, "built upon it")
    report = bob.receive(room_id, [held_up.raw], alice.name)
    assert report.results[0].verdict is None
    assert report.missing == [withheld.event_id]
    assert bob.run(lambda tx: bob.rooms.wanted(tx, room_id)) == [withheld.event_id]
    beside = bob.send(room_id, "beside it")
    assert held_up.event_id not in beside.prev_events
    assert bob.complete(room_id)

    report = bob.receive(room_id, [withheld.raw], carol.name)
    assert [receipt.verdict for receipt in [*report.results, *report.released]] == [Verdict.ACCEPTED] * 2
    alice.receive(room_id, [beside.raw], bob.name)
    assert bob.digest(room_id) == alice.digest(room_id)
    assert bob.operational(room_id) == alice.operational(room_id)


def test_who_joins_by_somebody_whose_history_is_on_its_way_gets_it_with_him() -> None:
    room_id, (alice, bob, _, _) = room_of_four()
    for number in range(40):
        alice.send(room_id, f"history {number}")
    dora, erin = Server("dora"), Server("erin")
    dora.join(room_id, alice)
    erin.join(room_id, dora)
    deliver(room_id, erin, dora)
    fetch(room_id, dora, erin, octets_max=3000)
    assert not dora.complete(room_id)
    assert not erin.complete(room_id)
    deliver(room_id, dora, alice)
    fetch(room_id, alice, dora, octets_max=3000)
    assert dora.complete(room_id)
    reconcile(room_id, dora, erin)
    for server in (alice, bob, dora):
        reconcile(room_id, server, erin)
        reconcile(room_id, server, alice)
    assert erin.complete(room_id)
    assert erin.digest(room_id) == alice.digest(room_id) == dora.digest(room_id)


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


def test_what_waits_for_strangers_gives_way_first() -> None:
    alice = Server("alice")
    bob = Server("bob", limits=RoomLimits(parked_per_source=5, parked_per_room=8))
    room_id = alice.create()
    bob.join(room_id, alice)
    reconcile(room_id, alice, bob)
    alice.send(room_id, "never delivered")
    built = [alice.send(room_id, f"{number}") for number in range(13)]
    for number, event in enumerate(built):
        bob.receive(room_id, [event.raw], alice.name if number < 3 else f"stranger {number // 5}")
    parked = bob.column("SELECT event_id FROM parked_pdus ORDER BY number")
    assert parked == [event.event_id for event in [*built[:3], *built[8:]]]


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
