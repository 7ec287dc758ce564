"""`p2pserver doctor`: each thing that keeps Bluetooth from working gets one line with its remedy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from p2pserver.cli import cli
from p2pserver.commands import doctor
from transports.ble import diagnosis
from transports.ble.diagnosis import AdapterFacts, BluetoothFacts, gather, judge
from transports.finding import Weight
from transports.lan import diagnosis as lan_diagnosis
from transports.lan.addresses import LocalAddress
from transports.lan.diagnosis import LanFacts
from transports.lan.discovery import Announcement

ADAPTER = AdapterFacts(
    name="hci0", powered=True, roles=("central", "peripheral", "central-peripheral"), advertising_instances=5
)
WELL = BluetoothFacts(adapters=(ADAPTER,), version=(5, 82))
ON_A_LAN = LanFacts(frozenset({LocalAddress("eth0", 2, ip_address("10.0.0.1"), 24)}), announced=3, dialed=3, answered=2)


def bad(facts: BluetoothFacts) -> list[str]:
    return [f"{each.what}: {each.remedy}" for each in judge(facts) if each.weight is Weight.BAD]


def remarks(facts: BluetoothFacts) -> list[str]:
    return [f"{each.what}: {each.remedy}" for each in judge(facts) if each.weight is Weight.REMARK]


def test_a_machine_on_which_all_is_well_is_told_so() -> None:
    found = judge(WELL)
    assert {each.weight for each in found} == {Weight.GOOD}
    assert any("hci0 is on, finds others and can be found" in each.what for each in found)


@pytest.mark.parametrize(
    ("change", "what", "remedy"),
    [
        ({"bleak": False}, "not installed", "pip install 'p2pserver[ble]'"),
        ({"termux": True}, "Termux", "--transport lan"),
        ({"kernel_bluetooth": False}, "this kernel has no Bluetooth", "modprobe"),
        ({"kernel_bluetooth": False, "container": True}, "container", "--net=host"),
        ({"kernel_adapters": (), "adapters": ()}, "no Bluetooth adapter", "plug one in"),
        ({"blocked": "soft"}, "blocked", "rfkill unblock bluetooth"),
        ({"blocked": "hard"}, "blocked", "switch"),
        ({"bus": "No such file"}, "D-Bus", "systemctl start dbus"),
        ({"bus": "No such file", "container": True}, "D-Bus", "mount /run/dbus"),
        ({"bluez": "absent"}, "bluetoothd) does not run", "systemctl enable --now bluetooth"),
        ({"bluez": "denied"}, "may not use Bluetooth", "usermod -aG bluetooth"),
        ({"bluez": "odd words"}, "odd words", "journalctl"),
        ({"adapters": ()}, "knows no adapter", "restart bluetooth"),
        ({"adapters": (replace(ADAPTER, powered=False),)}, "switched off", "bluetoothctl power on"),
    ],
)
def test_what_keeps_bluetooth_from_working_is_one_line_with_its_remedy(
    change: dict[str, Any], what: str, remedy: str
) -> None:
    (line,) = bad(replace(WELL, **change))
    assert what in line
    assert remedy in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("change", "what", "remedy"),
    [
        ({"version": (5, 66)}, "every neighbor what is for one", "5.69"),
        ({"version": (5, 66)}, "out of order", "Channels = 1"),
        ({"version": (5, 82), "gatt_channels": 3}, "Channels is 3", "main.conf"),
        ({"bumble": False}, "controller of its own", "p2pserver[bumble]"),
        ({"platform": "darwin"}, "on macOS", "Linux machine"),
        ({"platform": "win32"}, "on Windows", "Linux machine"),
        ({"adapters": (replace(ADAPTER, advertising_instances=None),)}, "cannot be found", "adapter"),
        ({"adapters": (replace(ADAPTER, advertising_instances=0),)}, "no advertisement free", "end the program"),
        ({"adapters": (replace(ADAPTER, roles=("central",)),)}, "not both at once", "adapter"),
    ],
)
def test_limits_that_are_worth_knowing_are_remarks(change: dict[str, Any], what: str, remedy: str) -> None:
    facts = replace(WELL, **change)
    assert not bad(facts)
    assert any(what in line and remedy in line for line in remarks(facts)), remarks(facts)


def test_one_channel_set_by_hand_needs_no_remark() -> None:
    assert not any("out of order" in line for line in remarks(replace(WELL, version=(5, 66), gatt_channels=1)))


async def test_the_files_of_the_machine_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'nowhere'}")
    for name, kind, soft, hard in (("rfkill0", "wlan", "1", "1"), ("rfkill1", "bluetooth", "1", "0")):
        folder = tmp_path / "sys/class/rfkill" / name
        folder.mkdir(parents=True)
        for file, text in (("type", kind), ("soft", soft), ("hard", hard)):
            (folder / file).write_text(f"{text}\n")
    for name in ("hci1", "hci0", "hci0:17"):
        (tmp_path / "sys/class/bluetooth" / name).mkdir(parents=True)
    (tmp_path / "etc/bluetooth").mkdir(parents=True)
    (tmp_path / "etc/bluetooth/main.conf").write_text(
        "[General]\nChannels = 9\n\n[GATT]\n#Channels = 5\nChannels = 2\n[LE]\n"
    )
    (tmp_path / ".dockerenv").touch()
    facts = await gather(tmp_path, {})
    assert facts.kernel_adapters == ("hci0", "hci1")
    assert facts.blocked == "soft"
    assert facts.gatt_channels == 2
    assert facts.container
    assert facts.bus is not None


async def test_an_empty_machine_raises_nothing(tmp_path: Path) -> None:
    facts = await gather(tmp_path, {"TERMUX_VERSION": "0.118"})
    assert facts.termux
    facts = await gather(tmp_path, {})
    assert facts.kernel_adapters == ()
    assert facts.blocked is None
    assert facts.gatt_channels is None


@pytest.mark.parametrize(
    ("change", "weight", "what", "remedy"),
    [
        ({}, Weight.GOOD, "3; 2 of 3 that were tried answer", ""),
        ({"addresses": None}, Weight.REMARK, "does not tell", "lan:peer="),
        ({"addresses": frozenset()}, Weight.BAD, "on no network", "Wi-Fi"),
        ({"mdns": "nobody can be found by mDNS: in use"}, Weight.BAD, "in use", "5353"),
        ({"announced": 0, "dialed": 0, "answered": 0}, Weight.REMARK, "no node of another machine", "blocks multicast"),
        ({"answered": 0}, Weight.BAD, "passes multicast and blocks connections", "use another network"),
    ],
)
def test_what_the_network_lets_through_is_one_line(
    change: dict[str, Any], weight: Weight, what: str, remedy: str
) -> None:
    finding = lan_diagnosis.judge(replace(ON_A_LAN, **change))[-1]
    assert finding.weight is weight
    assert what in finding.what
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("here", "what"), [(0, None), (1, "one node runs on this machine"), (2, "2 nodes run on this machine")]
)
def test_nodes_on_this_machine_are_told_apart_from_others(
    monkeypatch: pytest.MonkeyPatch, here: int, what: str | None
) -> None:
    """They are announced at an address of this machine, or on loopback alone."""
    own = [("10.0.0.1", 4001), ("127.0.0.1", 4002)][:here]
    announced = [Announcement(str(port), port.to_bytes(8, "big"), ((host, port),)) for host, port in own]

    class Heard:
        running, note = True, None

        def __init__(self, _: bytes, *, found: Callable[[Announcement], None], gone: Callable[[str], None]) -> None:
            self.found = found

        async def start(self, local: frozenset[LocalAddress], *_: object) -> None:
            assert any(own.ip.is_loopback for own in local), "a node on loopback would not be heard"
            for each in announced:
                self.found(each)

        async def stop(self) -> None:
            return

    loopback = LocalAddress("lo", 1, ip_address("127.0.0.1"), 8)
    assert ON_A_LAN.addresses is not None
    monkeypatch.setattr(lan_diagnosis, "Discovery", Heard)
    monkeypatch.setattr(lan_diagnosis, "local_addresses", lambda: ON_A_LAN.addresses | {loopback})
    facts = asyncio.run(lan_diagnosis.gather(0.0))
    assert (facts.here, facts.announced) == (here, 0)
    told = [finding.what for finding in lan_diagnosis.judge(facts)]
    assert told[-1] == "no node of another machine is announced on this network"
    assert [line for line in told if "on this machine" in line] == ([f"{what} and can be found"] if what else [])


def seen(monkeypatch: pytest.MonkeyPatch, facts: BluetoothFacts) -> None:
    async def gathered() -> BluetoothFacts:
        await asyncio.sleep(0)
        return facts

    async def on_a_network() -> LanFacts:
        await asyncio.sleep(0)
        return ON_A_LAN

    monkeypatch.setattr(diagnosis, "gather", gathered)
    monkeypatch.setattr(lan_diagnosis, "gather", on_a_network)


def test_the_command_prints_lines_or_json_and_tells_by_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, replace(WELL, blocked="soft"))
    said = CliRunner().invoke(cli, ["doctor"])
    assert said.exit_code == 1
    assert "ble   fix   Bluetooth is blocked (soft block): rfkill unblock bluetooth" in said.output.splitlines()
    as_json = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)
    assert as_json["ble"][0]["weight"] == "fix"
    seen(monkeypatch, WELL)
    assert CliRunner().invoke(cli, ["doctor"]).exit_code == 0
    assert doctor.line_of("ble", judge(WELL)[0]).startswith("ble   ok    ")
