"""`p2pserver media …`: what is wanted, and asking for it by name."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from p2pserver.cli import cli
from p2pserver.identifiers import server_name_of
from p2pserver.node.lines import line_of
from p2pserver.node.peer_events import MediaUnderWay
from p2pserver.store.database import SqliteDatabase
from p2pserver.store.media_transfers import HELD_BACK, UNDER_WAY, note_manifest, note_state
from p2pserver.store.tx import Tx

ORIGIN = server_name_of(bytes(31) + b"\1")
URI = f"mxc://{ORIGIN}/boat"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _write(tmp_path, lambda tx: None)
    return tmp_path


def _write(folder: Path, unit: object) -> None:
    async def work() -> None:
        database = await SqliteDatabase.open(folder / "p2pserver.db")
        await database.write(unit)  # type: ignore[arg-type]
        await database.close()

    asyncio.run(work())


def media(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["media", *arguments, f"--data-dir={folder}"])


def test_what_is_asked_for_is_listed_until_it_is_given_up(folder: Path) -> None:
    assert media(folder, "list").output == "nothing is wanted\n"
    assert media(folder, "fetch", URI).exit_code == 0
    assert media(folder, "list").output == f"{URI}\n  nobody in reach has it\n"

    def held_back(tx: Tx) -> None:
        note_manifest(tx, ORIGIN, "boat", manifest="{}", size=60_000)
        note_state(tx, ORIGIN, "boat", state=HELD_BACK, source=None, octets=0, seconds_left=83)

    _write(folder, held_back)
    assert "held back: 60,000 octets, about 83 s; `p2pserver media fetch` fetches it" in media(folder, "list").output

    def under_way(tx: Tx) -> None:
        note_state(tx, ORIGIN, "boat", state=UNDER_WAY, source="them", octets=15_000, seconds_left=600)

    _write(folder, under_way)
    assert "25 % of 60,000 octets, about 10 min left, from them" in media(folder, "list").output
    (told,) = json.loads(media(folder, "list", "--json").output)
    assert (told["uri"], told["asked"], told["octets"]) == (URI, True, 15_000)
    assert media(folder, "give-up", URI).exit_code == 0
    again = media(folder, "give-up", URI)
    assert (again.exit_code, again.output) == (1, f"p2pserver: {URI} is not wanted\n")


@pytest.mark.parametrize("uri", ["boat", "mxc://matrix.example/boat", f"mxc://{ORIGIN}/", f"mxc://{ORIGIN}/a/b"])
def test_what_is_no_address_is_told(folder: Path, uri: str) -> None:
    assert media(folder, "fetch", uri).exit_code == 2


def test_what_people_read_while_it_comes() -> None:
    def line(seconds_left: int | None, *, held_back: bool = False) -> str | None:
        event = MediaUnderWay(
            uri=URI, server_name="x", octets=500, size=2_000, seconds_left=seconds_left, held_back=held_back
        )
        return line_of(event)

    assert line(30) == f"fetching {URI}: 25 % of 2,000 octets, 30 s left"
    assert line(None) == f"fetched {URI}"
    assert line(9_000, held_back=True) == (
        f"not fetching {URI}: 2,000 octets would take about 2 h; `p2pserver media fetch {URI}` fetches it"
    )
