"""A state that goes back raises an alarm; a state that is revoked, replaced or forked does not."""

from __future__ import annotations

from typing import Any

import pytest

from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import rules_of
from p2pserver.meg.resolution import resolve
from p2pserver.rooms import resets
from p2pserver.rooms.resets import SuspectedReset, suspected_resets
from p2pserver.rooms.state import StoredEvents
from p2pserver.store import alarms, rooms
from p2pserver.store.tx import Tx
from tests.rooms.servers import Server, power_levels, reconcile
from tests.rooms.vector_rooms import received, vector_room


def states_of(room: dict[str, Any], number: int) -> dict[tuple[str, str], str]:
    return {
        (event_type, key): event_id
        for event_type, slots in room["states"][number].items()
        for key, event_id in slots.items()
    }


@pytest.mark.parametrize("problem", ["a", "b"])
@pytest.mark.parametrize("version", ["10", "11", "12"])
def test_problems_of_msc4297(problem: str, version: str) -> None:
    """A stale state comes up beside the present one. Version 12 keeps the newer events."""
    room = vector_room(f"msc4297_{problem}_v{version}")
    server = received(room, seed=None)
    rules = rules_of(version)

    def found(tx: Tx) -> list[SuspectedReset]:
        [resolution] = room["resolutions"]
        sets = [states_of(room, number) for number in resolution["state_sets"]]
        after = dict(resolve(sets, StoredEvents(tx), rules))
        assert after == states_of(room, resolution["expected"])
        newest = max(sets, key=lambda state: len(set(state.values()) & {e["event_id"] for e in room["events"][-4:]}))
        slots = newest.keys() | after.keys()
        changes = {slot: (newest.get(slot), after.get(slot)) for slot in slots if newest.get(slot) != after.get(slot)}
        return suspected_resets(tx, changes, after)

    suspected = server.run(found)
    print(problem, version, suspected)
    assert bool(suspected) == (version != "12")


def joined(*others: Server, version: str, **levels: Any) -> tuple[str, Server]:
    """A room of alice and others, with an admin among them."""
    alice = Server("alice")
    room_id = alice.create(version=version)
    for other in others:
        other.join(room_id, alice)
    for other in [*others, *others]:
        reconcile(room_id, alice, other)
    content = power_levels(alice, version, users={others[0].user: 100}, **levels)
    alice.set_state(room_id, "m.room.power_levels", "", content)
    for other in [*others, *others]:
        reconcile(room_id, alice, other)
    return room_id, alice


class Undone(Exception):
    pass


def made_and_forgotten(server: Server, room_id: str, event_type: str, state_key: str, content: dict[str, Any]) -> Pdu:
    """An event that its server sends and does not know of afterwards, so that what it sends next is beside it."""
    made: list[Pdu] = []

    def do(tx: Tx) -> None:
        made.append(
            server.rooms.send(
                tx, room_id=room_id, sender=server.user, event_type=event_type, state_key=state_key, content=content
            )
        )
        raise Undone

    with pytest.raises(Undone):
        server.run(do)
    return made[0]


def alarms_of(server: Server) -> list[tuple[str, str]]:
    return [(alarm.kind, alarm.about) for alarm in server.run(alarms.alarms)]


@pytest.mark.parametrize("version", ["11", "12"])
def test_stale_state_on_a_fork(version: str) -> None:
    """An admin changes the join rules and, beside that, leaves; then somebody writes who knows only of the latter."""
    admin, bob = Server("admin"), Server("bob")
    room_id, alice = joined(admin, bob, version=version)
    rules = made_and_forgotten(admin, room_id, "m.room.join_rules", "", {"join_rule": "invite"})
    left = admin.member(room_id, admin.user, "leave")
    alice.receive(room_id, [rules.raw, left.raw], admin.name)
    bob.receive(room_id, [left.raw], admin.name)
    assert set(alice.send(room_id, "both").prev_events) == {left.event_id, rules.event_id}
    assert alice.run(lambda tx: alice.rooms.current_state(tx, room_id))["m.room.join_rules", ""] == rules.event_id
    assert alarms_of(alice) == []
    stale = bob.send(room_id, "only that he left")
    alice.receive(room_id, [stale.raw], bob.name)
    if version == "12":
        assert alarms_of(alice) == []
        return
    [alarm] = alice.run(alarms.alarms)
    assert (alarm.kind, alarm.about) == (alarms.STATE_RESET_SUSPECTED, "m.room.join_rules ")
    assert alarm.details["from"] == rules.event_id
    assert alarm.details["to"] == alice.run(lambda tx: alice.rooms.current_state(tx, room_id))["m.room.join_rules", ""]
    assert alarm.details["position"] == alice.one("SELECT position FROM events WHERE event_id = ?", stale.event_id)
    assert alice.run(alarms.counts) == {(room_id, alarms.STATE_RESET_SUSPECTED): 1}


def test_newer_state_and_redaction_are_no_reset() -> None:
    admin, bob = Server("admin"), Server("bob")
    room_id, alice = joined(admin, bob, version="11")
    for number in range(3):
        alice.set_state(room_id, "m.room.name", "", {"name": f"{number}"})
    event = alice.set_state(room_id, "m.room.name", "", {"name": "0"})
    alice.redact(room_id, event.event_id)
    alice.member(room_id, bob.user, "leave")
    alice.member(room_id, bob.user, "ban")
    alice.member(room_id, bob.user, "leave")
    assert alarms_of(alice) == []


@pytest.mark.parametrize("version", ["10", "11", "12"])
@pytest.mark.parametrize("how", ["ban", "kick", "levels"])
def test_what_a_ban_a_kick_or_new_levels_take_is_no_reset(version: str, how: str) -> None:
    """The name was given on one side of a fork, and its giver loses his rights on the other."""
    admin, bob = Server("admin"), Server("bob")
    room_id, alice = joined(admin, bob, version=version, state_default=0)
    alice.set_state(room_id, "m.room.name", "", {"name": "old"})
    for other in (admin, bob):
        reconcile(room_id, alice, other)
    named = bob.set_state(room_id, "m.room.name", "", {"name": "new"})
    if how == "levels":
        content = power_levels(alice, version, users={admin.user: 100}, state_default=50)
        revoking = admin.set_state(room_id, "m.room.power_levels", "", content)
    else:
        revoking = admin.member(room_id, bob.user, "ban" if how == "ban" else "leave")
    alice.receive(room_id, [named.raw, revoking.raw], "carrier")
    state = alice.run(lambda tx: alice.rooms.current_state(tx, room_id))
    assert state["m.room.name", ""] != named.event_id
    assert alarms_of(alice) == []


@pytest.mark.parametrize("version", ["11", "12"])
def test_join_that_the_rules_forbade_beside_it_is_no_reset(version: str) -> None:
    admin, bob, carol = Server("admin"), Server("bob"), Server("carol")
    room_id, alice = joined(admin, bob, version=version)
    carol.join(room_id, bob)
    join = carol.run(lambda tx: carol.rooms.current_event(tx, room_id, "m.room.member", carol.user))
    assert join is not None
    rules = admin.set_state(room_id, "m.room.join_rules", "", {"join_rule": "invite"})
    alice.receive(room_id, [join.raw], carol.name)
    assert ("m.room.member", carol.user) in alice.run(lambda tx: alice.rooms.current_state(tx, room_id))
    alice.receive(room_id, [rules.raw], admin.name)
    assert ("m.room.member", carol.user) not in alice.run(lambda tx: alice.rooms.current_state(tx, room_id))
    assert alarms_of(alice) == []


def test_other_side_of_a_fork_is_no_reset() -> None:
    admin, bob = Server("admin"), Server("bob")
    room_id, alice = joined(admin, bob, version="12", state_default=0)
    ours = alice.set_state(room_id, "m.room.name", "", {"name": "ours"})
    for _ in range(3):
        alice.send(room_id, "and on")
    admin.now_ms += 60_000
    theirs = admin.set_state(room_id, "m.room.name", "", {"name": "theirs"})
    alice.receive(room_id, [theirs.raw], admin.name)
    assert alice.run(lambda tx: alice.rooms.current_state(tx, room_id))["m.room.name", ""] == theirs.event_id
    assert theirs.depth < ours.depth + 3
    assert alarms_of(alice) == []


def test_partial_room_raises_no_alarm() -> None:
    admin, bob = Server("admin"), Server("bob")
    room_id, alice = joined(admin, bob, version="11")
    alice.run(lambda tx: rooms.set_complete(tx, room_id, False))
    name = alice.set_state(room_id, "m.room.name", "", {"name": "one"})
    other = alice.set_state(room_id, "m.room.name", "", {"name": "two"})
    room = alice.run(lambda tx: rooms.room(tx, room_id))
    assert room is not None
    changes = {("m.room.name", ""): (other.event_id, name.event_id)}
    assert [reset.now for reset in alice.run(lambda tx: suspected_resets(tx, changes, {}))] == [name.event_id]
    assert alarms_of(alice) == []


def test_alarm_that_is_never_raised_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resets, "_is_back", lambda *args: False)
    with pytest.raises(ValueError, match="not enough values"):
        test_stale_state_on_a_fork("11")


def test_alarm_for_what_was_revoked_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resets, "_is_revoked", lambda *args: False)
    with pytest.raises(AssertionError):
        test_what_a_ban_a_kick_or_new_levels_take_is_no_reset("12", "ban")
