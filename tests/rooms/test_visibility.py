"""History visibility, for users and for servers: judged by the state at each event."""

from __future__ import annotations

import pytest

from p2pserver.events.pdu import Pdu
from p2pserver.rooms.server_visibility import copy_for
from tests.rooms.servers import Server, deliver, reconcile


def sees(server: Server, user: str, event: Pdu) -> bool:
    stored = server.run(lambda tx: server.rooms.stored(tx, event.event_id))
    assert stored is not None
    return server.run(lambda tx: server.rooms.visible_to(tx, user, [stored]))[0]


EXPECTED = {
    # visibility: before the invite, while invited, while joined, after leaving; for a member, then for one who left
    "world_readable": (True, True, True, True),
    "shared": (True, True, True, False),
    "invited": (False, True, True, False),
    "joined": (False, False, True, False),
}


@pytest.mark.parametrize("visibility", EXPECTED)
def test_what_a_user_sees_of_each_time(visibility: str) -> None:
    alice = Server("alice")
    room_id = alice.create(public=False)
    alice.set_state(room_id, "m.room.history_visibility", "", {"history_visibility": visibility})
    second = f"@second:{alice.name}"
    before = alice.send(room_id, "before")
    assert sees(alice, second, before) == (visibility == "world_readable")
    invite = alice.member(room_id, second, "invite")
    invited = alice.send(room_id, "invited")
    assert sees(alice, second, invite) == (visibility in ("world_readable", "invited"))
    join = alice.member(room_id, second, "join", sender=second)
    joined = alice.send(room_id, "joined")
    at_first = tuple(sees(alice, second, event) for event in (before, invited, joined))
    assert at_first == EXPECTED[visibility][:3]
    leave = alice.member(room_id, second, "leave", sender=second)
    after = alice.send(room_id, "after")
    assert tuple(sees(alice, second, event) for event in (before, invited, joined, after)) == EXPECTED[visibility]
    assert sees(alice, second, join)
    assert sees(alice, second, leave)
    again = alice.member(room_id, second, "invite")
    alice.member(room_id, second, "leave", sender=second)
    assert tuple(sees(alice, second, event) for event in (before, invited, joined, after)) == EXPECTED[visibility]
    assert sees(alice, second, again) == (visibility in ("world_readable", "invited"))
    assert all(sees(alice, alice.user, event) for event in (before, invite, invited, join, joined, leave, after))


def test_change_of_visibility_counts_at_each_event() -> None:
    alice = Server("alice")
    room_id = alice.create(public=True)
    alice.set_state(room_id, "m.room.history_visibility", "", {"history_visibility": "joined"})
    hidden = alice.send(room_id, "hidden")
    change = alice.set_state(room_id, "m.room.history_visibility", "", {"history_visibility": "shared"})
    shared = alice.send(room_id, "shared")
    second = f"@second:{alice.name}"
    alice.member(room_id, second, "join", sender=second)
    assert [sees(alice, second, event) for event in (hidden, change, shared)] == [False, True, True]


def test_backfilled_history_is_not_for_those_who_never_were_there() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    old = alice.send(room_id, "old")
    bob.join(room_id, alice)
    reconcile(room_id, alice, bob)
    assert bob.one("SELECT position FROM events WHERE event_id = ?", old.event_id) < 0
    assert sees(bob, bob.user, old)
    assert not sees(bob, f"@third:{bob.name}", old)
    bob.member(room_id, bob.user, "leave")
    assert sees(bob, bob.user, old)


def test_servers_get_redacted_copies_of_what_is_hidden_and_nothing_after_they_left() -> None:
    alice, bob, carol = Server("alice"), Server("bob"), Server("carol")
    room_id = alice.create()
    alice.set_state(room_id, "m.room.history_visibility", "", {"history_visibility": "joined"})
    hidden = alice.send(room_id, "hidden")
    bob.join(room_id, alice)
    deliver(room_id, bob, alice)
    open_to_bob = alice.send(room_id, "open to bob")
    copy = alice.run(lambda tx: copy_for(tx, bob.name, hidden.event_id))
    assert copy is not None
    assert copy["content"] == {}
    assert alice.run(lambda tx: copy_for(tx, bob.name, open_to_bob.event_id)) == open_to_bob.raw
    assert alice.run(lambda tx: copy_for(tx, carol.name, open_to_bob.event_id)) is None
    reconcile(room_id, alice, bob)
    assert bob.digest(room_id) == alice.digest(room_id)
    alice.member(room_id, bob.user, "leave")
    after = alice.send(room_id, "after bob")
    served, _ = alice.run(
        lambda tx: alice.rooms.missing_for(
            tx, room_id=room_id, want=[after.event_id], have=[], octets_max=10**6, origin=bob.name
        )
    )
    assert {"content": {"body": "after bob", "msgtype": "m.text"}}.items() <= dict(after.raw).items()
    assert after.raw not in served
    assert open_to_bob.raw in served
    assert alice.run(
        lambda tx: alice.rooms.missing_for(
            tx, room_id=room_id, want=[after.event_id], have=[], octets_max=10**6, origin=carol.name
        )
    ) == ([], False)
