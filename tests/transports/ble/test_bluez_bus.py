"""bleak's own BlueZ backend and our D-Bus peripheral, over a real D-Bus, against a mock of bluetoothd (bluezoo).

There is no air below it: it shows that both sides speak D-Bus as BlueZ does. `pytest -m bluez` shows the rest.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bleak.backends.bluezdbus.manager import get_global_bluez_manager
from dbus_fast import BusType, Message, Variant
from dbus_fast.aio import MessageBus

from transports.ble import BleTransport
from transports.ble.bleak_central import BleakCentral
from transports.ble.radio import Radio, RadioDown, Sighting
from transports.ble.system import open_system_radio
from transports.contract import Link

ROOT = Path(__file__).parents[3]
CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow own="org.bluez"/><deny send_type="method_call"/>
<allow send_type="signal"/><allow send_requested_reply="true" send_type="method_return"/>
<allow send_requested_reply="true" send_type="error"/><allow receive_type="method_call"/>
<allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/>
<allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
<allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Introspectable"/>
<allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
<allow send_destination="org.bluez"/><allow send_interface="org.bluez.GattCharacteristic1"/>
<allow send_interface="org.bluez.LEAdvertisement1"/><allow send_interface="org.freedesktop.DBus.ObjectManager"/>
<allow send_interface="org.freedesktop.DBus.Properties"/>
</policy></busconfig>"""
"""As strict as the policies that Debian installs for the system bus and for BlueZ."""


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A private system bus."""
    configuration, path = tmp_path / "bus.conf", tmp_path / "bus"
    configuration.write_text(CONFIGURATION.format(path=path))
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--nopidfile", "--print-address=1"],
        stdout=subprocess.PIPE,
    )
    assert daemon.stdout is not None
    address = daemon.stdout.readline().decode().strip()
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    try:
        yield daemon
    finally:
        daemon.kill()
        daemon.wait(5)
        daemon.stdout.close()


def start_daemon(adapters: int = 2) -> subprocess.Popen[bytes]:
    addresses = [f"--adapter=00:00:00:00:00:0{number + 1}" for number in range(adapters)]
    command = [sys.executable, "-m", "tests.transports.ble.mock_bluez", "--auto-enable", "--scan-interval=1"]
    return subprocess.Popen([*command, *addresses], cwd=ROOT, stderr=subprocess.DEVNULL)


@pytest.fixture
async def bluez(bus: subprocess.Popen[bytes]) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The mock of bluetoothd with two adapters, hci0 and hci1, that can hear each other."""
    daemon = start_daemon()
    try:
        await discoverable()
        yield daemon
    finally:
        daemon.kill()
        daemon.wait(5)


async def discoverable(*adapters: str) -> None:
    async with asyncio.timeout(15):
        for adapter in adapters or ("hci0", "hci1"):
            while not await set_property(adapter, "Discoverable", Variant("b", True)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def set_property(adapter: str, name: str, value: Variant) -> bool:
    connection = await MessageBus(bus_type=BusType.SYSTEM).connect()
    reply = await connection.call(
        Message(
            destination="org.bluez",
            path=f"/org/bluez/{adapter}",
            interface="org.freedesktop.DBus.Properties",
            member="Set",
            signature="ssv",
            body=["org.bluez.Adapter1", name, value],
        )
    )
    connection.disconnect()
    return reply is not None and reply.error_name is None


def on_adapter(adapter: str, *, dials: bool = True) -> BleTransport:
    async def open_radio() -> Radio:
        radio = await open_system_radio(adapter)
        return radio if dials else replace(radio, central=None)

    return BleTransport(open_radio)


async def linked(a: BleTransport, b: BleTransport) -> tuple[Link, Link]:
    """Nobody's id is known here, so both might dial at once, and the mock has one connection between two devices."""
    await a.start(b"instan-a")
    await b.start(b"instan-b")
    async with asyncio.timeout(60):
        return await a.next_link(), await b.next_link()


async def test_two_nodes_on_one_daemon_exchange_datagrams(bluez: object) -> None:
    a, b = on_adapter("hci0"), on_adapter("hci1", dials=False)
    try:
        link_a, link_b = await linked(a, b)
        assert (link_a.initiator, link_b.initiator) == (True, False)
        assert link_a.profile.addressed_octets_max == link_b.profile.addressed_octets_max == 494
        assert link_a.profile.reorder_ms >= 1_000
        for sender, receiver in ((link_a, link_b), (link_b, link_a)):
            datagrams = [number.to_bytes(2, "big") * (1 + number) for number in range(247)]
            for datagram in datagrams:
                await sender.send(datagram)
            async with asyncio.timeout(10):
                assert [await receiver.receive() for _ in datagrams] == datagrams
    finally:
        await a.close()
        await b.close()


async def test_two_adapters_of_one_machine_dial_a_neighbor_each_over_its_own(bus: object) -> None:
    daemon, near = start_daemon(adapters=3), on_adapter("hci2")
    centrals = []
    channels = []
    try:
        await discoverable("hci0", "hci1", "hci2")
        await near.start(b"instan-c")
        await noted(near, "")
        for adapter in ("hci0", "hci1"):
            central = (await open_system_radio(adapter)).central
            assert isinstance(central, BleakCentral)
            centrals.append(central)
            heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()

            def seen(sighting: Sighting, heard: asyncio.Future[str] = heard) -> None:
                if not heard.done():
                    heard.set_result(sighting.address)

            await central.hear(seen, lambda _: None)
            await central.scan(on=True)
            async with asyncio.timeout(20):
                address = await heard
            await central.scan(on=False)
            channels.append(await central.connect(address))
            assert channels[-1].client is not None
            assert f"/{adapter}/" in str(channels[-1].client._backend._device_path)  # type: ignore[attr-defined]
    finally:
        for channel in channels:
            await channel.disconnect()
        for central in centrals:
            await central.close()
        await near.close()
        daemon.kill()
        daemon.wait(5)


async def test_a_bus_that_stands_still_is_waited_for(bus: subprocess.Popen[bytes], bluez: object) -> None:
    """More is said than its socket holds; nothing is lost and the connection to BlueZ does not end."""
    a, b = on_adapter("hci0"), on_adapter("hci1", dials=False)
    sending = None
    try:
        link_a, link_b = await linked(a, b)
        central, peripheral = link_a, link_b
        datagrams = [number.to_bytes(2, "big") * 247 for number in range(800)]

        async def send_all() -> None:
            for datagram in datagrams:
                await peripheral.send(datagram)

        bus.send_signal(signal.SIGSTOP)
        sending = asyncio.create_task(send_all())
        await asyncio.sleep(0.5)
        assert not sending.done()
        bus.send_signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            assert [await central.receive() for _ in datagrams] == datagrams
            await sending
    finally:
        bus.send_signal(signal.SIGCONT)
        if sending is not None:
            sending.cancel()
        await a.close()
        await b.close()


async def test_a_daemon_that_ends_and_comes_back_is_noticed_and_links_are_made_anew(
    bluez: subprocess.Popen[bytes],
) -> None:
    a, b = on_adapter("hci0"), on_adapter("hci1", dials=False)
    daemon = None
    try:
        await linked(a, b)
        bluez.kill()
        for each in (a, b):
            await noted(each, "bluetoothd")
        daemon = start_daemon()
        await discoverable()
        async with asyncio.timeout(60):
            link_a, link_b = await a.next_link(), await b.next_link()
            for sender, receiver in ((link_a, link_b), (link_b, link_a)):
                await sender.send(b"over the new daemon")
                assert await receiver.receive() == b"over the new daemon"
    finally:
        await a.close()
        await b.close()
        if daemon is not None:
            daemon.kill()
            daemon.wait(5)


async def test_what_bleak_knew_of_a_killed_daemon_is_forgotten(bluez: subprocess.Popen[bytes]) -> None:
    """A daemon that is killed does not say that its devices are gone."""
    await open_system_radio("hci1")
    assert (await get_global_bluez_manager())._adapters == {"/org/bluez/hci0", "/org/bluez/hci1"}
    bluez.kill()
    bluez.wait(5)
    daemon = start_daemon(adapters=1)
    try:
        await discoverable("hci0")
        await open_system_radio("hci0")
        assert (await get_global_bluez_manager())._adapters == {"/org/bluez/hci0"}
        with pytest.raises(RadioDown, match="no Bluetooth adapter hci1"):
            await open_system_radio("hci1")
    finally:
        daemon.kill()
        daemon.wait(5)


async def test_an_adapter_that_is_switched_off_and_on_is_noticed(bluez: object) -> None:
    a = on_adapter("hci0")
    await a.start(b"instan-a")
    try:
        await noted(a, "")
        assert await set_property("hci0", "Powered", Variant("b", False))
        await noted(a, "switched off")
        assert await set_property("hci0", "Powered", Variant("b", True))
        await noted(a, "")
    finally:
        await a.close()


async def noted(transport: BleTransport, words: str) -> None:
    """Waits until the notes contain the words, or, without words, until Bluetooth is on."""
    async with asyncio.timeout(30):
        while True:
            notes, on = transport.status().notes, bool(transport.status().listening)
            if (words and any(words in note for note in notes)) or (not words and on):
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("adapter", [None, "hci0"])
async def test_a_machine_without_bluez_is_told(bus: subprocess.Popen[bytes], adapter: str | None) -> None:
    with pytest.raises(RadioDown, match=r"bluetoothd.*systemctl start bluetooth"):
        await open_system_radio(adapter)


async def test_a_machine_without_d_bus_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'nothing'}")
    with pytest.raises(RadioDown, match="no system D-Bus"):
        await open_system_radio(None)


async def test_an_adapter_that_is_not_there_is_told(bluez: object) -> None:
    with pytest.raises(RadioDown, match="no Bluetooth adapter hci7; there is hci0, hci1"):
        await open_system_radio("hci7")


async def test_without_a_name_the_first_adapter_that_is_on_is_used(bluez: object) -> None:
    assert (await open_system_radio(None)).name == "hci0"
    assert await set_property("hci0", "Powered", Variant("b", False))
    assert (await open_system_radio(None)).name == "hci1"
    assert await set_property("hci1", "Powered", Variant("b", False))
    with pytest.raises(RadioDown, match=r"hci0, hci1 is switched off \(bluetoothctl power on\)"):
        await open_system_radio(None)
