"""Joins by a claimed state: what is refused, what heals, what was news beside the history."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from p2pserver.errors import BadJson, Forbidden, IncompatibleRoomVersion, NotFound, Verdict
from p2pserver.events.build import build_event
from p2pserver.events.versions import V12
from p2pserver.store import outbox
from tests.rooms.servers import Server, deliver, fetch, leaves, reconcile


def offer_of(resident: Server, joiner: Server, room_id: str) -> dict[str, Any]:
    return resident.run(
        lambda tx: resident.rooms.join_offer(
            tx, origin=joiner.name, room_id=room_id, user_id=joiner.user, versions=["10", "11", "12"]
        )
    )


def join_with(joiner: Server, resident: Server, offer: dict[str, Any]) -> None:
    joiner.run(
        lambda tx: joiner.rooms.join_with(tx, user_id=joiner.user, offer=offer, resident=resident.name, content={})
    )


def test_offers_go_to_those_who_may_join() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create(public=False)
    with pytest.raises(Forbidden):
        offer_of(alice, bob, room_id)
    with pytest.raises(NotFound):
        offer_of(alice, bob, "!" + "x" * 43)
    with pytest.raises(NotFound):
        offer_of(bob, alice, room_id)
    alice.member(room_id, bob.user, "invite")
    with pytest.raises(Forbidden):
        alice.run(
            lambda tx: alice.rooms.join_offer(
                tx, origin="carol.example", room_id=room_id, user_id=bob.user, versions=["12"]
            )
        )
    with pytest.raises(IncompatibleRoomVersion):
        alice.run(
            lambda tx: alice.rooms.join_offer(
                tx, origin=bob.name, room_id=room_id, user_id=bob.user, versions=["10", "11"]
            )
        )
    assert offer_of(alice, bob, room_id)["room_version"] == "12"


def test_joiner_can_talk_before_any_history_is_here() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    first = alice.send(room_id, "long ago")
    bob.join(room_id, alice)
    bob.send(room_id, "hello")
    assert bob.run(lambda tx: bob.rooms.membership(tx, room_id, bob.user)) == "join"
    assert bob.one("SELECT membership FROM local_memberships WHERE user_id = ?", bob.user) == "join"
    assert bob.verdict(first.event_id) is None
    items = bob.run(lambda tx: outbox.page(tx, alice.name))
    assert [item.kind for item in items] == ["pdu", "pdu"]
    assert [receipt.verdict for receipt in alice.receive(room_id, [item.payload for item in items]).results] == [
        Verdict.ACCEPTED,
        Verdict.ACCEPTED,
    ]
    assert alice.run(lambda tx: alice.rooms.member_servers(tx, room_id)) == {alice.name, bob.name}


MALFORMED: list[tuple[str, Any]] = [
    ("room_version", "99"),
    ("room_version", None),
    ("room_id", "nonsense"),
    ("prev_events", []),
    ("prev_events", ["$x"]),
    ("prev_events", ["$" + "A" * 42 + "B"]),
    ("prev_events", [["$"]]),
    ("prev_events", "no list"),
    ("state", {}),
    ("state", []),
    ("state", [17]),
    ("auth_chain", None),
    ("depth", -1),
    ("depth", 2**60),
    ("depth", True),
    ("newest_ts", "soon"),
]


@pytest.mark.parametrize(("field", "value"), MALFORMED)
def test_malformed_offers_leave_nothing_behind(field: str, value: Any) -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    offer = {**offer_of(alice, bob, room_id), field: value}
    with pytest.raises((BadJson, Forbidden, IncompatibleRoomVersion)):
        join_with(bob, alice, offer)
    for table in ("rooms", "events", "gaps", "outbox", "local_memberships", "state_groups"):
        assert bob.one(f"SELECT count(*) FROM {table}") == 0


def test_offers_with_forged_or_missing_events_are_refused() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    alice.set_state(room_id, "m.room.topic", "", {"topic": "true"})
    offer = offer_of(alice, bob, room_id)
    forged = copy.deepcopy(offer)
    topic = next(raw for raw in forged["state"] if raw["type"] == "m.room.topic")
    topic["sender"] = f"@mallory:{alice.name}"
    without_levels = {
        **offer,
        "state": [raw for raw in offer["state"] if raw["type"] != "m.room.power_levels"],
        "auth_chain": [raw for raw in offer["auth_chain"] if raw["type"] != "m.room.power_levels"],
    }
    twice = {**offer, "state": [*offer["state"], offer["state"][0]]}
    for bad in (forged, without_levels, twice):
        with pytest.raises(Forbidden):
            join_with(bob, alice, bad)
    join_with(bob, alice, offer)


def test_create_event_must_be_the_one_the_room_id_names() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id, other_id = alice.create(), alice.create(kind="another")
    offer = offer_of(alice, bob, room_id)
    with pytest.raises(Forbidden):
        join_with(bob, alice, {**offer_of(alice, bob, other_id), "room_id": room_id})
    join_with(bob, alice, offer)


def test_claim_of_a_liar_is_replaced_by_the_history() -> None:
    """The offer leaves out a ban and names an older topic; the real history corrects both, whoever brings it."""
    alice, bob, carol = Server("alice"), Server("bob"), Server("carol")
    room_id = alice.create()
    carol.join(room_id, alice)
    reconcile(room_id, alice, carol)
    old = alice.set_state(room_id, "m.room.topic", "", {"topic": "old"})
    new = alice.set_state(room_id, "m.room.topic", "", {"topic": "new"})
    ban = alice.member(room_id, carol.user, "ban")
    offer = offer_of(alice, bob, room_id)
    lie = copy.deepcopy(offer)
    lie["state"] = [
        raw for raw in offer["state"] if raw["type"] != "m.room.topic" and raw.get("state_key") != carol.user
    ]
    hers = carol.run(lambda tx: carol.rooms.current_event(tx, room_id, "m.room.member", carol.user))
    assert hers is not None
    lie["state"] += [dict(old.raw), dict(hers.raw)]
    join_with(bob, alice, lie)
    topic = bob.run(lambda tx: bob.rooms.current_event(tx, room_id, "m.room.topic"))
    assert topic is not None
    assert topic.event_id == old.event_id
    late = carol_speaks_after_her_ban(carol, room_id, bob)
    assert bob.verdict(late) is Verdict.ACCEPTED
    reconcile(room_id, alice, bob)
    assert bob.complete(room_id)
    topic = bob.run(lambda tx: bob.rooms.current_event(tx, room_id, "m.room.topic"))
    assert topic is not None
    assert topic.event_id == new.event_id
    assert bob.run(lambda tx: bob.rooms.current_state(tx, room_id))["m.room.member", carol.user] == ban.event_id
    assert bob.digest(room_id) == alice.digest(room_id)


def carol_speaks_after_her_ban(carol: Server, room_id: str, bob: Server) -> str:
    """Carol learned of Bob's join, not of her ban: her message is built upon his join, over her own state."""
    offer = {"prev": leaves(bob, room_id)}
    state = carol.run(lambda tx: carol.rooms.current_state(tx, room_id))
    event = build_event(
        rules=V12,
        room_id=room_id,
        sender=carol.user,
        event_type="m.room.message",
        state_key=None,
        content={"body": "still here"},
        prev_events=offer["prev"],
        auth_events=[state["m.room.power_levels", ""], state["m.room.member", carol.user]],
        depth=99,
        origin_server_ts=1,
        signer=carol.signer,
    )
    bob.receive(room_id, [event.raw], carol.name)
    return event.event_id


def test_what_came_among_the_history_without_belonging_to_it_is_news() -> None:
    """Carol's fork is concurrent with Bob's join: not an ancestor of it, so not history for Bob's users."""
    alice, bob, carol = Server("alice"), Server("bob"), Server("carol")
    room_id = alice.create()
    carol.join(room_id, alice)
    reconcile(room_id, alice, carol)
    beside = carol.send(room_id, "beside")
    offer = offer_of(alice, bob, room_id)
    deliver(room_id, carol, alice)
    merged = alice.send(room_id, "after")
    join_with(bob, alice, offer)
    deliver(room_id, bob, alice)
    fetch(room_id, alice, bob)
    assert bob.complete(room_id)
    positions = {
        event_id: bob.one("SELECT position FROM events WHERE event_id = ?", event_id)
        for event_id in (beside.event_id, merged.event_id)
    }
    assert 0 < positions[beside.event_id] < positions[merged.event_id]
    assert bob.digest(room_id) == alice.digest(room_id)
    assert bob.operational(room_id) == alice.operational(room_id)


def test_rejoin_after_the_history_moved_on() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    bob.join(room_id, alice)
    reconcile(room_id, alice, bob)
    bob.member(room_id, bob.user, "leave")
    deliver(room_id, bob, alice)
    for number in range(20):
        alice.send(room_id, f"while bob was away {number}")
    alice.set_state(room_id, "m.room.name", "", {"name": "renamed"})
    bob.join(room_id, alice)
    assert bob.run(lambda tx: bob.rooms.membership(tx, room_id, bob.user)) == "join"
    name = bob.run(lambda tx: bob.rooms.current_event(tx, room_id, "m.room.name"))
    assert name is not None
    reconcile(room_id, alice, bob)
    assert bob.complete(room_id)
    assert bob.digest(room_id) == alice.digest(room_id)
    assert bob.operational(room_id) == alice.operational(room_id)


def test_rejoin_with_nothing_missed_needs_no_claim() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    bob.join(room_id, alice)
    reconcile(room_id, alice, bob)
    bob.member(room_id, bob.user, "leave")
    deliver(room_id, bob, alice)
    bob.join(room_id, alice)
    assert bob.complete(room_id)
    reconcile(room_id, alice, bob)
    assert bob.digest(room_id) == alice.digest(room_id)


def test_history_in_any_order_completes_the_room() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    for number in range(20):
        alice.send(room_id, f"{number}")
    bob.join(room_id, alice)
    deliver(room_id, bob, alice)
    raws = list(alice.graph(room_id).values())
    for raw in reversed(raws):
        bob.receive(room_id, [raw], alice.name)
    assert bob.complete(room_id)
    assert bob.digest(room_id) == alice.digest(room_id)
    assert bob.column("SELECT event_id FROM parked_pdus") == []
    assert bob.column("SELECT event_id FROM events WHERE outlier = 1") == []


def test_joining_again_before_the_history_of_the_first_join_is_here() -> None:
    """What stood on the first claim is given up, and comes again with the history of those who hold it."""
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    for number in range(30):
        alice.send(room_id, f"history {number}")
    bob.join(room_id, alice)
    said = bob.send(room_id, "on the first claim")
    bob.member(room_id, bob.user, "leave")
    owed = [item.payload for item in bob.owed_to(alice.name)]
    alice.receive(room_id, owed, bob.name)
    assert not bob.complete(room_id)
    bob.join(room_id, alice)
    assert bob.stored(said.event_id) is not None
    again = bob.send(room_id, "on the second")
    reconcile(room_id, alice, bob)
    assert bob.complete(room_id)
    assert bob.digest(room_id) == alice.digest(room_id)
    assert bob.operational(room_id) == alice.operational(room_id)
    for server in (alice, bob):
        assert server.verdict(said.event_id) is Verdict.ACCEPTED
        assert server.verdict(again.event_id) is Verdict.ACCEPTED
