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


def test_two_nodes_find_each_other_and_lose_nothing(results: dict[str, Any]) -> None:
    found = check(results, "two_nodes")
    assert found["dialed_by_lower"]
    for way in ("up", "down", "after_loss", "after_close"):
        assert found[way]["intact"], found[way]
    assert found["up"]["octets"] == 494
    assert found["messages"]["equal"], "out of order is not lost"


def test_radio_silence_and_closing_are_noticed_on_both_sides(results: dict[str, Any]) -> None:
    found = check(results, "two_nodes")
    assert all(found["loss_noticed"])
    assert found["loss_noticed_s"] < 10
    assert found["close_noticed"]
    assert found["close_by_peripheral_noticed"]


def test_a_central_does_not_take_what_another_is_notified(results: dict[str, Any]) -> None:
    found = check(results, "three_nodes")
    assert found["a"]["intact"]
    assert found["b"]["intact"]
    assert min(found["not_for_us"]) >= 20, "BlueZ notified only one: then this shows nothing"
    assert found["waiting"] == [0, 0]
