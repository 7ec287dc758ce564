"""docs/rooms.md and docs/store.md are true of the code: tables, modules and numbers."""

from __future__ import annotations

import re
from pathlib import Path

from p2pserver.rooms.values import RoomLimits
from p2pserver.store import state_groups
from p2pserver.store.database import UNITS_PER_COMMIT_MAX
from p2pserver.store.inline import SimulatedDisk
from p2pserver.store.rooms import HISTORY_BAND

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    return " ".join((ROOT / "docs" / name).read_text("utf-8").split())


def test_the_tables_are_those_of_the_schema() -> None:
    files = sorted((ROOT / "p2pserver" / "store" / "schema").glob("*.sql"))
    on_page = [file for file in files if file.name[:3] in ("001", "006", "007", "008") or file.name >= "01"]
    schema = "".join(file.read_text("utf-8") for file in on_page)
    tables = set(re.findall(r"CREATE TABLE (\w+)", schema)) - set(re.findall(r"DROP TABLE (\w+)", schema))
    text = (ROOT / "docs" / "store.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in rows)))
    conn = SimulatedDisk().conn
    made = {row[0] for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    conn.close()
    assert tables <= named <= made


def test_the_files_exist() -> None:
    for name in ("rooms.md", "store.md"):
        for path in re.findall(r"`((?:tests|p2pserver|store)/[\w/]+\.py)`", page(name)):
            assert (ROOT / path).exists() or (ROOT / "p2pserver" / path).exists(), path
    for module in re.findall(r"`(\w+\.py)`", page("rooms.md")):
        assert (ROOT / "p2pserver" / "rooms" / module).exists(), module


def test_the_numbers_are_those_of_the_code() -> None:
    limits, rooms, store = RoomLimits(), page("rooms.md"), page("store.md")
    assert f"{limits.parked_per_room:,} and {limits.parked_octets_per_room >> 20} MiB per room" in rooms
    assert f"{limits.parked_per_source} per source" in rooms
    assert f"(at most {limits.invite_octets >> 10} KiB)" in rooms
    assert f"At most {limits.invites_per_origin_per_hour} an hour" in rooms
    assert f"{limits.invites_held:,} are kept" in rooms
    assert f"after {state_groups.HOPS_MAX} deltas" in store
    assert f"{state_groups.CACHED_ENTRIES_MAX:,} entries" in store
    assert f"at most {UNITS_PER_COMMIT_MAX}" in store
    assert HISTORY_BAND == 2**32
    assert "2^32 positions" in store
