"""`p2pserver move`: the last backup of a node here, which goes on on another device."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from p2pserver.commands.backup_files import all_told, passphrase_of, passphrase_option, progress_bar, size_of
from p2pserver.commands.settings import Failure, load_config, require_database, setting_options


@click.command()
@click.argument("file", required=False)
@click.option("--encrypt", is_flag=True, help="With a passphrase, which is asked for.")
@passphrase_option
@click.option("--cancel", is_flag=True, help="The file was never restored, and is thrown away: the node stays here.")
@setting_options(["data_dir"])
def move(
    config_file: Path | None,
    file: str | None,
    encrypt: bool,
    passphrase_file: Path | None,
    cancel: bool,
    **flags: Any,
) -> None:
    """Writes everything to FILE and retires the node here: it goes on where FILE is restored.

    The node must not run. Afterwards it does not start here any more, so that two never run with one key. The data
    folder stays as it is; delete it when the node has arrived.
    """
    from p2pserver.node.backup.making import make_backup
    from p2pserver.node.identity import cancel_retirement, is_retired, locked, retire

    config = load_config(config_file, flags)
    if (file is None) != cancel:
        raise click.UsageError("name a file to write to, or give --cancel")
    require_database(config)
    with all_told(config), locked(config.data_dir):
        if file is None:
            if not cancel_retirement(config.data_dir):
                raise Failure(f"the node in {config.data_dir} was not moved away")
            click.echo("the node stays here: throw away the file that was made, and never restore it")
            return
        if is_retired(config.data_dir):
            raise Failure(f"the node in {config.data_dir} was moved away already")
        with progress_bar() as progress:
            made = make_backup(
                config,
                Path(file),
                kind="move",
                passphrase=passphrase_of(passphrase_file, is_new=True) if encrypt or passphrase_file else None,
                progress=progress,
                before_it_counts=lambda: retire(config.data_dir, now_ms=time.time_ns() // 1_000_000),
            )
    click.echo(made.manifest.server_name)
    click.echo(f"  is in {file}, {size_of(made.manifest.octets)}, and does not run here any more")
    click.echo(f"  on the other device: p2pserver restore {Path(file).name}")
