"""docs/event-graph.md is true of the code: its modules exist, and its numbers are the constants."""

from __future__ import annotations

import re
from pathlib import Path

from p2pserver import meg
from p2pserver.meg.clock import ALONE_MAX_MS, DRIFT_MAX_MS, TIMESTAMP_MAX
from p2pserver.meg.membership import THIRD_PARTY_SIGNATURE_CHECKS_MAX
from p2pserver.meg.parents import PREV_EVENTS_MAX

PAGE = " ".join((Path(__file__).parents[2] / "docs" / "event-graph.md").read_text("utf-8").split())
FOLDER = Path(str(meg.__file__)).parent


def test_the_modules_exist() -> None:
    named = set(re.findall(r"`(\w+\.py)`", PAGE))
    assert named
    assert named <= {path.name for path in FOLDER.glob("*.py")}


def test_the_numbers_are_those_of_the_code() -> None:
    day_ms = 24 * 60 * 60 * 1000
    assert f"At most {THIRD_PARTY_SIGNATURE_CHECKS_MAX} pairs of key and signature" in PAGE
    assert f"cites all of them, up to {PREV_EVENTS_MAX}," in PAGE
    assert f"{DRIFT_MAX_MS // 60_000} minutes after the wall clock" in PAGE
    assert "alone, ten years after the build" in PAGE
    assert round(ALONE_MAX_MS / day_ms / 365.25, 2) == 10
    assert "between 0 and 2^53-1" in PAGE
    assert TIMESTAMP_MAX == 2**53 - 1
