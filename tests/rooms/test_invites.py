"""Invites to rooms that are not held: taken, refused, taken back, bounded."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from p2pserver.errors import NotFound, Verdict
from p2pserver.events.pdu import Pdu
from p2pserver.rooms.values import RoomLimits
from p2pserver.store import memberships, outbox
from tests.rooms.servers import Server, deliver, reconcile


def invite(
    alice: Server, bob: Server, *, version: str = "12", user: str | None = None
) -> tuple[str, Pdu, dict[str, Any]]:
    room_id = alice.create(version=version, public=False)
    alice.set_state(room_id, "m.room.name", "", {"name": "come in"})
    event = alice.member(room_id, user or bob.user, "invite")
    return room_id, event, alice.run(lambda tx: alice.rooms.invite_payload(tx, event.event_id))


def take(bob: Server, alice: Server, payload: dict[str, Any]) -> Verdict:
    return bob.run(lambda tx: bob.rooms.receive_invite(tx, origin=alice.name, payload=payload))


@pytest.mark.parametrize("version", ["10", "11", "12"])
def test_invite_is_kept_with_the_rooms_state(version: str) -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id, event, payload = invite(alice, bob, version=version)
    assert take(bob, alice, payload) is Verdict.ACCEPTED
    assert f"user:{bob.user}" in bob.topics
    held = bob.run(lambda tx: memberships.invite(tx, bob.user, room_id))
    assert held is not None
    assert (held.inviter, held.via, held.version) == (alice.user, alice.name, version)
    assert {"m.room.create", "m.room.name", "m.room.join_rules", "m.room.member"} <= {
        raw["type"] for raw in held.room_state
    }
    assert bob.one("SELECT membership || sender FROM local_memberships") == f"invite{alice.user}"
    assert bob.one("SELECT count(*) FROM rooms") == 0
    position = bob.position()
    assert take(bob, alice, payload) is Verdict.ACCEPTED
    assert bob.position() == position
    assert bob.one("SELECT event_id FROM local_memberships") == event.event_id


def test_bad_invites_leave_no_trace() -> None:
    alice, bob = Server("alice"), Server("bob")
    _, _, payload = invite(alice, bob)
    _, _, to_nobody = invite(alice, bob, user=f"@nobody:{bob.name}")
    _, _, other = invite(alice, bob)

    def changed(**fields: Any) -> dict[str, Any]:
        return {**copy.deepcopy(payload), **fields}

    forged = changed()
    forged["event"]["sender"] = f"@mallory:{alice.name}"
    join = alice.run(lambda tx: alice.rooms.current_event(tx, forged["event"]["room_id"], "m.room.member", alice.user))
    assert join is not None
    bad = [
        to_nobody,
        forged,
        changed(event=dict(join.raw)),
        changed(room_version="99"),
        changed(room_version="11"),
        changed(invite_room_state=[]),
        changed(invite_room_state="none"),
        changed(invite_room_state=other["invite_room_state"]),
        changed(invite_room_state=[{"padding": "x" * 70_000}, *payload["invite_room_state"]]),
        {},
    ]
    for each in bad:
        assert take(bob, alice, each) is Verdict.DROPPED
    assert bob.one("SELECT count(*) FROM invites") == 0
    assert bob.one("SELECT count(*) FROM local_memberships") == 0


@pytest.mark.parametrize("version", ["10", "11", "12"])
def test_refusal_needs_no_round_trip_and_reaches_the_inviter(version: str) -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id, _, payload = invite(alice, bob, version=version)
    take(bob, alice, payload)
    bob.run(lambda tx: bob.rooms.decline_invite(tx, user_id=bob.user, room_id=room_id))
    assert bob.one("SELECT membership FROM local_memberships") == "leave"
    shown = bob.run(lambda tx: bob.rooms.stored(tx, bob_leave(bob)))
    assert shown is not None
    assert shown.pdu.content == {"membership": "leave"}
    assert bob.run(lambda tx: memberships.invite(tx, bob.user, room_id)) is None
    items = bob.run(lambda tx: outbox.page(tx, alice.name))
    assert [receipt.verdict for receipt in alice.receive(room_id, [item.payload for item in items]).results] == [
        Verdict.ACCEPTED
    ]
    assert alice.run(lambda tx: alice.rooms.membership(tx, room_id, bob.user)) == "leave"
    with pytest.raises(NotFound):
        bob.run(lambda tx: bob.rooms.decline_invite(tx, user_id=bob.user, room_id=room_id))


def bob_leave(bob: Server) -> str:
    event_id: str = bob.one("SELECT event_id FROM local_memberships")
    return event_id


def test_inviter_takes_it_back() -> None:
    alice, bob, carol = Server("alice"), Server("bob"), Server("carol")
    room_id, _, payload = invite(alice, bob)
    take(bob, alice, payload)
    kick = alice.member(room_id, bob.user, "leave")
    assert (
        bob.receive(room_id, [alice.send(room_id, "unrelated").raw], alice.name).results[0].verdict is Verdict.DROPPED
    )
    items = alice.run(lambda tx: outbox.page(tx, bob.name))
    assert [item.event_id for item in items] == [kick.event_id]
    assert bob.receive(room_id, [items[0].payload], carol.name).results[0].verdict is Verdict.ACCEPTED
    assert bob.one("SELECT membership FROM local_memberships") == "leave"
    assert bob_leave(bob) == kick.event_id


def test_invited_user_joins() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id, _, payload = invite(alice, bob)
    take(bob, alice, payload)
    bob.join(room_id, alice)
    assert bob.one("SELECT membership FROM local_memberships") == "join"
    assert bob.one("SELECT count(*) FROM invites") == 0
    reconcile(room_id, alice, bob)
    assert bob.digest(room_id) == alice.digest(room_id)


def test_invite_to_a_room_that_is_held_goes_through_receipt() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    bob.join(room_id, alice)
    reconcile(room_id, alice, bob)
    event = alice.member(room_id, f"@second:{bob.name}", "invite")
    payload = alice.run(lambda tx: alice.rooms.invite_payload(tx, event.event_id))
    assert take(bob, alice, payload) is Verdict.ACCEPTED
    assert bob.verdict(event.event_id) is Verdict.ACCEPTED
    assert bob.one("SELECT count(*) FROM invites") == 0
    assert bob.run(lambda tx: bob.rooms.membership(tx, room_id, f"@second:{bob.name}")) == "invite"


def test_invite_back_into_a_room_that_was_left() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create(public=False)
    alice.member(room_id, bob.user, "invite")
    bob.join(room_id, alice)
    reconcile(room_id, alice, bob)
    bob.member(room_id, bob.user, "leave")
    deliver(room_id, bob, alice)
    event = alice.member(room_id, bob.user, "invite")
    assert take(bob, alice, alice.run(lambda tx: alice.rooms.invite_payload(tx, event.event_id))) is Verdict.ACCEPTED
    assert bob.one("SELECT membership FROM local_memberships") == "invite"
    kick = alice.member(room_id, bob.user, "leave")
    bob.receive(room_id, [kick.raw], alice.name)
    assert bob.one("SELECT membership FROM local_memberships") == "leave"


def test_floods_are_bounded_and_an_honest_invite_still_arrives() -> None:
    mallory, carol, alice = Server("mallory"), Server("carol"), Server("alice")
    bob = Server("bob", limits=RoomLimits(invites_per_origin_per_hour=10, invites_held=15))
    for number in range(14):
        _, _, payload = invite(mallory, bob)
        assert take(bob, mallory, payload) is (Verdict.ACCEPTED if number < 10 else Verdict.DROPPED)
    for _ in range(14):
        take(bob, carol, invite(carol, bob)[2])
    assert bob.one("SELECT count(*) FROM invites") == 15
    room_id, _, payload = invite(alice, bob)
    assert take(bob, alice, payload) is Verdict.ACCEPTED
    assert bob.one("SELECT count(*) FROM invites") == 15
    assert bob.one("SELECT count(*) FROM local_memberships") == 15
    assert bob.run(lambda tx: memberships.invite(tx, bob.user, room_id)) is not None
    bob.now_ms += 2 * 3_600_000
    _, _, payload = invite(mallory, bob)
    assert take(bob, mallory, payload) is Verdict.ACCEPTED
