"""What holds for all tests."""

from __future__ import annotations

import gc
import os


def pytest_xdist_auto_num_workers() -> int:
    """Twice as many workers as processors: many tests wait for a slow line, a network or another process."""
    return 2 * (os.cpu_count() or 1)


def pytest_configure() -> None:
    """Whole meshes live in one process here: looking for cycles as often as by default takes a tenth of the time."""
    gc.set_threshold(20_000, 20, 20)
