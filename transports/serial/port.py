"""A serial port off the event loop: one thread reads, one writes, both with bounded queues between them and the loop.

pyserial's asyncio wrappers call the port's `write` on the loop, which waits when the operating system's buffer is full.
pyserial's own blocking `write` spins while the buffer is full, so the writer thread waits for room with `select` where
the system has it, and then writes what fits.

The port may vanish at any time and come back: the reader opens it again once a second for as long as it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import serial

log = logging.getLogger(__name__)

REOPEN_S = 1.0
READ_WAIT_S = 0.5
"""A device that vanished is noticed by a read; some drivers let the pending one wait for ever."""
UNREAD_OCTETS_MAX = 65_536
"""That arrived and the loop has not taken: beyond it, the port is not read."""
UNWRITTEN_OCTETS_MAX = 8_192
CLOSE_S = 0.5


class PortEvents(Protocol):
    """Who is told, on the event loop."""

    def port_opened(self) -> None: ...

    def port_lost(self, reason: str) -> None:
        """It is closed, or could not be opened; it will be tried again. Told once for each reason."""
        ...

    def octets_arrived(self, octets: bytes) -> None: ...

    def octets_written(self) -> None:
        """There is room for more."""
        ...


class Port(Protocol):
    """Something that carries octets both ways. A test brings its own, on virtual time."""

    async def start(self, events: PortEvents) -> None:
        """Begins to try to open. Raises: OSError when what is there cannot be had (in use, no permission)."""
        ...

    @property
    def is_open(self) -> bool: ...

    def write(self, octets: bytes) -> bool:
        """False, and nothing is taken, when the port is closed or does not keep up (then `octets_written` follows)."""
        ...

    def is_busy(self) -> bool:
        """Whether the modem says that its channel is taken; False where it does not say."""
        ...

    async def close(self) -> None: ...


class ThreadedPort:
    """A port of this machine, or a URL that pyserial knows (`rfc2217://host:port`)."""

    def __init__(self, name: str, *, baud: int, rtscts: bool = False, busy: str | None = None) -> None:
        self._name, self._baud, self._rtscts = name, baud, rtscts
        self._busy = busy
        self._events: PortEvents | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serial: serial.SerialBase | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._room_to_read = threading.Event()
        self._unread_octets = 0
        self._unwritten: deque[bytes] = deque()
        self._unwritten_octets = 0
        self._to_write = threading.Condition(self._lock)
        self._first_try: asyncio.Future[OSError | None] | None = None
        self._all_written = asyncio.Event()
        self._threads_over = asyncio.Event()
        self._keeper: threading.Thread | None = None
        self._wake_r, self._wake_w = -1, -1

    @property
    def is_open(self) -> bool:
        return self._serial is not None

    async def start(self, events: PortEvents) -> None:
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._first_try = self._loop.create_future()
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        self._keeper = threading.Thread(target=self._keep_open, name=f"serial {self._name}", daemon=True)
        self._keeper.start()
        error = await self._first_try
        if error is not None:
            await self.close()
            raise error

    def write(self, octets: bytes) -> bool:
        with self._lock:
            if self._serial is None or self._unwritten_octets + len(octets) > max(UNWRITTEN_OCTETS_MAX, len(octets)):
                return False
            self._unwritten.append(octets)
            self._unwritten_octets += len(octets)
            self._to_write.notify()
        return True

    def is_busy(self) -> bool:
        port = self._serial
        if port is None or self._busy is None:
            return False
        try:
            on = bool(getattr(port, self._busy.removeprefix("-")))
        except (OSError, TypeError, ValueError):
            return False  # a port without such a line, or one that is vanishing
        return on != self._busy.startswith("-")

    async def close(self) -> None:
        if self._keeper is None:
            return
        with contextlib.suppress(TimeoutError):  # the last words get a moment to leave
            async with asyncio.timeout(CLOSE_S / 2):
                while self._unwritten and self.is_open:
                    self._all_written.clear()
                    await self._all_written.wait()
        self._stop.set()
        self._room_to_read.set()
        with self._lock:
            self._to_write.notify_all()
        self._wake()
        port = self._serial
        if port is not None and hasattr(port, "cancel_read"):
            with contextlib.suppress(OSError, TypeError, ValueError):  # it may be closing at this very moment
                port.cancel_read()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._threads_over.wait()
        if self._threads_over.is_set() and self._wake_r >= 0:
            os.close(self._wake_r)
            os.close(self._wake_w)
            self._wake_r = self._wake_w = -1

    # from the threads to the loop

    def _tell(self, callback: Callable[..., object], *arguments: object) -> None:
        loop = self._loop
        assert loop is not None
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody listens any more
            loop.call_soon_threadsafe(callback, *arguments)

    def _settle_first_try(self, error: OSError | None) -> None:
        if self._first_try is not None and not self._first_try.done():
            self._first_try.set_result(error)

    def _opened(self) -> None:
        self._settle_first_try(None)
        if self._events is not None and not self._stop.is_set():
            self._events.port_opened()

    def _lost(self, reason: str) -> None:
        self._all_written.set()
        self._settle_first_try(None)
        if self._events is not None and not self._stop.is_set():
            self._events.port_lost(reason)

    def _arrived(self, octets: bytes) -> None:
        with self._lock:
            self._unread_octets -= len(octets)
        self._room_to_read.set()
        if self._events is not None and not self._stop.is_set():
            self._events.octets_arrived(octets)

    def _written(self) -> None:
        self._all_written.set()
        if self._events is not None and not self._stop.is_set():
            self._events.octets_written()

    # the threads

    def _keep_open(self) -> None:
        told = ""
        try:
            while not self._stop.is_set():
                try:
                    port = self._open()
                except Exception as error:  # noqa: BLE001  a thread that ends would never open the port again
                    reason = _plain(error)
                    if _is_refusal(error):
                        self._tell(self._settle_first_try, OSError(f"{self._name}: {reason}"))
                    if reason != told:
                        told = reason
                        self._log_unforeseen(error)
                        self._tell(self._lost, reason)
                else:
                    told = self._use(port)
                self._stop.wait(REOPEN_S)
        finally:
            self._tell(self._threads_over.set)

    def _log_unforeseen(self, error: Exception) -> None:
        if not isinstance(error, OSError | ValueError | TypeError):
            log.error("an error of a serial port that nobody foresaw", extra={"port": self._name}, exc_info=error)

    def _open(self) -> serial.SerialBase:
        """Raises: OSError, which serial.SerialException is; ValueError for a URL that pyserial does not know."""
        port = serial.serial_for_url(self._name, do_not_open=True, baudrate=self._baud, rtscts=self._rtscts)
        port.timeout = READ_WAIT_S
        port.write_timeout = 0 if _can_select(port) else None
        if sys.platform != "win32" and "://" not in self._name:
            port.exclusive = True
        port.open()
        return port

    def _use(self, port: serial.SerialBase) -> str:
        """Reads until the port is lost or not wanted any more; the reason."""
        with self._lock:
            self._unwritten.clear()
            self._unwritten_octets = 0
            self._serial = port
        if not self._stop.is_set():
            with contextlib.suppress(OSError):  # nothing in it
                os.read(self._wake_r, 64)
        self._tell(self._opened)
        over = threading.Event()
        writer = threading.Thread(target=self._write_on, args=(port, over), name=f"write {self._name}", daemon=True)
        writer.start()
        reason = "closed"
        try:
            while not self._stop.is_set() and not over.is_set():
                self._read_some(port)
        except Exception as error:  # noqa: BLE001  TypeError: pyserial's, when its descriptor is gone under it
            reason = _plain(error)
            self._log_unforeseen(error)
        with self._lock:
            self._serial = None
            over.set()
            self._to_write.notify_all()
        self._wake()
        writer.join(CLOSE_S)
        with contextlib.suppress(Exception):  # it is gone; termios has errors of its own, which are no OSError
            deadline_s = time.monotonic() + CLOSE_S / 2
            while port.out_waiting and time.monotonic() < deadline_s:
                time.sleep(0.01)  # a thread of its own waits here, for the last words to leave
            port.reset_output_buffer()  # closing would wait until all that is left has gone, at any baud rate
        with contextlib.suppress(Exception):
            port.close()
        self._tell(self._lost, reason)
        return reason

    def _read_some(self, port: serial.SerialBase) -> None:
        while self._unread_octets > UNREAD_OCTETS_MAX and not self._stop.is_set():
            self._room_to_read.clear()
            if self._unread_octets > UNREAD_OCTETS_MAX:
                self._room_to_read.wait(READ_WAIT_S)
        octets = port.read(1)
        if octets:
            waiting = port.in_waiting
            if waiting:
                octets += port.read(min(waiting, 4_096))
            with self._lock:
                self._unread_octets += len(octets)
            self._tell(self._arrived, octets)

    def _write_on(self, port: serial.SerialBase, over: threading.Event) -> None:
        try:
            while True:
                with self._lock:
                    while not self._unwritten and not over.is_set():
                        self._to_write.wait()
                    if over.is_set():
                        return
                    octets = self._unwritten[0]
                self._write_whole(port, octets, over)
                with self._lock:
                    if self._unwritten and not over.is_set():
                        self._unwritten.popleft()
                        self._unwritten_octets -= len(octets)
                self._tell(self._written)
        except Exception:  # noqa: BLE001  the reader meets the same, or is told here
            over.set()
            if hasattr(port, "cancel_read"):
                with contextlib.suppress(OSError, TypeError, ValueError):
                    port.cancel_read()

    def _write_whole(self, port: serial.SerialBase, octets: bytes, over: threading.Event) -> None:
        at = 0
        while at < len(octets) and not over.is_set() and not self._stop.is_set():
            if _can_select(port):
                woken, ready, _ = select.select([self._wake_r], [port.fileno()], [])
                if woken and not ready:
                    return
                if ready:
                    at += port.write(octets[at:]) or 0
            else:
                at += port.write(octets[at : at + 256]) or 0

    def _wake(self) -> None:
        """Gets the writer out of its wait. It is never woken for anything else than the end."""
        if self._wake_w >= 0:
            with contextlib.suppress(OSError):
                os.write(self._wake_w, b"\0")


def _can_select(port: serial.SerialBase) -> bool:
    """Whether this is a POSIX terminal, of which the system tells when there is room."""
    return sys.platform != "win32" and type(port).__module__ == "serial.serialposix"


def _is_refusal(error: Exception) -> bool:
    """Whether waiting will not help: somebody must change something."""
    number = getattr(error, "errno", None)
    return number in {errno.EACCES, errno.EPERM, errno.EBUSY, errno.EWOULDBLOCK} or isinstance(error, ValueError)


def _plain(error: Exception) -> str:
    """One short line for people."""
    number = getattr(error, "errno", None)
    known = {
        errno.ENOENT: "there is no such port (yet): is the device plugged in?",
        errno.ENXIO: "the port is gone",
        errno.EIO: "the port is gone",
        errno.ENODEV: "the port is gone",
        errno.EACCES: "no permission; on Linux, being in the group dialout usually gives it",
        errno.EPERM: "no permission",
        errno.EBUSY: "another program uses the port",
        errno.EWOULDBLOCK: "another program uses the port",
    }
    if number in known:
        return known[number]
    text = str(error)
    if "disconnected" in text or isinstance(error, TypeError):
        return "the port is gone"
    if "Errno 5" in text or "Errno 6" in text:
        return "the port is gone"
    return text[:200] or type(error).__name__
