"""What is tried inside the guest, with the kernel's Bluetooth and a real bluetoothd: `checks.py RESULTS_FILE`.

Each check writes what it saw; the tests outside judge it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dbus_fast import Variant

from p2pserver.cli import set_up_logging
from tests.transports.ble.radios import until
from tests.transports.ble.talker import Talker
from tests.transports.ble.test_bluez_bus import set_property
from transports.ble import BleTransport
from transports.ble.bluez_bus import BluezBus
from transports.ble.link import BleLink
from transports.ble.radio import Radio
from transports.ble.system import open_system_radio
from transports.contract import LinkDown

ADAPTERS = 3
FOUND_S = 90.0


class Machine:
    """The daemons of the guest."""

    def __init__(self) -> None:
        subprocess.run(["dbus-daemon", "--system", "--fork"], check=True)
        self.air = subprocess.Popen(
            [sys.executable, "-m", "tests.bluez.vhci_air", str(ADAPTERS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.air.stdout is not None
        assert self.air.stdout.readline().strip() == b"air"
        self.bluetoothd = self.start_bluetoothd()

    @staticmethod
    def start_bluetoothd() -> subprocess.Popen[bytes]:
        return subprocess.Popen(["/usr/libexec/bluetooth/bluetoothd", "-n"])

    async def power_on(self) -> None:
        async with asyncio.timeout(60):
            for number in range(ADAPTERS):
                while not await set_property(f"hci{number}", "Powered", Variant("b", True)):  # noqa: ASYNC110
                    await asyncio.sleep(0.5)

    def say(self, line: str) -> None:
        assert self.air.stdin is not None
        assert self.air.stdout is not None
        self.air.stdin.write(line.encode() + b"\n")
        self.air.stdin.flush()
        self.air.stdout.readline()


def transport(adapter: str, short_id: bytes, *, dials: bool = True) -> BleTransport:
    """One whose short id is chosen, and so who dials."""

    async def open_radio() -> Radio:
        radio = await open_system_radio(adapter)
        return radio if dials else replace(radio, central=None)

    return BleTransport(open_radio, random_bytes=lambda _: short_id, rng=random.Random(adapter))


LOW, MIDDLE, HIGH = b"\x01" * 6, b"\x50" * 6, b"\xf0" * 6


async def next_link(of: BleTransport) -> BleLink:
    started = time.monotonic()
    try:
        async with asyncio.timeout(FOUND_S):
            link = await of.next_link()
    except TimeoutError:
        print(await adapters(), flush=True)
        raise TimeoutError(f"no link: {of.status()}") from None
    print(f"  {link.remote} {'out' if link.initiator else 'in'} after {time.monotonic() - started:.1f} s", flush=True)
    return link


async def both_ends(a: BleTransport, b: BleTransport) -> tuple[BleLink, BleLink]:
    """Of one link: where both dialed at the same moment there are two."""
    link_a, link_b = await next_link(a), await next_link(b)
    while link_a.initiator == link_b.initiator:
        link_b = await next_link(b)
    return link_a, link_b


async def adapters() -> str:
    """What BlueZ says of them, for who reads why there was no link."""
    bus = await BluezBus.open()
    try:
        objects = await bus.objects()
    finally:
        bus.close()
    wanted = ("Powered", "Discovering", "ActiveInstances", "Connected", "RSSI", "ServicesResolved")
    lines = []
    for path, item in sorted(objects.items()):
        found = {name: each.value for part in item.values() for name, each in part.items() if name in wanted}
        if found:
            lines.append(f"  {path} {found}")
    return "\n".join(lines)


async def carry(sender: BleLink, receiver: BleLink, count: int) -> dict[str, Any]:
    """Numbered datagrams of the largest size; which came, and how far out of order."""
    most = sender.profile.addressed_octets_max
    sent = [number.to_bytes(2, "big") + random.Random(number).randbytes(most - 2) for number in range(count)]
    arrived: list[bytes] = []
    started = time.monotonic()

    async def take() -> None:
        while len(arrived) < count:
            async with asyncio.timeout(20):
                arrived.append(await receiver.receive())

    async def give() -> None:
        for datagram in sent:
            await sender.send(datagram)

    ended = await asyncio.gather(take(), give(), return_exceptions=True)
    numbers = [int.from_bytes(datagram[:2], "big") for datagram in arrived]
    highest, displaced = -1, 0
    for number in numbers:
        displaced = max(displaced, highest - number)
        highest = max(highest, number)
    return {
        "sent": count,
        "octets": most,
        "intact": len(set(arrived)) == len(arrived) and set(arrived) <= set(sent),
        "arrived": len(arrived),
        "displaced": displaced,
        "ended": [repr(each) for each in ended if each is not None],
        "seconds": round(time.monotonic() - started, 2),
    }


async def two_nodes(machine: Machine) -> dict[str, Any]:
    a, b = transport("hci0", LOW), transport("hci1", HIGH)
    found: dict[str, Any] = {}
    try:
        await a.start(b"instan-a")
        await b.start(b"instan-b")
        link_a, link_b = await both_ends(a, b)
        found["dialed_by_lower"] = link_a.initiator and not link_b.initiator
        found["up"] = await carry(link_a, link_b, 80)
        found["down"] = await carry(link_b, link_a, 80)
        machine.say("part K0 K1")
        started = time.monotonic()
        found["loss_noticed"] = [await until_down(link) for link in (link_a, link_b)]
        found["loss_noticed_s"] = round(time.monotonic() - started, 2)
        machine.say("meet K0 K1")
        link_a, link_b = await both_ends(a, b)
        found["after_loss"] = await carry(link_a, link_b, 10)
        await link_a.close()
        found["close_noticed"] = await until_down(link_b)
        link_a, link_b = await both_ends(a, b)
        found["after_close"] = await carry(link_b, link_a, 10)
        await link_b.close()
        found["close_by_peripheral_noticed"] = await until_down(link_a)
        link_a, link_b = await both_ends(a, b)
        found["messages"] = await messages(link_a, link_b)
    finally:
        await asyncio.gather(a.close(), b.close())
    return found


async def messages(link_a: BleLink, link_b: BleLink) -> dict[str, Any]:
    """Whole messages through the link layer, both ways at once."""
    a, b = Talker(link_a), Talker(link_b)
    text = {talker: random.Random(name).randbytes(20_000) for name, talker in ((1, a), (2, b))}
    running = [asyncio.create_task(talker.run()) for talker in (a, b)]
    try:
        async with asyncio.timeout(60):
            for talker in (a, b):
                talker.say(text[talker], 5_000)
            await until(lambda: len(b"".join(a.received)) >= 20_000 and len(b"".join(b.received)) >= 20_000, 60)
    except TimeoutError:
        print("  messages: not in time", flush=True)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return {"equal": b"".join(a.received) == text[b] and b"".join(b.received) == text[a]}


async def until_down(link: BleLink) -> str:
    started, said = time.monotonic(), ""
    try:
        async with asyncio.timeout(40):
            while True:
                await link.receive()
    except LinkDown as down:
        said = str(down)
    except TimeoutError:
        pass
    print(f"  {link.remote} {said or 'is not'} down after {time.monotonic() - started:.1f} s", flush=True)
    return said


async def three_nodes(_machine: Machine) -> dict[str, Any]:
    """Two centrals of one peripheral: what is notified to one, the other hears as well, and must not take."""
    a, b, c = transport("hci0", LOW), transport("hci1", MIDDLE), transport("hci2", HIGH, dials=False)
    try:
        for number, each in enumerate((a, b, c)):
            await each.start(b"instan-%d" % number)
        links: list[BleLink] = []
        async with asyncio.timeout(FOUND_S):
            while len(links) < 2:
                links.append(await c.next_link())
        theirs = {}
        for each in (a, b):
            async with asyncio.timeout(FOUND_S):
                link = await each.next_link()
                while link.short_id != HIGH:
                    link = await each.next_link()
            theirs[each] = link
        to = {link.tag: link for link in links}
        results = {}
        for name, each in (("a", a), ("b", b)):
            results[name] = await carry(to[theirs[each].tag], theirs[each], 20)
        return {
            "tags": len(to),
            **results,
            "not_for_us": [theirs[each].not_for_us for each in (a, b)],
            "waiting": [len(theirs[each]._inbox) for each in (a, b)],
        }
    finally:
        await asyncio.gather(a.close(), b.close(), c.close())


async def noted(of: BleTransport, words: str) -> bool:
    try:
        await until(lambda: any(words in note for note in of.status().notes), 40)
    except TimeoutError:
        return False
    return True


async def after(trouble: Callable[[BleTransport, BleTransport], Awaitable[None]]) -> dict[str, Any]:
    """Two linked nodes, something that ends their link, and what became of them."""
    a, b = transport("hci0", LOW), transport("hci1", HIGH)
    found: dict[str, Any] = {}
    try:
        await a.start(b"instan-a")
        await b.start(b"instan-b")
        link_a, link_b = await both_ends(a, b)
        found["before"] = await carry(link_a, link_b, 10)
        await trouble(a, b)
        found["noticed"] = [await until_down(link) for link in (link_a, link_b)]
        started = time.monotonic()
        link_a, link_b = await both_ends(a, b)
        found["back_after_s"] = round(time.monotonic() - started, 1)
        found["up"], found["down"] = await carry(link_a, link_b, 10), await carry(link_b, link_a, 10)
        found["notes"] = [*a.status().notes, *b.status().notes]
    finally:
        await asyncio.gather(a.close(), b.close())
    return found


async def daemon_restarts(machine: Machine) -> dict[str, Any]:
    """bluetoothd is killed, stays away for a while, and another begins: twice, for what is left of the first time."""

    async def restart(a: BleTransport, b: BleTransport) -> None:
        machine.bluetoothd.kill()
        machine.bluetoothd.wait()
        assert all([await noted(each, "bluetoothd") for each in (a, b)])
        machine.bluetoothd = machine.start_bluetoothd()
        await machine.power_on()

    return {"first": await after(restart), "second": await after(restart)}


async def adapter_off_and_on(_machine: Machine) -> dict[str, Any]:
    async def switch(adapter: str, of: BleTransport) -> None:
        assert await set_property(adapter, "Powered", Variant("b", False))
        assert await noted(of, "switched off")
        assert await set_property(adapter, "Powered", Variant("b", True))

    async def of_the_central(a: BleTransport, _b: BleTransport) -> None:
        await switch("hci0", a)

    async def of_the_peripheral(_a: BleTransport, b: BleTransport) -> None:
        await switch("hci1", b)

    return {"central": await after(of_the_central), "peripheral": await after(of_the_peripheral)}


async def run_that_crashes(_machine: Machine) -> dict[str, Any]:
    """A process is killed with a link up; BlueZ keeps the connection. The next run on that adapter is found again."""
    found: dict[str, Any] = {}
    for role, adapter, short_id, other in (("central", "hci0", LOW, HIGH), ("peripheral", "hci1", HIGH, LOW)):
        b = transport("hci1" if adapter == "hci0" else "hci0", other)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bluez.checks", "--node", adapter, short_id.hex()), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        a: BleTransport | None = None
        try:
            assert await process.stdout.readline() == b"started\n"
            await b.start(b"instan-b")
            link_b = await next_link(b)
            assert await process.stdout.readline() == b"linked\n"
            process.kill()
            await process.wait()
            await asyncio.sleep(5)
            kept = link_b.is_open
            a = transport(adapter, short_id)
            await a.start(b"instan-a")
            noticed = await until_down(link_b)
            link_a, link_b = await both_ends(a, b)
            up, down = await carry(link_a, link_b, 10), await carry(link_b, link_a, 10)
            found[role] = {"kept_by_bluez": kept, "noticed": noticed, "up": up, "down": down}
        finally:
            if process.returncode is None:
                process.kill()
            await asyncio.gather(b.close(), *([a.close()] if a is not None else []))
    return found


async def node(adapter: str, short_id: bytes) -> None:
    """A process of its own with one node, that says when it has a link."""
    of = transport(adapter, short_id)
    await of.start(b"instan-c")
    print("started", flush=True)
    await of.next_link()
    print("linked", flush=True)
    await asyncio.Event().wait()


CHECKS: dict[str, Callable[[Machine], Awaitable[dict[str, Any]]]] = {
    "two_nodes": two_nodes,
    "three_nodes": three_nodes,
    "adapter_off_and_on": adapter_off_and_on,
    "run_that_crashes": run_that_crashes,
    "daemon_restarts": daemon_restarts,
}


async def main(machine: Machine, wanted: list[str]) -> dict[str, Any]:
    results: dict[str, Any] = {"kernel": os.uname().release}
    await machine.power_on()
    for name in wanted or list(CHECKS):
        started = time.monotonic()
        try:
            results[name] = await CHECKS[name](machine)
        except Exception:  # noqa: BLE001  # the tests outside are told, and the other checks still run
            results[name] = {"failed": traceback.format_exc()}
        print(name, round(time.monotonic() - started, 1), "s", results[name], flush=True)
    machine.bluetoothd.terminate()
    machine.air.kill()
    return results


if __name__ == "__main__":
    set_up_logging("warning", as_json=True)
    logging.getLogger("transports").setLevel(logging.DEBUG)
    if sys.argv[1] == "--node":
        asyncio.run(node(sys.argv[2], bytes.fromhex(sys.argv[3])))
    Path(sys.argv[-1]).write_text(json.dumps(asyncio.run(main(Machine(), sys.argv[1:-1]))))
