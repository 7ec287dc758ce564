"""A peer whose events are dear to judge leaves the writer to others in between."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

from p2pserver.federation.effects import Receive
from p2pserver.node.exchange import DEAR_UNIT_S, PDUS_PER_UNIT, Exchange
from p2pserver.rooms.values import ReceiveReport, RoomLimits
from transports.sim import run_virtual


class SlowDatabase:
    """Takes some virtual time for each unit, and notes when they began and ended."""

    def __init__(self, unit_s: float) -> None:
        self.unit_s = unit_s
        self.spans: list[tuple[float, float]] = []

    async def write(self, unit: Any) -> Any:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(self.unit_s)
        self.spans.append((began, loop.time()))
        return unit(SimpleNamespace(execute=lambda *_: []))


def spans_of(unit_s: float, pdus: int) -> list[tuple[float, float]]:
    async def main() -> list[tuple[float, float]]:
        database = SlowDatabase(unit_s)
        rooms = SimpleNamespace(
            receive=lambda tx, *, raws, **_: ReceiveReport(missing=[f"${len(raws)}"]),
            context=SimpleNamespace(limits=RoomLimits()),
        )
        told: list[Any] = []
        session = SimpleNamespace(
            server_name="other", peering=SimpleNamespace(received=lambda *arguments: told.append(arguments))
        )
        exchange = Exchange(
            database=database,  # type: ignore[arg-type]
            rooms=rooms,  # type: ignore[arg-type]
            handlers={},
            mesh=SimpleNamespace(),  # type: ignore[arg-type]
            clock=asyncio.get_running_loop().time,
        )
        effect = Receive(room_id="!r", pdus=tuple({} for _ in range(pdus)), in_answer=True, more=False, asked=())
        await exchange.execute(session, [effect])  # type: ignore[arg-type]
        assert len(told) == 1
        return database.spans

    return run_virtual(main())


def test_an_answer_is_judged_in_parts() -> None:
    spans = spans_of(0.01, 3 * PDUS_PER_UNIT + 1)
    assert len(spans) == 4
    assert all(later[0] == earlier[1] for earlier, later in itertools.pairwise(spans))


def test_dear_parts_are_followed_by_a_pause_as_long() -> None:
    unit_s = 5 * DEAR_UNIT_S
    spans = spans_of(unit_s, 2 * PDUS_PER_UNIT)
    assert spans[1][0] - spans[0][1] >= unit_s * 0.99
