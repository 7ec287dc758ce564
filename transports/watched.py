"""Tasks that live as long as what they serve: one that an error ended is told of, since nobody awaits it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


def watched(
    work: Coroutine[Any, Any, None], *, name: str, broken: Callable[[str], None] | None = None
) -> asyncio.Task[None]:
    """A task. An error that ends it is a defect of ours: it is logged, and `broken` is told, in words for people."""
    task = asyncio.get_running_loop().create_task(work, name=name)

    def over(ended: asyncio.Task[None]) -> None:
        error = None if ended.cancelled() else ended.exception()
        if error is None:
            return
        log.error("a task ended by an error that nobody foresaw", extra={"task": name}, exc_info=error)
        if broken is not None:
            broken(
                f"it does not work any more, by a defect of this program ({error!r}): restart it, and report the log"
            )

    task.add_done_callback(over)
    return task
