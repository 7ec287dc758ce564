"""State groups against plain dictionaries."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator

import pytest

from p2pserver.store import state_groups
from p2pserver.store.inline import SimulatedDisk
from p2pserver.store.tx import Tx

ROOM = "!room"


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    conn = SimulatedDisk().conn
    yield conn
    conn.close()


@pytest.mark.parametrize("seed", range(5))
def test_groups_hold_what_was_put_in(conn: sqlite3.Connection, seed: int) -> None:
    rng = random.Random(seed)
    tx = Tx(conn, {})
    states: dict[int, dict[tuple[str, str], str]] = {state_groups.group_of(tx, ROOM, {}): {}}
    for step in range(300):
        base = rng.choice([*list(states)[-3:], rng.choice(list(states))])
        slot = ("m.test", f"{rng.randrange(40)}")
        value = None if rng.random() < 0.2 else f"$event{step}"
        state = {key: each for key, each in states[base].items() if key != slot}
        if value is not None:
            state[slot] = value
        group_id = state_groups.group_with(tx, ROOM, base, {slot: value})
        states[group_id] = state
        if rng.random() < 0.1:
            near = rng.sample(list(states), min(3, len(states)))
            states[state_groups.group_of(tx, ROOM, state, near=near)] = state
    fresh = Tx(conn, {})
    for group_id, state in states.items():
        assert state_groups.state_map(fresh, group_id) == state
    assert tx.all("SELECT max(hops) FROM state_groups")[0][0] <= state_groups.HOPS_MAX
    old, new = rng.sample(list(states), 2)
    changes = state_groups.difference(fresh, old, new)
    assert changes == {
        slot: (states[old].get(slot), states[new].get(slot))
        for slot in states[old].keys() | states[new].keys()
        if states[old].get(slot) != states[new].get(slot)
    }


def test_nothing_changed_is_no_new_group(conn: sqlite3.Connection) -> None:
    tx = Tx(conn, {})
    first = state_groups.group_of(tx, ROOM, {("a", ""): "$1"})
    assert state_groups.group_with(tx, ROOM, first, {("a", ""): "$1", ("b", ""): None}) == first
    assert state_groups.group_of(tx, ROOM, {("a", ""): "$1"}, near=[first]) == first


def test_numbers_are_never_used_twice(conn: sqlite3.Connection) -> None:
    tx = Tx(conn, {})
    first = state_groups.group_of(tx, ROOM, {("a", ""): "$1"})
    tx.execute("DELETE FROM state_groups")
    assert state_groups.group_of(tx, ROOM, {("a", ""): "$2"}) > first


def test_unknown_group(conn: sqlite3.Connection) -> None:
    with pytest.raises(KeyError):
        state_groups.state_map(Tx(conn, {}), 99)
