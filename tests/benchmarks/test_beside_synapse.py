"""`benchmarks.beside_synapse` in small and without Synapse: the figures are there, and every request was answered."""

from pathlib import Path

from benchmarks.beside_synapse.measures import Effort
from benchmarks.beside_synapse.report import Line, table
from benchmarks.beside_synapse.run import Run, all_figures
from benchmarks.beside_synapse.worlds import Size

SMALL = Size(crowd=16, rooms=2, many_rooms=2, room_members=3, room_events=20)
LITTLE = Effort(rounds=1, seconds=0.2, sends=3, syncs=1, pages=1, burst=20, logins=4, storms=1, idle_s=0.0)


async def test_it_measures_two_nodes_and_one_that_is_talked_to(tmp_path: Path) -> None:
    run = Run(folder=tmp_path, size=SMALL, effort=LITTLE, synapse=False, tell=lambda line: None)
    lines = await all_figures(run, only=("talking", "between_nodes"))
    assert len(lines) == 9
    assert all(figure > 0 for line in lines for figure in line.ours)
    assert next(line for line in lines if "burst" in line.what).ours == [20]
    assert len(table(lines).splitlines()) == 2 + len(lines)


def test_bars_are_held_to_medians() -> None:
    slower = Line(what="sync", unit="ms", ours=[10, 50, 11], theirs=[30, 31, 90], times=3.0)
    faster = Line(what="sync", unit="ms", ours=[10, 50, 10], theirs=[30, 31, 90], times=3.0)
    assert not slower.is_met
    assert faster.is_met
    assert not Line(what="sends", unit="a second", ours=[480], theirs=[100], more_is_better=True, times=5).is_met
    assert not Line(what="memory", unit="MB", ours=[50.5], bar=50).is_met
    assert Line(what="events", unit="of 300", ours=[300], more_is_better=True, bar=300).is_met
