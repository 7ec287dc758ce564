"""The outbox: order, pages, what is forgotten when."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from p2pserver.store import outbox
from p2pserver.store.inline import SimulatedDisk
from p2pserver.store.tx import Tx


@pytest.fixture
def tx() -> Iterator[Tx]:
    conn: sqlite3.Connection = SimulatedDisk().conn
    yield Tx(conn, {})
    conn.close()


def test_items_come_in_order_and_stay_until_forgotten(tx: Tx) -> None:
    outbox.queue_edu(tx, "bob", "m.direct_to_device", {"n": 1})
    outbox.queue_pdu(tx, "bob", "!room", "$event", raw={"type": "m.x", "body": "ü"})
    outbox.queue_pdu(tx, "bob", "!room", "$event", raw={"type": "m.x"})
    outbox.queue_invite(tx, "bob", "!room", {"event": {}})
    outbox.queue_edu(tx, "carol", "m.direct_to_device", {"n": 2})
    items = outbox.page(tx, "bob")
    assert [(item.kind, item.event_id) for item in items] == [("edu", None), ("pdu", "$event"), ("invite", None)]
    assert items[0].payload == {"edu_type": "m.direct_to_device", "content": {"n": 1}}
    assert items[1].payload == {"type": "m.x", "body": "ü"}
    assert outbox.page(tx, "bob", after=items[1].number) == items[2:]
    assert outbox.page(tx, "bob", most=1) == items[:1]
    assert outbox.page(tx, "bob", octets_max=1) == items[:1]
    assert outbox.destinations(tx) == ["bob", "carol"]
    assert "peer:bob" in tx.promises()[1]
    outbox.forget_numbers(tx, "carol", [items[0].number])
    assert outbox.count(tx, "bob") == 3
    outbox.forget_numbers(tx, "bob", [items[0].number])
    outbox.forget_pdus(tx, "bob", ["$event"])
    assert [item.kind for item in outbox.page(tx, "bob")] == ["invite"]
    assert outbox.count(tx, "carol") == 1


def test_equal_beacon_settles_the_rooms_pdus_only(tx: Tx) -> None:
    outbox.queue_pdu(tx, "bob", "!room", "$a", raw={})
    outbox.queue_pdu(tx, "bob", "!other", "$b", raw={})
    outbox.queue_invite(tx, "bob", "!room", {})
    outbox.forget_room_pdus(tx, "bob", "!room")
    assert [(item.kind, item.room_id) for item in outbox.page(tx, "bob")] == [("pdu", "!other"), ("invite", "!room")]


def test_numbers_grow_for_ever(tx: Tx) -> None:
    outbox.queue_edu(tx, "bob", "x", {})
    number = outbox.page(tx, "bob")[0].number
    outbox.forget_numbers(tx, "bob", [number])
    outbox.queue_edu(tx, "bob", "x", {})
    assert outbox.page(tx, "bob")[0].number > number
