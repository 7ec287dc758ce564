"""One simulated world in two processes, each with half of the hosts and a virtual clock of its own.

What one half says to the other goes over the *seam* as parcels, and every parcel is under way for at least the
*lookahead*. So neither half can hear of anything sooner than that, and each may go on by itself that long (a
conservative parallel simulation: Chandy and Misra 1979). At the end of what it was granted a half waits for the other;
both tell the time of their next timer and what they have to deliver, and compute the same next grant. Where it is known
that nothing will cross for a while (`quiet_until`), the grant goes on until then. What happens, and when, follows from
the seed alone, however fast either process runs.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeVar

from transports.sim.loop import VirtualTimeLoop

T = TypeVar("T")


class OtherHalfGone(RuntimeError):
    """The other process has ended, and somebody here still waits for a word from it."""


class Parcel(NamedTuple):
    """`what` arrives at `at_s` at the receiver of that name on the other side."""

    at_s: float
    receiver: str
    what: tuple[Any, ...]


class Seam:
    """One side of the seam. Use with `run_beside`.

    `half`: 0 or 1. `quiet_until(t)`: the time, t or later, until which neither half sends anything from t on; a pure
    function that both halves share. A parcel that is sent within such a time is an error.
    """

    def __init__(
        self, connection: Connection, *, half: int, lookahead_s: float, quiet_until: Callable[[float], float]
    ) -> None:
        if lookahead_s <= 0:
            raise ValueError("without a lookahead neither half could ever go on")
        self.half = half
        self.lookahead_s = lookahead_s
        self.exchanges = 0
        self.waited_s = 0.0
        """Of real time, for the other half."""
        self._connection = connection
        self._quiet_until = quiet_until
        self._outgoing: list[Parcel] = []
        self._granted_s = -math.inf
        self._receivers: dict[str, Callable[..., None]] = {"word": self._word_arrives}
        self._words: list[Any] = []
        self._heard = asyncio.Event()
        self._alone = False

    def register(self, receiver: str, call: Callable[..., None]) -> None:
        """`call(*what)` is called for each parcel to `receiver`, when it arrives."""
        self._receivers[receiver] = call

    def send(self, receiver: str, *what: Any, after_s: float) -> None:
        """`what` is made of what `pickle` takes. Raises: ValueError when it would arrive too soon, or nothing was said
        to be sent now."""
        now_s = asyncio.get_running_loop().time()
        if after_s < self.lookahead_s or self._quiet_until(now_s) > now_s:
            raise ValueError(f"a parcel to {receiver} at {now_s:.3f} s that the other half does not wait for")
        self._outgoing.append(Parcel(now_s + after_s, receiver, what))

    async def gather(self, word: T) -> list[T]:
        """The words of both halves, in their order. Both call it at the same time; it takes the lookahead.

        Raises: OtherHalfGone.
        """
        self.send("word", word, after_s=self.lookahead_s)
        while not self._words:
            if self._alone:
                raise OtherHalfGone("the other half of the simulation has ended")
            self._heard.clear()
            await self._heard.wait()
        other = self._words.pop(0)
        return [word, other] if self.half == 0 else [other, word]

    def _word_arrives(self, word: Any) -> None:
        self._words.append(word)
        self._heard.set()

    def may_pass_to(self, then_s: float, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether nothing can arrive any more before `then_s`. If not, what has arrived is now on the loop's timers."""
        if self._alone or then_s < self._granted_s:
            return True
        self.exchanges += 1
        told = self._exchange(then_s)
        if told is None:
            self._alone = True
            self._heard.set()
            return False
        their_next_s, parcels = told
        for parcel in parcels:
            loop.call_at(parcel.at_s, self._receivers[parcel.receiver], *parcel.what)
        first_s = min([then_s, their_next_s, *(parcel.at_s for parcel in (*parcels, *self._outgoing))])
        self._outgoing = []
        self._granted_s = max(first_s + self.lookahead_s, self._quiet_until(first_s)) if first_s < math.inf else first_s
        return first_s == math.inf

    def _exchange(self, next_s: float) -> tuple[float, list[Parcel]] | None:
        """What the other half tells; None if it is done. One speaks first: two that both write might never read."""
        told: tuple[float, list[Parcel]] | None = None
        try:
            if self.half == 0:
                self._connection.send((next_s, self._outgoing))
            began_s = time.perf_counter()
            told = self._connection.recv()
            self.waited_s += time.perf_counter() - began_s
            if self.half == 1 and told is not None:
                self._connection.send((next_s, self._outgoing))
        except (EOFError, OSError):
            return None
        return told

    def close(self) -> None:
        """This half is done: the other may go on as it likes."""
        if not self._alone:
            self._alone = True
            try:
                self._connection.send(None)
            except OSError:
                return


class _BesideLoop(VirtualTimeLoop):
    _ready: deque[asyncio.Handle]

    def __init__(self, seam: Seam, *, limit_s: float | None) -> None:
        super().__init__(limit_s=limit_s)
        self._seam = seam

    def _pass_time(self, timeout: float | None) -> None:
        if timeout is None or timeout > 0:
            while not self._seam.may_pass_to(self._scheduled[0].when() if self._scheduled else math.inf, self):
                if self._ready:
                    return
            if self._scheduled:
                timeout = 1.0
        super()._pass_time(timeout)


def run_beside(seam: Seam, main: Coroutine[Any, Any, T], *, limit_s: float | None = None) -> T:
    """As `run_virtual`, in step with the other half, which another process runs likewise."""
    with asyncio.Runner(loop_factory=lambda: _BesideLoop(seam, limit_s=limit_s)) as runner:
        try:
            return runner.run(main)
        finally:
            seam.close()
