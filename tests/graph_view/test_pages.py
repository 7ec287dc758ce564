"""The pictures of docs/event-graph.md are what nodes do today. To draw them anew: `python -m benchmarks.pictures`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.pictures import FOLDER, STORIES, pictures_of

PAGE = (Path(__file__).parents[2] / "docs" / "event-graph.md").read_text("utf-8")


@pytest.mark.parametrize("story", STORIES)
def test_the_pictures_are_those_of_the_code(story: str) -> None:
    made = pictures_of(story)
    assert made
    for name, svg in made.items():
        assert (FOLDER / f"{name}.svg").read_text("utf-8") == svg, f"docs/pictures/{name}.svg is an old picture"
        assert f"](pictures/{name}.svg)" in PAGE


def test_a_story_does_not_depend_on_the_order_in_which_sets_are_walked() -> None:
    program = "from benchmarks.pictures import pictures_of; print(pictures_of('healing')['healed'])"
    made = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4")
    }
    assert len(made) == 1


def test_the_page_shows_only_pictures_that_exist() -> None:
    for name in re.findall(r"\]\(pictures/([\w-]+\.svg)\)", PAGE):
        assert (FOLDER / name).exists(), name


def test_links_inside_the_page_lead_to_its_headings() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in re.findall(r"^#+ .*$", PAGE, re.MULTILINE)
    }
    for target in re.findall(r"\]\(#([\w-]+)\)", PAGE):
        assert target in headings, target
