"""The table of states, and the page that draws it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from p2pserver.link import frames, limits
from p2pserver.link.limits import LinkTimers
from p2pserver.link.pipe_state import TRANSITIONS, PipeInput, PipeState

PAGE = (Path(__file__).parents[2] / "docs" / "link.md").read_text()


def diagram() -> str:
    """The state diagram of docs/link.md; deaths that are possible everywhere are drawn once, from all states."""
    names = {state: state.value.title().replace(" ", "") for state in PipeState}
    lines = ["stateDiagram-v2", f"    [*] --> {names[PipeState.AWAIT_SECOND]}: initiator"]
    lines.append(f"    [*] --> {names[PipeState.AWAIT_FIRST]}: responder")
    everywhere = (PipeInput.SILENCE, PipeInput.FAULT, PipeInput.CLOSE)
    for (before, happened), after in TRANSITIONS.items():
        if happened not in everywhere:
            lines.append(f"    {names[before]} --> {names[after]}: {happened.value}")
    lines.append(f"    {names[PipeState.DEAD]} --> [*]")
    return "\n".join(lines)


def test_the_page_draws_the_table() -> None:
    assert f"```mermaid\n{diagram()}\n```" in PAGE


def test_every_pipe_can_die_of_everything_that_kills() -> None:
    for state in PipeState:
        for happened in (PipeInput.SILENCE, PipeInput.FAULT, PipeInput.CLOSE):
            assert TRANSITIONS.get((state, happened)) is (None if state is PipeState.DEAD else PipeState.DEAD)


def test_every_state_is_reachable_and_the_dead_stay_dead() -> None:
    reached = {PipeState.AWAIT_FIRST, PipeState.AWAIT_SECOND}
    for _ in PipeState:
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(PipeState)
    assert not any(before is PipeState.DEAD for before, _ in TRANSITIONS)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, value in vars(limits).items()
        if name.isupper() and isinstance(value, int) and name != "COUNTER_MAX"
    ],
)
def test_the_page_tells_every_limit(name: str) -> None:
    (told,) = re.findall(rf"^\| `{name}` \| ([\d,]+) \|", PAGE, flags=re.MULTILINE)
    assert int(told.replace(",", "")) == getattr(limits, name)


def test_the_page_tells_every_timer() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", PAGE, flags=re.MULTILINE))
    timers = LinkTimers()
    for name in LinkTimers.__slots__:
        assert float(told[name]) == getattr(timers, name), name


def test_the_page_tells_every_frame() -> None:
    told = {int(kind, 16): name for kind, name in re.findall(r"^\| `(0x..)`[^|]*\| (\w+) \|", PAGE, flags=re.MULTILINE)}
    assert told == {
        frames.PADDING: "PADDING",
        frames.ACK: "ACK",
        frames.PING: "PING",
        frames.CREDIT: "CREDIT",
        frames.GOODBYE: "GOODBYE",
        frames.HELD: "HELD",
        frames.ACK_BITMAP: "ACK_BITMAP",
        frames.FRAGMENT: "FRAGMENT",
        frames.SKIPPABLE: "later",
    }
