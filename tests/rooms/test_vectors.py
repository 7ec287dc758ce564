"""Every room of the state resolution vectors goes through the real receipt, in its own order and in others."""

from __future__ import annotations

import pytest

from tests.rooms.vector_rooms import NAMES, failures, received, vector_room


@pytest.mark.parametrize("name", NAMES)
def test_verdicts_and_states_are_those_of_the_file(name: str) -> None:
    room = vector_room(name)
    assert failures(room, received(room, seed=None)) == []


@pytest.mark.parametrize("name", NAMES)
def test_any_order_of_delivery_gives_the_same(name: str) -> None:
    room = vector_room(name)
    first, second = received(room, seed=1), received(room, seed=2)
    assert failures(room, first) == []
    assert first.digest(room["room_id"]) == second.digest(room["room_id"])
    assert first.column("SELECT event_id FROM parked_pdus") == []
