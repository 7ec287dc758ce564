"""Throughput of Bluetooth LE on a virtual air: what the transport and the link leave of a raw GATT stream.

    python -m benchmarks.ble [--octets 400000] [--seed 1]

The air is paced at the 1M PHY: preamble, header, CRC, the empty packet that answers each, and the spaces between them;
one sends at a time. Paced runs are on virtual time, so the machine's speed is not in them. Unpaced ones are processor
time of both ends in one process, and say what the code costs: the radio then says that it has a gigabit a second, since
the link paces itself to what it is told.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from importlib.metadata import version
from time import process_time
from typing import Any

from benchmarks.machine import machine
from tests.transports.ble.radios import Place, until
from tests.transports.ble.talker import Talker
from tests.transports.ble.virtual_air import VirtualAir
from transports.ble import BleTransport
from transports.ble.link import BleLink
from transports.sim import run_virtual

UNPACED_BIT_RATE = 1_000_000_000
ONE_WAY_BAR = 0.93
BOTH_WAYS_BAR = 0.90
LOW, HIGH = b"\x01" * 6, b"\xf0" * 6


@dataclass(slots=True)
class Ends:
    """Two nodes' transports and the link between them."""

    air: VirtualAir
    transports: tuple[BleTransport, BleTransport]
    links: tuple[BleLink, BleLink]

    @classmethod
    async def meet(cls, *, mtu: int, paced: bool) -> Ends:
        air = VirtualAir(paced=paced)
        bit_rate = 1_000_000 if paced else UNPACED_BIT_RATE
        transports = tuple(
            BleTransport(
                Place(air, name, mtu=mtu, bit_rate=bit_rate),
                random_bytes=lambda _, short_id=short_id: short_id,  # type: ignore[misc]
            )
            for name, short_id in (("a", LOW), ("b", HIGH))
        )
        a, b = transports
        await a.start(b"instan-a")
        await b.start(b"instan-b")
        links = await a.next_link(), await b.next_link()
        await asyncio.sleep(1)  # until the scan that found them has ended
        return cls(air, (a, b), links)

    async def part(self) -> None:
        for transport in self.transports:
            await transport.close()


async def timed(work: Coroutine[Any, Any, None], clock: Callable[[], float] | None = None) -> float:
    """Seconds by the clock, the event loop's if none is given."""
    clock = clock or asyncio.get_running_loop().time
    started = clock()
    await work
    return clock() - started


async def stream(sender: BleLink, receiver: BleLink, octets: int, *, raw: bool) -> None:
    """Full values, one after the other: past the link's own `send` when raw."""
    size = sender.profile.addressed_octets_max
    count = -(-octets // size)
    value = bytes(size)

    async def send() -> None:
        write: Callable[[bytes], Awaitable[None]] = sender.channel.write if raw else sender.send
        for _ in range(count):
            await write(value)

    sending = asyncio.get_running_loop().create_task(send())
    for _ in range(count):
        await receiver.receive()
    await sending


async def converse(links: tuple[BleLink, BleLink], octets: tuple[int, int], seed: int) -> None:
    """Whole messages of 10,000 octets through the link layer, all that is to be sent at once."""
    talkers = [Talker(link) for link in links]
    running = [asyncio.get_running_loop().create_task(talker.run()) for talker in talkers]
    for number, (talker, amount) in enumerate(zip(talkers, octets, strict=True)):
        talker.say(random.Random(seed + number).randbytes(amount))
    expected = tuple(reversed(octets))
    await until(
        lambda: all(sum(map(len, talker.received)) >= each for talker, each in zip(talkers, expected, strict=True)),
        seconds=3_600,
    )
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def both(links: tuple[BleLink, BleLink], octets: int, *, raw: bool) -> None:
    await asyncio.gather(
        stream(links[0], links[1], octets // 2, raw=raw), stream(links[1], links[0], octets // 2, raw=raw)
    )


async def figures(mtu: int, octets: int, seed: int, *, paced: bool) -> dict[str, float]:
    """kbit/s of payload, all directions together: of virtual time when paced, else of processor time."""
    runs: dict[str, Callable[[Ends], Coroutine[Any, Any, None]]] = {
        "raw GATT, central to peripheral": lambda ends: stream(*ends.links, octets, raw=True),
        "raw GATT, peripheral to central": lambda ends: stream(ends.links[1], ends.links[0], octets, raw=True),
        "raw GATT, both ways": lambda ends: both(ends.links, octets, raw=True),
        "transport, central to peripheral": lambda ends: stream(*ends.links, octets, raw=False),
        "link, central to peripheral": lambda ends: converse(ends.links, (octets, 0), seed),
        "link, peripheral to central": lambda ends: converse(ends.links, (0, octets), seed),
        "link, both ways": lambda ends: converse(ends.links, (octets // 2, octets // 2), seed),
    }
    found = {}
    for name, run in runs.items():
        ends = await Ends.meet(mtu=mtu, paced=paced)
        found[name] = 8 * octets / 1_000 / await timed(run(ends), None if paced else process_time)
        await ends.part()
    return found


def report(title: str, found: dict[str, float]) -> dict[str, float]:
    """Prints a table; returns each figure as a part of the raw stream of its direction."""
    print(f"\n{title}")
    parts = {}
    for name, rate in found.items():
        raw = found["raw GATT" + name[name.index(",") :]]
        parts[name] = rate / raw
        print(f"  {name:<34}{rate:10.0f} kbit/s {100 * rate / raw:7.1f} %")
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--octets", type=int, default=400_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(machine(), f"bumble {version('bumble')}")
    parts = report(
        "paced at the 1M PHY, ATT MTU 247",
        run_virtual(figures(247, given.octets, given.seed, paced=True), limit_s=3_600),
    )
    for mtu in (247, 517):
        report(
            f"unpaced, ATT MTU {mtu}, by processor time of both ends",
            asyncio.run(figures(mtu, given.octets, given.seed, paced=False)),
        )
    ways = [parts["link, central to peripheral"], parts["link, peripheral to central"]]
    print(f"\none way: {100 * min(ways):.1f} % of raw (bar {100 * ONE_WAY_BAR:.0f} %)", end="; ")
    print(f"both ways: {100 * parts['link, both ways']:.1f} % (bar {100 * BOTH_WAYS_BAR:.0f} %)")
    if min(ways) < ONE_WAY_BAR or parts["link, both ways"] < BOTH_WAYS_BAR:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
