"""`p2pserver backup`: everything that a node is, in one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from p2pserver.commands.backup_files import all_told, passphrase_of, passphrase_option, progress_bar, size_of
from p2pserver.commands.settings import load_config, require_database, setting_options


@click.command()
@click.argument("file")
@click.option("--encrypt", is_flag=True, help="With a passphrase, which is asked for.")
@passphrase_option
@click.option("--replace", is_flag=True, help="FILE may exist, and is replaced once the new one is whole.")
@click.option("--without-media", is_flag=True, help="Leaves pictures and files out.")
@setting_options(["data_dir"])
def backup(
    config_file: Path | None,
    file: str,
    encrypt: bool,
    passphrase_file: Path | None,
    replace: bool,
    without_media: bool,
    **flags: Any,
) -> None:
    """Writes key, accounts, rooms and media to FILE (`-`: standard output), also while the node runs.

    Whoever has the file can act as this node and read what is in its database: keep it as you would keep the key, or
    give --encrypt. `p2pserver restore --check FILE` looks whether it is whole.
    """
    from p2pserver.node.backup.making import make_backup

    config = load_config(config_file, flags)
    require_database(config)
    with all_told(config), progress_bar() as progress:
        made = make_backup(
            config,
            sys.stdout.buffer if file == "-" else Path(file),
            passphrase=passphrase_of(passphrase_file, is_new=True) if encrypt or passphrase_file else None,
            replace=replace,
            with_media=not without_media,
            progress=progress,
        )
    manifest = made.manifest
    click.echo(f"{manifest.server_name}", err=True)
    what = f"accounts and rooms with {manifest.files} files, {size_of(manifest.octets)}"
    click.echo(f"  {what}, {'on standard output' if file == '-' else f'in {file}'}", err=True)
    if made.missing:
        click.echo(f"  {made.missing} files of media are not in it: they are gone from the data folder", err=True)
    if not encrypt and passphrase_file is None:
        click.echo("  not encrypted: who reads it can act as this node", err=True)
