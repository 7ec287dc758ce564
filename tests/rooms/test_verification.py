"""`verify` finds nothing where nothing is wrong, and names what is, whatever is changed in the database."""

from __future__ import annotations

import copy
import json
import sqlite3
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from p2pserver.events.pdu import Pdu
from p2pserver.events.signing import KeyLookup, SelfCertifyingKeys
from p2pserver.events.versions import ROOM_VERSIONS, rules_of
from p2pserver.rooms import verification
from p2pserver.rooms.verification import Verified, verify
from tests.rooms.servers import Server, deliver, reconcile
from tests.rooms.test_hostile_servers import forged
from tests.rooms.vector_rooms import NAMES, VectorKeys, received, vector_room
from tests.simulation.history import History


def verified(server: Server, room_id: str, keys: KeyLookup | None = None) -> Verified:
    server.caches.clear()
    return server.run(lambda tx: verify(tx, room_id, keys or SelfCertifyingKeys()))


class Town:
    """A room in which everything has happened: forks, a merge, a ban with what came too late, a rejected event, a
    redaction, and a copy whose content nobody has."""

    def __init__(self, version: str = "12") -> None:
        anna, boris, carla = Server("anna"), Server("boris", seed=2), Server("carla", seed=3)
        self.server, self.version = anna, version
        self.room_id = room_id = anna.create(version=version)
        self.create = next(iter(anna.graph(room_id)))
        self.name = anna.set_state(room_id, "m.room.name", "", {"name": "harbor"}).event_id
        for other in (boris, carla):
            other.join(room_id, anna)
            reconcile(room_id, anna, other)
        reconcile(room_id, anna, boris)
        self.first = anna.send(room_id, "first").event_id
        reconcile(room_id, anna, boris)
        reconcile(room_id, anna, carla)
        forbidden = self.forbidden_event(carla, anna)
        self.forbidden = forbidden.event_id
        anna.receive(room_id, [dict(forbidden.raw)], boris.name)
        anna.send(room_id, "left")
        boris.set_state(room_id, "m.room.member", boris.user, {"membership": "join", "displayname": "B"})
        self.late = carla.send(room_id, "late").event_id
        self.ban = anna.member(room_id, carla.user, "ban").event_id
        reconcile(room_id, anna, boris)
        deliver(room_id, carla, anna)
        anna.receive(room_id, list(carla.graph(room_id).values()), boris.name)
        self.said = boris.send(room_id, "to be taken back").event_id
        reconcile(room_id, anna, boris)
        anna.redact(room_id, self.said)
        whole = boris.send(room_id, "whole")
        self.torn = whole.event_id
        anna.receive(room_id, [{**whole.raw, "content": {"body": "another", "msgtype": "m.text"}}], boris.name)
        self.topic = anna.set_state(room_id, "m.room.topic", "", {"topic": "boats"}).event_id
        self.last = anna.send(room_id, "last").event_id
        self.conn: sqlite3.Connection = anna.conn

    def forbidden_event(self, carla: Server, anna: Server) -> Pdu:
        """A room name by somebody who may not set it."""
        state = anna.run(lambda tx: anna.rooms.current_state(tx, self.room_id))
        slots = [("m.room.power_levels", ""), ("m.room.member", carla.user)]
        if self.version != "12":
            slots.append(("m.room.create", ""))
        return forged(
            carla,
            anna,
            self.room_id,
            [self.first],
            rules=rules_of(self.version),
            event_type="m.room.name",
            state_key="",
            content={"name": "carla's"},
            auth_events=[state[slot] for slot in slots],
        )

    def raw(self, event_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.value("SELECT raw FROM events WHERE event_id = ?", event_id))
        return found

    def value(self, sql: str, *parameters: Any) -> Any:
        return self.conn.execute(sql, parameters).fetchone()[0]

    def change(self, sql: str, *parameters: Any) -> None:
        assert self.conn.execute(sql, parameters).rowcount > 0

    def set_raw(self, event_id: str, raw: object) -> None:
        self.change("UPDATE events SET raw = ? WHERE event_id = ?", json.dumps(raw).encode(), event_id)

    def group(self, event_id: str, column: str = "state_after") -> int:
        return int(self.value(f"SELECT {column} FROM events WHERE event_id = ?", event_id))


@cache
def _town(version: str) -> Town:
    return Town(version)


def town_of(version: str = "12") -> Town:
    """A town of its own for each test, on a copy of one database."""
    town = copy.copy(_town(version))
    town.server = copy.copy(town.server)
    town.server.conn = town.conn = sqlite3.connect(":memory:", isolation_level=None)
    _town(version).conn.backup(town.conn)
    town.server.caches = {}
    return town


@pytest.mark.parametrize("version", list(ROOM_VERSIONS))
def test_a_room_in_which_everything_has_happened_is_right(version: str) -> None:
    town = town_of(version)
    found = verified(town.server, town.room_id)
    assert found.difference is None
    assert found.events == town.value("SELECT count(*) FROM events WHERE outlier = 0")
    assert (found.rejected, found.soft_failed, found.redacted) == (1, 1, 2)
    assert found.merges > 0
    assert found.sec == town.server.digest(town.room_id).hex()
    assert (found.outliers, found.on_claims, found.claims) == (0, 0, [])


@pytest.mark.parametrize("name", NAMES[::6])
def test_the_rooms_of_the_vectors_are_right(name: str) -> None:
    room = vector_room(name)
    found = verified(received(room, seed=3), room["room_id"], VectorKeys(room["servers"]))
    assert found.difference is None
    assert found.events == len(room["events"])


def test_rooms_of_whole_nodes_after_partitions_and_crashes_are_right() -> None:
    class Verifying(History):
        async def come_together(self) -> None:
            await super().come_together()
            for simulated in self.mesh.nodes.values():
                assert simulated.database is not None
                found = await simulated.database.read(lambda tx: verify(tx, self.room_id, SelfCertifyingKeys()))
                assert found.difference is None
                counts.append(found.events)

    counts: list[int] = []
    Verifying(5, steps=40).run()
    assert len(counts) == 5
    assert min(counts) > 40


def joined_without_history() -> tuple[Server, str]:
    anna, boris = Server("anna"), Server("boris", seed=2)
    room_id = anna.create()
    for number in range(3):
        anna.send(room_id, str(number))
    boris.join(room_id, anna)
    boris.send(room_id, "hello")
    return boris, room_id


def test_of_a_partial_room_it_says_what_nobody_can_check() -> None:
    boris, room_id = joined_without_history()
    found = verified(boris, room_id)
    assert found.difference is None
    assert (found.events, found.on_claims, found.claims) == (2, 2, [Server("anna").name])
    assert found.outliers == 4


def tear_off(town: Town) -> None:
    town.change("UPDATE events SET redacted_copy = 0 WHERE event_id = ?", town.torn)


Tamper = Callable[[Town], object]
NOBODY = "$" + "x" * 43

TAMPERS: dict[str, tuple[Tamper, str, str | None]] = {
    "a verdict taken": (
        lambda t: t.change("UPDATE events SET verdict = 'rejected', reason = 'no' WHERE event_id = ?", t.topic),
        "verdict",
        "topic",
    ),
    "a verdict given": (
        lambda t: t.change("UPDATE events SET verdict = 'accepted', reason = NULL WHERE event_id = ?", t.forbidden),
        "verdict",
        "forbidden",
    ),
    "a soft failure forgiven": (
        lambda t: t.change("UPDATE events SET verdict = 'accepted', reason = NULL WHERE event_id = ?", t.late),
        "forward extremities",
        None,
    ),
    "a soft failure without a reason": (
        lambda t: t.change("UPDATE events SET verdict = 'soft_failed' WHERE event_id = ?", t.topic),
        "reason",
        "topic",
    ),
    "an entry of a state group changed": (
        lambda t: t.change(
            "UPDATE state_group_entries SET event_id = ? WHERE group_id = ? AND type = 'm.room.topic'",
            t.name,
            t.group(t.topic),
        ),
        "state after, m.room.topic ''",
        "topic",
    ),
    "an entry of a state group gone": (
        lambda t: t.change(
            "DELETE FROM state_group_entries WHERE group_id = ? AND type = 'm.room.name'", t.group(t.name)
        ),
        "state after, m.room.name ''",
        "name",
    ),
    "a state group gone": (
        lambda t: t.change("DELETE FROM state_groups WHERE group_id = ?", t.group(t.topic)),
        "state after",
        "topic",
    ),
    "another state group": (
        lambda t: t.change("UPDATE events SET state_before = ? WHERE event_id = ?", t.group(t.name), t.topic),
        "state before, m.room.member",
        "topic",
    ),
    "an edge dropped": (lambda t: t.change("DELETE FROM event_edges WHERE event_id = ?", t.last), "edges", "last"),
    "an edge too many": (
        lambda t: t.change("INSERT INTO event_edges VALUES (?, ?)", t.last, t.name),
        "edges",
        "last",
    ),
    "an extremity swapped": (
        lambda t: t.change("UPDATE forward_extremities SET event_id = ?", t.topic),
        "forward extremities",
        None,
    ),
    "a leaf lost": (lambda t: t.change("DELETE FROM leaves WHERE event_id = ?", t.late), "leaves", None),
    "an accepted leaf lost": (
        lambda t: t.change("DELETE FROM accepted_leaves WHERE event_id = ?", t.late),
        "accepted leaves",
        None,
    ),
    "the sec of an event": (
        lambda t: t.change("UPDATE events SET sec = ? WHERE event_id = ?", bytes(32), t.topic),
        "sec",
        "topic",
    ),
    "the sum of a state": (
        lambda t: t.change("UPDATE state_groups SET state_sum = ? WHERE group_id = ?", bytes(256), t.group(t.topic)),
        "sum of the state after",
        "topic",
    ),
    "an auth edge dropped": (
        lambda t: t.change("DELETE FROM auth_edges WHERE event_id = ?", t.topic),
        "auth edges",
        "topic",
    ),
    "an auth edge too many": (
        lambda t: t.change("INSERT INTO auth_edges VALUES (?, ?)", t.name, t.topic),
        "auth edges",
        None,
    ),
    "a place in the auth graph": (
        lambda t: t.change("UPDATE auth_nodes SET level = level + 1 WHERE event_id = ?", t.topic),
        "place in the auth graph",
        "topic",
    ),
    "content changed under its hash": (
        lambda t: t.set_raw(t.last, {**t.raw(t.last), "content": {"body": "never said", "msgtype": "m.text"}}),
        "content",
        "last",
    ),
    "the content of a copy that has none": (
        lambda t: t.set_raw(t.torn, {**t.raw(t.torn), "content": {"body": "invented"}}),
        "content",
        "torn",
    ),
    "a copy called whole": (tear_off, "content", "torn"),
    "a ban changed into a join": (
        lambda t: t.set_raw(t.ban, {**t.raw(t.ban), "content": {"membership": "join"}}),
        "event",
        "ban",
    ),
    "a signature taken off": (lambda t: t.set_raw(t.first, {**t.raw(t.first), "signatures": {}}), "event", "first"),
    "another event under an ID": (lambda t: t.set_raw(t.first, t.raw(t.last)), "event ID", "first"),
    "no object": (lambda t: t.change("UPDATE events SET raw = '7' WHERE event_id = ?", t.first), "event", "first"),
    "parents changed": (
        lambda t: t.set_raw(t.first, {**t.raw(t.first), "prev_events": [t.last]}),
        "event",
        "first",
    ),
    "an event gone": (lambda t: t.change("DELETE FROM events WHERE event_id = ?", t.first), "parent", None),
    "a depth": (lambda t: t.change("UPDATE events SET depth = depth + 1 WHERE event_id = ?", t.name), "depth", "name"),
    "a sender": (
        lambda t: t.change("UPDATE events SET sender = '@x:y' WHERE event_id = ?", t.topic),
        "column sender",
        "topic",
    ),
    "a state key": (
        lambda t: t.change("UPDATE events SET state_key = 'x' WHERE event_id = ?", t.topic),
        "column state_key",
        "topic",
    ),
    "a redaction that was none": (
        lambda t: t.change("UPDATE events SET redacted_by = ? WHERE event_id = ?", NOBODY, t.torn),
        "redacted by",
        "torn",
    ),
    "an ancestry that is said to be claimed": (
        lambda t: t.change("UPDATE events SET grounded = 0 WHERE event_id = ?", t.last),
        "ancestry",
        "last",
    ),
    "another current state group": (
        lambda t: t.change("UPDATE rooms SET current_group = ?", t.group(t.name)),
        "current state, m.room.member",
        None,
    ),
    "a row of the current state changed": (
        lambda t: t.change("UPDATE current_state SET event_id = ? WHERE type = 'm.room.topic'", t.name),
        "rows of the current state, m.room.topic ''",
        None,
    ),
    "a row of the current state gone": (
        lambda t: t.change("DELETE FROM current_state WHERE type = 'm.room.topic'"),
        "rows of the current state, m.room.topic ''",
        None,
    ),
    "a ban called a join": (
        lambda t: t.change("UPDATE current_state SET membership = 'join' WHERE membership = 'ban'"),
        "membership in the current state",
        "ban",
    ),
    "a server miscounted": (
        lambda t: t.change("UPDATE member_servers SET joined = joined + 1 WHERE joined = 0"),
        "members of",
        None,
    ),
    "a genuine copy that is called redacted": (
        lambda t: t.change("UPDATE events SET redacted_copy = 1 WHERE event_id = ?", t.first),
        "redacted copy",
        "first",
    ),
    "a parent that is no text": (
        lambda t: t.set_raw(t.topic, {**t.raw(t.topic), "prev_events": [{}]}),
        "event",
        "topic",
    ),
    "auth events that are no texts": (
        lambda t: t.set_raw(t.topic, {**t.raw(t.topic), "auth_events": [["x"]]}),
        "event",
        "topic",
    ),
    "an event that is a number": (
        lambda t: t.change("UPDATE events SET raw = 7 WHERE event_id = ?", t.topic),
        "event",
        "topic",
    ),
    "a redaction that is a number": (
        lambda t: t.change("UPDATE events SET raw = 7 WHERE type = 'm.room.redaction'"),
        "event",
        None,
    ),
    "a sec that is a text": (
        lambda t: t.change("UPDATE events SET sec = 'x' WHERE event_id = ?", t.topic),
        "sec",
        "topic",
    ),
    "the end of the sum of a state": (
        lambda t: t.change(
            "UPDATE state_groups SET state_sum = CAST(substr(state_sum, 1, 255) || x'00' AS BLOB) WHERE group_id = ?",
            t.group(t.topic),
        ),
        "sum of the state after",
        "topic",
    ),
    "a state group that rests on itself": (
        lambda t: t.change("UPDATE state_groups SET prev_group = group_id WHERE group_id = ?", t.group(t.topic)),
        "state after",
        "topic",
    ),
    "a slot of octets": (
        lambda t: t.change("UPDATE state_group_entries SET type = x'fffe' WHERE group_id = ?", t.group(t.topic)),
        "state after, m.room.topic ''",
        "topic",
    ),
    "a complete room that is called partial": (
        lambda t: t.change("UPDATE rooms SET complete = 0"),
        "complete",
        None,
    ),
    "a gap that is none": (
        lambda t: t.change("INSERT INTO gaps VALUES (?, ?, NULL, NULL, 0, 0, 0, 0)", t.room_id, t.first),
        "gap",
        "first",
    ),
}


@pytest.mark.parametrize("what", TAMPERS)
def test_whatever_is_changed_is_found_and_named(what: str) -> None:
    tamper, named, at = TAMPERS[what]
    town = town_of()
    tamper(town)
    found = verified(town.server, town.room_id).difference
    assert found is not None, "not found"
    assert found.what.startswith(named), found
    if at is not None:
        assert found.event_id == getattr(town, at), found
    assert found.stored != found.expected


def test_a_partial_room_that_is_called_complete_is_found() -> None:
    boris, room_id = joined_without_history()
    boris.conn.execute("UPDATE rooms SET complete = 1")
    found = verified(boris, room_id).difference
    assert found is not None
    assert found.what == "complete"


def test_an_outlier_with_another_verdict_is_found() -> None:
    boris, room_id = joined_without_history()
    boris.conn.execute("UPDATE events SET verdict = 'rejected', reason = 'no' WHERE type = 'm.room.power_levels'")
    found = verified(boris, room_id).difference
    assert found is not None
    assert found.what == "verdict"


def test_the_first_difference_is_the_one_that_others_follow_from() -> None:
    town = town_of()
    for column in ("state_before", "state_after"):
        town.change(f"UPDATE events SET {column} = ? WHERE depth > 5", town.group(town.create))
    town.change("UPDATE events SET depth = depth + 7 WHERE event_id = ?", town.name)
    found = verified(town.server, town.room_id).difference
    assert found is not None
    assert (found.event_id, found.what) == (town.name, "depth")


def test_progress_is_told_up_to_the_end() -> None:
    town = town_of()
    told: list[tuple[int, int]] = []
    town.server.run(
        lambda tx: verify(tx, town.room_id, SelfCertifyingKeys(), lambda done, total: told.append((done, total)))
    )
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1] > 10


def test_a_check_that_is_skipped_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage of the checker: each of these checks is the one that finds a tampering."""
    for name, what in (("_expect_state", "an entry of a state group changed"), ("_expect", "an edge dropped")):
        with monkeypatch.context() as patch:
            patch.setattr(verification, name, lambda *arguments: None)
            with pytest.raises(AssertionError):
                test_whatever_is_changed_is_found_and_named(what)


def test_an_unknown_room_is_no_room() -> None:
    with pytest.raises(KeyError):
        verified(Server("anna"), "!none")
