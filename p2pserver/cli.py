"""The command line. Data goes to standard output, logs and errors to standard error; exit status 0, 1 or 2 (usage)."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from p2pserver import __version__
from p2pserver.commands.settings import (
    Failure,
    command_line,
    failures_told,
    load_config,
    on_database,
    own_name,
    own_user_id,
    setting_options,
)


class _Commands(click.Group):
    """Commands with a file of their own are imported when they are used: `run` starts without them."""

    GROUPS = (
        "backup",
        "debug",
        "doctor",
        "login-qr",
        "media",
        "move",
        "network",
        "recovery-key",
        "restore",
        "room",
    )

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.GROUPS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.GROUPS:
            return super().get_command(ctx, cmd_name)
        name = cmd_name.replace("-", "_")
        group: click.Command = getattr(import_module(f"p2pserver.commands.{name}"), name)
        return group


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A Matrix homeserver for this device: peer to peer, offline first.

    Start with `p2pserver run`, then point a Matrix client to http://127.0.0.1:8008.
    """


@cli.command()
@setting_options()
def run(config_file: Path | None, **flags: Any) -> NoReturn:
    """Starts the node and stays until Ctrl-C."""
    config = load_config(config_file, flags)
    set_up_logging(config.log_level, as_json=config.log_json)
    from p2pserver.node.run import run as run_node

    try:
        with failures_told(config):
            sys.exit(asyncio.run(run_node(config, announce=click.echo, register=command_line(config, "register"))))
    except KeyboardInterrupt:
        sys.exit(0)


def _ask_password(_context: click.Context, _parameter: click.Parameter, password: str | None) -> str:
    """The password given, typed twice, or the first line of standard input where nobody is there to type."""
    if password is None and sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    elif password is None:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise click.UsageError("a password is needed: type it when asked, pipe it in, or give --password")
    return str(password)


_password_option = click.option(
    "--password", callback=_ask_password, help="Asked for, or the first line of standard input, if not given."
)


@cli.command()
@click.argument("name")
@_password_option
@click.option("--admin", is_flag=True, help="The account may use the admin API.")
@setting_options(["data_dir"])
def register(config_file: Path | None, name: str, password: str, admin: bool, **flags: Any) -> None:
    """Makes an account on this node, also while the node runs."""
    from p2pserver.node.identity import load_identity
    from p2pserver.node.run import prepare_database
    from p2pserver.store.accounts import hash_password, register_user

    config = load_config(config_file, flags)
    with failures_told(config):
        identity = load_identity(config.data_dir, domain=config.domain)
        asyncio.run(prepare_database(config, identity))
        user_id = f"@{name.lower()}:{identity.server_name}"
        password_hash = hash_password(password)
        now_ms = time.time_ns() // 1_000_000
        on_database(
            config,
            lambda tx: register_user(tx, user_id, password_hash, admin=admin, created_ms=now_ms),
            write=True,
        )
    click.echo(user_id)


@cli.command("reset-password")
@click.argument("name")
@_password_option
@setting_options(["data_dir"])
def reset_password(config_file: Path | None, name: str, password: str, **flags: Any) -> None:
    """Gives a user a new password; logs all devices out."""
    from p2pserver.store.accounts import hash_password, set_password

    config = load_config(config_file, flags)
    user_id = own_user_id(config, name)
    password_hash = hash_password(password)
    on_database(config, lambda tx: set_password(tx, user_id, password_hash, log_out=True), write=True)
    click.echo(f"{user_id} has a new password; log in again on each device")


_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON list, with all that is known.")


@cli.command()
@_json_option
@setting_options(["data_dir"])
def peers(config_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Shows the nodes that were met, and what waits for them."""
    from p2pserver.node.identity import is_running
    from p2pserver.node.lines import lines_of_peers
    from p2pserver.store.peers import list_peers

    config = load_config(config_file, flags)
    rows = on_database(config, list_peers)
    if not is_running(config.data_dir):
        click.echo("this node is not running", err=True)
        rows = [{**row, "connected": False} for row in rows]
    _show(rows, lines_of_peers(rows), as_json=as_json, empty="no other node was met yet")


@cli.command()
@_json_option
@setting_options(["data_dir"])
def rooms(config_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Shows the rooms held here, and those that are being joined.

    For each: name, ID, version, members, events, width of the graph, whether the history is complete. For a
    room that is being joined: how much of it is here, and how long the rest will take.
    """
    from p2pserver.node.lines import lines_of_joins, lines_of_rooms
    from p2pserver.store.pending_joins import list_joins
    from p2pserver.store.room_list import list_rooms

    config = load_config(config_file, flags)
    rows, joins = on_database(config, lambda tx: (list_rooms(tx), list_joins(tx)))
    lines = [*lines_of_rooms(rows), *lines_of_joins(joins)]
    shown = [*rows, *({**join, "history": "joining"} for join in joins)]
    _show(shown, lines, as_json=as_json, empty="no room yet")


@cli.command()
@click.argument("room_", metavar="[ROOM]", required=False)
@_json_option
@setting_options(["data_dir"])
def alarms(config_file: Path | None, room_: str | None, as_json: bool, **flags: Any) -> None:
    """Shows what somebody should look at, of all rooms or of one.

    A room that a peer understands differently though it holds the same events, and a state that went back though nobody
    revoked anything.
    """
    from dataclasses import asdict

    from p2pserver.commands.room_lines import lines_of_alarms
    from p2pserver.graph_view.text import printable
    from p2pserver.store.alarms import alarms as read_alarms
    from p2pserver.store.room_names import NoSuchRoom, room_meant

    config = load_config(config_file, flags)
    try:
        found = on_database(config, lambda tx: read_alarms(tx, None if room_ is None else room_meant(tx, room_)))
    except NoSuchRoom as error:
        raise Failure(str(error)) from None
    rows = [asdict(alarm) for alarm in found]
    _show(rows, map(printable, lines_of_alarms(rows)), as_json=as_json, empty="no alarm")


@cli.command()
@click.argument("server_name")
@setting_options(["data_dir"])
def block(config_file: Path | None, server_name: str, **flags: Any) -> None:
    """Refuses a node, under whatever name its key has."""
    from p2pserver.store.peers import block_server

    config = load_config(config_file, flags)
    key = _key_of(server_name)
    if key == _key_of(own_name(config)):
        raise Failure(f"{server_name} is this node itself")
    if not on_database(config, lambda tx: block_server(tx, key), write=True):
        raise Failure(f"{server_name} is blocked already")
    click.echo(f"{server_name} is blocked")


@cli.command()
@click.argument("server_name")
@setting_options(["data_dir"])
def allow(config_file: Path | None, server_name: str, **flags: Any) -> None:
    """Talks again to a node that was blocked."""
    from p2pserver.store.peers import allow_server

    config = load_config(config_file, flags)
    key = _key_of(server_name)
    if not on_database(config, lambda tx: allow_server(tx, key), write=True):
        raise Failure(f"{server_name} was not blocked")
    click.echo(f"{server_name} is allowed")


def _key_of(server_name: str) -> bytes:
    from p2pserver.identifiers import public_key_of

    key = public_key_of(server_name)
    if key is None:
        raise click.UsageError(f"{server_name!r} is not the name of a node; `p2pserver peers` shows the names")
    return key


@cli.command()
def version() -> None:
    """Prints the version."""
    click.echo(f"p2pserver {__version__}")


@cli.command()
@click.option("--seed", type=int, default=1, show_default=True, help="Repeats a run exactly.")
@click.option("--sabotage", is_flag=True, help="One node skips an authorization rule: the nodes must disagree.")
def demo(seed: int, sabotage: bool) -> NoReturn:
    """Three nodes chat, are cut in two, act against each other, and agree again when they meet."""
    from p2pserver.demo import show

    sys.exit(show(seed=seed, sabotage=sabotage))


def _show(rows: Sequence[dict[str, Any]], lines: Iterable[str], *, as_json: bool, empty: str) -> None:
    if as_json:
        click.echo(json.dumps(list(rows), ensure_ascii=False))
    elif rows:
        click.echo("\n".join(lines))
    else:
        click.echo(empty)


_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object per record, with the fields that were passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class PlainLines(logging.Formatter):
    """`level logger: message key=value ...` for a terminal, which obeys nothing that others wrote."""

    def format(self, record: logging.LogRecord) -> str:
        from p2pserver.graph_view.text import printable

        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS}
        text = f"{record.levelname.lower()} {record.name}: {record.getMessage()}"
        text = printable(text + "".join(f" {key}={value}" for key, value in fields.items()))
        return text + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


def set_up_logging(level: str, *, as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else PlainLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("zeroconf").setLevel(max(logging.ERROR, root.level))


def main() -> None:
    """Entry point of the `p2pserver` script."""
    cli()
