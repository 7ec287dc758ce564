"""What several peerings ask to have broadcast, when a beacon is due, and when a parity pays."""

from __future__ import annotations

import random

from p2pserver.federation.effects import Broadcast
from p2pserver.federation.gathering import GATHER_S, Gathering, Misses
from p2pserver.federation.medium_beacons import COMPARED_MAX, ROOMS_MAX, MediumBeacons


def event(name: str) -> Broadcast:
    return Broadcast("!room", name, {"room_id": "!room"})


def test_what_several_ask_for_is_gathered_once() -> None:
    gathering: Gathering[str] = Gathering()
    assert gathering.ask("b", event("$1"), 10.0) is None
    assert gathering.ask("c", event("$2"), 10.02) is None
    assert gathering.ask("c", event("$1"), 10.05) is None
    assert gathering.due(10.0 + GATHER_S / 2) == []
    assert gathering.next_deadline() == 10.0 + GATHER_S
    first, second = gathering.due(10.0 + 2 * GATHER_S)
    assert (first.effect.event_id, list(first.peers)) == ("$1", ["b", "c"])
    assert (second.effect.event_id, list(second.peers)) == ("$2", ["c"])
    assert gathering.next_deadline() is None


def test_who_asks_late_waits_for_the_broadcast_that_was() -> None:
    gathering: Gathering[str] = Gathering()
    gathering.was_broadcast("$1", until=20.0)
    assert gathering.ask("d", event("$1"), 12.0) == 8.0
    assert gathering.next_deadline() is None
    assert gathering.ask("d", event("$1"), 20.0) is None
    assert gathering.next_deadline() == 20.0 + GATHER_S


def test_parity_begins_when_many_miss_and_ends_when_none_do() -> None:
    misses = Misses()
    for number in range(4):
        misses.sent(f"${number}", 4)
        assert not misses.need_parity
        misses.asked_again(f"${number}")
        misses.asked_again(f"${number}")
        misses.asked_again("$never broadcast")
        if number == 0:
            misses.sent("$other", 4)
            assert misses.need_parity
            break
    for number in range(30):
        misses.sent(f"$clear {number}", 4)
    assert not misses.need_parity


def test_a_beacon_is_due_after_one_to_two_waits_and_not_if_somebody_said_the_same() -> None:
    beacons = MediumBeacons(random.Random(1))
    beacons.grew("!a", 0.0, wait_s=10.0)
    beacons.grew("!a", 5.0, wait_s=10.0)
    due_at = beacons.next_deadline()
    assert due_at is not None
    assert 10.0 <= due_at <= 20.0
    beacons.heard("!a", b"digest")
    beacons.heard("!unknown", b"digest")
    assert beacons.due(due_at - 0.01) == {}
    assert beacons.due(due_at) == {"!a": b"digest"}
    assert beacons.due(1_000.0) == {}


def test_what_was_said_before_the_room_grew_again_does_not_count() -> None:
    beacons = MediumBeacons(random.Random(1))
    beacons.grew("!a", 0.0, wait_s=10.0)
    beacons.heard("!a", b"old")
    beacons.grew("!a", 1.0, wait_s=10.0)
    assert beacons.due(100.0) == {"!a": None}


def test_a_peer_causes_a_comparison_of_a_room_once_in_a_while() -> None:
    beacons = MediumBeacons(random.Random(1))
    assert beacons.may_compare(b"p", "!a", 0.0, again_after_s=30.0)
    assert not beacons.may_compare(b"p", "!a", 29.0, again_after_s=30.0)
    assert beacons.may_compare(b"q", "!a", 29.0, again_after_s=30.0)
    assert beacons.may_compare(b"p", "!a", 30.0, again_after_s=30.0)


def test_memory_is_bounded() -> None:
    beacons = MediumBeacons(random.Random(1))
    for number in range(3_000):
        beacons.grew(f"!{number}", 0.0, wait_s=1.0)
        beacons.may_compare(b"p", f"!{number}", 0.0, again_after_s=1.0)
    assert len(beacons._grown) == ROOMS_MAX
    assert len(beacons._compared) == COMPARED_MAX
    gathering: Gathering[int] = Gathering()
    for number in range(3_000):
        gathering.was_broadcast(f"${number}", until=1.0)
    assert len(gathering._lately) == 1_024
