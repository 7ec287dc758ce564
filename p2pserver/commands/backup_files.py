"""What the commands around backups share: the passphrase, the bar that moves, errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import click

from p2pserver.commands.settings import Failure, failures_told
from p2pserver.config import Config

passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="Its first line is the passphrase (`-`: of standard input); asked for otherwise.",
)


@contextmanager
def all_told(config: Config) -> Iterator[None]:
    """As `failures_told`, and what is wrong with the file is not told as if it were the data folder's."""
    from p2pserver.node.backup.container import BackupError

    with failures_told(config):
        try:
            yield
        except BackupError as error:
            raise Failure(str(error)) from None


def passphrase_of(file: Path | None, *, is_new: bool) -> str:
    """From a file, or typed: twice, if it is new. Raises: Failure."""
    if file is not None:
        text = sys.stdin.readline() if str(file) == "-" else file.read_text(encoding="utf-8")
        passphrase = text.split("\n")[0].rstrip("\r")
    elif sys.stdin.isatty():
        passphrase = click.prompt("Passphrase", hide_input=True, confirmation_prompt=is_new, err=True)
    else:
        raise Failure("a passphrase is needed, and nobody is there to type it: give --passphrase-file")
    if not passphrase:
        raise Failure("the passphrase is empty")
    return str(passphrase)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each step on standard error, with the time that is left; nothing where no terminal is."""
    bar: Any = None
    step: str | None = None

    def told(what: str, done: int, of: int) -> None:
        nonlocal bar, step
        if not sys.stderr.isatty():
            return
        if what != step:
            if bar is not None:
                bar.render_finish()
            step, bar = what, click.progressbar(length=of, label=what, file=sys.stderr)
            bar.render_progress()
        bar.update(max(0, done - bar.pos))

    try:
        yield told
    finally:
        if bar is not None:
            bar.render_finish()


@contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """A backup to be read; `-`: standard input. Raises: Failure."""
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(path).open("rb")  # noqa: SIM115  # closed below; what the body raises is not about this file
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}") from None
    with file:
        yield file


def day_of(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")


def counted(number: int, what: str) -> str:
    """`1 room`, `2 rooms`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def size_of(octets: int) -> str:
    return f"{octets / 1e6:,.1f} MB"
