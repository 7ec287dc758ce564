"""Breaking a simulated node on purpose: who claims that nodes agree must notice one that breaks the rules.

A node is broken by replacing a function of the real code while the units of work of that node run, and only then: units
are plain functions, so nothing of another node runs in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

from p2pserver.events.pdu import Pdu
from p2pserver.meg.auth import authorize
from p2pserver.meg.state import StateSlot
from p2pserver.rooms import judging
from p2pserver.store.inline import InlineDatabase
from p2pserver.store.tx import Tx

T = TypeVar("T")


@contextmanager
def replaced(module: ModuleType, name: str, function: Any) -> Iterator[None]:
    """Inside the block `module.name` is `function`."""
    honest = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, honest)


def replace_in_units(database: InlineDatabase, module: ModuleType, name: str, function: Any) -> None:
    """From now on every unit of work on `database` finds `function` as `module.name`."""
    write, read = database.write, database.read

    def broken(unit: Callable[[Tx], T]) -> Callable[[Tx], T]:
        def run(tx: Tx) -> T:
            with replaced(module, name, function):
                return unit(tx)

        return run

    async def broken_write(unit: Callable[[Tx], T]) -> T:
        return await write(broken(unit))

    async def broken_read(query: Callable[[Tx], T]) -> T:
        return await read(broken(query))

    database.write = broken_write  # type: ignore[method-assign]
    database.read = broken_read  # type: ignore[method-assign]


def skip_power_level_rule(database: InlineDatabase) -> None:
    """This node lets everybody change the power levels to whatever he likes (rule 10 of the auth rules)."""

    def lax(event: Pdu, state: Mapping[StateSlot, Pdu], **options: Any) -> None:
        if event.type != "m.room.power_levels":
            authorize(event, state, **options)

    replace_in_units(database, judging, "authorize", lax)
