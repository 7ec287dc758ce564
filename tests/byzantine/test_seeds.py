"""Every case again with other seeds, on half of them over links that lose and reorder."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.byzantine.scenario import CROWDS, Crowd, play
from transports.sim import LinkConditions

SEEDS = range(2, 6)
LOSSY = LinkConditions(loss=0.1, duplication=0.05, delay_ms_mean=40, jitter_ms=35, datagram_octets_max=1_200)


def bare(value: Any) -> Any:
    """What `pytest.param` holds."""
    return value.values[0] if hasattr(value, "marks") else value


def cases() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each test of the catalogue, with each choice of its parameters but the crowd."""
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        if file.stem in ("test_seeds", "test_sabotage", "test_toolkit"):
            continue
        module = importlib.import_module(f"tests.byzantine.{file.stem}")
        for test in vars(module).values():
            if hasattr(test, "story"):
                marks = [mark for mark in getattr(test.story, "pytestmark", []) if mark.name == "parametrize"]
                names = [mark.args[0] for mark in marks]
                for chosen in itertools.product(*(map(bare, mark.args[1]) for mark in marks)):
                    yield test, dict(zip(names, chosen, strict=True))


def described(test: Any, arguments: dict[str, Any]) -> str:
    return "-".join([test.__name__, *(getattr(value, "__name__", str(value)) for value in arguments.values())])


CASES = [pytest.param(*each, id=described(*each)) for each in cases()]


@pytest.mark.long
@pytest.mark.parametrize("crowd", CROWDS, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("test", "arguments"), CASES)
def test_another_seed(test: Any, arguments: dict[str, Any], seed: int, crowd: Crowd) -> None:
    options = {**test.options, **{key: value for key, value in arguments.items() if key == "version"}}
    play(crowd, partial(test.story, **arguments), seed=seed, **{"conditions": LOSSY if seed % 2 else None, **options})
