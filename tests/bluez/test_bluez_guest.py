"""The BlueZ side on a real bluetoothd and a real kernel: `pytest -m bluez`, some minutes, most of them QEMU's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.bluez.guest import run_in_guest

pytestmark = [pytest.mark.bluez, pytest.mark.timeout(900)]
GUEST_S = 800.0


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "p2pserver-bluez"
    found: dict[str, Any] = run_in_guest(
        ["-m", "tests.bluez.checks"], tmp_path_factory.mktemp("guest"), cache=cache, seconds=GUEST_S
    )
    print(found["log"])
    return found


def check(results: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = results[name]
    assert "failed" not in found, found["failed"]
    return found


def carried(found: dict[str, Any]) -> None:
    """Nothing twice, nothing altered. A starved guest loses some; `messages` shows that it is mended."""
    assert found["intact"], found
    assert found["arrived"] >= 0.5 * found["sent"], found


def test_two_nodes_find_each_other_and_carry_both_ways(results: dict[str, Any]) -> None:
    found = check(results, "two_nodes")
    assert found["dialed_by_lower"]
    for way in ("up", "down", "after_loss", "after_close"):
        carried(found[way])
    assert found["up"]["octets"] == 494
    assert found["messages"]["equal"], "out of order or lost, the link layer mends it"


def test_radio_silence_and_closing_are_noticed_on_both_sides(results: dict[str, Any]) -> None:
    found = check(results, "two_nodes")
    assert all(found["loss_noticed"])
    assert found["loss_noticed_s"] < 10
    assert found["close_noticed"]
    assert found["close_by_peripheral_noticed"]


def test_a_central_does_not_take_what_another_is_notified(results: dict[str, Any]) -> None:
    found = check(results, "three_nodes")
    carried(found["a"])
    carried(found["b"])
    assert min(found["not_for_us"]) >= 10, "BlueZ notified only one: then this shows nothing"
    assert found["waiting"] == [0, 0]


def came_back(found: dict[str, Any]) -> None:
    for way in ("before", "up", "down"):
        carried(found[way])
    assert all(found["noticed"])
    assert found["notes"] == []


@pytest.mark.parametrize("time", ["first", "second"])
def test_links_come_back_after_the_daemon_was_killed(results: dict[str, Any], time: str) -> None:
    came_back(check(results, "daemon_restarts")[time])


@pytest.mark.parametrize("role", ["central", "peripheral"])
def test_links_come_back_after_an_adapter_was_off(results: dict[str, Any], role: str) -> None:
    came_back(check(results, "adapter_off_and_on")[role])


@pytest.mark.parametrize("role", ["central", "peripheral"])
def test_the_connections_of_a_killed_run_are_ended_by_the_next(results: dict[str, Any], role: str) -> None:
    found = check(results, "run_that_crashes")[role]
    assert found["kept_by_bluez"], "BlueZ ended it by itself: then this shows nothing"
    assert found["noticed"]
    carried(found["up"])
    carried(found["down"])
