"""`p2pserver network …`: the key that nodes on a shared radio have in common."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from p2pserver.commands.settings import (
    Command,
    Failure,
    failures_told,
    load_config,
    on_database,
    setting_options,
    show_qr,
)
from p2pserver.config import Config

if TYPE_CHECKING:
    from p2pserver.link.network_key import NetworkKey
    from p2pserver.store.tx import Tx

T = TypeVar("T")


@click.group(short_help="The key of the nodes on a shared radio.")
def network() -> None:
    """The key under which this node broadcasts to all neighbors at once, on a radio that all of them hear.

    Who has the key can read what is broadcast; nobody can forge events with it. A running node takes a change over
    within seconds.
    """


def _errors_told(command: Command) -> Command:
    """What is wrong with a key is one line and exit status 1."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        from p2pserver.link.network_key import NetworkKeyError

        try:
            return command(*arguments, **options)
        except NetworkKeyError as error:
            raise Failure(str(error)) from None

    return run


def _prepared(config: Config, unit: Callable[[Tx], T]) -> T:
    """Runs a unit on the database, which is made if this is the first thing that the node ever does."""
    from p2pserver.node.identity import load_identity
    from p2pserver.node.run import prepare_database

    with failures_told(config):
        asyncio.run(prepare_database(config, load_identity(config.data_dir, domain=config.domain)))
    return on_database(config, unit, write=True)


def _in_use(config: Config) -> tuple[NetworkKey, ...]:
    from p2pserver.store.networks import networks_in_use

    return on_database(config, networks_in_use)


@network.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, without the key.")
@setting_options(["data_dir"])
def show(config_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Shows which network this node is in. The key itself is shown by `export --qr` only."""
    current, *older = _in_use(load_config(config_file, flags))
    if as_json:
        click.echo(
            json.dumps(
                {
                    "name": current.name,
                    "network_id": current.network_id.hex(),
                    "open": current.is_open,
                    "epoch": current.epoch,
                    "also_reads": [network.epoch for network in older],
                },
                ensure_ascii=False,
            )
        )
    elif current.is_open:
        from p2pserver.node.lines import lines_of_network

        click.echo("\n".join(lines_of_network(current)))
    else:
        click.echo(current.name)
        also = "".join(f"; epoch {network.epoch} is still read" for network in older)
        click.echo(f"  id {current.network_id.hex()}, epoch {current.epoch}{also}")


@network.command()
@click.argument("name")
@setting_options(["data_dir"])
@_errors_told
def create(config_file: Path | None, name: str, **flags: Any) -> None:
    """Makes a network with a fresh key. Hand it to the other nodes with `export`."""
    from p2pserver.link.network_key import KEY_OCTETS, NETWORK_ID_OCTETS, check_name
    from p2pserver.store.networks import create_network

    check_name(name)
    network_id, key = secrets.token_bytes(NETWORK_ID_OCTETS), secrets.token_bytes(KEY_OCTETS)
    config = load_config(config_file, flags)
    _prepared(config, lambda tx: create_network(tx, name, network_id=network_id, key=key))
    click.echo(f"this node is now in the network {name!r}, epoch 1")
    click.echo("the other nodes need its key: `p2pserver network export FILE`, or `export --qr` for a camera")


@network.command()
@click.argument("file", required=False)
@click.option("--qr", is_flag=True, help="Shows the key as a QR code in the terminal.")
@setting_options(["data_dir"])
def export(config_file: Path | None, file: str | None, qr: bool, **flags: Any) -> None:
    """Writes the key to FILE (`-`: standard output), which must not exist yet, or shows it as a QR code.

    Who gets it can read what is broadcast in the network: hand it over as you would a password.
    """
    from p2pserver.link.network_key import encode_network_key

    if file is None and not qr:
        raise click.UsageError("name a file to write to, or give --qr")
    current, *_ = _in_use(load_config(config_file, flags))
    if current.is_open:
        raise Failure("the key of the open network is public, there is nothing to export: create a network first")
    line = encode_network_key(current)
    if qr:
        show_qr(line)
    if file == "-":
        click.echo(line)
    elif file is not None:
        _write_key(
            Path(file),
            f"# the key of the network {current.name!r}, epoch {current.epoch}: keep it like a password\n{line}\n",
        )
        click.echo(f"wrote epoch {current.epoch} of {current.name!r} to {file}")


def _write_key(path: Path, text: str) -> None:
    """Readable for its owner only, and whole or not there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Failure(f"{path} exists already: nothing was written") from None
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise Failure(f"cannot write {path}: {error.strerror}") from None


@network.command("import")
@click.argument("file")
@setting_options(["data_dir"])
@_errors_told
def import_(config_file: Path | None, file: str, **flags: Any) -> None:
    """Takes the key in FILE (`-`: standard input), or a newer epoch of the network that this node is in."""
    from p2pserver.link.network_key import decode_network_key
    from p2pserver.store.networks import import_network

    key = decode_network_key(_read_key(file))
    is_new = _prepared(load_config(config_file, flags), lambda tx: import_network(tx, key))
    which = f"epoch {key.epoch} of the network {key.name!r}"
    click.echo(f"this node now uses {which}" if is_new else f"this node uses {which} already")


_FILE_OCTETS_MAX = 65_536


def _read_key(file: str) -> str:
    try:
        if file == "-":
            octets = sys.stdin.buffer.read(_FILE_OCTETS_MAX)
        else:
            with Path(file).open("rb") as opened:
                octets = opened.read(_FILE_OCTETS_MAX)
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise Failure(f"{file} is no text, so no network key") from None
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}") from None


@network.command()
@setting_options(["data_dir"])
@_errors_told
def rotate(config_file: Path | None, **flags: Any) -> None:
    """Makes the next epoch: a fresh key that only those have to whom you hand it.

    The present one is still read until the next rotation, so that nothing is lost while the new one goes around.
    """
    from p2pserver.link.network_key import KEY_OCTETS
    from p2pserver.store.networks import rotate_network

    key = secrets.token_bytes(KEY_OCTETS)
    rotated = on_database(load_config(config_file, flags), lambda tx: rotate_network(tx, key=key), write=True)
    click.echo(
        f"{rotated.name!r} is at epoch {rotated.epoch}: hand it to the other nodes with `p2pserver network export`"
    )


@network.command()
@setting_options(["data_dir"])
@_errors_told
def leave(config_file: Path | None, **flags: Any) -> None:
    """Forgets the key and goes back to the open network."""
    from p2pserver.store.networks import leave_network

    left = on_database(load_config(config_file, flags), leave_network, write=True)
    click.echo(f"this node has left the network {left.name!r} and is in the open one")
