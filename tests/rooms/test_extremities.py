"""Rejected and soft-failed events are leaves, and never extremities: on every path that an event can take."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from p2pserver.errors import Verdict
from p2pserver.events.build import build_event
from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import rules_of
from p2pserver.rooms import graph
from p2pserver.store import graph_ends
from p2pserver.store.tx import Tx
from tests.rooms.servers import Server, leaves, power_levels, reconcile
from tests.rooms.test_copies import altered, twins
from tests.store.integrity import graph_contradictions


def pair(version: str = "12") -> tuple[str, Server, Server]:
    """alice holds a room with bob, who has a second user, and is banned himself beside what he says."""
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create(version=version)
    bob.join(room_id, alice)
    bob.member(room_id, f"@stays:{bob.name}", "join", sender=f"@stays:{bob.name}")
    reconcile(room_id, alice, bob)
    reconcile(room_id, alice, bob)
    return room_id, alice, bob


def refused(server: Server, room_id: str, parents: list[str]) -> Pdu:
    """A name that its sender has no right to give: rejected everywhere."""
    state = server.run(lambda tx: server.rooms.current_state(tx, room_id))
    version = server.one("SELECT version FROM rooms WHERE room_id = ?", room_id)
    cited = [state["m.room.power_levels", ""], state["m.room.member", server.user]]
    return build_event(
        rules=rules_of(version),
        room_id=room_id,
        sender=server.user,
        event_type="m.room.name",
        state_key="",
        content={"name": "stolen"},
        prev_events=parents,
        auth_events=cited if version == "12" else [state["m.room.create", ""], *cited],
        depth=9,
        origin_server_ts=9,
        signer=server.signer,
    )


def built_on(server: Server, room_id: str, parents: list[str], auth_events: list[str]) -> Pdu:
    """A message of the server's user at any place of a version 12 room."""
    return build_event(
        rules=rules_of("12"),
        room_id=room_id,
        sender=server.user,
        event_type="m.room.message",
        state_key=None,
        content={"msgtype": "m.text", "body": "here"},
        prev_events=parents,
        auth_events=auth_events,
        depth=9,
        origin_server_ts=9,
        signer=server.signer,
    )


def check(server: Server, room_id: str, verdicts: dict[str, Verdict]) -> None:
    """These events have these verdicts, are leaves, and nothing that is sent next cites them."""
    for event_id, verdict in verdicts.items():
        assert server.verdict(event_id) is verdict
    extremities = server.run(lambda tx: graph_ends.extremities(tx, room_id))
    assert not verdicts.keys() & set(extremities)
    assert verdicts.keys() <= set(leaves(server, room_id))
    assert graph_contradictions(server.conn, room_id) == []
    following = server.send(room_id, "what comes next")
    assert set(following.prev_events) == set(extremities)
    assert graph_contradictions(server.conn, room_id) == []
    assert server.digest(room_id)


def banned_beside(room_id: str, alice: Server, bob: Server) -> tuple[Pdu, Pdu]:
    """bob says something, and gives a name without the right to, while alice bans him."""
    said = bob.send(room_id, "too late")
    stolen = refused(bob, room_id, leaves(alice, room_id))
    alice.member(room_id, bob.user, "ban")
    return said, stolen


def test_received() -> None:
    room_id, alice, bob = pair()
    said, stolen = banned_beside(room_id, alice, bob)
    alice.receive(room_id, [said.raw, stolen.raw], bob.name)
    check(alice, room_id, {said.event_id: Verdict.SOFT_FAILED, stolen.event_id: Verdict.REJECTED})


def test_released_from_where_they_waited() -> None:
    room_id, alice, bob = pair()
    first = bob.send(room_id, "first")
    said = bob.send(room_id, "too late")
    stolen = refused(bob, room_id, [first.event_id])
    alice.member(room_id, bob.user, "ban")
    report = alice.receive(room_id, [said.raw, stolen.raw], bob.name)
    assert [receipt.verdict for receipt in report.results] == [None, None]
    alice.receive(room_id, [first.raw], bob.name)
    check(alice, room_id, {said.event_id: Verdict.SOFT_FAILED, stolen.event_id: Verdict.REJECTED})


@pytest.mark.parametrize("version", ["10", "12"])
def test_that_came_with_the_history_of_a_join(version: str) -> None:
    """The history is judged from the create event on; what was beside it is news, and judged by the current state."""
    room_id, alice, bob = pair(version)
    said, stolen = banned_beside(room_id, alice, bob)
    carol = Server("carol")
    carol.join(room_id, alice)
    reconcile(room_id, alice, carol)
    alice.receive(room_id, [said.raw, stolen.raw], bob.name)
    for _ in range(3):
        reconcile(room_id, alice, carol)
    carol.receive(room_id, [said.raw, stolen.raw], bob.name)
    assert carol.complete(room_id)
    check(carol, room_id, {said.event_id: Verdict.SOFT_FAILED, stolen.event_id: Verdict.REJECTED})


def test_judged_again_when_a_claim_is_replaced() -> None:
    """They come while the room stands on the claim of a join, and the history comes after them."""
    room_id, alice, bob = pair()
    said, stolen = banned_beside(room_id, alice, bob)
    carol = Server("carol")
    carol.join(room_id, alice)
    carol.receive(room_id, [said.raw, stolen.raw], bob.name)
    assert not carol.complete(room_id)
    for _ in range(3):
        reconcile(room_id, alice, carol)
    carol.receive(room_id, [said.raw, stolen.raw], bob.name)
    assert carol.complete(room_id)
    check(carol, room_id, {stolen.event_id: Verdict.REJECTED})


def test_judged_again_when_a_better_copy_comes() -> None:
    """Accepted by the redacted levels, rejected by the genuine ones: an extremity no more."""
    room_id, _, bob, levels, judged = twins("10")
    bob.receive(room_id, [altered(levels), judged[0].raw], "mallory")
    assert bob.run(lambda tx: graph_ends.extremities(tx, room_id)) == [judged[0].event_id]
    bob.receive(room_id, [levels.raw], "carol")
    assert bob.verdict(judged[0].event_id) is Verdict.REJECTED
    assert bob.run(lambda tx: graph_ends.extremities(tx, room_id)) == [levels.event_id]
    assert graph_contradictions(bob.conn, room_id) == []


def test_accepted_event_on_a_soft_failed_one() -> None:
    """Who does not know of the ban builds on what he said: that is accepted, and takes in what it stands on."""
    room_id, alice, bob = pair()
    said, stolen = banned_beside(room_id, alice, bob)
    alice.receive(room_id, [said.raw, stolen.raw], bob.name)
    before = set(alice.run(lambda tx: graph_ends.extremities(tx, room_id)))
    built = bob.send(room_id, "on it", sender=f"@stays:{bob.name}")
    assert said.event_id in built.prev_events
    alice.receive(room_id, [built.raw], bob.name)
    assert alice.verdict(built.event_id) is Verdict.ACCEPTED
    assert set(alice.run(lambda tx: graph_ends.extremities(tx, room_id))) == before | {built.event_id}
    assert graph_contradictions(alice.conn, room_id) == []


def test_what_is_merged_over_a_soft_failed_event_is_no_extremity() -> None:
    """alice heard bob's first words, not the second, before she banned him: who cites the second has both."""
    room_id, alice, bob = pair()
    first = bob.send(room_id, "in time")
    alice.receive(room_id, [first.raw], bob.name)
    alice.member(room_id, bob.user, "ban")
    second = bob.send(room_id, "too late")
    built = bob.send(room_id, "on it", sender=f"@stays:{bob.name}")
    assert built.prev_events == (second.event_id,)
    alice.receive(room_id, [second.raw], bob.name)
    assert alice.verdict(second.event_id) is Verdict.SOFT_FAILED
    before = alice.run(lambda tx: graph_ends.extremities(tx, room_id))
    alice.receive(room_id, [built.raw], bob.name)
    assert alice.run(lambda tx: graph_ends.extremities(tx, room_id)) == sorted(
        {*before, built.event_id} - {first.event_id}
    )
    assert graph_contradictions(alice.conn, room_id) == []


def test_what_is_merged_over_a_rejected_event_is_no_end() -> None:
    """A member cites nothing but an event that is rejected everywhere; that one had cited what the others said."""
    room_id, alice, bob = pair()
    said = alice.send(room_id, "beside it")
    stolen = refused(bob, room_id, [said.event_id])
    joining = bob.run(lambda tx: bob.rooms.current_state(tx, room_id))["m.room.member", bob.user]
    levels = bob.run(lambda tx: bob.rooms.current_state(tx, room_id))["m.room.power_levels", ""]
    message = built_on(bob, room_id, [stolen.event_id], [levels, joining])
    alice.receive(room_id, [stolen.raw, message.raw], bob.name)
    assert (alice.verdict(stolen.event_id), alice.verdict(message.event_id)) == (Verdict.REJECTED, Verdict.ACCEPTED)
    assert alice.run(lambda tx: graph_ends.extremities(tx, room_id)) == [message.event_id]
    assert alice.run(lambda tx: graph_ends.accepted_leaves(tx, room_id)) == [message.event_id]
    assert graph_contradictions(alice.conn, room_id) == []
    assert alice.digest(room_id)


def test_each_refused_event_is_passed_over_once() -> None:
    """A long chain of rejected events, and a message on each of them, from the last to the first: linear work."""
    room_id, alice, bob = pair()
    state = bob.run(lambda tx: bob.rooms.current_state(tx, room_id))
    auth = [state["m.room.power_levels", ""], state["m.room.member", bob.user]]
    chain = [refused(bob, room_id, leaves(alice, room_id))]
    for _ in range(80):
        chain.append(refused(bob, room_id, [chain[-1].event_id]))
    alice.receive(room_id, [event.raw for event in chain], bob.name)
    passed = "SELECT count(*) FROM passed_over WHERE ends = 'forward_extremities'"
    assert alice.one(passed) == 0
    asked: list[str] = []
    messages = [built_on(bob, room_id, [event.event_id], auth) for event in reversed(chain)]
    alice.receive(room_id, [messages[0].raw], bob.name)
    assert alice.one(passed) == len(chain)
    alice.conn.set_trace_callback(asked.append)
    alice.receive(room_id, [message.raw for message in messages[1:]], bob.name)
    alice.conn.set_trace_callback(None)
    assert all(alice.verdict(message.event_id) is Verdict.ACCEPTED for message in messages)
    assert alice.one(passed) == len(chain)
    assert sum("INTO passed_over" in statement for statement in asked) == 0
    assert graph_contradictions(alice.conn, room_id) == []


def test_rejected_event_covers_nothing() -> None:
    """It cites all extremities, and they stay what they are."""
    room_id, alice, bob = pair()
    alice.set_state(room_id, "m.room.power_levels", "", power_levels(alice, "12", state_default=100))
    reconcile(room_id, alice, bob)
    before = alice.run(lambda tx: graph_ends.extremities(tx, room_id))
    stolen = refused(bob, room_id, before)
    alice.receive(room_id, [stolen.raw], bob.name)
    assert alice.run(lambda tx: graph_ends.extremities(tx, room_id)) == before
    check(alice, room_id, {stolen.event_id: Verdict.REJECTED})


@pytest.mark.parametrize("path", [test_received, test_released_from_where_they_waited])
def test_event_that_is_refused_and_cited_is_noticed(path: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    real = graph.note_redactions

    def also_an_extremity(tx: Tx, room: object, event: Pdu, *, may_be_target: bool = True) -> None:
        graph_ends.extend_extremities(tx, event, graph_ends.surroundings(tx, event))
        real(tx, room, event, may_be_target=may_be_target)  # type: ignore[arg-type]

    monkeypatch.setattr(graph, "note_redactions", also_an_extremity)
    with pytest.raises(AssertionError):
        path()
