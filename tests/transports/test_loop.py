"""Virtual time: it jumps, it repeats itself, and it says so when nothing can go on."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from transports.sim import Deadlock, Livelock, OutOfTime, RealTimeUsed, run_virtual


def test_a_week_is_over_at_once() -> None:
    async def week() -> float:
        for _ in range(7 * 24):
            await asyncio.sleep(3_600)
        return asyncio.get_running_loop().time()

    started_s = time.monotonic()
    assert run_virtual(week()) == pytest.approx(7 * 86_400)
    assert time.monotonic() - started_s < 2


def test_it_starts_where_it_is_told_and_timers_fire_in_order() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        fired: list[float] = []
        for delay_s in (3.0, 1.0, 2.0, 0.5):
            loop.call_later(delay_s, lambda: fired.append(loop.time()))
        await asyncio.sleep(5)
        return fired

    assert run_virtual(main(), start_s=100.0) == pytest.approx([100.5, 101, 102, 103])


def test_timeouts_and_cancellation_work_as_on_a_real_loop() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(1_000), 40)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(100)


def test_waiting_for_nobody_is_a_deadlock_that_names_who_waits() -> None:
    async def waits_forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="waits_forever"):
        run_virtual(waits_forever())


def test_spinning_without_end_is_a_livelock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transports.sim.loop._IDLE_TURNS_MAX", 1_000)

    async def spins() -> None:
        for _ in range(1_000_000):
            await asyncio.sleep(0)

    with pytest.raises(Livelock, match="spins"):
        run_virtual(spins())


def test_the_limit_on_time_is_kept_and_cleanup_still_runs() -> None:
    cleaned: list[float] = []

    async def too_long() -> None:
        try:
            for _ in range(1_000):
                await asyncio.sleep(10)
        finally:
            await asyncio.sleep(1)
            cleaned.append(asyncio.get_running_loop().time())

    with pytest.raises(OutOfTime, match="95"):
        run_virtual(too_long(), limit_s=95)
    assert cleaned == [pytest.approx(91)]


def test_threads_and_sockets_are_refused() -> None:
    async def thread() -> None:
        await asyncio.to_thread(time.sleep, 0)

    async def connection() -> None:
        await asyncio.open_connection("127.0.0.1", 1)

    async def server() -> None:
        await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)

    async def datagrams() -> None:
        await asyncio.get_running_loop().create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))

    async def name() -> None:
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)

    async def plain_socket() -> None:
        with socket.socket() as made:
            made.setblocking(False)
            await asyncio.get_running_loop().sock_recv(made, 1)

    for forbidden in (thread, connection, server, datagrams, name, plain_socket):
        with pytest.raises((RealTimeUsed, NotImplementedError)):
            run_virtual(forbidden())


def test_another_thread_cannot_call_in() -> None:
    refusals: list[BaseException] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def call() -> None:
            try:
                loop.call_soon_threadsafe(print)
            except RealTimeUsed as error:
                refusals.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        loop.call_soon_threadsafe(called.append, "from its own thread it may")
        await asyncio.sleep(0)

    called: list[str] = []
    run_virtual(main())
    assert len(refusals) == 1
    assert len(called) == 1


def test_an_error_of_the_main_coroutine_comes_out_and_leftover_tasks_are_cancelled() -> None:
    ended: list[str] = []

    async def leftover() -> None:
        try:
            await asyncio.sleep(1_000_000)
        finally:
            ended.append("leftover")

    async def fails() -> None:
        task = asyncio.get_running_loop().create_task(leftover())
        await asyncio.sleep(1)
        assert not task.done()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_virtual(fails())
    assert ended == ["leftover"]
