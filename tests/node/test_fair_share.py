"""A peer whose events are dear to judge leaves the writer to others in between."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from p2pserver.federation.effects import Receive
from p2pserver.node.exchange import DEAR_UNIT_S, Exchange
from p2pserver.node.session import PDUS_PER_UNIT_MAX
from p2pserver.rooms.values import ReceiveReport, RoomLimits
from transports.sim import run_virtual


class Bench:
    """An exchange whose rooms take a set time for each PDU, on a clock of their own, and whose commits take long."""

    def __init__(self, pdu_s: Callable[[int], float], commit_s: float = 0.5) -> None:
        self.pdu_s, self.commit_s = pdu_s, commit_s
        self.worked_s = 0.0
        self.judged = 0
        self.units: list[tuple[int, float]] = []
        """PDUs of each unit, and how long the exchange paused before it."""
        self._ended_s: float | None = None

    def clock(self) -> float:
        return asyncio.get_running_loop().time() + self.worked_s

    async def write(self, unit: Any) -> Any:
        now_s = asyncio.get_running_loop().time()
        paused_s = 0.0 if self._ended_s is None else now_s - self._ended_s
        before = self.judged
        result = unit(SimpleNamespace(execute=lambda *_: []))
        await asyncio.sleep(self.commit_s)
        self.units.append((self.judged - before, paused_s))
        self._ended_s = asyncio.get_running_loop().time()
        return result

    def receive(self, tx: object, *, raws: Any, **_: object) -> ReceiveReport:
        for _raw in raws:
            self.worked_s += self.pdu_s(self.judged)
            self.judged += 1
        return ReceiveReport()


def units_for(bench: Bench, pdus: int) -> list[tuple[int, float]]:
    async def main() -> None:
        told: list[Any] = []
        session = SimpleNamespace(
            server_name="other",
            pdus_per_unit=PDUS_PER_UNIT_MAX,
            peering=SimpleNamespace(received=lambda *arguments: told.append(arguments)),
        )
        rooms = SimpleNamespace(
            receive=bench.receive,
            width=lambda *_: 1,
            denies=lambda *_: False,
            context=SimpleNamespace(limits=RoomLimits()),
        )
        exchange = Exchange(
            database=bench,  # type: ignore[arg-type]
            rooms=rooms,  # type: ignore[arg-type]
            handlers={},
            mesh=SimpleNamespace(),  # type: ignore[arg-type]
            gossip=SimpleNamespace(),  # type: ignore[arg-type]
            clock=bench.clock,
            wall_ms=lambda: 0,
            healer=SimpleNamespace(),  # type: ignore[arg-type]
            media=SimpleNamespace(),  # type: ignore[arg-type]
        )
        effect = Receive(room_id="!r", pdus=tuple({} for _ in range(pdus)), in_answer=True, more=False, asked=())
        await exchange.execute(session, [effect])  # type: ignore[arg-type,list-item]
        assert len(told) == 1

    run_virtual(main())
    assert sum(count for count, _ in bench.units) == pdus
    return bench.units


def test_an_answer_is_judged_in_parts_however_slow_the_disk_is() -> None:
    units = units_for(Bench(lambda _: 0.001, commit_s=5.0), 3 * PDUS_PER_UNIT_MAX + 1)
    assert units == [(PDUS_PER_UNIT_MAX, 0.0)] * 3 + [(1, 0.0)]


def test_an_empty_answer_is_an_answer_too() -> None:
    assert units_for(Bench(lambda _: 0.001), 0) == [(0, 0.0)]


def test_dear_events_are_judged_few_at_a_time_with_pauses_as_long() -> None:
    dear_s = DEAR_UNIT_S * 1.1
    units = units_for(Bench(lambda _: dear_s), 60)
    assert [count for count, _ in units[:4]] == [32, 8, 2, 1]
    assert all(count == 1 for count, _ in units[3:])
    for (count, _), (_, paused_s) in itertools.pairwise(units):
        assert paused_s >= count * dear_s * 0.99


def test_a_peer_that_becomes_cheap_again_is_judged_at_full_speed_again() -> None:
    units = units_for(Bench(lambda number: DEAR_UNIT_S * 1.1 if number < 40 else 0.0), 300)
    assert max(count for count, _ in units[3:]) == PDUS_PER_UNIT_MAX
