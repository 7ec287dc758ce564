"""The questions that servers ask each other, as they come: bodies of any shape."""

from __future__ import annotations

import random
from typing import Any

import pytest

from p2pserver.errors import BadJson, Forbidden, MatrixError, NotFound
from p2pserver.rooms.s2s import s2s_handlers
from p2pserver.store.aliases import insert_alias, set_published
from tests.rooms.servers import Server


def ask(server: Server, name: str, origin: str, body: dict[str, Any], *, private: bool = False) -> dict[str, Any]:
    handler = s2s_handlers(server.rooms, private=private)[name]
    return server.run(lambda tx: handler(tx, origin, body))


def test_table_is_complete() -> None:
    alice = Server("alice")
    assert {"join", "directory", "public_rooms", "profile", "users", "keys_query", "keys_claim"} <= set(
        s2s_handlers(alice.rooms, private=False)
    )


def test_directory_and_public_rooms() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    alice.set_state(room_id, "m.room.name", "", {"name": "Village square"})
    alias = f"#square:{alice.name}"
    alice.run(lambda tx: insert_alias(tx, alias, room_id, alice.user))
    assert ask(alice, "directory", bob.name, {"alias": alias}) == {"room_id": room_id, "servers": [alice.name]}
    with pytest.raises(NotFound):
        ask(alice, "directory", bob.name, {"alias": "#other:x"})
    assert ask(alice, "public_rooms", bob.name, {}) == {"chunk": []}
    alice.run(lambda tx: set_published(tx, room_id, True))
    assert [room["name"] for room in ask(alice, "public_rooms", bob.name, {"search": "village"})["chunk"]] == [
        "Village square"
    ]
    assert ask(alice, "public_rooms", bob.name, {"search": "castle", "limit": 5})["chunk"] == []
    with pytest.raises(Forbidden):
        ask(alice, "public_rooms", bob.name, {}, private=True)


def test_join_over_the_table() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    body = {"room_id": room_id, "user_id": bob.user, "versions": ["12"]}
    offer = ask(alice, "join", bob.name, body)
    bob.run(lambda tx: bob.rooms.join_with(tx, user_id=bob.user, offer=offer, resident=alice.name, content={}))
    with pytest.raises(Forbidden):
        ask(alice, "join", "carol.example", body)


def test_any_body_earns_an_answer_or_a_matrix_error() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    event = alice.send(room_id, "something")
    values: list[Any] = [None, True, 5, "", "x", room_id, event.event_id, [], ["12"], [1], {}, {"a": 1}, bob.user]
    values += [dict(event.raw), {**event.raw, "sender": bob.user, "type": "m.room.member"}]
    rng = random.Random(3)
    fields = ["room_id", "user_id", "versions", "alias", "search", "limit", "event_id", "event", "ts", "dir"]
    names = ["join", "directory", "public_rooms", "make_knock", "send_knock", "sign_join", "hierarchy"]
    refused = 0
    for _ in range(1500):
        name = rng.choice([*names, "timestamp_to_event"])
        body = {field: rng.choice(values) for field in fields if rng.random() < 0.8}
        try:
            ask(alice, name, bob.name, body)
        except MatrixError as error:
            refused += isinstance(error, BadJson)
    assert refused > 500
