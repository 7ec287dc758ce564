"""Devices for end-to-end tests: a `p2pserver run` process and matrix-nio clients beside it, in one network namespace.

Everything is a real process; a `Launcher` starts them (in a namespace, or simply here).
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
Launcher = Callable[..., "subprocess.Popen[bytes]"]
"""Takes an argument list and `subprocess.Popen` keywords."""


class Lines:
    """The lines that a process prints, as they come, without blocking it."""

    def __init__(self, stream: Any) -> None:
        self.seen: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: Any) -> None:
        try:
            for line in iter(stream.readline, b""):
                self._queue.put(line.decode(errors="replace").rstrip("\n"))
            stream.close()
        except (OSError, ValueError):  # whoever started the process has closed its pipe
            pass
        self._queue.put(None)

    def next(self, seconds: float) -> str | None:
        """The next line; None at the end of the stream. Raises: queue.Empty."""
        line = self._queue.get(timeout=seconds)
        if line is not None:
            self.seen.append(line)
        return line

    def drain(self) -> list[str]:
        while True:
            try:
                line = self._queue.get_nowait()
            except queue.Empty:
                return self.seen
            if line is not None:
                self.seen.append(line)


class NodeProcess:
    """`p2pserver run` with a data folder of its own; may be killed and started again."""

    def __init__(self, launch: Launcher, folder: Path, arguments: Sequence[str] = ()) -> None:
        self._launch = launch
        self.folder = folder
        self.arguments = list(arguments)
        self.ready_file = folder / "ready.json"
        self.process: subprocess.Popen[bytes] | None = None
        self.output: Lines | None = None
        self.errors: Lines | None = None
        self.ready: Mapping[str, Any] = {}

    def start(self, seconds: float = 30) -> NodeProcess:
        self.ready_file.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "p2pserver",
            "run",
            f"--data-dir={self.folder / 'data'}",
            f"--ready-file={self.ready_file}",
            "--no-rate-limits",
            *self.arguments,
        ]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = self._launch(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        self.output, self.errors = Lines(self.process.stdout), Lines(self.process.stderr)
        deadline = time.monotonic() + seconds
        while not self.ready_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the node did not get ready: {self.said()}")
            time.sleep(0.02)
        self.ready = json.loads(self.ready_file.read_text())
        return self

    @property
    def url(self) -> str:
        return str(self.ready["client_url"])

    @property
    def server_name(self) -> str:
        return str(self.ready["server_name"])

    def said(self) -> str:
        assert self.output is not None
        assert self.errors is not None
        time.sleep(0.1)
        return "\n".join(["--- stdout", *self.output.drain(), "--- stderr", *self.errors.drain()])

    def kill(self) -> None:
        """SIGKILL: the process has no last word."""
        assert self.process is not None
        os.kill(int(self.ready["pid"]), signal.SIGKILL)
        self.process.wait(10)

    def interrupt(self, seconds: float = 10) -> tuple[int, float]:
        """Ctrl-C; returns the exit status and the seconds it took."""
        assert self.process is not None
        started = time.monotonic()
        os.kill(int(self.ready["pid"]), signal.SIGINT)
        return self.process.wait(seconds), time.monotonic() - started

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            try:
                self.interrupt()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


class ClientFailed(AssertionError):
    """The client was answered with an error or gave up waiting."""


class Client:
    """A matrix-nio client process (`client_driver.py`); its methods are the driver's commands."""

    def __init__(self, launch: Launcher, url: str) -> None:
        self.process = launch(
            [sys.executable, str(Path(__file__).with_name("client_driver.py")), url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.output, self.errors = Lines(self.process.stdout), Lines(self.process.stderr)
        self.user_id = ""

    def start(self, do: str, **arguments: Any) -> Callable[[float], Any]:
        """Sends a command; the returned function waits for the answer (at most the given seconds)."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self.process.stdin.flush()

        def answer(seconds: float) -> Any:
            try:
                line = self.output.next(seconds)
            except queue.Empty:
                raise ClientFailed(f"{do}: no answer in {seconds} s; {self.errors.drain()}") from None
            if line is None:
                raise ClientFailed(f"{do}: the client process ended: {self.errors.drain()}")
            found = json.loads(line)
            if "error" in found:
                raise ClientFailed(f"{do}: {found['error']}")
            return found["ok"]

        return answer

    def do(self, do: str, seconds: float = 150, **arguments: Any) -> Any:
        return self.start(do, **arguments)(seconds)

    def register(self, name: str) -> str:
        self.user_id = self.do("register", name=name, password=f"{name}-password")
        return self.user_id

    def close(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
