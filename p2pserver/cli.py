"""The command line. Data goes to standard output, logs and errors to standard error; exit status 0, 1 or 2 (usage)."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from p2pserver import __version__
from p2pserver.config import OPTIONS, Config, ConfigError

if TYPE_CHECKING:
    from p2pserver.store.tx import Tx

T = TypeVar("T")
Command = Callable[..., Any]


class Failure(click.ClickException):
    """One line that says what is wrong and what to do."""

    def show(self, file: Any = None) -> None:
        click.echo(f"p2pserver: {self.message}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A Matrix homeserver for this device: peer to peer, offline first.

    Start with `p2pserver run`, then point a Matrix client to http://127.0.0.1:8008.
    """


def _setting_options(names: Sequence[str] | None = None) -> Callable[[Command], Command]:
    """Decorates a command with the options of `config.OPTIONS` (those named, or all) and `--config`."""

    def decorate(command: Command) -> Command:
        for option in reversed(OPTIONS):
            if names is not None and option.name not in names:
                continue
            help_text = f"{option.help}  [default: {option.default_text}; env: {option.variable}]"
            if option.is_switch:
                turned_on = option.flag is None
                command = click.option(
                    option.cli_flag, option.name, flag_value=turned_on, type=bool, default=None, help=help_text
                )(command)
            else:
                command = click.option(
                    option.cli_flag, option.name, metavar=option.metavar, multiple=option.many, help=help_text
                )(command)
        config_type = click.Path(exists=True, dir_okay=False, path_type=Path)
        return click.option("--config", "config_file", type=config_type, help="A TOML file with these settings.")(
            command
        )

    return decorate


def _load(config_file: Path | None, flags: dict[str, Any]) -> Config:
    try:
        return Config.load(config_file, flags=flags)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def _on_database(config: Config, unit: Callable[[Tx], T], *, write: bool = False) -> T:
    """Runs one unit on the node's database; a running node does not mind.

    Raises: Failure, if there is no node in the data folder yet or its file cannot be used.
    """
    import sqlite3

    from p2pserver.store.database import SqliteDatabase
    from p2pserver.store.migrations import SchemaTooNew

    async def work() -> T:
        database = await SqliteDatabase.open(config.database_path)
        try:
            return await (database.write(unit) if write else database.read(unit))
        finally:
            await database.close()

    if not config.database_path.exists():
        raise Failure(f"no node in {config.data_dir} yet: start one with `p2pserver run`, or name its --data-dir")
    try:
        return asyncio.run(work())
    except (SchemaTooNew, sqlite3.Error) as error:
        raise Failure(f"{config.database_path}: {error}") from None


@cli.command()
@_setting_options()
def run(config_file: Path | None, **flags: Any) -> NoReturn:
    """Starts the node and stays until Ctrl-C."""
    config = _load(config_file, flags)
    set_up_logging(config.log_level, as_json=config.log_json)
    from p2pserver.node.identity import IdentityError
    from p2pserver.node.run import run as run_node

    try:
        sys.exit(asyncio.run(run_node(config, announce=click.echo)))
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    except (IdentityError, OSError) as error:
        raise Failure(str(error)) from None
    except KeyboardInterrupt:
        sys.exit(0)


@cli.command()
@click.argument("name")
@click.option("--password", prompt=True, hide_input=True, confirmation_prompt=True, help="Asked for, if not given.")
@_setting_options(["data_dir"])
def register(config_file: Path | None, name: str, password: str, **flags: Any) -> None:
    """Makes an account on this node, also while the node runs."""
    from p2pserver.errors import MatrixError
    from p2pserver.node.identity import IdentityError, load_identity
    from p2pserver.node.run import prepare_database
    from p2pserver.store.accounts import hash_password, register_user

    config = _load(config_file, flags)
    try:
        identity = load_identity(config.data_dir, domain=config.domain)
        asyncio.run(prepare_database(config, identity))
        password_hash = hash_password(password)
        user_id = f"@{name}:{identity.server_name}"
        _on_database(config, lambda tx: register_user(tx, user_id, password_hash), write=True)
    except (IdentityError, MatrixError, OSError) as error:
        raise Failure(str(error)) from None
    click.echo(user_id)


@cli.command("reset-password")
@click.argument("name")
@click.option("--password", prompt=True, hide_input=True, confirmation_prompt=True, help="Asked for, if not given.")
@_setting_options(["data_dir"])
def reset_password(config_file: Path | None, name: str, password: str, **flags: Any) -> None:
    """Gives a user of this node a new password and logs his devices out."""
    from p2pserver.errors import MatrixError
    from p2pserver.store.accounts import hash_password, set_password

    config = _load(config_file, flags)
    user_id = _local_user(config, name)
    password_hash = hash_password(password)
    try:
        _on_database(config, lambda tx: set_password(tx, user_id, password_hash, log_out=True), write=True)
    except MatrixError as error:
        raise Failure(str(error)) from None
    click.echo(f"{user_id} has a new password; log in again on each device")


def _local_user(config: Config, name: str) -> str:
    server_name = _on_database(config, lambda tx: tx.one("SELECT value FROM node WHERE name = 'server_name'"))
    if server_name is None:
        raise Failure(f"no node in {config.data_dir} yet: start one with `p2pserver run`")
    return name if name.startswith("@") else f"@{name}:{server_name[0]}"


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON list instead of a table.")
@_setting_options(["data_dir"])
def peers(config_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Shows the nodes that this one has met: connected or when last seen, and what waits for them."""
    from p2pserver.store.peers import list_peers

    config = _load(config_file, flags)
    rows = _on_database(config, list_peers)
    columns = [
        ("server", "server_name"),
        ("link", "link"),
        ("connected", "connected"),
        ("last seen", "last_seen"),
        ("waiting", "queued"),
        ("blocked", "blocked"),
    ]
    _show(rows, columns, as_json=as_json, empty="no other node was met yet")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON list instead of a table.")
@_setting_options(["data_dir"])
def rooms(config_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Shows the rooms held here: members, events, width of the graph, whether the history is complete."""
    from p2pserver.store.room_list import list_rooms

    config = _load(config_file, flags)
    rows = _on_database(config, list_rooms)
    columns = [
        ("room", "room_id"),
        ("name", "name"),
        ("version", "version"),
        ("joined", "joined"),
        ("events", "events"),
        ("width", "width"),
        ("history", "history"),
    ]
    _show(rows, columns, as_json=as_json, empty="no room yet")


@cli.command()
@click.argument("server_name")
@_setting_options(["data_dir"])
def block(config_file: Path | None, server_name: str, **flags: Any) -> None:
    """Refuses to talk to a node from now on, under whatever name its key has."""
    from p2pserver.store.peers import block_server

    config = _load(config_file, flags)
    if not _on_database(config, lambda tx: block_server(tx, _key_of(server_name)), write=True):
        raise Failure(f"{server_name} is blocked already")
    click.echo(f"{server_name} is blocked")


@cli.command()
@click.argument("server_name")
@_setting_options(["data_dir"])
def allow(config_file: Path | None, server_name: str, **flags: Any) -> None:
    """Talks again to a node that was blocked."""
    from p2pserver.store.peers import allow_server

    config = _load(config_file, flags)
    if not _on_database(config, lambda tx: allow_server(tx, _key_of(server_name)), write=True):
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


def _show(rows: Sequence[dict[str, Any]], columns: Sequence[tuple[str, str]], *, as_json: bool, empty: str) -> None:
    if as_json:
        click.echo(json.dumps(list(rows), ensure_ascii=False))
        return
    if not rows:
        click.echo(empty)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title, _ in columns:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(
            *("yes" if row[key] is True else "" if row[key] in (None, False) else str(row[key]) for _, key in columns)
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


class JsonLines(logging.Formatter):
    """One JSON object per record, with the fields that were passed as `extra`."""

    _standard = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({key: value for key, value in vars(record).items() if key not in self._standard})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class PlainLines(logging.Formatter):
    """`level logger: message key=value ...` for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {key: value for key, value in vars(record).items() if key not in JsonLines._standard}  # noqa: SLF001
        text = f"{record.levelname.lower()} {record.name}: {record.getMessage()}"
        text += "".join(f" {key}={value}" for key, value in fields.items())
        return text + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


def set_up_logging(level: str, *, as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else PlainLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("zeroconf").setLevel(max(logging.ERROR, root.level))
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, root.level))


def main() -> None:
    """Entry point of the `p2pserver` script."""
    cli()
