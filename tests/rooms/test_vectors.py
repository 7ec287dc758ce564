"""Every room of the state resolution vectors goes through the real receipt, in its own order and in others."""

from __future__ import annotations

import pytest

from tests.rooms.vector_rooms import NAMES, failures, received, vector_room


@pytest.mark.parametrize("name", NAMES)
def test_verdicts_and_states_are_those_of_the_file_in_its_own_order_and_in_another(name: str) -> None:
    room = vector_room(name)
    straight, shuffled = received(room, seed=None), received(room, seed=1)
    assert failures(room, straight) == []
    assert failures(room, shuffled) == []
    assert straight.digest(room["room_id"]) == shuffled.digest(room["room_id"])
    assert shuffled.column("SELECT event_id FROM parked_pdus") == []


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_more_orders_of_delivery_give_the_same(name: str) -> None:
    room = vector_room(name)
    replicas = [received(room, seed=seed) for seed in range(2, 6)]
    assert [failures(room, each) for each in replicas] == [[]] * 4
    assert len({each.digest(room["room_id"]) for each in replicas}) == 1
