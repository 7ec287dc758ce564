"""News that several hold are fetched once: not from each who is met at once, and not what a third one has brought."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from p2pserver.federation.reconciliation import Reconciliation
from p2pserver.node import exchange
from p2pserver.node.simulation import RoomActions, SimulatedMesh
from p2pserver.rooms import receipt
from transports.sim import LinkConditions, run_virtual

NAMES = ("anna", "ben", "cleo", "dan")
SLOW = LinkConditions(bit_rate=200_000, delay_ms_mean=20)
FORGOTTEN_S = 900
"""Until nothing is left of a conversation that was cut off."""


class Meeting:
    """Four nodes with one room, who meet as a test says."""

    def __init__(self) -> None:
        self.mesh = SimulatedMesh(NAMES, seed=1, conditions=SLOW)
        self.rooms: dict[str, RoomActions] = {}
        self.room_id = ""

    async def begin(self) -> None:
        await self.mesh.start()
        clients = {name: await self.mesh.user(name, name) for name in NAMES}
        self.rooms["ben"] = await RoomActions.create(clients["ben"], preset="public_chat")
        self.room_id = self.rooms["ben"].room_id
        for name in ("anna", "cleo", "dan"):
            await asyncio.sleep(2)
            self.rooms[name] = await RoomActions.join(
                clients[name], self.room_id, via=self.mesh.nodes["ben"].server_name
            )
        assert await self.mesh.until_equal(self.room_id, within_s=60) is not None
        await self.part()

    async def part(self) -> None:
        self.mesh.partition(*({name} for name in NAMES))
        await asyncio.sleep(FORGOTTEN_S)

    async def meet(self, *names: str) -> None:
        self.mesh.partition(names, *({name} for name in NAMES if name not in names))
        assert await self.mesh.until_equal(self.room_id, within_s=300, names=names) is not None
        await asyncio.sleep(20)

    async def write(self, name: str, count: int) -> None:
        for number in range(count):
            await self.rooms[name].send(f"{name} {number}")


async def met_at_once() -> int:
    """anna was away, and meets three who hold the same news. How many events are brought to her again."""
    meeting = Meeting()
    try:
        await meeting.begin()
        await meeting.write("ben", 60)
        await meeting.meet("ben", "cleo", "dan")
        await meeting.part()
        with brought_to(meeting, "anna") as brought:
            await meeting.meet(*NAMES)
            assert len(brought) >= 60
    finally:
        await meeting.mesh.stop()
    return brought.total() - len(brought)


async def brought_by_a_third() -> int:
    """ben's words came to anna by himself, and to cleo through dan; both have written since, and meet. How many events
    are brought to anna, who lacks cleo's 21."""
    meeting = Meeting()
    try:
        await meeting.begin()
        await meeting.write("ben", 24)
        await meeting.meet("ben", "dan")
        await meeting.part()
        await meeting.write("anna", 40)
        await meeting.write("cleo", 20)
        await meeting.meet("anna", "ben")
        await meeting.write("anna", 1)
        await meeting.part()
        await meeting.meet("cleo", "dan")
        await meeting.write("cleo", 1)
        await meeting.part()
        with brought_to(meeting, "anna") as brought:
            await meeting.meet("anna", "cleo")
            assert len(brought) >= 20
    finally:
        await meeting.mesh.stop()
    return brought.total()


@contextmanager
def brought_to(meeting: Meeting, name: str) -> Iterator[Counter[str]]:
    """Counts the PDUs that come to one node."""
    context, brought, real = meeting.mesh.nodes[name].running.rooms.context, Counter[str](), receipt.Intake._take

    def take(self: Any, event: Any, source: str) -> Any:
        found = real(self, event, source)
        if self._context is context and found.event_id is not None:
            brought[found.event_id] += 1
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receipt.Intake, "_take", take)
        yield brought


def count(story: Coroutine[Any, Any, int]) -> int:
    return run_virtual(story)


def test_news_of_several_are_fetched_from_one() -> None:
    assert count(met_at_once()) <= 3


def test_what_a_third_has_brought_is_not_fetched() -> None:
    assert count(brought_by_a_third()) <= 23


def test_fetching_from_each_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reconciliation, "put_off", lambda *_: False)
    assert count(met_at_once()) > 20


def test_an_empty_filter_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "filter_of", lambda *_: b"")
    assert count(brought_by_a_third()) > 30
