"""Ways to break one node on purpose, beside those of p2pserver/node/sabotage.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from p2pserver.meg import resolution
from p2pserver.node.sabotage import replace_in_units
from p2pserver.store import events
from p2pserver.store.inline import InlineDatabase
from p2pserver.store.tx import Tx

T = TypeVar("T")


def flip_the_timestamp_tie_break(database: InlineDatabase) -> None:
    """The newer of two events comes first, where the rules say the older one."""

    def flipped(age: float, origin_server_ts: int, event_id: str) -> tuple[float, int, str]:
        return age, -origin_server_ts, event_id

    replace_in_units(database, resolution, "rest_key", flipped)


def lose_an_event(database: InlineDatabase, which: int = 10) -> None:
    """The tenth event that arrives gets its edges and its acknowledgement, and is not kept."""
    count = 0
    honest = events.insert

    def forgetful(tx: Tx, event: Any, **options: Any) -> None:
        nonlocal count
        if not options["outlier"] and event.state_key is None:
            count += 1
            if count == which:
                return
        honest(tx, event, **options)

    replace_in_units(database, events, "insert", forgetful)


def lose_an_early_event(database: InlineDatabase) -> None:
    """`lose_an_event` for short histories."""
    lose_an_event(database, which=2)


def acknowledge_before_the_commit(database: InlineDatabase) -> None:
    """Whoever waits for a unit is told of its result while a power cut can still undo it."""
    write = database.write

    async def hasty(unit: Callable[[Tx], T]) -> T:
        result: list[T] = []

        def run(tx: Tx) -> None:
            result.append(unit(tx))

        committing = asyncio.ensure_future(write(run))
        await asyncio.sleep(0)
        if result:
            committing.add_done_callback(lambda done: done.cancelled() or done.exception())
            return result[0]
        await committing
        return result[0]

    database.write = hasty  # type: ignore[method-assign]
