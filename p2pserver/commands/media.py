"""`p2pserver media …`: files of other nodes that are wanted here."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from p2pserver.commands.settings import Failure, load_config, on_database, setting_options


@click.group(short_help="Files of other nodes that are wanted here.")
def media() -> None:
    """Files of other nodes that are wanted here: what is being fetched, what waits for a word.

    Over a slow link nothing that would take long is fetched because a client shows it; `fetch` asks for it by name. A
    running node takes it over within ten seconds.
    """


def _named(uri: str) -> tuple[str, str]:
    """(origin, media ID) of `mxc://origin/id`."""
    from p2pserver.federation.media_manifest import is_media_id
    from p2pserver.identifiers import public_key_of

    origin, _, media_id = uri.removeprefix("mxc://").partition("/")
    if not uri.startswith("mxc://") or public_key_of(origin) is None or not is_media_id(media_id):
        raise click.UsageError(f"{uri!r} is not the address of a node's file, mxc://NODE/ID")
    return origin, media_id


@media.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON list, with all that is known.")
@setting_options(["data_dir"])
def list_wanted(config_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Shows what is wanted, and how far it is."""
    from p2pserver.node.lines import lines_of_media
    from p2pserver.store.media_transfers import list_transfers

    rows = on_database(load_config(config_file, flags), list_transfers)
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], ensure_ascii=False))
    else:
        click.echo("\n".join(lines_of_media(rows)) or "nothing is wanted")


@media.command()
@click.argument("uri")
@setting_options(["data_dir"])
def fetch(config_file: Path | None, uri: str, **flags: Any) -> None:
    """Fetches a file, mxc://NODE/ID, however long that takes."""
    from p2pserver.store.media import media as held
    from p2pserver.store.media_transfers import HOPS, want_media
    from p2pserver.store.tx import Tx

    origin, media_id = _named(uri)

    def unit(tx: Tx) -> bool:
        if held(tx, origin, media_id) is not None:
            return False
        now_ms = time.time_ns() // 1_000_000
        return want_media(tx, origin=origin, media_id=media_id, now_ms=now_ms, hops=HOPS, asked=True)

    if not on_database(load_config(config_file, flags), unit, write=True):
        raise Failure(f"{uri} is here already")
    click.echo(f"{uri} is fetched when and where it can be had; `p2pserver media list` shows how far it is")


@media.command("give-up")
@click.argument("uri")
@setting_options(["data_dir"])
def give_up(config_file: Path | None, uri: str, **flags: Any) -> None:
    """Ends the transfer of a file."""
    from p2pserver.store.media_transfers import drop_transfer

    origin, media_id = _named(uri)
    if not on_database(load_config(config_file, flags), lambda tx: drop_transfer(tx, origin, media_id), write=True):
        raise Failure(f"{uri} is not wanted")
    click.echo(f"{uri} is not fetched any more")
