"""What holds for all tests."""

from __future__ import annotations

import os


def pytest_xdist_auto_num_workers() -> int:
    """Twice as many workers as processors: many tests wait for a slow line, a network or another process."""
    return 2 * (os.cpu_count() or 1)
