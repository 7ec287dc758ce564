"""The commands as a person uses them: real processes, a real data folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pserver import __version__
from p2pserver.commands.settings import Failure, own_user_id
from p2pserver.config import Config
from p2pserver.identifiers import public_key_of, server_name_of
from tests.e2e.devices import ROOT, NodeProcess


def command(*arguments: str, folder: Path | None = None, typed: str = "") -> subprocess.CompletedProcess[str]:
    where = [] if folder is None else [f"--data-dir={folder}"]
    return subprocess.run(
        [sys.executable, "-m", "p2pserver", *arguments, *where],
        capture_output=True,
        text=True,
        timeout=60,
        input=typed,
        check=False,
    )


def call(url: str, method: str = "GET", body: Any = None, token: str | None = None) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def log_in(node: NodeProcess, name: str, password: str) -> tuple[int, Any]:
    body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": password}
    return call(f"{node.url}/_matrix/client/v3/login", "POST", body)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    started = NodeProcess(subprocess.Popen, tmp_path, ["--listen=127.0.0.1:0", "--transport=none"]).start()
    try:
        yield started
    finally:
        started.stop()


def test_version() -> None:
    assert command("version").stdout == f"p2pserver {__version__}\n"


def test_help_names_every_command() -> None:
    shown = command("--help").stdout
    names = (
        "run",
        "register",
        "login-qr",
        "reset-password",
        "peers",
        "rooms",
        "alarms",
        "block",
        "allow",
        "demo",
        "version",
    )
    for name in (*names, "login-qr", "room", "debug"):
        assert f"  {name} " in shown


def test_the_ready_file_is_true_and_goes_away(node: NodeProcess) -> None:
    assert public_key_of(node.server_name) is not None
    assert set(node.ready) == {"client_url", "server_name", "pid"}
    status, versions = call(f"{node.url}/_matrix/client/versions")
    assert status == 200
    assert "v1.11" in versions["versions"]
    assert node.process is not None
    assert node.ready["pid"] == node.process.pid
    status_code, seconds = node.interrupt()
    assert status_code == 0
    assert seconds < 2.0
    assert not node.ready_file.exists()


def test_the_node_says_where_to_point_a_client_and_how_to_register(node: NodeProcess) -> None:
    said = node.said()
    assert node.url in said
    assert node.server_name in said
    assert "p2pserver register" in said
    assert len([line for line in said.splitlines() if line and not line.startswith("---")]) <= 12


def test_a_node_ends_quickly_while_a_client_waits_for_news(node: NodeProcess) -> None:
    _, account = call(
        f"{node.url}/_matrix/client/v3/register",
        "POST",
        {"username": "ann", "password": "long enough", "auth": {"type": "m.login.dummy"}},
    )
    token = account["access_token"]
    _, first = call(f"{node.url}/_matrix/client/v3/sync", token=token)
    host, _, port = node.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as waiting:
        path = f"/_matrix/client/v3/sync?since={first['next_batch']}&timeout=30000"
        waiting.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        time.sleep(0.3)
        status_code, seconds = node.interrupt()
    assert status_code == 0
    assert seconds < 2.0


def test_sigterm_ends_the_node_as_ctrl_c_does(node: NodeProcess) -> None:
    assert node.process is not None
    os.kill(node.process.pid, signal.SIGTERM)
    assert node.process.wait(5) == 0


def test_an_account_made_while_the_node_runs_can_log_in_at_once(node: NodeProcess) -> None:
    folder = node.folder / "data"
    made = command("register", "ann", "--password", "first password", folder=folder)
    assert made.stdout == f"@ann:{node.server_name}\n", made.stderr
    assert log_in(node, "ann", "first password")[0] == 200
    assert log_in(node, "ann", "wrong password")[0] == 403
    again = command("register", "ann", "--password", "first password", folder=folder)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1


def test_a_code_logs_the_next_device_in_once_and_an_admin_is_made(node: NodeProcess) -> None:
    folder = node.folder / "data"
    assert command("register", "root", "--admin", "--password", "first password", folder=folder).returncode == 0
    shown = command("login-qr", "root", f"--base-url={node.url}", folder=folder)
    assert shown.returncode == 0, shown.stderr
    link = shown.stdout.splitlines()[-1]
    assert link.startswith(f"{node.url}/?loginToken=")
    assert len([line for line in shown.stdout.splitlines() if "█" in line or "▀" in line]) > 10
    body = {"type": "m.login.token", "token": link.partition("=")[2]}
    status, account = call(f"{node.url}/_matrix/client/v3/login", "POST", body)
    assert (status, account["user_id"]) == (200, f"@root:{node.server_name}")
    assert call(f"{node.url}/_matrix/client/v3/login", "POST", body)[0] == 403
    suspended = f"{node.url}/_matrix/client/v1/admin/suspend/@root:{node.server_name}"
    assert call(suspended, token=account["access_token"]) == (200, {"suspended": False})
    by_itself = command("login-qr", "root", folder=folder)
    assert by_itself.stdout.splitlines()[-1].startswith(f"{node.url}/?loginToken="), (
        "where it listens, not where it would"
    )
    assert "for apps on this device alone" in by_itself.stderr
    assert command("login-qr", "nobody", folder=folder).returncode == 1
    assert command("login-qr", "root", "--base-url=nowhere", folder=folder).returncode == 2


def test_a_new_password_replaces_the_old_and_logs_out(node: NodeProcess) -> None:
    folder = node.folder / "data"
    command("register", "ann", "--password", "first password", folder=folder)
    _, account = log_in(node, "ann", "first password")
    assert command("reset-password", "ann", "--password", "second password", folder=folder).returncode == 0
    assert log_in(node, "ann", "first password")[0] == 403
    assert log_in(node, "ann", "second password")[0] == 200
    status, body = call(f"{node.url}/_matrix/client/v3/account/whoami", token=account["access_token"])
    assert (status, body["errcode"]) == (401, "M_UNKNOWN_TOKEN")
    nobody = command("reset-password", "nobody", "--password", "second password", folder=folder)
    assert (nobody.returncode, nobody.stderr.count("\n")) == (1, 1)


def test_a_password_may_be_piped_in_and_is_never_empty(node: NodeProcess) -> None:
    folder = node.folder / "data"
    assert command("register", "Ann", folder=folder, typed="first password\n").stdout == f"@ann:{node.server_name}\n"
    assert log_in(node, "ann", "first password")[0] == 200
    for arguments in (["--password", ""], []):
        for name in ("register", "reset-password"):
            refused = command(name, "ann", *arguments, folder=folder)
            assert (refused.returncode, "a password is needed" in refused.stderr) == (2, True)
    assert log_in(node, "ann", "first password")[0] == 200


def test_the_node_names_the_command_that_registers_on_it_whatever_its_folder(tmp_path: Path) -> None:
    spaced = tmp_path / "my phone"
    spaced.mkdir()
    node = NodeProcess(subprocess.Popen, spaced, ["--listen=127.0.0.1:0", "--transport=none"]).start()
    try:
        shown = re.search(r"or with: (.* register .*) NAME", node.said())
        assert shown is not None
        typed = [*shlex.split(shown[1]), "ann", "--password", "a password"]
        made = subprocess.run(typed, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
        assert made.stdout == f"@ann:{node.server_name}\n", made.stderr
    finally:
        node.stop()


def test_an_account_can_be_made_before_the_first_start(tmp_path: Path) -> None:
    made = command("register", "ann", "--password", "a password", folder=tmp_path / "data")
    assert made.returncode == 0, made.stderr
    node = NodeProcess(subprocess.Popen, tmp_path, ["--listen=127.0.0.1:0", "--transport=none"]).start()
    try:
        assert made.stdout == f"@ann:{node.server_name}\n"
        assert log_in(node, "ann", "a password")[0] == 200
    finally:
        node.stop()


NOT_WHILE_IDLE = (
    "email",
    "html",
    "http.client",
    "httpx",
    "importlib.metadata",
    "importlib.resources",
    "logging.config",
    "multiprocessing",
    "p2pserver.admin_api",
    "p2pserver.client_api.url_previews",
    "p2pserver.node.simulation",
    "PIL",
    "rich",
    "unicodedata",
    "xml",
    "yaml",
)
"""What costs memory that a node which nobody uses yet can do without. See docs/speed.md."""


def test_an_idle_node_has_loaded_nothing_that_it_may_never_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # each import is a line on standard error
    arguments = ["--listen=127.0.0.1:0", "--transport=lan:listen=127.0.0.1:0"]
    node = NodeProcess(subprocess.Popen, tmp_path, arguments).start()
    try:
        assert call(f"{node.url}/_matrix/client/versions")[0] == 200
        loaded = set(re.findall(r"^import time:.*\| +(\S+)$", node.said(), re.MULTILINE))
        assert {"zeroconf", "p2pserver.client_api.sync"} <= loaded
        unused = [
            name for name in loaded if any(name == part or name.startswith(f"{part}.") for part in NOT_WHILE_IDLE)
        ]
        assert sorted(unused) == []
        assert call(f"{node.url}/_synapse/admin/v1/register")[0] == 400  # whoever asks for it has it
        assert "p2pserver.admin_api.endpoints" in node.said()
    finally:
        node.stop()


def test_rooms_and_peers_of_a_node_that_has_none(node: NodeProcess) -> None:
    folder = node.folder / "data"
    assert command("rooms", folder=folder).stdout == "no room yet\n"
    assert command("peers", folder=folder).stdout == "no other node was met yet\n"
    assert json.loads(command("rooms", "--json", folder=folder).stdout) == []


def test_rooms_shows_a_room(node: NodeProcess) -> None:
    _, account = call(
        f"{node.url}/_matrix/client/v3/register",
        "POST",
        {"username": "ann", "password": "long enough", "auth": {"type": "m.login.dummy"}},
    )
    _, room = call(
        f"{node.url}/_matrix/client/v3/createRoom", "POST", {"name": "harbor"}, token=account["access_token"]
    )
    [row] = json.loads(command("rooms", "--json", folder=node.folder / "data").stdout)
    assert (row["room_id"], row["name"], row["version"]) == (room["room_id"], "harbor", "12")
    assert (row["joined"], row["width"], row["history"]) == (1, 1, "complete")
    assert "harbor" in command("rooms", folder=node.folder / "data").stdout


def test_block_and_allow(node: NodeProcess) -> None:
    folder = node.folder / "data"
    other = server_name_of(bytes(range(32)))
    assert command("block", other, folder=folder).returncode == 0
    assert command("block", other, folder=folder).returncode == 1
    assert json.loads(command("peers", "--json", folder=folder).stdout)[0]["blocked"] is True
    assert command("allow", other, folder=folder).returncode == 0
    assert command("allow", other, folder=folder).returncode == 1
    assert command("block", "example.org", folder=folder).returncode == 2
    itself = command("block", node.server_name, folder=folder)
    assert (itself.returncode, "this node itself" in itself.stderr) == (1, True)


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:30_000])


def overwrite(file: Path) -> None:
    file.write_bytes(b"no database at all" * 1_000)


def make_a_folder_of_it(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [cut_in_half, overwrite, make_a_folder_of_it])
def test_a_database_that_cannot_be_used_is_one_line(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "data"
    command("register", "ann", "--password", "a password", folder=folder)
    file = folder / "p2pserver.db"
    damage(file)
    run = ["run", "--listen=127.0.0.1:0", "--transport=none"]
    for arguments in (run, ["rooms"], ["peers"], ["register", "bob", "--password", "x"]):
        ended = command(*arguments, folder=folder)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1), ended.stderr
        assert str(file) in ended.stderr


def test_a_node_that_was_killed_is_not_said_to_be_connected(node: NodeProcess) -> None:
    folder = node.folder / "data"
    key, name = bytes(range(32)), server_name_of(bytes(range(32)))
    with sqlite3.connect(folder / "p2pserver.db") as database:
        row = (key, name, "p2pserver", "lan 10.0.0.2:1", 1, 0, 0)
        columns = "key, server_name, agent, link, connected, met_ms, last_seen_ms"
        database.execute(f"INSERT INTO peers ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    database.close()
    assert "connected over lan 10.0.0.2:1" in command("peers", folder=folder).stdout
    assert node.process is not None
    node.process.kill()
    node.process.wait(5)
    shown = command("peers", folder=folder)
    assert "last seen 1970-01-01" in shown.stdout
    assert "connected" not in shown.stdout
    assert "not running" in shown.stderr


def test_a_ready_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "ready.json"
    ended = command(
        "run", "--listen=127.0.0.1:0", "--transport=none", f"--ready-file={target}", folder=tmp_path / "data"
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert f"--ready-file {target}" in ended.stderr


@pytest.mark.parametrize("name", ["rooms", "peers", "reset-password"])
def test_a_folder_without_a_node_is_said_to_be_one(tmp_path: Path, name: str) -> None:
    extra = ["nobody", "--password", "x"] if name == "reset-password" else []
    ended = command(name, *extra, folder=tmp_path / "nothing")
    assert ended.returncode == 1
    assert "p2pserver run" in ended.stderr
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--listen=nonsense"], "HOST:PORT"),
        (["--transport=telepathy"], "telepathy"),
        (["--transport=lan:colour=blue"], "colour"),
        (["--registration=perhaps"], "registration"),
        (["--domain=Not.Lower"], "lower-case"),
        (["--default-room-version=13"], "version"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_made(tmp_path: Path, arguments: list[str], word: str) -> None:
    ended = command("run", *arguments, folder=tmp_path / "data")
    assert ended.returncode == 2
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data").exists()


def test_the_domain_is_for_ever(tmp_path: Path) -> None:
    arguments = ["--listen=127.0.0.1:0", "--transport=none"]
    node = NodeProcess(subprocess.Popen, tmp_path, [*arguments, "--domain=mesh.example.org"]).start()
    name = node.server_name
    node.stop()
    assert name.endswith(".mesh.example.org")
    refused = command("run", *arguments, "--domain=other.example.org", folder=tmp_path / "data")
    assert refused.returncode == 1
    assert "never changes" in refused.stderr
    again = NodeProcess(subprocess.Popen, tmp_path, arguments).start()
    assert again.server_name == name
    again.stop()


def test_a_second_node_on_the_same_folder_or_port_is_told_why(node: NodeProcess) -> None:
    second = command("run", "--listen=127.0.0.1:0", "--transport=none", folder=node.folder / "data")
    assert second.returncode == 1
    assert "another node" in second.stderr
    port = node.url.rpartition(":")[2]
    third = command("run", f"--listen=127.0.0.1:{port}", "--transport=none", folder=node.folder / "other")
    assert third.returncode == 1
    assert "--listen" in third.stderr
    fourth = command(
        "run", "--listen=127.0.0.1:0", f"--transport=lan:listen=127.0.0.1:{port}", folder=node.folder / "other"
    )
    assert fourth.returncode == 1
    assert "cannot start --transport lan:listen" in fourth.stderr
    assert "Traceback" not in second.stderr + third.stderr + fourth.stderr


def test_beyond_loopback_the_node_says_what_that_means_and_asks_for_a_token(tmp_path: Path) -> None:
    node = NodeProcess(subprocess.Popen, tmp_path, ["--listen=0.0.0.0:0", "--transport=none"]).start()
    try:
        said = node.said()
        assert "unencrypted" in said
        shown = re.search(r"the token ([A-Za-z0-9_-]+),", said)
        assert shown is not None, said
        register = f"{node.url}/_matrix/client/v3/register"
        account = {"username": "ann", "password": "long enough"}
        assert call(register, "POST", {**account, "auth": {"type": "m.login.dummy"}})[0] in (401, 403)
        status, challenge = call(register, "POST", account)
        assert status == 401
        assert challenge["flows"] == [{"stages": ["m.login.registration_token"]}]
        auth = {"type": "m.login.registration_token", "token": shown[1], "session": challenge["session"]}
        assert call(register, "POST", {**account, "auth": auth})[0] == 200
    finally:
        node.stop()


def test_logs_are_json_on_request(tmp_path: Path) -> None:
    arguments = ["--listen=127.0.0.1:0", "--transport=none", "--log-json", "--log-level=info"]
    node = NodeProcess(subprocess.Popen, tmp_path, arguments).start()
    node.stop()
    assert node.errors is not None
    time.sleep(0.2)
    lines = [json.loads(line) for line in node.errors.drain()]
    assert lines
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)


def test_a_link_to_a_user_is_taken_where_a_user_is() -> None:
    config = Config.load(None, flags={})
    for text in ("matrix:u/anna:x.example", "https://matrix.to/#/@anna:x.example", "@anna:x.example"):
        assert own_user_id(config, text) == "@anna:x.example"
    for text in ("matrix:r/room:x.example", "matrix:u/anna"):
        with pytest.raises(Failure):
            own_user_id(config, text)
