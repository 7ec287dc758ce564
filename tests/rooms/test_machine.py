"""Hypothesis searches for a history that breaks convergence, and finds one when a replica is broken on purpose."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from p2pserver.events.pdu import Pdu
from p2pserver.node.sabotage import skip_power_level_rule
from p2pserver.store.inline import SimulatedDisk
from p2pserver.store.tx import Tx
from tests.rooms.machine import RoomMachine, end
from tests.rooms.replicas import Disk, FileDisk, Replica, Sabotage
from tests.simulation.sabotages import acknowledge_before_the_commit, flip_the_timestamp_tie_break, lose_an_early_event
from transports.sim import VirtualTimeLoop

COMMON = settings(
    derandomize=True,
    database=None,
    deadline=None,
    stateful_step_count=30,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
BRIEF = settings(COMMON, max_examples=25, phases=[Phase.generate, Phase.shrink])
SEARCH = settings(COMMON, max_examples=100, phases=[Phase.generate])
LONG = settings(BRIEF, derandomize=False, max_examples=1500, stateful_step_count=60)


def test_no_history_breaks_convergence() -> None:
    run_state_machine_as_test(RoomMachine, settings=BRIEF)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_history_of_many_breaks_convergence() -> None:
    run_state_machine_as_test(RoomMachine, settings=LONG)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_history_breaks_convergence_on_files(tmp_path: Path) -> None:
    class OnFiles(RoomMachine):
        def disk(self, name: str) -> Disk:
            return FileDisk(Path(tempfile.mkdtemp(dir=tmp_path)) / f"{name}.db")

    run_state_machine_as_test(OnFiles, settings=settings(LONG, max_examples=200))


@pytest.mark.parametrize(
    "sabotage",
    [skip_power_level_rule, flip_the_timestamp_tie_break, lose_an_early_event, acknowledge_before_the_commit],
)
def test_a_broken_replica_is_noticed(sabotage: Sabotage) -> None:
    broken = type("Broken", (RoomMachine,), {"sabotage": staticmethod(sabotage)})
    with pytest.raises((AssertionError, KeyError, sqlite3.Error)):
        run_state_machine_as_test(broken, settings=SEARCH)


def test_a_power_cut_leaves_nothing_of_a_unit_at_whichever_statement_it_comes() -> None:
    """Of the tool itself: the cut comes where it is asked for, and a caller is told nothing before the commit."""
    loop = VirtualTimeLoop()
    alice = Replica("alice", loop, disk=SimulatedDisk())
    room_id = alice.create()
    held = alice.graph(room_id)

    def unit(tx: Tx) -> Pdu:
        return alice.rooms.send(
            tx, room_id=room_id, sender=alice.user, event_type="m.room.message", content={"body": "lost"}
        )

    for statements in (*range(0, 60, 7), None):
        assert alice.power_cut(unit, statements=statements) is None
        assert alice.graph(room_id) == held
    assert alice.run(unit).event_id in alice.graph(room_id)
    end(loop)
