"""One key has one name in a room: events under a second one are soft-failed."""

from __future__ import annotations

from typing import Any

import pytest

from p2pserver.errors import Verdict
from p2pserver.rooms import judging
from p2pserver.store import graph_ends
from tests.rooms.servers import Server, raw_of, reconcile

DOMAIN = "mesh.example.org"


def joined_event(server: Server, room_id: str) -> str:
    event_id = server.run(lambda tx: server.rooms.current_state(tx, room_id))["m.room.member", server.user]
    return str(event_id)


def join_of(server: Server, room_id: str) -> dict[str, Any]:
    event_id = joined_event(server, room_id)
    return server.run(lambda tx: raw_of(tx, event_id))


def test_second_name_of_a_key_is_soft_failed() -> None:
    """A banned server comes back by its long name, with users that nobody has banned."""
    alice, short, long = Server("alice"), Server("bob"), Server("bob", domain=DOMAIN)
    assert long.name == f"{short.name}.{DOMAIN}"
    room_id = alice.create()
    short.join(room_id, alice)
    reconcile(room_id, alice, short)
    alice.member(room_id, short.user, "ban")
    long.join(room_id, alice)
    join = joined_event(long, room_id)
    alice.receive(room_id, [long.run(lambda tx: raw_of(tx, join))], long.name)
    assert alice.verdict(join) is Verdict.SOFT_FAILED
    assert long.name not in alice.run(lambda tx: alice.rooms.member_servers(tx, room_id))
    assert "another name" in str(alice.one("SELECT reason FROM events WHERE event_id = ?", join))
    assert join not in alice.run(lambda tx: graph_ends.extremities(tx, room_id))


def test_name_that_is_the_first_goes_on() -> None:
    alice, long, other = Server("alice"), Server("bob", domain=DOMAIN), Server("carol", domain=DOMAIN)
    room_id = alice.create()
    for server in (long, other):
        server.join(room_id, alice)
        reconcile(room_id, alice, server)
    said = long.send(room_id, "first")
    alice.receive(room_id, [said.raw], long.name)
    assert alice.verdict(said.event_id) is Verdict.ACCEPTED
    assert other.name in alice.run(lambda tx: alice.rooms.member_servers(tx, room_id))


def test_names_that_came_in_another_order_end_in_one_room() -> None:
    """Two servers each know another name first; both agree about what happened."""
    alice, carol = Server("alice"), Server("carol")
    short, long = Server("bob"), Server("bob", domain=DOMAIN)
    room_id = alice.create()
    carol.join(room_id, alice)
    for _ in range(2):
        reconcile(room_id, alice, carol)
    short.join(room_id, alice)
    long.join(room_id, carol)
    joins = [join_of(server, room_id) for server in (short, long)]
    alice.receive(room_id, joins, short.name)
    carol.receive(room_id, joins[::-1], long.name)
    assert alice.operational(room_id) != carol.operational(room_id)
    assert alice.digest(room_id) == carol.digest(room_id)
    for server in (alice, carol, alice):
        server.send(room_id, "healing")
        reconcile(room_id, alice, carol)
    assert alice.operational(room_id) == carol.operational(room_id)
    assert alice.digest(room_id) == carol.digest(room_id)


def test_second_name_that_is_let_in_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_has_another_name", lambda *args: False)
    with pytest.raises(AssertionError):
        test_second_name_of_a_key_is_soft_failed()
