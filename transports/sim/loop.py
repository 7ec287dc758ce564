"""An event loop whose clock is virtual: it jumps to the next timer when nothing else is left to do.

A week in which little happens costs nothing, a run is repeated exactly by its seed, and a program that waits for
something that nobody will ever do is caught at once instead of hanging.

It is `asyncio.BaseEventLoop` with one part replaced: where a real loop asks the operating system to wait for sockets
until the next timer is due, this one moves its clock there. There are no sockets, threads, processes or signals: they
would bring real time back, and each raises `RealTimeUsed`.

Equal seeds give equal runs as long as nothing depends on the order of a set of objects that hash by address, such as
the sets of tasks that `asyncio.wait` returns, or on a source of randomness or time outside the loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Never, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_IDLE_TURNS_MAX = 2_000_000


class Deadlock(RuntimeError):
    """Somebody still waits, and no timer is left that could wake anybody."""


class Livelock(RuntimeError):
    """Callbacks schedule each other without end and the clock stands still."""


class OutOfTime(RuntimeError):
    """The limit on virtual time was reached."""


class RealTimeUsed(RuntimeError):
    """Something needs a thread, a socket or a process, which virtual time cannot wait for."""


class _ClockInsteadOfSelector:
    """Stands where the loop expects a selector: waiting moves the clock."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Never]:
        self._loop._pass_time(timeout)  # noqa: SLF001
        return []


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """Its `time()` begins at `start_s` and moves only when everybody waits.

    Raises, out of `run_until_complete`: Deadlock; Livelock; OutOfTime when the clock would pass `limit_s`.
    """

    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, *, start_s: float = 0.0, limit_s: float | None = None) -> None:
        super().__init__()
        self._now_s = start_s
        self._limit_s = limit_s
        self._turns_at_this_time = 0
        self._clock_resolution = 1e-9
        self._selector = _ClockInsteadOfSelector(self)

    def time(self) -> float:
        return self._now_s

    def _pass_time(self, timeout: float | None) -> None:
        """What the loop does instead of waiting: None, nothing is scheduled; 0, something is ready."""
        if timeout is None:
            raise Deadlock(self._who_waits())
        if timeout <= 0:
            self._turns_at_this_time += 1
            if self._turns_at_this_time > _IDLE_TURNS_MAX:
                self._turns_at_this_time = 0  # so that what is cancelled now can still clean up
                raise Livelock(f"the clock stands at {self._now_s:.3f} s; {self._who_waits()}")
            return
        self._turns_at_this_time = 0
        then_s = self._scheduled[0].when()
        if self._limit_s is not None and then_s > self._limit_s:
            limit_s, self._limit_s = self._limit_s, None  # so that what is cancelled now can still clean up
            raise OutOfTime(f"not done after {limit_s:.3f} s of virtual time; {self._who_waits()}")
        self._now_s = max(self._now_s, then_s)

    def _who_waits(self) -> str:
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
        lines = [f"{len(tasks)} tasks wait at {self._now_s:.3f} s"]
        for task in tasks[:20]:
            stack = task.get_stack(limit=1)
            where = f"{stack[-1].f_code.co_filename}:{stack[-1].f_lineno}" if stack else "not started"
            lines.append(f"  {task.get_name()} {getattr(task.get_coro(), '__qualname__', '')} at {where}")
        return "\n".join(lines)

    def _process_events(self, event_list: list[Never]) -> None:
        """There are none: the selector that is not one returns no events."""

    def _write_to_self(self) -> None:
        """Nothing to wake: the loop never sleeps."""

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if self.is_running() and threading.get_ident() != self._thread_id:  # type: ignore[attr-defined]
            raise RealTimeUsed("another thread calls into a loop on virtual time")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: object) -> asyncio.Future[T]:
        raise RealTimeUsed(f"{func!r} would run in a thread, which virtual time cannot wait for")

    async def create_connection(self, *args: object, **kwargs: object) -> Never:
        raise RealTimeUsed("there are no sockets on virtual time")

    async def create_server(self, *args: object, **kwargs: object) -> Never:
        raise RealTimeUsed("there are no sockets on virtual time")

    async def create_datagram_endpoint(self, *args: object, **kwargs: object) -> Never:
        raise RealTimeUsed("there are no sockets on virtual time")

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: object) -> Never:
        raise RealTimeUsed("there are no signals on virtual time")


def run_virtual(main: Coroutine[Any, Any, T], *, start_s: float = 0.0, limit_s: float | None = None) -> T:
    """Runs `main` to its end on virtual time, then cancels and awaits what it left behind, as `asyncio.run` does.

    `limit_s` is the clock's last admissible value. Raises what `main` raises, or what `VirtualTimeLoop` raises.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start_s=start_s, limit_s=limit_s)) as runner:
        return runner.run(main)
