"""When healing events are posted: one task for each room that has something to heal, with a wait and a second look.

Of all nodes that notice the same, the one that is first for this event set posts after a short wait, the others after
a random one that grows with the airtime of an event and with the number of members; who sees a healing event meanwhile
looks again and usually finds nothing to do. So many nodes that heal at once post a handful of events, not one each.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from p2pserver.rooms.healing import HealingPlan, Outcome
from p2pserver.rooms.service import Rooms
from p2pserver.store.database import Database
from p2pserver.store.tx import Tx

EVENT_OCTETS = 1024
"""About what a healing event takes on a link, with everything around it."""
LOOKS_MAX = 200
"""How often one task looks again, before it waits to be told anew."""
PATIENCE = 8
"""A graph that keeps getting wider is healed after this many waits all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealingTimes:
    """Times in seconds."""

    quiet_s: float = 1.0
    """The event set must not have changed for so long; the node that goes first posts then."""
    slot_s: float = 0.5
    """The others wait for up to as many slots as the room has member servers: about one posts in each."""
    again_s: float = 10.0
    """Between healing events for the current state with nothing else after them, doubled for each."""
    again_max_s: float = 86_400.0
    nothing_to_merge_s: float = 10.0
    """How much longer a node waits that can only repeat what it believes, by an event that the others may accept."""
    hour_s: float = 3_600.0
    per_hour: int = 6
    """Healing events of this node for the current state, in one room: so much a peer that lies can cost."""


def wait_s(times: HealingTimes, plan: HealingPlan, *, airtime_s: float, rng: random.Random) -> float:
    """How long to wait before the event is posted. `airtime_s`: of one event on the slowest link in use."""
    wait = times.quiet_s + 2 * airtime_s
    if not plan.is_first:
        wait += rng.uniform(1, 1 + plan.members) * max(times.slot_s, 4 * airtime_s)
    if plan.states and plan.in_a_row:
        wait += min(times.again_max_s, times.again_s * 2 ** (plan.in_a_row - 1))
    return wait if plan.merges else wait + times.nothing_to_merge_s


class Healer:
    """Heals the rooms of this node. `spawn` runs a task; `slowest_bit_rate` is that of the links in use."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: Rooms,
        rng: random.Random,
        clock: Callable[[], float],
        spawn: Callable[..., None],
        slowest_bit_rate: Callable[[], int | None],
        times: HealingTimes | None = None,
    ) -> None:
        self._database, self._rooms, self._rng = database, rooms, rng
        self._clock, self._spawn, self._slowest_bit_rate = clock, spawn, slowest_bit_rate
        self._times = times or HealingTimes()
        self._noticed: dict[str, int | None] = {}
        """By room that is being looked after: where the stream was when a peer's current state was another one."""
        self._posted: dict[str, deque[float]] = {}
        """By room, when healing events for the current state were posted in the last hour."""

    def notice_width(self, room_id: str) -> None:
        self._notice(room_id, None)

    def notice_difference(self, room_id: str) -> None:
        """A peer with the same events says that its current state is another one."""
        self._notice(room_id, self._database.position)

    def _notice(self, room_id: str, differed_at: int | None) -> None:
        if room_id not in self._noticed:
            self._noticed[room_id] = differed_at
            self._spawn(self._look_after(room_id), name="heal")
        elif differed_at is not None:
            self._noticed[room_id] = differed_at

    async def _look_after(self, room_id: str) -> None:
        moved = 0
        try:
            for _ in range(LOOKS_MAX):
                differed_at = self._noticed[room_id]
                plan = await self._database.read(partial(self._plan, room_id=room_id, differed_at=differed_at))
                if plan is None:
                    if self._noticed[room_id] == differed_at:
                        return
                    continue
                await asyncio.sleep(wait_s(self._times, plan, airtime_s=self._airtime_s(), rng=self._rng))
                if plan.states and not self._has_budget(room_id):
                    return
                heal = partial(self._heal, room_id=room_id, plan=plan, patient=moved < PATIENCE)
                outcome = await self._database.write(heal)
                if plan.states and outcome is Outcome.POSTED:
                    self._posted.setdefault(room_id, deque()).append(self._clock())
                if outcome is Outcome.NOBODY_MAY:
                    return
                moved = moved + 1 if outcome is Outcome.MOVED else 0
        finally:
            del self._noticed[room_id]

    def _has_budget(self, room_id: str) -> bool:
        posted = self._posted.get(room_id)
        while posted and self._clock() - posted[0] > self._times.hour_s:
            posted.popleft()
        if posted is not None and not posted:
            del self._posted[room_id]
        return not posted or len(posted) < self._times.per_hour

    def _plan(self, tx: Tx, *, room_id: str, differed_at: int | None) -> HealingPlan | None:
        return self._rooms.plan_healing(tx, room_id, differed_at=differed_at)

    def _heal(self, tx: Tx, *, room_id: str, plan: HealingPlan, patient: bool) -> Outcome:
        return self._rooms.heal(tx, room_id, plan, patient=patient)

    def _airtime_s(self) -> float:
        bit_rate = self._slowest_bit_rate()
        return 0.0 if bit_rate is None else EVENT_OCTETS * 8 / bit_rate
