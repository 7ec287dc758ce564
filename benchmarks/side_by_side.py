"""Two functions measured in turn in one process: CPU time, interleaved rounds, and what they ran on."""

from __future__ import annotations

import gc
import platform
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

Run = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Measured:
    """CPU seconds of each round, in the order of the functions that were given."""

    rounds: list[tuple[float, ...]]

    def seconds(self, index: int) -> float:
        return median(each[index] for each in self.rounds)

    def times_faster(self, index: int, than: int) -> float:
        """The median over the rounds of how many times faster one function was than another in the same round."""
        return median(each[than] / each[index] for each in self.rounds)


def measure(runs: Sequence[Run], *, rounds: int) -> Measured:
    """Runs all functions once to warm up, then in turn, each round from another one on."""
    for run in runs:
        run()
    taken: list[tuple[float, ...]] = []
    for number in range(rounds):
        seconds = [0.0] * len(runs)
        for step in range(len(runs)):
            index = (number + step) % len(runs)
            gc.collect()
            started = time.process_time()
            runs[index]()
            seconds[index] = time.process_time() - started
        taken.append(tuple(seconds))
    return Measured(taken)


def measure_in_parts(parts: Sequence[Sequence[Run]], *, rounds: int) -> Measured:
    """The same with the work of each function cut into parts, in turn part by part: what else runs then hits all."""
    for part in parts:
        for run in part:
            run()
    taken: list[tuple[float, ...]] = []
    for number in range(rounds):
        gc.collect()
        seconds = [0.0] * len(parts[0])
        for at, part in enumerate(parts):
            for step in range(len(part)):
                index = (number + at + step) % len(part)
                started = time.process_time()
                part[index]()
                seconds[index] += time.process_time() - started
        taken.append(tuple(seconds))
    return Measured(taken)


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = f"{names[0]}, {len(names)} cores" if names else model
    return f"{model}, {platform.system()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"


def versions(packages: Sequence[str]) -> str:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def header(packages: Sequence[str] = ("p2pserver",)) -> None:
    print(f"# {machine()}")
    print(f"# {versions(packages)}")
    sys.stdout.flush()
