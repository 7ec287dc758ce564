"""A town on both banks of a river, each simulated by a process of its own: two cores share the work.

How the two stay in step is told in transports/sim/seam.py. Both come to the same outcome, whichever is faster.
"""

from __future__ import annotations

import gc
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from benchmarks.simulated_town.life import Bank, Life
from benchmarks.simulated_town.outcome import Disagreement, Outcome, Scale
from transports.sim import OtherHalfGone


def run_both_banks(
    scale: Scale, *, seed: int = 1, share: bool = True, tell: Callable[[str], None] = lambda line: None
) -> Outcome:
    """Raises: Disagreement."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    other = context.Process(target=_beyond_the_river, args=(there, scale, seed, share), daemon=True)
    other.start()
    there.close()
    try:
        with _few_collections():
            return Life(scale, seed=seed, share=share, tell=tell, bank=Bank(0, here)).run()
    except OtherHalfGone:
        raise Disagreement("the town ended early beyond the river") from None
    finally:
        here.close()
        other.join()


def _beyond_the_river(connection: Connection, scale: Scale, seed: int, share: bool) -> None:
    try:
        with _few_collections():
            Life(scale, seed=seed, share=share, bank=Bank(1, connection)).run()
    except OtherHalfGone:
        sys.exit(1)
    except Disagreement as disagreement:
        print(f"beyond the river: {disagreement}", file=sys.stderr)
        sys.exit(1)
    finally:
        connection.close()


@contextmanager
def _few_collections() -> Iterator[None]:
    """Fifty nodes in one process are many objects, of which few are garbage in a circle: it is seldom looked for."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
