"""A hundred nodes join one room in the same second, all through one resident.

    python -m benchmarks.join_storm                      # 100 nodes around one resident, then with 10 % loss
    python -m benchmarks.join_storm --nodes 30 --lan     # everybody in reach of everybody

Whole nodes on a simulated network (docs/simulation.md). Everybody's client asks to join within one second; the first
who is in says something at once, and so does the resident's user when all are in. Counted is what the clients see by
/sync. Exit status 0: all joined, and both messages came to all.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.machine import machine
from p2pserver.node.in_process_client import InProcessClient
from p2pserver.node.shared_verdicts import SharedVerdicts
from p2pserver.node.simulation import RequestFailed, RoomActions, Sabotage, SimulatedMesh
from transports.sim import LinkConditions, run_virtual

PATIENCE_S = 600.0
LOOK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """`lan`: everybody is in reach of everybody, not only of the resident. `bit_rate`: of each link."""

    nodes: int = 100
    loss: float = 0.0
    bit_rate: int = 1_000_000
    lan: bool = False
    seed: int = 1

    @property
    def conditions(self) -> LinkConditions:
        return LinkConditions(
            loss=self.loss, delay_ms_mean=10, jitter_ms=8, bit_rate=self.bit_rate, datagram_octets_max=1_400
        )


@dataclass(slots=True)
class Outcome:
    storm: Storm
    joined_after_s: list[float] = field(default_factory=list)
    asked_again: int = 0
    """How often a client had to ask again, or saw the room appear later, because its first request did not succeed."""
    first_heard_s: list[float] = field(default_factory=list)
    """After it was sent, at each client."""
    last_heard_s: list[float] = field(default_factory=list)
    equal_after_s: float | None = None
    """After the storm began, until all nodes had one SEC digest."""
    events: int = 0
    datagrams: int = 0
    datagrams_lost: int = 0
    octets: int = 0
    errors: list[str] = field(default_factory=list)
    sec: str = ""
    cpu_s: float = 0.0
    memory_mib: int = 0

    @property
    def is_good(self) -> bool:
        everybody = self.storm.nodes
        return (
            len(self.joined_after_s) == len(self.first_heard_s) == everybody
            and len(self.last_heard_s) == everybody
            and self.equal_after_s is not None
            and not self.errors
        )


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())


class Watcher:
    """One user's client: asks to join, then syncs, and notes when it sees what."""

    def __init__(self, client: InProcessClient, room_id: str, via: str) -> None:
        self.client, self.room_id, self.via = client, room_id, via
        self.joined_at: float | None = None
        self.asked_again = 0
        self.heard: dict[str, float] = {}

    async def join(self, rng: random.Random) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(rng.random())
        while self.joined_at is None:
            try:
                await RoomActions.join(self.client, self.room_id, via=self.via)
            except RequestFailed as failed:
                if failed.status < 500 and failed.status != 429:
                    raise
                self.asked_again += 1
                await asyncio.sleep(5)
            else:
                self.joined_at = loop.time()

    async def scroll_back(self) -> None:
        """What was said before the join is history: clients look for it when their user scrolls."""
        loop = asyncio.get_running_loop()
        if self.joined_at is None or "I am the first" in self.heard:
            return
        if "I am the first" in await RoomActions(self.client, self.room_id).messages():
            self.heard["I am the first"] = loop.time()

    async def sync(self) -> None:
        """Syncs for ever."""
        loop, since = asyncio.get_running_loop(), ""
        while True:
            query = {"timeout": "30000", **({"since": since} if since else {})}
            answer: Any = await self.client.request("GET", "/sync", **query)
            since = answer["next_batch"]
            room = answer.get("rooms", {}).get("join", {}).get(self.room_id)
            if room is None:
                continue
            for text in [event["content"].get("body") for event in room["timeline"]["events"]]:
                if text is not None:
                    self.heard.setdefault(text, loop.time())


async def _storm(storm: Storm, shared: SharedVerdicts | None, sabotage: Sabotage | None) -> Outcome:
    outcome, errors, loop = Outcome(storm), _Errors(), asyncio.get_running_loop()
    logger = logging.getLogger("p2pserver")
    logger.addHandler(errors)
    names = ["resident", *(f"n{number:03}" for number in range(storm.nodes))]
    mesh = SimulatedMesh(names, seed=storm.seed, conditions=storm.conditions, shared=shared)
    mesh.network.connected = storm.lan
    if sabotage is not None:
        mesh.nodes["resident"].sabotage = sabotage
    await mesh.start()
    if not storm.lan:
        for name in names[1:]:
            mesh.network.set_link("resident", name, up=True)
    await asyncio.sleep(20)
    host = await RoomActions.create(await mesh.user("resident", "host"), name="storm", preset="public_chat")
    via = mesh.nodes["resident"].server_name
    watchers = {name: Watcher(await mesh.user(name, "user"), host.room_id, via) for name in names[1:]}
    await asyncio.sleep(5)
    before, began = mesh.network.counts.sent, loop.time()
    octets_before = mesh.network.counts.sent_octets
    joins = [asyncio.create_task(each.join(random.Random(f"{storm.seed} {name}"))) for name, each in watchers.items()]
    syncs = [asyncio.create_task(each.sync()) for each in watchers.values()]
    await asyncio.wait(joins, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    first_at = loop.time()
    first = next((each for each in watchers.values() if each.joined_at is not None), None)
    if first is not None:
        await RoomActions(first.client, host.room_id).send("I am the first")
    await asyncio.wait(joins, timeout=PATIENCE_S)
    all_at = loop.time()
    await host.send("welcome, all")
    while loop.time() - began < PATIENCE_S:
        heard = [each.heard for each in watchers.values()]
        if all("welcome, all" in each and "I am the first" in each for each in heard):
            break
        await asyncio.sleep(LOOK_S)
        for each in watchers.values():
            await each.scroll_back()
    agreed = await mesh.until_equal(host.room_id, within_s=PATIENCE_S)
    if agreed is not None:
        outcome.equal_after_s = loop.time() - began
    for each in watchers.values():
        if each.joined_at is not None:
            outcome.joined_after_s.append(each.joined_at - began)
        outcome.asked_again += each.asked_again
        if "I am the first" in each.heard:
            outcome.first_heard_s.append(max(0.0, each.heard["I am the first"] - first_at))
        if "welcome, all" in each.heard:
            outcome.last_heard_s.append(each.heard["welcome, all"] - all_at)
    digest = await mesh.digest("resident", host.room_id)
    assert digest is not None
    outcome.events, outcome.sec = digest.events, digest.sec.hex()
    counts = mesh.network.counts
    outcome.datagrams, outcome.octets = counts.sent - before, counts.sent_octets - octets_before
    outcome.datagrams_lost = counts.lost
    for task in (*joins, *syncs):
        task.cancel()
    failed = await asyncio.gather(*joins, *syncs, return_exceptions=True)
    logger.removeHandler(errors)
    refused = [repr(each) for each in failed if isinstance(each, Exception)]
    outcome.errors = [*errors.found, *refused]
    await mesh.stop()
    return outcome


def run(storm: Storm, *, share: bool = True, sabotage: Sabotage | None = None) -> Outcome:
    cpu = time.process_time()
    if share:
        shared = SharedVerdicts()
        with shared.in_use():
            outcome = run_virtual(_storm(storm, shared, sabotage))
    else:
        outcome = run_virtual(_storm(storm, None, sabotage))
    outcome.cpu_s = time.process_time() - cpu
    outcome.memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return outcome


def report(outcome: Outcome) -> str:
    storm, everybody = outcome.storm, outcome.storm.nodes
    equal = "never" if outcome.equal_after_s is None else f"after {outcome.equal_after_s:.1f} s"
    where = "all in reach of each other" if storm.lan else "each in reach of the resident alone"
    return "\n".join(
        [
            (
                f"{everybody} nodes and a resident, {where}, {storm.bit_rate / 1e6:g} Mbit/s a link, "
                f"{storm.loss:.0%} loss, seed {storm.seed}"
            ),
            (
                f"joined: {len(outcome.joined_after_s)} of {everybody}, {_times(outcome.joined_after_s)}; "
                f"clients that had to ask again: {outcome.asked_again}"
            ),
            (
                f"the first one's message came to {len(outcome.first_heard_s)} of {everybody} clients, "
                f"{_times(outcome.first_heard_s)}; the resident's to {len(outcome.last_heard_s)}, "
                f"{_times(outcome.last_heard_s)}"
            ),
            f"one SEC digest at all nodes: {equal} ({outcome.sec[:16]}, {outcome.events} events)",
            (
                f"datagrams: {outcome.datagrams:,} ({outcome.datagrams_lost:,} lost), {outcome.octets / 1e6:.1f} MB; "
                f"errors: {len(outcome.errors)} {outcome.errors[:2] or ''}"
            ),
            f"{outcome.cpu_s:.0f} s of CPU time, {outcome.memory_mib} MiB",
        ]
    )


def _times(values: Sequence[float]) -> str:
    if not values:
        return "never"
    ordered = sorted(values)
    p50, p95 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95))
    return f"after {p50:.1f} s (p50), {p95:.1f} s (p95), {ordered[-1]:.1f} s (max)"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.join_storm", description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--loss", type=float, action="append", help="0 to 1; may be given more than once")
    parser.add_argument("--bit-rate", type=int, default=1_000_000)
    parser.add_argument("--lan", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    print(machine(), flush=True)
    good = True
    for loss in options.loss or (0.0, 0.1):
        storm = Storm(nodes=options.nodes, loss=loss, bit_rate=options.bit_rate, lan=options.lan, seed=options.seed)
        outcome = run(storm)
        print(report(outcome), flush=True)
        good &= outcome.is_good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
