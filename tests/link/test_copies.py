"""On a link that loses, the end of what there is to say goes twice where that spares more waiting than it costs."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import pytest

from benchmarks.links import BAR_PROFILE, ble, half_duplex, lora
from benchmarks.lossy_texts import Texts, texts
from p2pserver.link import Priority, copies
from p2pserver.link.frames import Fragment
from p2pserver.link.incoming import Incoming
from p2pserver.link.loss import FAITH, OUTCOMES, VALID_S, LossEstimate
from p2pserver.link.memory import Memory
from transports.sim import LinkConditions

LAN = LinkConditions(delay_ms_mean=1, datagram_octets_max=1_400)
BLE = ble(247, 700_000).conditions
SERIAL = half_duplex("", 115_200, 512).conditions
LORA = lora("", "eu868-10").conditions


def both(conditions: LinkConditions, loss: float, octets: int) -> tuple[Texts, Texts]:
    """(without copies, with them)"""
    without, with_them = (texts(conditions, loss, octets, copies=on, count=30) for on in (False, True))
    return without, with_them


@pytest.mark.parametrize(
    ("conditions", "octets"),
    [(LAN, 600), (BLE, 600), (BLE, 60), (SERIAL, 60)],
    ids=["lan", "ble", "ble, a short one", "serial, a short one"],
)
def test_texts_come_sooner_on_the_average_where_a_copy_costs_little(conditions: LinkConditions, octets: int) -> None:
    without, with_copies = both(conditions, 0.2, octets)
    assert mean(with_copies.seconds) < 0.6 * mean(without.seconds)
    assert with_copies.octets < 2.5 * without.octets


def extra_without_loss() -> list[float]:
    return [
        with_copies.octets - without.octets
        for without, with_copies in (both(conditions, 0.0, 600) for conditions in (LAN, BLE, SERIAL))
    ]


def test_nothing_is_copied_where_nothing_is_lost() -> None:
    assert extra_without_loss() == [0.0, 0.0, 0.0]


def test_copying_without_need_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies.Copies, "pay", lambda _self, _octets, _now: copies.LOSS_MIN < 1)
    assert all(extra > 0.0 for extra in extra_without_loss())


@pytest.mark.parametrize(
    "conditions", [half_duplex("", 1_200, 173).conditions, BAR_PROFILE.conditions, LORA], ids=["1,200", "9,600", "LoRa"]
)
def test_a_slow_line_and_rationed_airtime_carry_no_copies_of_long_datagrams(conditions: LinkConditions) -> None:
    without, with_copies = both(conditions, 0.2, 150)
    assert with_copies == without


def test_rationed_airtime_carries_no_copies_even_of_short_datagrams_at_any_loss() -> None:
    without, with_copies = both(LORA, 0.4, 20)
    assert with_copies == without
    unmetered = replace(LORA, airtime_ms_per_hour=None)
    without, with_copies = both(unmetered, 0.4, 20)
    assert with_copies != without


# The estimate


def test_of_a_link_that_is_not_known_no_loss_is_expected() -> None:
    assert LossEstimate().share(0.0) == 0.0


def test_the_estimate_follows_the_latest_datagrams() -> None:
    estimate = LossEstimate()
    for counter in range(1_000):
        (estimate.missed if counter % 5 == 0 else estimate.arrived)(counter, 0.0)
    assert 0.15 < estimate.share(0.0) < 0.2
    for counter in range(1_000, 1_000 + OUTCOMES):
        estimate.arrived(counter, 1.0)
    assert estimate.share(1.0) == 0.0
    assert len(estimate._outcomes) == OUTCOMES


def test_what_was_given_up_too_early_is_no_loss() -> None:
    estimate = LossEstimate()
    for counter in range(32):
        estimate.missed(counter, 0.0)
    assert estimate.share(0.0) == 32 / (32 + FAITH)
    for counter in range(32):
        estimate.arrived(counter, 0.5)
        estimate.arrived(counter, 0.5)
    assert estimate.share(0.5) == 0.0


def test_an_old_loss_says_nothing() -> None:
    estimate = LossEstimate()
    for counter in range(10):
        estimate.missed(counter, 0.0)
    estimate.arrived(10, VALID_S)
    assert estimate.share(VALID_S) > 0.5
    assert estimate.share(VALID_S + 1) == 0.0
    assert list(estimate._outcomes) == [10]


def test_what_is_held_is_told_for_classes_that_have_something() -> None:
    """The word that nothing is held is lost, and by now something is: found by copies that changed the times."""
    incoming = Incoming(Memory().holding())
    incoming.pipe_changed(peer_restarted=False)
    _, nothing = incoming.tell_held(100)
    incoming.fragment_received(Fragment(Priority.STATE, 0, 62, b"\x03abc"))
    incoming.pipe_changed(peer_restarted=False)
    frame, told = incoming.tell_held(100)
    assert told == (Priority.STATE,)
    incoming.held_lost(nothing)
    assert not incoming.has_to_tell
    incoming.held_lost(told)
    assert incoming.tell_held(100) == (frame, told)
