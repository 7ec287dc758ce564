"""How late the event loop is while a serial port's buffer is full, beside an idle loop.

    python benchmarks/serial_lag.py [seconds]

Two pseudo-terminals joined by a pump that carries 1,200 bit/s, as a slow modem would with its buffer full. Rows:

    idle             nothing else runs
    serial           the transport, handed as many datagrams as it takes
    port, unpaced    its port alone, handed as many octets as it takes: the operating system's buffer stays full
    pyserial on the loop    what must not be done: `write` of a port that does not block, called by the loop

Lateness is how much later than asked a sleep of 5 ms ends. Ratios count: the machine adds its own.
"""

from __future__ import annotations

import asyncio
import platform
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import serial

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.transports.serial_lines import WireModel, pty_line
from transports.serial import SerialTransport
from transports.serial.port import ThreadedPort

BIT_RATE = 1_200
SLEEP_S = 0.005


class Silent:
    """Hears a port, and says nothing."""

    def port_opened(self) -> None: ...

    def port_lost(self, reason: str) -> None: ...

    def octets_arrived(self, octets: bytes) -> None: ...

    def octets_written(self) -> None: ...


async def lateness(seconds: float) -> list[float]:
    """In milliseconds, one value for each sleep."""
    late: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        await asyncio.sleep(SLEEP_S)
        late.append(1_000 * (time.perf_counter() - began - SLEEP_S))
    return late


async def idle(seconds: float) -> list[float]:
    return await lateness(seconds)


async def transport(seconds: float) -> list[float]:
    with pty_line(WireModel(2, BIT_RATE / 10)) as line:
        ends = [SerialTransport.from_parameters(f"{path}?baud={BIT_RATE}") for path in line.paths]
        for number, end in enumerate(ends):
            await end.start(bytes([number]) * 8)
        link = await ends[0].next_link()

        async def flood() -> None:
            while True:
                await link.send(bytes(link.profile.addressed_octets_max))

        flooding = asyncio.get_running_loop().create_task(flood())
        await asyncio.sleep(0.5)
        late = await lateness(seconds)
        flooding.cancel()
        for end in ends:
            await end.close()
        return late


async def unpaced_port(seconds: float) -> list[float]:
    with pty_line(WireModel(2, BIT_RATE / 10)) as line:
        port = ThreadedPort(line.paths[0], baud=BIT_RATE)
        await port.start(Silent())

        async def flood() -> None:
            while True:
                while port.write(bytes(500)):
                    pass
                await asyncio.sleep(0.01)

        flooding = asyncio.get_running_loop().create_task(flood())
        await asyncio.sleep(0.5)
        late = await lateness(seconds)
        flooding.cancel()
        await port.close()
        return late


async def on_the_loop(seconds: float) -> list[float]:
    with pty_line(WireModel(2, BIT_RATE / 10)) as line:
        port = serial.Serial(line.paths[0], BIT_RATE, timeout=0, write_timeout=1)

        async def flood() -> None:
            while True:
                try:
                    port.write(bytes(500))
                except serial.SerialTimeoutException:
                    continue
                finally:
                    await asyncio.sleep(0.01)

        flooding = asyncio.get_running_loop().create_task(flood())
        late = await lateness(seconds)
        flooding.cancel()
        port.close()
        return late


ROWS: dict[str, Callable[[float], Awaitable[list[float]]]] = {
    "idle": idle,
    "serial": transport,
    "port, unpaced": unpaced_port,
    "pyserial on the loop": on_the_loop,
}


def main(seconds: float) -> None:
    print(
        f"Python {platform.python_version()}, pyserial {serial.__version__}, {platform.platform()}, {seconds:g} s each"
    )
    print(f"{'':24}{'median ms':>12}{'99 % ms':>12}{'worst ms':>12}{'CPU share':>12}")
    for name, run in ROWS.items():
        cpu, began = time.process_time(), time.perf_counter()
        late = sorted(asyncio.run(run(seconds)))  # type: ignore[arg-type]
        share = (time.process_time() - cpu) / (time.perf_counter() - began)
        row = (statistics.median(late), late[int(0.99 * (len(late) - 1))], late[-1])
        print(f"{name:24}" + "".join(f"{value:12.2f}" for value in row) + f"{share:12.2f}")
    assert threading.active_count() == 1, "a thread was left behind"


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0)
