"""The stage itself: the invariants hold where nothing happens, and are seen to be broken where they are."""

from __future__ import annotations

import time
from typing import Any

import pytest

from p2pserver.errors import Verdict
from p2pserver.node.sabotage import replace_in_units
from p2pserver.node.simulation import Sabotage
from p2pserver.rooms import serving
from p2pserver.store import events
from p2pserver.store.inline import InlineDatabase
from p2pserver.store.tx import Tx
from p2pserver.wire.messages import Pdus
from tests.byzantine.scenario import ONE_LIAR, Scenario, Story, Violation, case, play


@case(rejoin=True)
async def test_liars_that_behave(scene: Scenario) -> None:
    for name in scene.rooms:
        await scene.rooms[name].send(f"hello from {name}")
    await scene.pass_time(2)


@case
async def test_what_a_liar_makes_well_is_like_any_event(scene: Scenario) -> None:
    message = await scene.liar.make(body="made by hand")
    scene.liar.push("a", message)
    await scene.until_held(message.event_id)
    assert await scene.verdicts(message.event_id) == {Verdict.ACCEPTED}
    for name in scene.honest:
        assert "made by hand" in await scene.texts(name)


@case
async def test_a_liar_serves_what_it_hides_to_whoever_asks(scene: Scenario) -> None:
    chain = await scene.liars[-1].make_chain(10)
    assert await scene.is_nowhere(chain[0].event_id)
    scene.liars[-1].push("b", chain[-1])
    await scene.until_held(*(link.event_id for link in chain))


@case
async def test_a_split_parts_the_correct_nodes_and_the_liars_hear_all(scene: Scenario) -> None:
    scene.split_all()
    for liar in scene.liars:
        liar.mute()
    await scene.pass_time(60)
    sent = await scene.rooms["b"].send("on its own")
    await scene.pass_time(60)
    assert await scene.stored("a", sent) is None
    assert all(liar.heard_of(Pdus, "b") for liar in scene.liars)
    scene.heal()
    await scene.until_held(sent)


def crash_in_the_writer(database: InlineDatabase) -> None:
    def crash(tx: Tx, event_id: str) -> None:
        raise ZeroDivisionError

    replace_in_units(database, events, "replace_copy", crash)


def keep_for_itself(database: InlineDatabase) -> None:
    """Gives no message to others."""
    honest = serving.copy_for

    def copy_for(tx: Tx, origin: str, event_id: str) -> Any:
        raw = honest(tx, origin, event_id)
        return None if raw is not None and raw["type"] == "m.room.message" else raw

    replace_in_units(database, serving, "copy_for", copy_for)


async def nothing(scene: Scenario) -> None:
    await scene.pass_time(1)


async def twin(scene: Scenario) -> None:
    genuine = await scene.liar.make(hide=False)
    scene.liar.push("a", genuine.changed(content={"body": "twin"}))
    await scene.pass_time(1)
    scene.liar.push("a", genuine)
    await scene.pass_time(1)


async def slow_writer(scene: Scenario) -> None:
    def burn(tx: Tx) -> None:
        until = time.process_time() + 1.1
        while time.process_time() < until:
            pass

    await scene.read("a", burn)


async def full_disk(scene: Scenario) -> None:
    scene.budget.database_octets = 4096
    for number in range(20):
        await scene.rooms["a"].state("org.example.large", {"text": "x" * 8000, "number": number})


@pytest.mark.parametrize(
    ("story", "sabotage", "what"),
    [
        (nothing, keep_for_itself, "holds and does not serve"),
        (twin, crash_in_the_writer, "errors: .*ZeroDivisionError"),
        (slow_writer, None, "the writer was blocked"),
        (full_disk, None, "grew past its budget"),
    ],
)
def test_a_broken_invariant_is_seen(story: Story, sabotage: Sabotage | None, what: str) -> None:
    with pytest.raises(Violation, match=what):
        play(ONE_LIAR, story, sabotage={} if sabotage is None else {"a": sabotage})
