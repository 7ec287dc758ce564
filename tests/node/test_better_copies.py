"""Poor copies of events between nodes: what is asked for, what is answered, and what that costs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from p2pserver.federation import effects as fx
from p2pserver.node.exchange import Exchange
from p2pserver.node.simulation import RoomActions, SimulatedMesh
from p2pserver.rooms import serving
from p2pserver.store import events, graph_walks
from p2pserver.store.tx import Tx
from transports.sim import run_virtual

Answer = tuple[fx.ReadMissing, list[dict[str, Any]], list[str]]


async def room_of(mesh: SimulatedMesh, names: str) -> RoomActions:
    await mesh.start()
    await asyncio.sleep(5)
    room = await RoomActions.create(await mesh.user(names[0], "anna"), preset="public_chat")
    for name in names[1:]:
        await RoomActions.join(await mesh.user(name, "guest"), room.room_id, via=mesh.nodes[names[0]].server_name)
    await asyncio.sleep(5)
    return room


async def make_poor(mesh: SimulatedMesh, name: str, event_id: str) -> None:
    """As if the copy that came had been altered on its way."""

    def write(tx: Tx) -> None:
        whole = events.pdu(tx, event_id)
        assert whole is not None
        events.set_redacted(tx, event_id, None, {**whole.raw, "content": {}})
        events.mark_redacted_copy(tx, event_id)

    database = mesh.nodes[name].database
    assert database is not None
    await database.write(write)


async def poor(mesh: SimulatedMesh, name: str, event_ids: list[str]) -> list[str]:
    database = mesh.nodes[name].database
    assert database is not None

    def read(tx: Tx) -> list[str]:
        held = {each: events.pdu(tx, each) for each in event_ids}
        return [each for each, found in held.items() if found is None or found.redacted_copy]

    return await database.read(read)


def meet_again(monkeypatch: pytest.MonkeyPatch, *, poor_at: str) -> tuple[list[Answer], list[str], int]:
    """These nodes hold poor copies of nine messages. What was answered since, what is poor at b, how many walks."""
    answers: list[Answer] = []
    walks = 0
    real, real_walk = Exchange._missing, graph_walks.lacking

    def noted(self: Exchange, tx: Tx, server: str, effect: fx.ReadMissing) -> tuple[Any, bool, list[str]]:
        pdus, more, lacking = real(self, tx, server, effect)
        answers.append((effect, pdus, lacking))
        return pdus, more, lacking

    def counted(*args: Any, **options: Any) -> list[str]:
        nonlocal walks
        walks += 1
        return real_walk(*args, **options)

    async def live() -> list[str]:
        nonlocal walks
        mesh = SimulatedMesh("ab", seed=3)
        room = await room_of(mesh, "ab")
        sent = [await room.send(f"number {number}") for number in range(60)]
        await asyncio.sleep(5)
        mesh.network.set_link("a", "b", up=False)
        await asyncio.sleep(60)
        for name in poor_at:
            for event_id in sent[5:50:5]:
                await make_poor(mesh, name, event_id)
        answers.clear()
        walks = 0
        mesh.network.set_link("a", "b", up=True)
        await asyncio.sleep(30)
        still = await poor(mesh, "b", sent)
        await mesh.stop()
        return still

    with monkeypatch.context() as patched:
        patched.setattr(Exchange, "_missing", noted)
        patched.setattr(graph_walks, "lacking", counted)
        still = run_virtual(live())
    return answers, still, walks


def test_a_genuine_copy_comes_by_itself_and_nothing_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, still, walks = meet_again(monkeypatch, poor_at="b")
    assert still == []
    assert sum(len(pdus) for _, pdus, _ in answers) == 9
    assert walks == 0


def test_who_has_no_better_copy_says_so_and_sends_none(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, still, walks = meet_again(monkeypatch, poor_at="ab")
    assert len(still) == 9
    assert answers
    for effect, pdus, lacking in answers:
        assert (effect.copies, pdus, lacking) == (frozenset(effect.want), [], list(effect.want))
    assert walks == 0


def test_a_poor_copy_in_an_answer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def whatever_is_held(tx: Tx, event_ids: Any, *, origin: str) -> dict[str, dict[str, Any]]:
        held = {each: serving.copy_for(tx, origin, each) for each in event_ids}
        return {each: raw for each, raw in held.items() if raw is not None}

    monkeypatch.setattr(serving, "genuine_copies", whatever_is_held)
    with pytest.raises(AssertionError):
        test_who_has_no_better_copy_says_so_and_sends_none(monkeypatch)
