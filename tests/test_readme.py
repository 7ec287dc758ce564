"""What the README says is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import click
from click.testing import CliRunner

from p2pserver.cli import cli
from p2pserver.config import Config
from p2pserver.node.identity import load_identity
from p2pserver.node.lines import line_of, welcome
from p2pserver.node.peer_events import PeerConnected

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_two_commands_install_this_package_and_use_it() -> None:
    run = re.search(r"<!-- run command -->\n```sh\n(.+)\n```", README)
    test = re.search(r"<!-- test command -->\n```sh\n(.+)\n```", README)
    assert run is not None
    assert test is not None
    assert run[1] == "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/p2pserver run"
    assert test[1].endswith(".venv/bin/pytest -n auto --dist worksteal")


def test_the_lines_it_shows_are_those_that_a_node_prints(tmp_path: Path) -> None:
    identity = load_identity(tmp_path)
    shown = re.search(r"```\n(This node is .*?)```", README, re.DOTALL)
    assert shown is not None
    name = re.search(r"This node is (\S+)", shown[1])
    peer = re.search(r"connected to (\S+)", shown[1])
    assert name is not None
    assert peer is not None
    command = ".venv/bin/p2pserver register"
    lines = welcome(Config(data_dir=tmp_path), identity, "http://127.0.0.1:8008", token=None, register=command)
    lines.append(line_of(PeerConnected(peer[1], "lan 192.168.1.7:44945", "p2pserver")))
    assert shown[1].splitlines() == [line.replace(identity.server_name, name[1]) for line in lines]


def test_every_command_it_names_exists() -> None:
    names = set(re.findall(r"p2pserver ([a-z][a-z-]+)", README)) - {"on"}
    known = cli.list_commands(click.Context(cli))
    for name in names:
        assert name in known, name
    assert CliRunner().invoke(cli, ["--help"]).exit_code == 0


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_the_pages_name_files_that_exist() -> None:
    for page in sorted((ROOT / "docs").glob("*.md")):
        for path in re.findall(
            r"`((?:p2pserver|transports|tests|examples|benchmarks)/[\w/.]+\.(?:py|json|md|sql|toml))`", page.read_text()
        ):
            assert (ROOT / path).exists(), f"{page.name} names {path}"
