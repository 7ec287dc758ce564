"""What a running node asks of its C allocator and of Python's garbage collector: small machines have little memory."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
MAPPED_FROM_OCTETS: Final = 256 * 1024
GARBAGE_THRESHOLDS: Final = (10_000, 20, 20)


def use_little_memory() -> None:
    """Makes glibc give back what is freed; elsewhere it does nothing. Call before threads are started.

    One hash of a password takes 19 MiB. glibc maps the first such block and unmaps it, and from then on keeps blocks of
    that size in its heaps, one of which each thread has: after some logins that is 40 MB that nobody uses. With a fixed
    threshold large blocks are always mapped, and go. Source: mallopt(3).
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_ARENA_MAX, 2)
    mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_OCTETS)
    mallopt(_M_TRIM_THRESHOLD, MAPPED_FROM_OCTETS)


def settle_garbage_collector() -> None:
    """Once everything is set up: what lives as long as the process is looked at no more, and the rest less often.

    Code and tables are some 200,000 objects; a full collection of them stops every request for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
