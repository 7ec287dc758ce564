"""How long a text takes over a link that loses, and what it costs: with copies when they pay, and without.

    python -m benchmarks.lossy_texts  # the table of docs/link.md, "Copies"

On virtual time, two link endpoints driven as a node drives them. Texts go one way, each when the line is quiet; loss
hits every datagram alike, both ways.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from statistics import mean, quantiles

from benchmarks.links import BAR_PROFILE, DAY_S, Profile, ble, connected, half_duplex, lora, sent_so_far
from benchmarks.two_ends import TwoEnds
from p2pserver.link import Priority
from p2pserver.link import copies as link_copies
from p2pserver.link.timing import FAST_BIT_RATE
from p2pserver.node.sabotage import replaced
from transports.sim import LinkConditions, run_virtual

TEXTS = 120
SLOW_GAP_S = 40.0
LOSSES = (0.0, 0.1, 0.2, 0.3)
SIZES = (60, 600)
"""Octets: about a receipt, and a text with what else is said about it."""
PROFILES = (
    Profile("lan, 1,400", LinkConditions(delay_ms_mean=1, datagram_octets_max=1_400)),
    Profile("full duplex, 256 kbit/s", LinkConditions(delay_ms_mean=100, bit_rate=256_000, datagram_octets_max=1_400)),
    ble(247, 700_000),
    half_duplex("serial, 115,200 bit/s", 115_200, 512),
    BAR_PROFILE,
    half_duplex("serial, 1,200 bit/s", 1_200, 173),
    Profile("LoRa SF7", replace(lora("", "eu868-1").conditions, airtime_ms_per_hour=None)),
)


@dataclass(frozen=True, slots=True)
class Texts:
    seconds: list[float]
    octets: float
    """Of both sides together, for each text."""


def texts(conditions: LinkConditions, loss: float, octets: int, *, copies: bool, count: int = TEXTS) -> Texts:
    async def main() -> Texts:
        world = TwoEnds(replace(conditions, loss=loss), 1)
        await world.connect()
        assert await world.until(connected(world), within_s=DAY_S, every_s=0.1)
        loop = asyncio.get_running_loop()
        sender, receiver = world.ends
        fast = conditions.bit_rate is None or conditions.bit_rate >= FAST_BIT_RATE
        gap_s = 5.0 if fast else SLOW_GAP_S
        await asyncio.sleep(gap_s)
        before = sent_so_far(world).octets
        sent_at: list[float] = []
        for _ in range(count):
            sender.send(world.rng.randbytes(octets), Priority.TEXT)
            sent_at.append(loop.time())
            await asyncio.sleep(gap_s)
        assert await world.until(lambda: len(receiver.received) == count, within_s=DAY_S, every_s=1.0)
        took = [there - here for here, there in zip(sent_at, receiver.received_at, strict=True)]
        spent = sent_so_far(world).octets - before
        await world.stop()
        return Texts(took, spent / count)

    with replaced(link_copies, "LOSS_MIN", link_copies.LOSS_MIN if copies else 2.0):
        return run_virtual(main())


def cell(made: Texts) -> str:
    late_s = quantiles(made.seconds, n=10)[-1]
    return f"{seconds(mean(made.seconds))} {seconds(late_s)} {made.octets:,.0f}"


def seconds(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 1 else f"{value:.1f}"


def row(task: tuple[Profile, int]) -> str:
    profile, octets = task
    cells = []
    for loss in LOSSES:
        without, with_copies = (cell(texts(profile.conditions, loss, octets, copies=on)) for on in (False, True))
        cells.append(without if without == with_copies else f"{without} → {with_copies}")
    return f"| {profile.name} | {octets} | " + " | ".join(cells) + " |"


def main() -> int:
    print("| link | octets | " + " | ".join(f"{loss:.0%} loss" for loss in LOSSES) + " |")
    print("|---" * (2 + len(LOSSES)) + "|")
    tasks = [(profile, octets) for profile in PROFILES for octets in SIZES]
    with ProcessPoolExecutor() as pool:
        for line in pool.map(row, tasks):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
