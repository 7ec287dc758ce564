"""What the commands share: the options of the settings, errors in one line, the node's database."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from p2pserver.config import OPTIONS, Config, ConfigError
from p2pserver.matrix_uri import InvalidLink, is_link, read_link

if TYPE_CHECKING:
    from p2pserver.store.tx import Tx

T = TypeVar("T")
Command = Callable[..., Any]


class Failure(click.ClickException):
    """One line that says what is wrong and what to do."""

    def show(self, file: Any = None) -> None:
        click.echo(f"p2pserver: {self.message}", err=True)


def setting_options(names: Sequence[str] | None = None) -> Callable[[Command], Command]:
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


def load_config(config_file: Path | None, flags: dict[str, Any]) -> Config:
    try:
        return Config.load(config_file, flags=flags)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def on_database(config: Config, unit: Callable[[Tx], T], *, write: bool = False) -> T:
    """Runs one unit on the node's database; a running node does not mind.

    Raises: Failure, if there is no node in the data folder yet or its file cannot be used.
    """
    from p2pserver.store.database import SqliteDatabase

    async def work() -> T:
        database = await SqliteDatabase.open(config.database_path)
        try:
            return await (database.write(unit) if write else database.read(unit))
        finally:
            await database.close()

    require_database(config)
    with failures_told(config):
        return asyncio.run(work())


def command_line(config: Config, *words: str) -> str:
    """What to type to run another command on this very node."""
    called = sys.argv[0]
    if called.endswith(".py"):
        program = [sys.executable, "-m", "p2pserver"]
    else:
        program = ["p2pserver" if shutil.which("p2pserver") == shutil.which(called) else called]
    where = ["--data-dir", str(config.data_dir)] if "data_dir" in config.origins else []
    return shlex.join([*program, *words, *where])


def own_name(config: Config) -> str:
    """The server name of the node in the data folder. Raises: Failure, if there is none yet."""
    server_name = on_database(config, lambda tx: tx.one("SELECT value FROM node WHERE name = 'server_name'"))
    if server_name is None:
        raise Failure(f"no node in {config.data_dir} yet: start one with `p2pserver run`")
    return str(server_name[0])


def own_user_id(config: Config, name: str) -> str:
    """The user ID that is meant by an ID, a local part or a link to a user.

    Raises: Failure.
    """
    if is_link(name):
        try:
            name = read_link(name).target
        except InvalidLink as error:
            raise Failure(str(error)) from None
        if not name.startswith("@"):
            raise Failure(f"the link is to the room {name}, not to a user")
    return name if name.startswith("@") else f"@{name.lower()}:{own_name(config)}"


def show_qr(text: str) -> None:
    """Draws a QR code in the terminal. Raises: Failure, without the package that makes them."""
    try:
        import segno
    except ImportError:
        raise Failure("a QR code needs the package segno: pip install 'p2pserver[qr]'") from None
    segno.make(text, error="m", micro=False).terminal(out=sys.stdout, compact=True)


def require_database(config: Config) -> None:
    """Raises: Failure, if there is no node in the data folder yet."""
    if not config.database_path.exists():
        raise Failure(f"no node in {config.data_dir} yet: start one with `p2pserver run`, or name its --data-dir")


@contextmanager
def failures_told(config: Config) -> Iterator[None]:
    """Turns what can be wrong outside the program into one line that says what to do."""
    from p2pserver.errors import MatrixError
    from p2pserver.node.identity import IdentityError
    from p2pserver.store.migrations import SchemaTooNew, SchemaTooOld

    try:
        yield
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    except (IdentityError, MatrixError) as error:
        raise Failure(str(error)) from None
    except (SchemaTooNew, SchemaTooOld) as error:
        raise Failure(f"{config.database_path}: {error}") from None
    except sqlite3.OperationalError as error:  # read-only, no space, busy, not to be opened
        raise Failure(
            f"cannot use {config.database_path}: {error}; see that there is space and that this user may write"
            f" to {config.data_dir}"
        ) from None
    except sqlite3.DatabaseError as error:
        raise Failure(
            f"{config.database_path} is damaged ({error}): put the folder back from a backup, or move this file away"
            " to begin with no accounts and rooms under the same name"
        ) from None
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from None
