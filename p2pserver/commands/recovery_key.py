"""`p2pserver recovery-key`: the key of the node on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from p2pserver.commands.settings import failures_told, load_config, setting_options, show_qr


@click.group("recovery-key", short_help="The key of the node, for a sheet of paper.")
def recovery_key() -> None:
    """The key of this node as text, from which `p2pserver restore --recovery-key` makes it again."""


@recovery_key.command()
@click.option("--qr", is_flag=True, help="Shows it as a QR code, too.")
@setting_options(["data_dir"])
def show(config_file: Path | None, qr: bool, **flags: Any) -> None:
    """Shows the recovery key. Write it down, and keep it where only you get at it.

    It is good for the name: with it a node whose device is gone comes back under the same server name, and finds its
    rooms again at those who are in them. It holds no accounts, no messages and no encryption keys of clients: for those
    make backups. Whoever has it can act as this node.
    """
    from p2pserver.node.identity import identity_in
    from p2pserver.node.recovery_key import encode_recovery_key

    config = load_config(config_file, flags)
    with failures_told(config):
        identity = identity_in(config.data_dir)
    text = encode_recovery_key(identity.seed, identity.server_name.partition(".")[2] or None)
    if qr:
        show_qr(text.upper())
    letters, dot, domain = text.partition(".")
    groups = letters.split("-")
    rows = ["  ".join(groups[at : at + 7]) for at in range(0, len(groups), 7)]
    click.echo("\n".join(rows) + (f"\n{dot}{domain}" if domain else ""))
