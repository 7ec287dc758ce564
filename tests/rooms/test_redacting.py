"""Redactions: in effect when both events are here and it is allowed, hidden until then."""

from __future__ import annotations

import pytest

from p2pserver.errors import Forbidden, NotFound
from p2pserver.events.build import build_event
from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import V12
from p2pserver.rooms.redacting import undo_redaction
from tests.rooms.servers import Server, power_levels, raw_of, reconcile
from tests.rooms.test_receipt import shared_room


def shown(server: Server, event: Pdu) -> bool:
    stored = server.run(lambda tx: server.rooms.stored(tx, event.event_id))
    return stored is not None and server.run(lambda tx: server.rooms.visible_to(tx, server.user, [stored]))[0]


@pytest.mark.parametrize("version", ["10", "11", "12"])
def test_redaction_takes_the_content_everywhere(version: str) -> None:
    room_id, alice, bob = shared_room(version=version)
    event = alice.send(room_id, "regretted")
    redaction = alice.redact(room_id, event.event_id)
    assert redaction.redacts == event.event_id
    bob.receive(room_id, [event.raw, redaction.raw], alice.name)
    for server in (alice, bob):
        stored = server.stored(event.event_id)
        assert stored is not None
        assert stored.pdu.content == {}
        assert stored.redacted_by == redaction.event_id
        assert "regretted" not in str(server.one("SELECT raw FROM events WHERE event_id = ?", event.event_id))
        assert shown(server, redaction)
    assert alice.digest(room_id) == bob.digest(room_id)


def test_redaction_waits_for_its_target_out_of_sight() -> None:
    room_id, alice, bob = shared_room()
    reconcile(room_id, alice, bob)
    fork = bob.send(room_id, "bob's fork")
    alice.receive(room_id, [fork.raw], bob.name)
    redaction = alice.redact(room_id, fork.event_id)
    carol = Server("carol")
    carol.join(room_id, bob)
    carol_knows = [raw for event_id, raw in alice.graph(room_id).items() if event_id != fork.event_id]
    carol.receive(room_id, carol_knows, alice.name)
    assert not shown(carol, redaction)
    carol.receive(room_id, [fork.raw], bob.name)
    assert carol.run(lambda tx: raw_of(tx, fork.event_id))["content"] == {}


def test_redaction_that_arrived_before_its_target_is_shown_with_it() -> None:
    """Both hang on the same parent, so the redaction can be judged first."""
    room_id, alice, bob = shared_room()
    tip = alice.run(lambda tx: alice.rooms.leaves(tx, room_id))
    target = alice.send(room_id, "target")
    redaction = redaction_of(alice, room_id, tip, target.event_id)
    bob.receive(room_id, [redaction.raw], alice.name)
    assert not shown(bob, redaction)
    before = bob.one("SELECT position FROM events WHERE event_id = ?", redaction.event_id)
    bob.receive(room_id, [target.raw], alice.name)
    assert shown(bob, redaction)
    assert bob.run(lambda tx: raw_of(tx, target.event_id))["content"] == {}
    assert bob.one("SELECT position FROM events WHERE event_id = ?", redaction.event_id) > before


def redaction_of(server: Server, room_id: str, prev_events: list[str], target: str) -> Pdu:
    state = server.run(lambda tx: server.rooms.current_state(tx, room_id))
    return build_event(
        rules=V12,
        room_id=room_id,
        sender=server.user,
        event_type="m.room.redaction",
        state_key=None,
        content={},
        prev_events=prev_events,
        auth_events=[state["m.room.power_levels", ""], state["m.room.member", server.user]],
        depth=3,
        origin_server_ts=9,
        signer=server.signer,
        redacts=target,
    )


def test_not_everybody_may_redact() -> None:
    room_id, alice, bob = shared_room()
    event = alice.send(room_id, "stays")
    bob.receive(room_id, [event.raw], alice.name)
    with pytest.raises(Forbidden):
        bob.redact(room_id, event.event_id)
    with pytest.raises(NotFound):
        bob.redact(room_id, "$" + "A" * 43)
    by_force = redaction_of(bob, room_id, [event.event_id], event.event_id)
    alice.receive(room_id, [by_force.raw], bob.name)
    assert not shown(alice, by_force)
    assert alice.run(lambda tx: raw_of(tx, event.event_id)) == event.raw


def test_genuine_copy_of_a_redacted_event_does_not_bring_its_content_back() -> None:
    room_id, alice, bob = shared_room()
    event = alice.send(room_id, "regretted")
    redaction = alice.redact(room_id, event.event_id)
    twin = {**event.raw, "content": {"body": "a lie"}}
    bob.receive(room_id, [twin, redaction.raw, event.raw], alice.name)
    assert bob.run(lambda tx: raw_of(tx, event.event_id))["content"] == {}
    assert bob.one("SELECT redacted_copy FROM events WHERE event_id = ?", event.event_id) == 0


def test_redacting_power_levels_of_version_10_keeps_what_the_rules_read() -> None:
    """The redaction of version 10 drops `invite` from power levels: shown without it, judged with it."""
    alice = Server("alice")
    room_id = alice.create(version="10")
    levels = alice.set_state(room_id, "m.room.power_levels", "", power_levels(alice, "10", invite=100))
    alice.redact(room_id, levels.event_id)
    stored = alice.run(lambda tx: alice.rooms.stored(tx, levels.event_id))
    assert stored is not None
    assert "invite" not in stored.pdu.content
    second = f"@second:{alice.name}"
    alice.member(room_id, second, "join", sender=second)
    with pytest.raises(Forbidden):
        alice.member(room_id, f"@third:{alice.name}", "invite", sender=second)


@pytest.mark.parametrize(("content", "is_lost"), [({"body": "regretted"}, True), ({}, False)])
def test_a_genuine_copy_is_asked_for_only_where_an_undone_redaction_took_something(
    content: dict[str, str], is_lost: bool
) -> None:
    alice = Server("alice")
    room_id = alice.create()
    event = alice.set_state(room_id, "org.example.note", "", content)
    redaction = alice.redact(room_id, event.event_id)
    alice.run(lambda tx: undo_redaction(tx, redaction))
    row = alice.conn.execute("SELECT redacted_copy, redacted_by FROM events WHERE event_id = ?", (event.event_id,))
    assert row.fetchone() == (int(is_lost), None)
