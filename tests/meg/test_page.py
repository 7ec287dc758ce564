"""docs/event-graph.md is true of the code: its modules exist, and its numbers are the constants."""

from __future__ import annotations

import itertools
import re
from dataclasses import fields
from pathlib import Path

from p2pserver import meg
from p2pserver.events.versions import ROOM_VERSIONS, RoomVersionRules
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


def version_rows() -> dict[str, set[str]]:
    """What the table of room versions says each one changed: the fields, by the version."""
    text = (Path(__file__).parents[2] / "docs" / "event-graph.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|([^|]*)\|$", text, re.MULTILINE)
    assert all(told.strip() for _, told, _ in rows)
    return {version: set(re.findall(r"`(\w+)`", changed)) for version, _, changed in rows}


def test_the_table_of_room_versions_is_what_the_code_changes() -> None:
    versions = list(ROOM_VERSIONS.values())
    names = [field.name for field in fields(RoomVersionRules) if field.name != "version"]
    changed = {
        new.version: {name for name in names if getattr(old, name) != getattr(new, name)}
        for old, new in itertools.pairwise(versions)
    }
    assert version_rows() == {"1": set(), **changed}
    assert all(changed.values())


def test_each_version_is_a_small_step() -> None:
    assert max(len(changed) for changed in version_rows().values()) <= 4


def test_nothing_but_the_table_of_versions_compares_version_numbers() -> None:
    """Branches ask for what differs. (Version strings occur where a room says its own, and in the options.)"""
    sources = {path: path.read_text("utf-8") for path in FOLDER.parent.rglob("*.py")}
    branching = re.compile(r"version (?:==|!=|<|>|<=|>=|in|not in) ?[(\"']|int\((?:\w+\.)*version\)|rules is V\d")
    found = {path.name for path, text in sources.items() if branching.search(text)}
    assert found == {"key_backup.py"}  # whose versions are those of backups
