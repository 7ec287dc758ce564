"""Two servers in one room: a join, backfill, a partition, and the same digest afterwards."""

from __future__ import annotations

import pytest

from tests.rooms.servers import Server, deliver, fetch, reconcile


@pytest.mark.parametrize("version", ["10", "11", "12"])
def test_joiner_backfills_to_the_same_room(version: str) -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create(version=version)
    for number in range(60):
        alice.send(room_id, f"message {number}")
    bob.join(room_id, alice)
    assert not bob.complete(room_id)
    assert deliver(room_id, bob, alice) == 0
    assert fetch(room_id, alice, bob) > 60
    assert bob.complete(room_id)
    assert bob.digest(room_id) == alice.digest(room_id)
    assert bob.operational(room_id) == alice.operational(room_id)
    shown = bob.column("SELECT event_id FROM events WHERE room_id = ? ORDER BY depth, position", room_id)
    assert shown == alice.column("SELECT event_id FROM events WHERE room_id = ? ORDER BY depth, position", room_id)
    assert bob.one("SELECT count(*) FROM events WHERE position > 0") == 1
    assert bob.one("SELECT count(*) FROM gaps") == 0


def test_partition_heals() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    bob.join(room_id, alice)
    reconcile(room_id, alice, bob)
    alice.set_state(room_id, "m.room.power_levels", "", {"users": {bob.user: 100}})
    reconcile(room_id, alice, bob)
    for number in range(30):
        alice.send(room_id, f"a {number}")
        bob.send(room_id, f"b {number}")
    alice.set_state(room_id, "m.room.name", "", {"name": "alice's"})
    bob.set_state(room_id, "m.room.name", "", {"name": "bob's"})
    reconcile(room_id, alice, bob)
    assert alice.digest(room_id) == bob.digest(room_id)
    assert alice.operational(room_id) == bob.operational(room_id)
    assert alice.one("SELECT count(*) FROM events WHERE type = 'm.room.message' AND position > 0") == 60
    assert bob.one("SELECT count(*) FROM events WHERE type = 'm.room.message' AND position > 0") == 60
