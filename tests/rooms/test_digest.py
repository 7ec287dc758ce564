"""The digest that is kept event by event, and the one that every event and every state gives, are the same."""

from __future__ import annotations

import sqlite3

import pytest

from p2pserver.rooms import graph, rebuilding
from p2pserver.store import graph_ends, state_groups
from p2pserver.store.graph_ends import surroundings
from tests.rooms.servers import Server, leaves, raw_of, reconcile


def forked_room() -> tuple[str, Server, Server]:
    """A room with a merged fork, a banned user and his soft-failed message."""
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    bob.join(room_id, alice)
    bob.member(room_id, f"@stays:{bob.name}", "join", sender=f"@stays:{bob.name}")
    reconcile(room_id, alice, bob)
    alice.set_state(room_id, "m.room.name", "", {"name": "one"})
    bob.send(room_id, "meanwhile")
    reconcile(room_id, alice, bob)
    alice.member(room_id, bob.user, "ban")
    bob.send(room_id, "too late")
    reconcile(room_id, alice, bob)
    return room_id, alice, bob


def test_both_digests_agree_on_what_came_in_another_order() -> None:
    room_id, alice, bob = forked_room()
    assert alice.one("SELECT count(*) FROM events WHERE verdict = 'soft_failed'") == 1
    assert bob.one("SELECT count(*) FROM events WHERE verdict = 'soft_failed'") == 0
    assert alice.digest(room_id) == bob.digest(room_id)


def test_cost_does_not_grow_with_the_room() -> None:
    """Counted in steps of the database's virtual machine."""
    alice = Server("alice")
    room_id = alice.create()

    def steps(unit: str) -> int:
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1

        alice.conn.set_progress_handler(tick, 1)
        try:
            if unit == "send":
                alice.send(room_id, "one more")
            else:
                alice.run(lambda tx: alice.rooms.standing(tx, room_id))
        finally:
            alice.conn.set_progress_handler(None, 1)
        return count

    alice.send(room_id, "first")
    before = {unit: steps(unit) for unit in ("send", "read")}
    for number in range(400):
        alice.send(room_id, f"{number}")
    after = {unit: steps(unit) for unit in ("send", "read")}
    print(f"database steps at 10 events: {before}, at 410: {after}")
    assert all(after[unit] <= 1.1 * before[unit] for unit in before)


def test_database_of_an_earlier_version_is_read_and_extended() -> None:
    room_id, alice, bob = forked_room()
    expected = alice.digest(room_id)
    alice.run(lambda tx: tx.execute("UPDATE events SET sec = NULL"))
    alice.run(lambda tx: tx.execute("UPDATE state_groups SET state_sum = NULL"))
    alice.run(lambda tx: tx.caches.clear())
    assert alice.digest(room_id) == expected
    alice.send(room_id, "and on")
    assert alice.one("SELECT count(*) FROM events WHERE sec IS NULL") == 0
    reconcile(room_id, alice, bob)
    assert alice.digest(room_id) == bob.digest(room_id)


def test_leaf_that_another_room_cites_stays_a_leaf() -> None:
    """A member of two rooms cites, in one, an event of the other, before that event comes."""
    alice, bob, mallory = Server("alice"), Server("bob"), Server("mallory")
    rooms = [alice.create(), alice.create()]
    for room_id in rooms:
        for server in (bob, mallory):
            server.join(room_id, alice)
            reconcile(room_id, alice, server)
        reconcile(room_id, alice, bob)
    last = mallory.send(rooms[0], "the leaf")
    bob.conn.execute("INSERT INTO event_edges (event_id, prev_event_id) VALUES (?, ?)", ("$other", last.event_id))
    bob.conn.execute(
        "INSERT INTO events SELECT '$other', ?, 9999, depth, type, state_key, sender, origin_server_ts, 'rejected',"
        " reason, outlier, 0, redacted_copy, redacted_by, state_before, state_after, raw, NULL FROM events"
        " WHERE room_id = ? LIMIT 1",
        (rooms[1], rooms[1]),
    )
    bob.receive(rooms[0], [mallory.run(lambda tx: raw_of(tx, last.event_id))], mallory.name)
    assert not bob.run(lambda tx: surroundings(tx, last).cited_by)
    assert last.event_id in leaves(bob, rooms[0])


@pytest.mark.parametrize("broken", ["verdict", "state"])
def test_damaged_row_is_found(broken: str) -> None:
    room_id, alice, _ = forked_room()
    kept = alice.kept_digest(room_id)
    assert kept == alice.digest_of_everything(room_id)
    if broken == "verdict":
        change = "UPDATE events SET verdict = 'rejected' WHERE type = 'm.room.join_rules'"
    else:
        change = "UPDATE state_group_entries SET event_id = '$x' WHERE type = 'm.room.name' AND event_id IS NOT NULL"
    damaged = sqlite3.connect(":memory:", isolation_level=None)
    alice.conn.backup(damaged)
    alice.conn = damaged
    alice.conn.execute(change)
    assert alice.digest_of_everything(room_id).sec != kept.sec


def test_forgotten_accepted_leaf_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_ends, "extend_accepted_leaves", lambda *args, **options: None)
    room_id, alice, _ = forked_room()
    with pytest.raises(AssertionError):
        alice.digest(room_id)


@pytest.mark.parametrize("module", [graph, rebuilding])
def test_digest_that_is_not_kept_is_noticed(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a join everything above the gap is judged again, and its part of the digest with it."""
    monkeypatch.setattr(module, "sec_of", lambda *args: b"the same")
    room_id, alice, bob = forked_room()
    with pytest.raises(AssertionError):
        assert (alice.digest(room_id), bob.digest(room_id)) is None


def test_sum_that_forgets_what_was_replaced_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = state_groups.changed_sum
    monkeypatch.setattr(
        state_groups, "changed_sum", lambda total, *, removed, added: real(total, removed={}, added=added)
    )
    alice = Server("alice")
    room_id = alice.create()
    alice.set_state(room_id, "m.room.name", "", {"name": "one"})
    alice.set_state(room_id, "m.room.name", "", {"name": "two"})
    with pytest.raises(AssertionError):
        alice.digest(room_id)
