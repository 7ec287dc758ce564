"""Data folders of nodes that once held rooms: made by the real receipt, looked at by commands."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from click.testing import CliRunner, Result

from p2pserver.cli import cli
from tests.rooms.servers import Server


def data_folder(server: Server, folder: Path) -> Path:
    """A data folder with the database of `server` in it, in WAL mode as a node leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    conn = sqlite3.connect(folder / "p2pserver.db")
    server.conn.backup(conn)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.close()
    return folder


def command(folder: Path, *arguments: str) -> Result:
    """Standard output and standard error are apart; nothing but an exit is let out of a command."""
    result = CliRunner().invoke(cli, [*arguments, "--data-dir", str(folder)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
