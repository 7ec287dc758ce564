"""Keeps what each metered radio has used of its airtime, so that who starts again gets none for a second time.

It is written down whenever a hundredth of the hour's airtime more was used: at most some hundred small commits an hour,
none while nothing is sent. After a crash a little more counts as used than was written: what may have been sent before
the last commit was through, the largest datagram included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from p2pserver.link import AirtimeBudget
from p2pserver.store.airtime import AirtimeUsed, save_airtime, saved_airtime
from p2pserver.store.database import Database
from p2pserver.store.tx import Tx

SAVED_SHARE = 0.01
"""Of the hour's airtime: when so much more was used, it is written down."""
LOST_SHARE = 0.06
"""Of the hour's airtime, counted as used after a crash: `SAVED_SHARE` and a datagram (a twentieth at most)."""


class AirtimeKeeper:
    """`recall` once, then `keep` each budget when it is made, with `run` beside; `save` when the node stops."""

    def __init__(
        self, database: Database, *, clock: Callable[[], float], wall_ms: Callable[[], int], build_ms: int
    ) -> None:
        """A wall clock that reads less than `build_ms` is not set, and tells nothing of how long the node was off."""
        self._database = database
        self._clock = clock
        self._wall_ms = wall_ms
        self._build_ms = build_ms
        self._saved: dict[str, AirtimeUsed] = {}
        self._budgets: dict[str, AirtimeBudget] = {}
        self._grown = asyncio.Event()

    async def recall(self) -> None:
        self._saved = await self._database.read(saved_airtime)

    def keep(self, radio: str, budget: AirtimeBudget) -> None:
        """What the radio used before counts in its new budget."""
        saved, now = self._saved.pop(radio, None), self._clock()
        if saved is not None:
            budget.remember([(age_s + self._off_s(saved), used_s) for age_s, used_s in saved.used], now)
            if not saved.is_whole:
                budget.spend(LOST_SHARE * budget.limit_s, now)
        budget.watch(SAVED_SHARE * budget.limit_s, self._grown.set)
        self._budgets[radio] = budget

    def _off_s(self, saved: AirtimeUsed) -> float:
        """How long ago it was written; 0, if that is not known."""
        now_ms = self._wall_ms()
        return (now_ms - saved.saved_ms) / 1000 if self._build_ms <= saved.saved_ms <= now_ms else 0.0

    async def run(self) -> None:
        while True:
            await self._grown.wait()
            self._grown.clear()
            await self.save(is_whole=False)

    async def save(self, *, is_whole: bool) -> None:
        """`is_whole`: nothing is sent any more."""
        now, saved_ms = self._clock(), self._wall_ms()
        used = {radio: budget.used_of_late(now) for radio, budget in self._budgets.items()}

        def write(tx: Tx) -> None:
            for radio, its in used.items():
                save_airtime(tx, radio, its, saved_ms=saved_ms, is_whole=is_whole)

        if used:
            await self._database.write(write)
