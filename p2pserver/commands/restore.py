"""`p2pserver restore`: a data folder from a backup, or from the recovery key alone."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from p2pserver.commands.backup_files import (
    all_told,
    counted,
    day_of,
    opened,
    passphrase_of,
    passphrase_option,
    progress_bar,
    size_of,
)
from p2pserver.commands.settings import Failure, command_line, load_config, setting_options
from p2pserver.config import Config


@click.command()
@click.argument("file", required=False)
@click.option("--check", "only_check", is_flag=True, help="Reads FILE to its end, and changes nothing.")
@click.option("--recovery-key", is_flag=True, help="Makes a node of its key alone, which is asked for.")
@passphrase_option
@setting_options(["data_dir"])
def restore(
    config_file: Path | None,
    file: str | None,
    only_check: bool,
    recovery_key: bool,
    passphrase_file: Path | None,
    **flags: Any,
) -> None:
    """Makes the data folder, which must be empty, from the backup in FILE (`-`: standard input).

    The folder is there whole or not at all. Never run two nodes from one backup, nor the old one beside it.
    """
    config = load_config(config_file, flags)
    if (file is None) != recovery_key or (only_check and recovery_key):
        raise click.UsageError("name a backup, or give --recovery-key")
    if file is None:
        _restore_key(config)
    elif only_check:
        _check(config, file, passphrase_file)
    else:
        _restore(config, file, passphrase_file)


def _restore(config: Config, file: str, passphrase_file: Path | None) -> None:
    from p2pserver.node.backup.restoring import restore as restore_from

    with all_told(config), opened(file) as stream, progress_bar() as progress:
        found = restore_from(
            stream,
            config.data_dir,
            passphrase=lambda header: passphrase_of(passphrase_file, is_new=False),
            progress=progress,
            now_ms=time.time_ns() // 1_000_000,
        )
    manifest = found.manifest
    click.echo(manifest.server_name)
    held = f"{counted(found.users, 'account')}, {counted(found.rooms, 'room')}"
    click.echo(f"  as it was on {day_of(manifest.created_ms)}: {held},")
    click.echo(f"  {counted(found.media, 'file')}; now in {config.data_dir}")
    if found.missing:
        click.echo(f"  {found.missing} files of media were not in the backup; what other nodes have is fetched again")
    click.echo(f"  start it with: {command_line(config, 'run')}")


def _check(config: Config, file: str, passphrase_file: Path | None) -> None:
    from p2pserver.node.backup.restoring import check

    with all_told(config), opened(file) as stream, progress_bar() as progress, tempfile.TemporaryDirectory() as scratch:
        found = check(
            stream,
            Path(scratch),
            passphrase=lambda header: passphrase_of(passphrase_file, is_new=False),
            progress=progress,
        )
    manifest = found.manifest
    click.echo(manifest.server_name)
    click.echo(f"  {'moved' if manifest.kind == 'move' else 'as it was'} on {day_of(manifest.created_ms)}")
    held = ", ".join((counted(found.users, "account"), counted(found.rooms, "room"), counted(found.media, "file")))
    click.echo(f"  {held}, {size_of(manifest.octets)}")
    if found.missing:
        click.echo(f"  {found.missing} files of media are not in it")
    click.echo("  the backup is whole")


def _restore_key(config: Config) -> None:
    from p2pserver.node.backup.restoring import restore_key
    from p2pserver.node.identity import identity_of
    from p2pserver.node.recovery_key import RecoveryKeyError, decode_recovery_key

    text = click.prompt("Recovery key", err=True) if sys.stdin.isatty() else sys.stdin.read(4096)
    try:
        seed, domain = decode_recovery_key(text)
    except RecoveryKeyError as error:
        raise Failure(str(error)) from None
    with all_told(config):
        restore_key(config.data_dir, seed, domain)
    click.echo(identity_of(seed, domain=domain).server_name)
    click.echo(f"  is in {config.data_dir}, with its name, and without accounts and rooms")
    click.echo(f"  start it near other nodes that knew it: {command_line(config, 'run')}")
    click.echo(f"  then make its accounts: {command_line(config, 'register')} NAME")
    click.echo("  with each name that was here: its rooms come back from whoever else is in them")
