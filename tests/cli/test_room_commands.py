"""`p2pserver room …` on a data folder, with a node on it and without."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from p2pserver.commands.room_lines import ALARMS
from p2pserver.store import alarms
from tests.cli.stored_rooms import command, data_folder
from tests.rooms.servers import Server, reconcile


def two_rooms() -> tuple[Server, str, str]:
    """A server with two rooms; the first, "harbor", has a fork and its merge."""
    anna, boris = Server("anna"), Server("boris", seed=2)
    harbor = anna.create()
    anna.set_state(harbor, "m.room.name", "", {"name": "harbor"})
    boris.join(harbor, anna)
    reconcile(harbor, anna, boris)
    anna.send(harbor, "from anna")
    boris.send(harbor, "from boris")
    reconcile(harbor, anna, boris)
    anna.send(harbor, "merged")
    other = anna.create()
    anna.set_state(other, "m.room.name", "", {"name": "Town"})
    anna.run(lambda tx: tx.execute("INSERT INTO aliases VALUES (?, ?, ?)", (f"#h:{anna.name}", harbor, anna.user)))
    return anna, harbor, other


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return data_folder(two_rooms()[0], tmp_path / "data")


def content_of(folder: Path) -> dict[str, str]:
    """What the files hold; not the index of the log, which whoever reads beside others shares with them."""
    files = [each for each in folder.iterdir() if each.stat().st_size and not each.name.endswith("-shm")]
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


def test_a_room_is_found_by_id_alias_beginning_and_name(folder: Path) -> None:
    anna, harbor, _ = two_rooms()
    for text in (harbor, harbor[:9], harbor[1:9], f"#h:{anna.name}", "#h", "harbor", "HARBOR"):
        shown = command(folder, "room", "graph", text, "--format", "json")
        assert shown.exit_code == 0, shown.stderr
        assert json.loads(shown.stdout)["room_id"] == harbor


def test_what_means_no_room_or_two_is_one_line(folder: Path) -> None:
    for text, word in (("!", "2 rooms"), ("nowhere", "no room here"), ("#no:where", "no alias"), ("", "no room")):
        shown = command(folder, "room", "graph", text)
        assert (shown.exit_code, shown.stdout, shown.stderr.count("\n")) == (1, "", 1)
        assert word in shown.stderr


def test_the_graph_comes_in_three_forms(folder: Path, tmp_path: Path) -> None:
    data = json.loads(command(folder, "room", "graph", "harbor", "--format", "json").stdout)
    assert len(data["events"]) == data["events_held"] == 9
    merge = data["events"][-1]
    assert (len(merge["prev_events"]), merge["extremity"]) == (2, True)
    ET.fromstring(command(folder, "room", "graph", "harbor").stdout)
    output = tmp_path / "graph.dot"
    assert command(folder, "room", "graph", "harbor", "--format", "dot", "--output", str(output)).stdout == ""
    assert output.read_text().startswith("digraph")
    refused = command(folder, "room", "graph", "harbor", "--output", str(tmp_path / "no" / "where.svg"))
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)


def test_the_last_events_are_said_to_be_not_all(folder: Path) -> None:
    shown = command(folder, "room", "graph", "harbor", "--last", "3", "--format", "json")
    assert len(json.loads(shown.stdout)["events"]) == 3
    assert "the last 3 of 9 events" in shown.stderr
    assert command(folder, "room", "graph", "harbor", "--all").stderr == ""


def test_nothing_is_written_while_a_node_has_the_file_open_or_not(folder: Path) -> None:
    before = content_of(folder)
    command(folder, "room", "graph", "harbor")
    assert content_of(folder) == before
    node = sqlite3.connect(folder / "p2pserver.db", isolation_level=None)
    node.execute("BEGIN IMMEDIATE")
    node.execute("UPDATE rooms SET published = 1")
    node.execute("COMMIT")
    node.execute("BEGIN IMMEDIATE")
    node.execute("DELETE FROM events")
    running = content_of(folder)
    shown = command(folder, "room", "graph", "harbor", "--format", "json")
    assert len(json.loads(shown.stdout)["events"]) == 9
    assert content_of(folder) == running
    node.execute("ROLLBACK")
    node.close()


def test_a_folder_that_may_not_be_written_to_can_be_looked_at() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = data_folder(two_rooms()[0], Path(made))
        folder.chmod(0o555)
        nobody, before = 65_534, os.geteuid()
        if before == 0:
            os.seteuid(nobody)
        try:
            shown = command(folder, "room", "graph", "harbor")
            left = sorted(each.name for each in folder.iterdir())
        finally:
            os.seteuid(before)
            folder.chmod(0o755)
        assert (shown.exit_code, left) == (0, ["p2pserver.db"]), shown.stderr


def change(folder: Path, sql: str) -> None:
    conn = sqlite3.connect(folder / "p2pserver.db")
    with conn:
        conn.execute(sql)
    conn.close()


def test_a_database_of_another_version_is_left_as_it_is(folder: Path) -> None:
    for sql, word in (
        ("DELETE FROM schema_migrations WHERE number = 50", "lacks migration 50"),
        ("INSERT INTO schema_migrations VALUES (9999, 'later')", "newer p2pserver"),
        ("DROP TABLE schema_migrations", "no tables of a node"),
    ):
        change(folder, sql)
        before = content_of(folder)
        shown = command(folder, "room", "graph", "harbor")
        assert (shown.exit_code, shown.stdout, shown.stderr.count("\n")) == (1, "", 1)
        assert word in shown.stderr
        assert content_of(folder) == before


def test_a_missing_or_broken_file_is_one_line(folder: Path, tmp_path: Path) -> None:
    shown = command(tmp_path / "nothing", "room", "graph", "harbor")
    assert (shown.exit_code, shown.stderr.count("\n")) == (1, 1)
    assert "p2pserver run" in shown.stderr
    assert not (tmp_path / "nothing").exists()
    (folder / "p2pserver.db").write_bytes(b"no database at all" * 1000)
    shown = command(folder, "room", "graph", "harbor")
    assert (shown.exit_code, shown.stderr.count("\n")) == (1, 1)


def test_verify_says_that_all_is_well(folder: Path) -> None:
    shown = command(folder, "room", "verify", "harbor")
    assert (shown.exit_code, shown.stdout.count("\n")) == (0, 2)
    assert "is what its 9 events say" in shown.stdout
    found = json.loads(command(folder, "room", "verify", "harbor", "--json").stdout)
    assert (found["difference"], found["events"], found["merges"]) == (None, 9, 1)


def test_verify_names_the_first_difference_and_fails(folder: Path) -> None:
    change(folder, "UPDATE events SET depth = depth + 1 WHERE type = 'm.room.name'")
    shown = command(folder, "room", "verify", "harbor")
    assert (shown.exit_code, "Traceback" in shown.stderr) == (1, False)
    assert "is not what its events say at $" in shown.stdout
    assert "what       depth" in shown.stdout
    found = json.loads(command(folder, "room", "verify", "harbor", "--json").stdout)
    assert found["difference"]["expected"] == "5"


def test_show_tells_what_is_known_of_a_room(folder: Path) -> None:
    anna, harbor, _ = two_rooms()
    shown = command(folder, "room", "show", "harbor")
    assert shown.exit_code == 0
    assert shown.stdout.startswith(
        f"harbor\n  {harbor}\n  version 12, by {anna.user}, complete\n  aliases #h:{anna.name}\n"
    )
    assert "9 events (9 accepted), depth 8" in shown.stdout
    assert "1 forward extremity, 1 leaf" in shown.stdout
    assert "2 on 2 servers" in shown.stdout
    found = json.loads(command(folder, "room", "show", "harbor", "--json").stdout)
    assert (found["verdicts"], found["alarms"], found["missing"]) == ({"accepted": 9}, [], [])


def test_show_puts_alarms_first_and_lets_nobody_write_to_the_terminal(tmp_path: Path) -> None:
    anna, harbor, _ = two_rooms()
    details = {"slot": "m.room.topic", "was": "\x1b[2J"}
    anna.run(
        lambda tx: alarms.raise_alarm(
            tx, room_id=harbor, kind=alarms.STATE_RESET_SUSPECTED, about="m.room.topic ", details=details, now_ms=0
        )
    )
    shown = command(data_folder(anna, tmp_path / "data"), "room", "show", "harbor").stdout
    assert "ALARM     state_reset_suspected: m.room.topic" in shown
    assert shown.index("ALARM") < shown.index("graph")
    assert "\x1b" not in shown
    for arguments in (["alarms"], ["alarms", "harbor"]):
        shown = command(tmp_path / "data", *arguments).stdout
        assert shown.startswith(harbor)
        assert "ALARM     state_reset_suspected: m.room.topic" in shown
        assert "\x1b" not in shown
    [row] = json.loads(command(tmp_path / "data", "alarms", "--json").stdout)
    assert (row["room_id"], row["times"], row["details"]) == (harbor, 1, details)
    assert command(tmp_path / "data", "alarms", "nowhere").exit_code == 1


def test_every_kind_of_alarm_is_explained() -> None:
    kinds = {alarms.DIVERGED, alarms.STATE_RESET_SUSPECTED, alarms.SET_BACK, alarms.KEY_USED_TWICE}
    assert set(ALARMS) == kinds


def test_show_says_what_is_missing(tmp_path: Path) -> None:
    anna, boris = Server("anna"), Server("boris", seed=2)
    room_id = anna.create()
    anna.send(room_id, "before")
    boris.join(room_id, anna)
    shown = command(data_folder(boris, tmp_path / "data"), "room", "show", room_id).stdout
    assert "partial, 1 gap" in shown
    assert f"from before the join, its state claimed by {anna.name}" in shown


def test_a_node_starts_without_what_only_these_commands_need() -> None:
    code = "import sys, p2pserver.cli; print([name for name in sys.modules if name.startswith('p2pserver.')])"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("commands.room", "commands.debug", "graph_view", "rooms.verification"):
        assert f"p2pserver.{name}" not in imported


def test_a_link_to_a_room_is_shown_and_taken_wherever_a_room_is(folder: Path) -> None:
    anna, harbor, _ = two_rooms()
    shown = command(folder, "room", "link", "harbor", "--qr").output.splitlines()
    uri, matrix_to = shown[-2:]
    assert uri.startswith(f"matrix:roomid/{harbor[1:]}?via=")
    assert f"via={anna.name}" in uri
    assert matrix_to.startswith(f"https://matrix.to/#/%21{harbor[1:]}?via=")
    assert len(shown) > 10, "the code is above"
    found = json.loads(command(folder, "room", "link", "harbor", "--json").output)
    assert (found["uri"], found["matrix_to"]) == (uri, matrix_to)
    event_id = anna.run(lambda tx: anna.rooms.leaves(tx, harbor))[0]
    to_event = command(folder, "room", "link", "harbor", "--event", event_id).output.splitlines()
    for text in (uri, matrix_to, *to_event, f"matrix:r/h:{anna.name}"):
        assert json.loads(command(folder, "room", "show", text, "--json").output)["room_id"] == harbor
    for text in (f"matrix:u/anna:{anna.name}", "matrix:nonsense", f"matrix:r/elsewhere:{anna.name}"):
        refused = command(folder, "room", "show", text)
        assert (refused.exit_code, refused.stdout) == (1, "")
    assert command(folder, "room", "link", "harbor", "--event", "$none").exit_code == 1
