"""What a benchmark prints beside its figures: on what they were measured, and with which versions."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from importlib.metadata import version
from pathlib import Path

from p2pserver import __version__


def machine() -> str:
    """One line: software and machine."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("pynacl", "cbor2", "h11"))
    return (
        f"p2pserver {__version__}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {libraries}; "
        f"{sys.platform} {platform.machine()}, {_processor()}, {os.cpu_count()} processors"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"
