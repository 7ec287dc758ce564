"""What each kind of link costs, in datagrams, octets and time: the tables of docs/links.md.

    python -m benchmarks.links            # all of it; minutes
    python -m benchmarks.links --write    # and puts it into docs/links.md
    python -m benchmarks.links --bar      # 50 kB at 9,600 bit/s, half duplex; exit status 0: the bar holds

On virtual time. Handshakes and 50 kB: two link endpoints, driven as a node drives them. The rest: two whole nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.machine import machine
from benchmarks.two_ends import TwoEnds
from p2pserver.link import Priority
from p2pserver.link.timing import FAST_BIT_RATE
from p2pserver.node.in_process_client import RequestFailed
from p2pserver.node.simulation import RoomActions, SimulatedMesh
from transports.contract import DUTY_CYCLES
from transports.sim import LinkConditions, run_virtual

PAGE = Path(__file__).parents[1] / "docs" / "links.md"
BEGIN, END = "<!-- made by python -m benchmarks.links --write -->\n", "<!-- end -->\n"

OCTETS = 50_000
LOSSES = (0.0, 0.1, 0.2, 0.3)
SEEDS = range(5)
BAR = 0.8
"""Of the line rate, times the share of the datagrams that arrives: the least median goodput on `BAR_PROFILE`."""
MEMBERS = 20
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Profile:
    name: str
    conditions: LinkConditions


def half_duplex(name: str, bit_rate: int, octets: int, *, loss: float = 0.0) -> Profile:
    return Profile(
        name,
        LinkConditions(bit_rate=bit_rate, half_duplex=True, datagram_octets_max=octets, delay_ms_mean=5, loss=loss),
    )


def lora(name: str, duty_cycle: str) -> Profile:
    """SF7 at 125 kHz, coding rate 4/5: 57 ms for 20 octets, 374 ms for 237, and nearly linear between."""
    return Profile(
        name,
        LinkConditions(
            bit_rate=5_476,
            datagram_overhead_ms=28,
            half_duplex=True,
            datagram_octets_max=222,
            delay_ms_mean=5,
            airtime_ms_per_hour=DUTY_CYCLES[duty_cycle],
        ),
    )


def ble(mtu: int, bit_rate: int) -> Profile:
    """1M PHY, 30 ms between connection events; `bit_rate` of the payload of ATT."""
    octets = mtu - 3
    return Profile(f"ble, MTU {mtu}", LinkConditions(bit_rate=bit_rate, datagram_octets_max=octets, delay_ms_mean=15))


BAR_PROFILE = half_duplex("serial, 9,600 bit/s", 9_600, 255)
PROFILES = (
    Profile("lan", LinkConditions(delay_ms_mean=1)),
    ble(247, 700_000),
    ble(185, 600_000),
    ble(23, 90_000),
    half_duplex("serial, 115,200 bit/s", 115_200, 512),
    BAR_PROFILE,
    half_duplex("serial, 1,200 bit/s", 1_200, 173),
    half_duplex("serial, 300 bit/s", 300, 89),
    lora("LoRa SF7, EU868 10 %", "eu868-10"),
    lora("LoRa SF7, EU868 1 %", "eu868-1"),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of both sides together."""

    datagrams: int
    octets: int
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.datagrams:,} / {self.octets:,}"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Of 50 kB, one way."""

    seconds: float | None
    """None: it did not arrive within a day."""
    cost: Cost


def quiet_s(profile: Profile) -> float:
    """After this time everything that belongs to something has been said; a fast link then begins to be kept alive."""
    bit_rate = profile.conditions.bit_rate
    return 5 if bit_rate is None or bit_rate >= FAST_BIT_RATE else 120


def connected(world: TwoEnds) -> Callable[[], bool]:
    return lambda: all(end.conversation.attached for end in world.ends)


def sent_so_far(world: TwoEnds) -> Cost:
    links = [end.link for end in world.ends if end.link is not None]
    return Cost(sum(link.datagrams for link in links), sum(link.octets for link in links))


def handshake(profile: Profile, *, known: bool) -> Cost:
    """Until both sides know each other and nothing is left to say. `known`: they have met before."""

    async def main() -> Cost:
        world = TwoEnds(profile.conditions, 1, known=known)
        await world.connect()
        assert await world.until(connected(world), within_s=DAY_S)
        await asyncio.sleep(quiet_s(profile))
        cost = sent_so_far(world)
        await world.stop()
        return cost

    return run_virtual(main())


def transfer(conditions: LinkConditions, loss: float, seed: int) -> Transfer:
    """50 kB from one side to the other, over a link that is connected already."""

    async def main() -> Transfer:
        world = TwoEnds(replace(conditions, loss=loss), seed)
        await world.connect()
        assert await world.until(connected(world), within_s=DAY_S, every_s=0.1)
        await asyncio.sleep(30)
        loop = asyncio.get_running_loop()
        before, began = sent_so_far(world), loop.time()
        sender, receiver = world.ends
        message = world.rng.randbytes(OCTETS)
        sender.send(message, Priority.MEDIA)
        step_s = 0.001 if conditions.bit_rate is None else min(1.0, OCTETS * 8 / conditions.bit_rate / 1_000)
        if conditions.airtime_ms_per_hour is not None:
            step_s = 1.0
        arrived = await world.until(lambda: bool(receiver.received), within_s=DAY_S, every_s=step_s)
        seconds = loop.time() - began
        after = sent_so_far(world)
        if arrived and receiver.received != [message]:
            raise AssertionError("something else arrived")
        await world.stop()
        cost = Cost(after.datagrams - before.datagrams, after.octets - before.octets, seconds)
        return Transfer(seconds if arrived else None, cost)

    return run_virtual(main())


def goodput(conditions: LinkConditions, transfers: Sequence[Transfer]) -> float | None:
    """The median share of the line rate that was payload; what did not arrive counts as nothing. None: no line rate."""
    if conditions.bit_rate is None:
        return None
    shares = [0.0 if it.seconds is None else OCTETS * 8 / it.seconds / conditions.bit_rate for it in transfers]
    return median(shares)


@dataclass(frozen=True, slots=True)
class NodeCosts:
    contact: Cost
    join: Cost | None
    message: Cost
    idle_hour: Cost


def whole_nodes(profile: Profile) -> NodeCosts:
    """Two nodes: they meet; one of 20 members on the first joins on the second; a text; an hour of silence."""

    async def main() -> NodeCosts:
        mesh = SimulatedMesh(["a", "b"], seed=5, conditions=profile.conditions)
        counts, loop = mesh.network.counts, asyncio.get_running_loop()
        mark = (0, 0, 0.0)

        def spent(seconds: float = 0.0) -> Cost:
            nonlocal mark
            now = (counts.sent, counts.sent_octets, loop.time())
            cost = Cost(now[0] - mark[0], now[1] - mark[1], seconds)
            mark = now
            return cost

        await mesh.start()
        await asyncio.sleep(2.5 * quiet_s(profile))
        contact = spent()
        members = [await mesh.user("a", f"member{number}") for number in range(MEMBERS - 1)]
        room = await RoomActions.create(members[0], preset="public_chat")
        for member in members[1:]:
            await RoomActions.join(member, room.room_id)
        newcomer = await mesh.user("b", "newcomer")
        await asyncio.sleep(60)
        spent()
        began = loop.time()
        with suppress(RequestFailed):  # slow: the join goes on in the background
            await RoomActions.join(newcomer, room.room_id, via=mesh.nodes["a"].server_name)
        equal = await mesh.until_equal(room.room_id, within_s=DAY_S)
        join = None if equal is None else spent(loop.time() - began)
        await asyncio.sleep(4 * 3_600)
        spent()
        began = loop.time()
        await room.send("twenty characters!!!")
        await mesh.until_equal(room.room_id, within_s=DAY_S)
        seconds = loop.time() - began
        await asyncio.sleep(quiet_s(profile))
        message = spent(seconds)
        await asyncio.sleep(3 * 3_600)
        spent()
        await asyncio.sleep(6 * 3_600)
        whole = spent()
        await mesh.stop()
        idle = Cost(round(whole.datagrams / 6), round(whole.octets / 6))
        return NodeCosts(contact, join, message, idle)

    return run_virtual(main())


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


def rows(profile: Profile) -> tuple[str, str]:
    """Its rows of the two tables."""
    by_loss = [[transfer(profile.conditions, loss, seed) for seed in SEEDS] for loss in LOSSES]
    nodes = whole_nodes(profile)
    join = "not within a day" if nodes.join is None else f"{nodes.join}, {duration(nodes.join.seconds)}"
    columns = (
        profile.name,
        f"{profile.conditions.datagram_octets_max:,}",
        handshake(profile, known=False),
        handshake(profile, known=True),
        nodes.contact,
        join,
        f"{nodes.message}, {duration(nodes.message.seconds)}",
        nodes.idle_hour,
        by_loss[0][0].cost,
    )
    costs = f"| {' | '.join(map(str, columns))} |"
    cells = []
    for runs in by_loss:
        times = [run.seconds for run in runs if run.seconds is not None]
        share = goodput(profile.conditions, runs)
        told = [f"{len(times)} of {len(runs)}"]
        if times:
            told.append(duration(median(times)))
        if share is not None and profile.conditions.airtime_ms_per_hour is None:
            told.append(f"{share:.2f}")
        cells.append(", ".join(told))
    return costs, f"| {profile.name} | " + " | ".join(cells) + " |"


def table(profiles: Sequence[Profile]) -> Iterator[str]:
    with ProcessPoolExecutor() as pool:
        made = list(pool.map(rows, profiles))
    yield "Datagrams / octets of both directions together, without loss:"
    yield ""
    yield (
        "| link | largest datagram | handshake | of those who have met | contact of two nodes | join of a room of 20 "
        "| a text of 20 characters | idle hour | 50 kB |"
    )
    yield "|---" * 9 + "|"
    yield from (costs for costs, _ in made)
    yield ""
    yield (
        "50 kB one way, over five seeds at each loss (of datagrams, both directions): how many arrived, the median "
        "time, and the median goodput as a share of the line rate, where there is one and airtime is not rationed:"
    )
    yield ""
    yield "| link | " + " | ".join(f"{loss:.0%} loss" for loss in LOSSES) + " |"
    yield "|---" * (len(LOSSES) + 1) + "|"
    yield from (cells for _, cells in made)


def bar() -> tuple[list[str], list[str]]:
    """(lines for people, what is missing): 50 kB over `BAR_PROFILE`."""
    lines, missing = [], []
    for loss in LOSSES:
        runs = [transfer(BAR_PROFILE.conditions, loss, seed) for seed in SEEDS]
        arrived = sum(run.seconds is not None for run in runs)
        share = goodput(BAR_PROFILE.conditions, runs) or 0.0
        least = (1 - loss) * BAR
        lines.append(f"{loss:.0%} loss: {arrived} of {len(runs)} arrived, goodput {share:.3f}, at least {least:.3f}")
        if arrived < len(runs) or share < least:
            missing.append(lines[-1])
    return lines, missing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bar", action="store_true", help="only 50 kB at 9,600 bit/s")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/links.md")
    options = parser.parse_args()
    if options.bar:
        lines, missing = bar()
        print("\n".join(lines))
        return 1 if missing else 0
    text = "\n".join(table(PROFILES))
    ran = f"`python -m benchmarks.links`, on virtual time; {machine()}."
    print(f"{text}\n\n{ran}")
    if options.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n\n{ran}\n\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
