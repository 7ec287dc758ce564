"""The index over auth graphs in tables: the same as in dictionaries, and complete again in an old database."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress

import pytest

from p2pserver.errors import Forbidden
from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import V12
from p2pserver.meg.auth_index import NotIndexed
from p2pserver.meg.resolution import resolve
from p2pserver.rooms.state import StoredEvents
from p2pserver.store import auth_index, events, state_groups
from p2pserver.store.auth_index import StoredAuthIndex
from p2pserver.store.tx import Tx
from tests.meg.memory_index import MemoryIndex
from tests.rooms.servers import Server, deliver


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Two servers that fork the room with profiles, topics, power levels, kicks and joins."""
    one, other, rng = Server("one"), Server("other", seed=2), random.Random(5)
    room_id = one.create()
    other.join(room_id, one)
    deliver(room_id, other, one)
    levels = {"users": {other.user: 100}, "state_default": 0}
    one.set_state(room_id, "m.room.power_levels", "", levels)
    deliver(room_id, one, other)
    for number in range(30):
        for each in rng.sample([one, other], rng.randint(1, 2)):
            kind = rng.choice(["name", "topic", "levels", "kick"])
            if kind == "name":
                content = {"membership": "join", "displayname": f"{number}"}
                each.set_state(room_id, "m.room.member", each.user, content)
            elif kind == "topic":
                each.set_state(room_id, "m.room.topic", "", {"topic": f"{number}"})
            elif kind == "levels" and each is one:
                each.set_state(room_id, "m.room.power_levels", "", {**levels, "invite": number})
            else:
                with suppress(Forbidden):
                    each.member(room_id, f"@guest{rng.randrange(3)}:g.example", rng.choice(["invite", "ban", "leave"]))
        if number % 3 == 2:
            deliver(room_id, one, other)
            deliver(room_id, other, one)
    yield one
    one.conn.close()


def state_events(tx: Tx) -> dict[str, Pdu]:
    found = {}
    for (event_id,) in tx.all("SELECT event_id FROM events WHERE state_key IS NOT NULL ORDER BY depth, position"):
        event = events.pdu(tx, event_id)
        assert event is not None
        found[event_id] = event
    return found


def index_failures(tx: Tx) -> list[str]:
    """Where the tables say otherwise than the events."""
    index, expected = StoredAuthIndex(tx), MemoryIndex.of(state_events(tx))
    found = [f"the node of {event_id}" for event_id, node in expected.nodes.items() if index.node(event_id) != node]
    return found + [
        f"what cites {event_id}"
        for event_id in expected.nodes
        if set(index.citing(event_id)) != set(expected.citing(event_id))
    ]


def test_the_tables_hold_what_follows_from_the_events(server: Server) -> None:
    tx = Tx(server.conn, {})
    assert len(state_events(tx)) > 30
    assert index_failures(tx) == []
    assert tx.all("SELECT count(*) FROM auth_nodes")[0][0] == len(state_events(tx))


def test_all_forks_resolve_alike_with_and_without_the_index(server: Server) -> None:
    tx = Tx(server.conn, {})
    groups = [group for (group,) in tx.all("SELECT group_id FROM state_groups")]
    rng, conflicts = random.Random(1), 0
    for _ in range(60):
        sets = [state_groups.state_map(tx, group) for group in rng.sample(groups, 3)]
        plain = resolve(sets, StoredEvents(tx), V12)
        assert resolve(sets, StoredEvents(tx), V12, index=StoredAuthIndex(tx)) == plain
        conflicts += any(dict(each) != plain for each in sets)
    assert conflicts > 30


def test_a_database_without_nodes_gets_them(server: Server) -> None:
    """As one of an earlier version is after its migration."""
    server.conn.execute("BEGIN")
    tx = Tx(server.conn, {})
    tx.execute("DELETE FROM auth_nodes")
    assert index_failures(tx) == []
    assert tx.all("SELECT count(*) FROM auth_nodes")[0][0] == 0
    tx.caches.clear()
    newest = list(state_events(tx).values())[-1]
    StoredAuthIndex(tx).add(newest)
    kept = tx.all("SELECT count(*) FROM auth_nodes")[0][0]
    assert kept > 1
    assert index_failures(tx) == []
    server.conn.execute("ROLLBACK")


def test_outliers_leave_nothing_behind(server: Server) -> None:
    server.conn.execute("BEGIN")
    tx = Tx(server.conn, {})
    gone = list(state_events(tx))[-1]
    tx.execute("UPDATE events SET outlier = 1 WHERE event_id = ?", (gone,))
    room_id = tx.all("SELECT room_id FROM rooms")[0][0]
    auth_index.forget_outliers(tx, room_id)
    events.drop_outliers(tx, room_id)
    assert tx.all("SELECT 1 FROM auth_edges WHERE event_id = ?", (gone,)) == []
    assert index_failures(tx) == []
    with pytest.raises(NotIndexed):
        StoredAuthIndex(tx).node(gone)
    server.conn.execute("ROLLBACK")


@pytest.mark.parametrize("table", ["auth_edges", "auth_nodes"])
def test_a_lost_link_is_noticed(server: Server, table: str) -> None:
    server.conn.execute("BEGIN")
    tx = Tx(server.conn, {})
    if table == "auth_edges":
        tx.execute("DELETE FROM auth_edges WHERE event_id = (SELECT max(event_id) FROM auth_edges)")
    else:
        tx.execute("UPDATE auth_nodes SET level = level + 1 WHERE event_id = (SELECT max(event_id) FROM auth_nodes)")
    assert index_failures(tx) != []
    server.conn.execute("ROLLBACK")
