"""Serial lines for tests: a model of what a wire or a radio channel does to octets, on virtual time or on real ptys.

A pseudo-terminal ignores its baud rate: whoever tests at 1,200 bit/s must pace. The model carries so many octets a
second from each end, and gives what it carries to the other end, or, where the medium is shared, to all others. Two
that send at once on a shared medium are heard by the others as garbage, and hear nothing themselves.
"""

from __future__ import annotations

import asyncio
import os
import pty
import random
import select
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from transports.serial.port import PortEvents

DEVICE_OCTETS_MAX = 4_096
"""What an operating system and a UART take before they say that they are full."""


@dataclass(slots=True)
class WireModel:
    """`ends` ports on one line. Call `carry(now)` often; it says what arrives where."""

    ends: int
    octets_per_s: float
    seed: int = 1
    shared: bool = False
    flipped: float = 0.0
    """How often an octet arrives as another one."""
    lost: float = 0.0
    """How often an octet does not arrive."""
    noise_per_s: float = 0.0
    """Octets that nobody sent, at each end."""
    reach: set[tuple[int, int]] | None = None
    """Who is heard by whom; None: everybody by everybody."""
    waiting: list[bytearray] = field(default_factory=list)
    collisions: int = 0
    carried: int = 0
    busy_s: float = 0.0
    _credit: list[float] = field(default_factory=list)
    _now: float | None = None
    _rng: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self.waiting = [bytearray() for _ in range(self.ends)]
        self._credit = [0.0] * self.ends
        self._rng = random.Random(self.seed)

    @property
    def idle(self) -> bool:
        return not any(self.waiting) and not self.noise_per_s

    def begin(self, now: float) -> None:
        """The line was idle until now."""
        self._now = now

    def carry(self, now: float) -> list[tuple[int, bytes]]:
        passed = 0.0 if self._now is None else now - self._now
        self._now = now
        sent: dict[int, bytes] = {}
        for end, waiting in enumerate(self.waiting):
            if not waiting:
                self._credit[end] = 0.0
                continue
            self._credit[end] += passed * self.octets_per_s
            count = min(int(self._credit[end]), len(waiting))
            self._credit[end] -= count
            if count:
                sent[end] = bytes(waiting[:count])
                del waiting[:count]
                self.carried += count
        speaking = set(sent) | {end for end, waiting in enumerate(self.waiting) if waiting and self._credit[end] > 0}
        self.busy_s += passed * bool(speaking)
        if self.shared and len(speaking) > 1:
            self.collisions += bool(sent)
        return [item for end in range(self.ends) for item in self._arrival(end, sent, speaking, passed)]

    def _arrival(
        self, end: int, sent: dict[int, bytes], speaking: set[int], passed: float
    ) -> Iterator[tuple[int, bytes]]:
        octets = b""
        if not self.shared:
            octets = sent.get(1 - end, b"")  # a cable has two ends, 0 and 1
        elif end not in speaking:
            near = [other for other in sent if self.reach is None or (other, end) in self.reach]
            longest = max((sent[other] for other in near), key=len, default=b"")
            octets = longest if len(near) < 2 else self._rng.randbytes(len(longest))
        if self.flipped or self.lost:
            octets = bytes(
                octet if self._rng.random() >= self.flipped else self._rng.randrange(256)
                for octet in octets
                if not self.lost or self._rng.random() >= self.lost
            )
        if self.noise_per_s and self._rng.random() < passed * self.noise_per_s:
            octets += self._rng.randbytes(1)
        if octets:
            yield end, octets


class VirtualLine:
    """The model driven by the clock of the running loop."""

    def __init__(self, model: WireModel, *, grain_s: float = 0.004) -> None:
        self.model = model
        self.ports: list[VirtualPort | None] = [None] * model.ends
        self._grain_s = max(grain_s, 1 / model.octets_per_s)
        self._timer: asyncio.TimerHandle | None = None

    def port(self, end: int) -> VirtualPort:
        made = self.ports[end] = VirtualPort(self, end)
        return made

    def stir(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self.model.begin(loop.time())
            self._timer = loop.call_later(self._grain_s, self._step)

    def _step(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        for end, octets in self.model.carry(loop.time()):
            port = self.ports[end]
            if port is not None:
                port.arrived(octets)
        for end, port in enumerate(self.ports):
            if port is not None and len(self.model.waiting[end]) < DEVICE_OCTETS_MAX:
                port.has_room()
        if not self.model.idle:
            self._timer = loop.call_later(self._grain_s, self._step)


class VirtualPort:
    """Implements `transports.serial.port.Port` without a thread."""

    def __init__(self, line: VirtualLine, end: int) -> None:
        self._line, self._end = line, end
        self._events: PortEvents | None = None
        self._full = False
        self.is_open = False
        self.busy = False

    async def start(self, events: PortEvents) -> None:
        self._events = events
        self.plug()

    def plug(self) -> None:
        self.is_open = True
        self._line.model.waiting[self._end].clear()
        assert self._events is not None
        asyncio.get_running_loop().call_soon(self._events.port_opened)
        self._line.stir()

    def unplug(self) -> None:
        self.is_open = False
        self._line.model.waiting[self._end].clear()
        assert self._events is not None
        self._events.port_lost("the port is gone")

    def write(self, octets: bytes) -> bool:
        waiting = self._line.model.waiting[self._end]
        if not self.is_open or len(waiting) + len(octets) > DEVICE_OCTETS_MAX:
            self._full = True
            return False
        waiting += octets
        self._line.stir()
        return True

    def is_busy(self) -> bool:
        return self.busy

    async def close(self) -> None:
        self.is_open = False

    def arrived(self, octets: bytes) -> None:
        if self.is_open and self._events is not None:
            self._events.octets_arrived(octets)

    def has_room(self) -> None:
        if self._full and self.is_open and self._events is not None:
            self._full = False
            self._events.octets_written()


class PtyLine:
    """The model between real pseudo-terminals, driven by a thread. `paths` are what a transport opens."""

    def __init__(self, model: WireModel, links: list[str] | None = None) -> None:
        """`links`: names of symbolic links to the terminals, so that one can be unplugged and plugged in again."""
        self.model = model
        self.links = links
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._masters: list[int] = []
        self._slaves: list[int] = []
        self.paths: list[str] = []
        for end in range(model.ends):
            self._masters.append(-1)
            self._slaves.append(-1)
            self.paths.append("")
            self.plug(end)
        self._thread = threading.Thread(target=self._run, name="pty line", daemon=True)
        self._thread.start()

    def plug(self, end: int) -> None:
        master, slave = pty.openpty()
        tty.setraw(slave, termios.TCSANOW)
        os.set_blocking(master, False)
        with self._lock:
            self._masters[end], self._slaves[end] = master, slave
            self.paths[end] = os.ttyname(slave)
            self.model.waiting[end].clear()
        if self.links is not None:
            Path(self.links[end]).symlink_to(self.paths[end])
            self.paths[end] = self.links[end]

    def unplug(self, end: int) -> None:
        with self._lock:
            master, slave = self._masters[end], self._slaves[end]
            self._masters[end] = self._slaves[end] = -1
        if self.links is not None:
            Path(self.links[end]).unlink()
        os.close(master)
        os.close(slave)

    def close(self) -> None:
        self._over.set()
        self._thread.join(5)
        for end, master in enumerate(self._masters):
            if master >= 0:
                self.unplug(end)

    def _run(self) -> None:
        grain_s = max(0.002, 1 / self.model.octets_per_s)
        while not self._over.is_set():
            with self._lock:
                open_ends = {master: end for end, master in enumerate(self._masters) if master >= 0}
                reading = [m for m, end in open_ends.items() if len(self.model.waiting[end]) < DEVICE_OCTETS_MAX]
            if self.model.idle:
                select.select(reading, [], [], 0.05)
                self.model.begin(time.monotonic())
            else:
                time.sleep(grain_s)
            with self._lock:
                for master, end in open_ends.items():
                    if master in reading and self._masters[end] == master:
                        self._take(master, end)
                for end, octets in self.model.carry(time.monotonic()):
                    if self._masters[end] >= 0:
                        try:
                            os.write(self._masters[end], octets)
                        except OSError:  # nobody reads there: it is lost, as on a wire
                            continue

    def _take(self, master: int, end: int) -> None:
        try:
            self.model.waiting[end] += os.read(master, DEVICE_OCTETS_MAX)
        except OSError:  # nothing there
            return


@contextmanager
def pty_line(model: WireModel, links: list[str] | None = None) -> Iterator[PtyLine]:
    line = PtyLine(model, links)
    try:
        yield line
    finally:
        line.close()
