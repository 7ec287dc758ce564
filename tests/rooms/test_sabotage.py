"""One check left out, one row forgotten, one event lost: the checks of the other tests must notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from p2pserver.events.pdu import Pdu
from p2pserver.rooms import judging, receipt
from p2pserver.store import events, graph_ends, outbox
from p2pserver.store.tx import Tx
from tests.rooms import test_joining, test_receipt
from tests.rooms.servers import Server, reconcile
from tests.rooms.vector_rooms import NAMES, failures, received, vector_room
from tests.store.integrity import inconsistencies

SOME = NAMES[::6]


def vector_failures() -> list[str]:
    return [each for name in SOME for each in failures(vector_room(name), received(vector_room(name), seed=None))]


def nothing(*args: object, **kwargs: object) -> None:
    return None


def chatting_pair() -> tuple[str, Server, Server]:
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create()
    bob.join(room_id, alice)
    reconcile(room_id, alice, bob)
    alice.run(lambda tx: tx.execute("DELETE FROM outbox"))
    for number in range(3):
        alice.send(room_id, f"{number}")
    return room_id, alice, bob


def test_untouched_code_passes() -> None:
    assert vector_failures() == []
    _, alice, bob = chatting_pair()
    assert inconsistencies(alice.conn, server=alice.name, destination=bob.name) == []


@pytest.mark.parametrize("check", ["check_by_auth_events", "check_by_state_before"])
def test_skipped_check_is_noticed(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, check, nothing)
    assert vector_failures() != []


def test_rejected_auth_event_that_counts_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        test_receipt.test_event_with_a_rejected_auth_event_is_rejected("cited first")

    assert not fails(check)
    real = judging.ancestors_of
    monkeypatch.setattr(receipt, "ancestors_of", lambda *args: replace(real(*args), rejected_auth=frozenset()))
    assert fails(check)


def test_forgotten_outbox_row_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "queue_pdu", nothing)
    _, alice, bob = chatting_pair()
    assert inconsistencies(alice.conn, server=alice.name, destination=bob.name) != []


def test_outbox_row_in_another_commit_is_noticed() -> None:
    room_id, alice, bob = chatting_pair()
    alice.run(lambda tx: outbox.queue_pdu(tx, bob.name, room_id, "$" + "A" * 43))
    assert inconsistencies(alice.conn, server=alice.name, destination=bob.name) != []


def test_lost_event_is_noticed() -> None:
    room_id, alice, bob = chatting_pair()
    reconcile(room_id, alice, bob)
    assert alice.digest(room_id) == bob.digest(room_id)
    last = bob.run(lambda tx: bob.rooms.leaves(tx, room_id))[0]
    bob.run(lambda tx: tx.execute("DELETE FROM events WHERE event_id = ?", (last,)))
    assert alice.digest(room_id) != bob.kept_digest(room_id).sec


def fails(check: Callable[[], None]) -> bool:
    try:
        check()
    except AssertionError:
        return True
    return False


def test_claim_that_is_kept_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not fails(test_joining.test_claim_of_a_liar_is_replaced_by_the_history)
    monkeypatch.setattr(receipt, "rebuild", nothing)
    assert fails(test_joining.test_claim_of_a_liar_is_replaced_by_the_history)


def test_skipped_current_state_check_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not fails(test_receipt.test_banned_users_backdated_event_is_soft_failed)
    monkeypatch.setattr(judging, "check_by_current_state", nothing)
    assert fails(test_receipt.test_banned_users_backdated_event_is_soft_failed)


def test_reversed_copy_lattice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def newest_wins(self: receipt.Intake, room: object, event: Pdu, known: object) -> None:
        events.replace_copy(self._tx, event)

    assert not fails(lambda: test_receipt.test_genuine_copy_wins_over_the_redacted_one("genuine first"))
    monkeypatch.setattr(receipt.Intake, "_improve_copy", newest_wins)
    assert fails(lambda: test_receipt.test_genuine_copy_wins_over_the_redacted_one("genuine first"))


def test_soft_failed_extremity_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = graph_ends.extend_leaves

    def also_an_extremity(tx: Tx, event: Pdu, around: graph_ends.Surroundings) -> None:
        real(tx, event, around)
        graph_ends.extend_extremities(tx, event, around)

    monkeypatch.setattr(graph_ends, "extend_leaves", also_an_extremity)
    assert fails(test_receipt.test_banned_users_backdated_event_is_soft_failed)
