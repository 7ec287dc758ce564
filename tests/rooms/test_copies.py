"""Copies of events that the auth rules read: verdicts follow the best copy that is held, whenever it came."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Collection
from typing import Any

import pytest

from p2pserver.errors import Forbidden, Verdict
from p2pserver.events.pdu import Pdu
from p2pserver.events.redaction import redact
from p2pserver.meg.auth_content import may_lack_permissions, redaction_takes_permissions
from p2pserver.rooms import rebuilding, receipt
from p2pserver.store import events
from p2pserver.store.tx import Tx
from tests.rooms.servers import Server, deliver, power_levels, reconcile
from tests.rooms.test_convergence import act, check_what_is_kept, healed, three_in_a_room
from tests.store.integrity import graph_contradictions

LEVELS = {"10": {"invite": 100}, "11": {"notifications": {"room": 60}}, "12": {"notifications": {"room": 60}}}


def altered(event: Pdu) -> dict[str, Any]:
    """The event as a liar passes it on: its hash does not match, so only the redacted form is taken."""
    return {**event.raw, "content": {**event.content, "x": "altered"}}


def twins(version: str) -> tuple[str, Server, Server, Pdu, list[Pdu]]:
    """Power levels that one of two servers will hold redacted, and what is judged by them.

    Version 10: an invite that only the redacted levels allow. Later: levels that only the genuine ones allow, since
    a level of notifications is not new there; and what is said under them.
    """
    alice, bob, mallory = Server("alice"), Server("bob"), Server("mallory")
    room_id = alice.create(version=version)
    for other in (bob, mallory):
        other.join(room_id, alice)
    for other in (bob, mallory, bob):
        reconcile(room_id, alice, other)
    content = power_levels(alice, version, users={mallory.user: 50}, **LEVELS[version])
    levels = alice.set_state(room_id, "m.room.power_levels", "", content)
    if version == "10":
        mallory.receive(room_id, [altered(levels)], alice.name)
        judged = [mallory.member(room_id, f"@guest:{mallory.name}", "invite")]
    else:
        mallory.receive(room_id, [levels.raw], alice.name)
        judged = [mallory.set_state(room_id, "m.room.power_levels", "", {**content, "events": {"m.room.name": 50}})]
    judged.append(mallory.set_state(room_id, "m.room.name", "", {"name": "named"}))
    judged.append(mallory.send(room_id, "and on"))
    return room_id, alice, bob, levels, judged


@pytest.mark.parametrize("version", LEVELS)
def test_verdicts_follow_the_better_copy(version: str) -> None:
    room_id, alice, bob, levels, judged = twins(version)
    raws = [event.raw for event in judged]
    alice.receive(room_id, raws, "mallory")
    bob.receive(room_id, [altered(levels), *raws], "mallory")
    assert bob.one("SELECT redacted_copy FROM events WHERE event_id = ?", levels.event_id) == 1
    right = Verdict.REJECTED if version == "10" else Verdict.ACCEPTED
    assert alice.verdict(judged[0].event_id) is right
    assert bob.verdict(judged[0].event_id) is not right
    assert alice.digest(room_id) != bob.digest(room_id)
    bob.receive(room_id, [levels.raw], "carol")
    assert bob.verdict(judged[0].event_id) is right
    assert alice.digest(room_id) == bob.digest(room_id)
    assert graph_contradictions(bob.conn, room_id) == []
    assert alice.operational(room_id) == bob.operational(room_id)


@pytest.mark.parametrize("version", LEVELS)
def test_genuine_copy_travels_by_itself(version: str) -> None:
    room_id, alice, bob, levels, judged = twins(version)
    raws = [event.raw for event in judged]
    alice.receive(room_id, raws, "mallory")
    bob.receive(room_id, [altered(levels), *raws], "mallory")
    alice.run(lambda tx: tx.execute("DELETE FROM outbox"))
    assert levels.event_id in bob.run(lambda tx: bob.rooms.wanted(tx, room_id))
    deliver(room_id, alice, bob)
    assert alice.digest(room_id) == bob.digest(room_id)


def test_other_copies_are_not_compared() -> None:
    """What two servers make of different copies is neither a bug nor a broken disk."""
    room_id, alice, bob, levels, _ = twins("10")
    bob.receive(room_id, [altered(levels)], "mallory")
    ours, theirs = (server.run(lambda tx, server=server: server.rooms.standing(tx, room_id)) for server in (alice, bob))  # type: ignore[misc]
    assert ours is not None
    assert theirs is not None
    assert ours.leaves != theirs.leaves


@pytest.mark.parametrize("version", LEVELS)
def test_redacted_levels_are_passed_on_in_full_and_shown_redacted(version: str) -> None:
    room_id, alice, bob, levels, judged = twins(version)
    alice.receive(room_id, [event.raw for event in judged], "mallory")
    alice.redact(room_id, levels.event_id)
    alice.run(lambda tx: tx.execute("DELETE FROM outbox"))
    carol = Server("carol")
    carol.join(room_id, alice)
    for server in (bob, carol):
        reconcile(room_id, alice, server)
        assert server.digest(room_id) == alice.digest(room_id)
        assert server.one("SELECT redacted_copy FROM events WHERE event_id = ?", levels.event_id) == 0
        stored = server.stored(levels.event_id)
        assert stored is not None
        assert dict(stored.pdu.content) == redact(levels.raw, levels.rules)["content"]


def test_outlier_and_parked_event_are_improved() -> None:
    """A redacted copy in the claim of a join, and one that waits for its parents."""
    room_id, alice, _, levels, judged = twins("10")
    dave = Server("dave")
    offer = alice.run(
        lambda tx: alice.rooms.join_offer(
            tx, origin=dave.name, room_id=room_id, user_id=dave.user, versions=["10", "11", "12"]
        )
    )
    lie = {**offer, "state": [altered(levels) if raw == levels.raw else raw for raw in offer["state"]]}
    assert lie != offer
    dave.run(lambda tx: dave.rooms.join_with(tx, user_id=dave.user, offer=lie, resident=alice.name, content={}))
    assert dave.one("SELECT redacted_copy FROM events WHERE event_id = ?", levels.event_id) == 1
    dave.receive(room_id, [altered(levels)], "mallory")
    dave.receive(room_id, [levels.raw], alice.name)
    dave.receive(room_id, [altered(levels)], "mallory")
    for _ in range(2):
        reconcile(room_id, alice, dave)
    assert dave.complete(room_id)
    assert dave.one("SELECT redacted_copy FROM events WHERE event_id = ?", levels.event_id) == 0
    for server in (alice, dave):
        server.receive(room_id, [event.raw for event in judged], "mallory")
    assert dave.digest(room_id) == alice.digest(room_id)


def test_which_events_lose_permissions_by_redaction() -> None:
    _, _, _, levels, judged = twins("10")
    assert redaction_takes_permissions(levels)
    assert may_lack_permissions(levels)
    assert not redaction_takes_permissions(judged[1])
    assert not may_lack_permissions(judged[2])


def lie_and_shuffle(sender: Server, receiver: Server, room_id: str, rng: random.Random) -> None:
    """Delivers what is owed out of order; one of four events is altered on the way."""
    items = [item for item in sender.owed_to(receiver.name) if item.kind == "pdu"]
    raws = [dict(item.payload) for item in items]
    raws = [{**raw, "content": {**raw["content"], "x": 1}} if rng.random() < 0.25 else raw for raw in raws]
    rng.shuffle(raws)
    receiver.receive(room_id, raws, sender.name)
    sender.run(lambda tx: tx.execute("DELETE FROM outbox WHERE destination = ?", (receiver.name,)))


def change_levels(server: Server, room_id: str, servers: list[Server], rng: random.Random) -> None:
    """Levels with what a redaction takes."""
    levels: dict[str, Any] = {
        "users": {each.user: rng.choice((50, 60, 100)) for each in servers[1:]},
        "invite": rng.choice((0, 60, 100)),
        "notifications": {"room": rng.choice((40, 60))},
    }
    if not server.run(lambda tx: server.rooms.power_levels(tx, room_id).creators):
        levels["users"][servers[0].user] = 100
    with contextlib.suppress(Forbidden):
        server.set_state(room_id, "m.room.power_levels", "", levels)


def test_altered_relays_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    real = rebuilding.affected_by
    judged_again: list[int] = []

    def counted(tx: Tx, room_id: str, event_ids: Collection[str]) -> list[str]:
        found = real(tx, room_id, event_ids)
        judged_again.append(len(found))
        return found

    monkeypatch.setattr(rebuilding, "affected_by", counted)
    for seed in range(10):
        live_with_altered_relays(seed)
    print(f"{len(judged_again)} better copies, {sum(judged_again)} events judged again")
    assert judged_again
    assert sum(judged_again) > 10 * len(judged_again) / 2


def live_with_altered_relays(seed: int) -> None:
    rng = random.Random(seed)
    version = rng.choice(["6", "8", "10", "11", "12"])
    servers, room_id = three_in_a_room(seed, version)
    for _ in range(40):
        server = rng.choice(servers)
        if rng.random() < 0.3:
            change_levels(server, room_id, servers, rng)
        else:
            act(server, room_id, [each for each in servers if each is not server], rng)
        if rng.random() < 0.5:
            one, other = rng.sample(servers, 2)
            lie_and_shuffle(one, other, room_id, rng)
            check_what_is_kept(other, room_id, digest=True)
    for _ in range(20):
        healed(servers, room_id)
        if not any(poor(server) for server in servers):
            break
    assert [poor(server) for server in servers] == [0, 0, 0]
    assert len({server.digest(room_id) for server in servers}) == 1


def poor(server: Server) -> int:
    return int(server.one("SELECT count(*) FROM events WHERE redacted_copy = 1 AND redacted_by IS NULL"))


def test_verdict_that_stays_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt, "judge_descendants_again", lambda *args: None)
    with pytest.raises(AssertionError):
        test_verdicts_follow_the_better_copy("10")


def test_event_that_is_not_judged_again_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what cites the improved event itself is looked at, and not what follows from that."""
    monkeypatch.setattr(rebuilding, "affected_by", lambda tx, room_id, event_ids: list(event_ids))
    with pytest.raises(AssertionError):
        test_verdicts_follow_the_better_copy("10")


def test_redacted_form_for_everybody_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown_to_all(tx: Tx, server: str, event_id: str) -> dict[str, Any] | None:
        found = events.shown(tx, event_id)
        return None if found is None else dict(found.raw)

    monkeypatch.setattr("p2pserver.rooms.serving.copy_for", shown_to_all)
    with pytest.raises(AssertionError):
        test_redacted_levels_are_passed_on_in_full_and_shown_redacted("10")
