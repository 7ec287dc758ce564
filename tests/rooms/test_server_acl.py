"""Server ACLs: which names they deny, and what a denied server is refused."""

from __future__ import annotations

import time
from typing import Any

import pytest

from p2pserver.errors import BadJson, Forbidden, Verdict
from p2pserver.rooms.edus import receive_receipts
from p2pserver.rooms.server_acl import ServerAcl, check_own_acl, is_denied
from p2pserver.store.receipts import receipts_since
from tests.rooms.servers import Server
from tests.rooms.test_s2s import ask

KEY = "sf6mh5yaovfwtboalbrod6r44nkuxdsqrb4whwla7j2u45ctng6q"


@pytest.mark.parametrize(
    ("content", "server", "allowed"),
    [
        ({"allow": ["*"]}, KEY, True),
        ({"allow": ["*"], "deny": [KEY]}, KEY, False),
        ({"allow": ["*"], "deny": [KEY.upper()]}, KEY, False),
        ({"allow": ["*"], "deny": [KEY[:20]]}, KEY, True),
        ({"allow": ["*"], "deny": [KEY[1:]]}, KEY, True),
        ({"allow": ["*"], "deny": [f"{KEY[:20]}*"]}, KEY, False),
        ({"allow": ["*"], "deny": [f"*{KEY[20:]}"]}, KEY, False),
        ({"allow": ["*"], "deny": ["*5yaov*6r44*"]}, KEY, False),
        ({"allow": ["*"], "deny": ["*6r44*5yaov*"]}, KEY, True),
        ({"allow": ["*"], "deny": [f"?{KEY[1:]}"]}, KEY, False),
        ({"allow": ["*"], "deny": [f"?{KEY}"]}, KEY, True),
        ({"allow": ["*"], "deny": ["?" * 52]}, KEY, False),
        ({"allow": ["*"], "deny": ["*.evil.example"]}, "a.EVIL.example", False),
        ({"allow": ["*"], "deny": ["*.evil.example"]}, "evil.example", True),
        ({"allow": ["*"], "deny": ["evil.example"]}, "evil.example:8448", False),
        ({"allow": ["*"], "deny": ["e[vu]il.example", "(evil).example"]}, "evil.example", True),
        ({"allow": ["*.good.example"]}, "a.good.example", True),
        ({"allow": ["*.good.example"]}, KEY, False),
        ({"allow": ["*"], "deny": ["*"]}, KEY, False),
        ({}, KEY, False),
        ({"allow": []}, KEY, False),
        ({"allow": "*"}, KEY, False),
        ({"allow": ["*"], "deny": KEY}, KEY, True),
        ({"allow": ["*", 7, None], "deny": [None, KEY]}, KEY, False),
        ({"allow": ["*"], "allow_ip_literals": False}, "10.1.2.3:8448", False),
        ({"allow": ["*"], "allow_ip_literals": False}, "[2001:db8::1]:8448", False),
        ({"allow": ["*"], "allow_ip_literals": False}, KEY, True),
        ({"allow": ["*"], "allow_ip_literals": "no"}, "10.1.2.3", True),
        ({"allow": ["*"]}, "10.1.2.3", True),
    ],
)
def test_what_an_acl_allows(content: dict[str, Any], server: str, allowed: bool) -> None:
    assert ServerAcl.of(content).allows(server) is allowed


def test_the_worst_list_costs_little() -> None:
    stars = ["*a" * n + "*b" for n in range(1, 170)]
    marks = [f"z{n:x}" + "?" * 40 + "*" for n in range(1_400)]
    began_s = time.process_time()
    acl = ServerAcl.of({"allow": ["*"], "deny": [*stars, *marks]})
    for n in range(10):
        assert acl.allows("a" * 220 + str(n))
    assert time.process_time() - began_s < 5


def test_an_acl_that_denies_the_own_server_is_not_set() -> None:
    check_own_acl({"allow": ["*"], "deny": ["other.example"]}, KEY)
    for content in ({}, {"allow": ["*"], "deny": ["*"]}, {"allow": ["other.example"]}):
        with pytest.raises(BadJson):
            check_own_acl(content, KEY)


def denied(server: Server, room_id: str, other: Server) -> bool:
    return server.run(lambda tx: is_denied(tx, room_id, other.name))


def test_the_acl_that_holds_is_that_of_the_current_state() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    assert not denied(alice, room_id, bob)
    alice.set_state(room_id, "m.room.server_acl", "", {"allow": ["*"], "deny": [bob.name]})
    assert denied(alice, room_id, bob)
    alice.set_state(room_id, "m.room.server_acl", "other key", {"allow": ["*"]})
    assert denied(alice, room_id, bob)
    alice.set_state(room_id, "m.room.server_acl", "", {"allow": ["*"], "deny": []})
    assert not denied(alice, room_id, bob)
    last = alice.set_state(room_id, "m.room.server_acl", "", {"allow": ["*"], "deny": [f"{bob.name[:9]}*"]})
    assert denied(alice, room_id, bob)
    alice.redact(room_id, last.event_id)
    assert not denied(alice, room_id, bob), "a redacted ACL is none"


def test_no_question_about_the_room_is_answered() -> None:
    alice, bob, carol = Server("alice"), Server("bob"), Server("carol")
    room_id = alice.create()
    bob.join(room_id, alice)
    alice.set_state(room_id, "m.room.server_acl", "", {"allow": ["*"], "deny": [carol.name]})
    body = {"room_id": room_id, "user_id": carol.user, "versions": ["12"], "ts": 1, "dir": "f", "event": {}}
    for name in ("join", "make_knock", "send_knock", "sign_join", "timestamp_to_event"):
        with pytest.raises(Forbidden, match="server ACL"):
            ask(alice, name, carol.name, body)
    assert ask(alice, "join", bob.name, {**body, "user_id": f"@other:{bob.name}"})


def test_receipts_of_a_denied_server_are_dropped() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    join = bob.join(room_id, alice)
    alice.receive(room_id, [join.raw])
    event = alice.send(room_id, "hello")

    def hear() -> int:
        content = {room_id: {"m.read": {bob.user: {"event_ids": [event.event_id], "data": {"ts": 5}}}}}
        alice.run(lambda tx: receive_receipts(tx, bob.name, content))
        return len(alice.run(lambda tx: receipts_since(tx, above=0, upto=10**9, most=9)))

    alice.set_state(room_id, "m.room.server_acl", "", {"allow": ["*"], "deny": [bob.name]})
    assert hear() == 0
    alice.set_state(room_id, "m.room.server_acl", "", {"allow": ["*"]})
    assert hear() == 1


def test_what_is_refused_is_named_so_that_it_is_not_brought_again() -> None:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    alice.receive(room_id, [bob.join(room_id, alice).raw])
    event = bob.send(room_id, "hello")
    broken = {**event.raw, "signatures": {}}
    report = alice.run(lambda tx: alice.rooms.refuse(tx, room_id=room_id, raws=[event.raw, broken, 7]))
    assert [(each.event_id, each.verdict) for each in report.results] == [
        (event.event_id, Verdict.DROPPED),
        (None, Verdict.DROPPED),
        (None, Verdict.DROPPED),
    ]
    assert alice.run(lambda tx: alice.rooms.stored(tx, event.event_id)) is None
