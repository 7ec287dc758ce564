"""The histories can fail: one broken node among five is noticed, whichever way it is broken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from p2pserver.meg import resolution
from p2pserver.node.sabotage import replace_in_units, skip_power_level_rule
from p2pserver.node.simulation import Sabotage
from p2pserver.store import events
from p2pserver.store.inline import InlineDatabase
from p2pserver.store.tx import Tx
from tests.simulation.history import Diverged, History

T = TypeVar("T")
SEEDS = range(12)


def flip_the_timestamp_tie_break(database: InlineDatabase) -> None:
    """The newer of two events comes first, where the rules say the older one."""

    def flipped(age: float, origin_server_ts: int, event_id: str) -> tuple[float, int, str]:
        return age, -origin_server_ts, event_id

    replace_in_units(database, resolution, "rest_key", flipped)


def lose_an_event(database: InlineDatabase) -> None:
    """The tenth event that arrives gets its edges and its acknowledgement, and is not kept."""
    count = 0
    honest = events.insert

    def forgetful(tx: Tx, event: Any, **options: Any) -> None:
        nonlocal count
        if not options["outlier"] and event.state_key is None:
            count += 1
            if count == 10:
                return
        honest(tx, event, **options)

    replace_in_units(database, events, "insert", forgetful)


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


@pytest.mark.parametrize(
    "sabotage",
    [skip_power_level_rule, flip_the_timestamp_tie_break, lose_an_event, acknowledge_before_the_commit],
)
def test_a_broken_node_is_noticed(sabotage: Sabotage) -> None:
    for seed in SEEDS:
        try:
            History(seed, sabotage=sabotage, patience_s=120).run()
        except Diverged:
            return
    pytest.fail(f"{len(SEEDS)} histories did not notice a node that was broken by {sabotage.__name__}")
