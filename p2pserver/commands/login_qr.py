"""`p2pserver login-qr`: the next device of a user logs in by a code instead of a password."""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path
from typing import Any

import click

from p2pserver.commands.settings import Failure, load_config, on_database, own_user_id, setting_options, show_qr
from p2pserver.config import Config, is_loopback, split_address
from p2pserver.node.lines import device_addresses
from p2pserver.store.accounts import user_exists
from p2pserver.store.tokens import add_short_lived_token
from p2pserver.store.tx import Tx

LIFETIME_S = 300


@click.command("login-qr")
@click.argument("name")
@click.option(
    "--base-url", help="Where the device reaches this node.  [default: from --listen, or where the node listened last]"
)
@setting_options(["data_dir", "listen"])
def login_qr(config_file: Path | None, name: str, base_url: str | None, **flags: Any) -> None:
    """Shows a QR code with which a further device of a user logs in once, within 5 minutes.

    The code is BASE_URL/?loginToken=TOKEN. Whoever sees it can log in as this user: show it to nobody else.
    """
    config = load_config(config_file, flags)
    if base_url is None:
        base_url, is_elsewhere = _address(config)
    else:
        is_elsewhere = True
    if not re.fullmatch(r"https?://[^\s/?#]+/?", base_url):
        raise click.UsageError(f"{base_url!r} is not the address of a node, such as http://192.168.1.5:8008")
    user_id = own_user_id(config, name)
    token = secrets.token_urlsafe(32)
    now_ms = time.time_ns() // 1_000_000

    def unit(tx: Tx) -> bool:
        if not user_exists(tx, user_id):
            return False
        add_short_lived_token(tx, "login", user_id, token, now_ms=now_ms, lifetime_ms=LIFETIME_S * 1000)
        return True

    if not on_database(config, unit, write=True):
        raise Failure(f"there is no user {user_id}")
    link = f"{base_url.rstrip('/')}/?loginToken={token}"
    show_qr(link)
    click.echo(f"{user_id} logs in with this code once, within {LIFETIME_S // 60} minutes:")
    click.echo(link)
    if not is_elsewhere:
        port = base_url.rpartition(":")[2]
        click.echo(
            f"{base_url} is for apps on this device alone. For another one run the node with `--listen 0.0.0.0:{port}`,"
            " or give --base-url",
            err=True,
        )


def _address(config: Config) -> tuple[str, bool]:
    """(base URL, whether another device can reach it)."""
    listen = on_database(config, lambda tx: tx.one("SELECT value FROM node WHERE name = 'listen'"))
    if listen is None or "listen" in config.origins:
        host, port = config.listen_host, config.listen_port
    else:
        host, port = split_address(str(listen[0]))
    found = (device_addresses(host) or [host])[0]
    return f"http://{f'[{found}]' if ':' in found else found}:{port}", not is_loopback(found)
