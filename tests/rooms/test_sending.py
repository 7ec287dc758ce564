"""Own events: parents, authorization, what is owed to whom, rooms of each version."""

from __future__ import annotations

import pytest

from p2pserver.errors import BadJson, Forbidden, InvalidParam, NotFound, TooLarge, UnsupportedRoomVersion
from tests.rooms.servers import Server, deliver, reconcile
from tests.rooms.test_receipt import event_of


@pytest.mark.parametrize("version", ["10", "11", "12"])
def test_created_room_holds_what_was_asked_for(version: str) -> None:
    alice = Server("alice")
    room_id = alice.create(version=version, creator="@liar:x")
    create = alice.run(lambda tx: alice.rooms.current_event(tx, room_id, "m.room.create"))
    assert create is not None
    assert create.content["room_version"] == version
    assert create.content.get("creator") == (alice.user if version == "10" else None)
    assert room_id.endswith(f":{alice.name}") == (version != "12")
    assert alice.complete(room_id)
    assert alice.run(lambda tx: alice.rooms.membership(tx, room_id, alice.user)) == "join"
    assert alice.one("SELECT membership FROM local_memberships WHERE room_id = ?", room_id) == "join"
    assert alice.run(lambda tx: alice.rooms.power_levels(tx, room_id).of_user(alice.user)) >= 100
    assert alice.column("SELECT type FROM events ORDER BY position") == [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
    ]
    assert {row["type"] for row in alice.run(lambda tx: alice.rooms.stripped_state(tx, room_id))} == {
        "m.room.create",
        "m.room.join_rules",
    }


def test_refusals_keep_nothing() -> None:
    alice, bob = Server("alice"), Server("bob")
    with pytest.raises(UnsupportedRoomVersion):
        alice.create(version="99")
    room_id = alice.create()
    count = alice.one("SELECT count(*) FROM events")
    with pytest.raises(Forbidden):
        alice.send(room_id, "not a member", sender=f"@other:{alice.name}")
    with pytest.raises(Forbidden):
        alice.send(room_id, "not ours", sender=bob.user)
    with pytest.raises(NotFound):
        bob.send(room_id, "not held")
    with pytest.raises(BadJson):
        alice.set_state(room_id, "org.example.float", "", {"x": 1.5})
    with pytest.raises(TooLarge):
        alice.send(room_id, "x" * 70_000)
    with pytest.raises(InvalidParam):
        alice.run(
            lambda tx: alice.rooms.send(
                tx, room_id=room_id, sender=alice.user, event_type="m.room.redaction", content={}
            )
        )
    assert alice.one("SELECT count(*) FROM events") == count
    assert alice.one("SELECT count(*) FROM outbox") == 0


def test_same_state_again_is_the_same_event() -> None:
    alice = Server("alice")
    room_id = alice.create()
    first = alice.set_state(room_id, "m.room.name", "", {"name": "one"})
    assert alice.set_state(room_id, "m.room.name", "", {"name": "one"}).event_id == first.event_id
    other = alice.set_state(room_id, "m.room.name", "", {"name": "two"})
    assert alice.set_state(room_id, "m.room.name", "", {"name": "one"}).event_id not in (first.event_id, other.event_id)


def test_every_joined_server_is_owed_each_event_once() -> None:
    servers = [Server(name) for name in ("alice", "bob", "carol")]
    alice, bob, carol = servers
    room_id = alice.create()
    for server in (bob, carol):
        server.join(room_id, alice)
        reconcile(room_id, alice, server)
    reconcile(room_id, alice, bob)
    event = alice.send(room_id, "to all")
    for server in (bob, carol):
        items = alice.owed_to(server.name)
        assert [item.event_id for item in items if item.event_id == event.event_id] == [event.event_id]
        assert items[-1].payload == event.raw
    assert alice.one("SELECT count(*) FROM outbox WHERE destination = ?", alice.name) == 0
    kick = alice.member(room_id, carol.user, "leave")
    assert (
        alice.one("SELECT count(*) FROM outbox WHERE event_id = ? AND destination = ?", kick.event_id, carol.name) == 1
    )
    later = alice.send(room_id, "without carol")
    assert alice.column("SELECT destination FROM outbox WHERE event_id = ?", later.event_id) == [bob.name]


def test_wide_graph_is_narrowed_by_twenty_parents() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    bob.join(room_id, alice)
    reconcile(room_id, alice, bob)
    tip = alice.run(lambda tx: alice.rooms.leaves(tx, room_id))
    forks = [event_of(bob, room_id, tip, body=f"{number}") for number in range(50)]
    alice.receive(room_id, [fork.raw for fork in forks], bob.name)
    assert alice.run(lambda tx: alice.rooms.digest(tx, room_id).width) == 50
    event = alice.send(room_id, "merges")
    assert len(event.prev_events) == 20
    assert alice.run(lambda tx: alice.rooms.digest(tx, room_id).width) == 31
    second = alice.send(room_id, "merges again")
    assert event.event_id in second.prev_events
    assert alice.run(lambda tx: alice.rooms.digest(tx, room_id).width) == 12


def test_timestamps_follow_the_parents() -> None:
    alice, bob = Server("alice"), Server("bob")
    alice.now_ms += 60_000
    room_id = alice.create()
    bob.join(room_id, alice)
    reconcile(room_id, alice, bob)
    last = alice.send(room_id, "ahead")
    deliver(room_id, alice, bob)
    assert bob.send(room_id, "answer").origin_server_ts > last.origin_server_ts


def test_member_servers_and_shared_rooms() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    assert alice.run(lambda tx: alice.rooms.rooms_with(tx, bob.name)) == []
    assert not alice.run(lambda tx: alice.rooms.may_see_room(tx, bob.name, room_id))
    bob.join(room_id, alice)
    reconcile(room_id, alice, bob)
    assert alice.run(lambda tx: alice.rooms.rooms_with(tx, bob.name)) == [room_id]
    assert alice.run(lambda tx: alice.rooms.member_servers(tx, room_id)) == {alice.name, bob.name}
    alice.member(room_id, bob.user, "leave")
    assert alice.run(lambda tx: alice.rooms.member_servers(tx, room_id)) == {alice.name}
    assert alice.run(lambda tx: alice.rooms.rooms_with(tx, bob.name)) == []
    assert alice.run(lambda tx: alice.rooms.may_see_room(tx, bob.name, room_id))
    alice.member(room_id, f"@new:{bob.name}", "invite")
    assert alice.run(lambda tx: alice.rooms.rooms_with(tx, bob.name)) == [room_id]
