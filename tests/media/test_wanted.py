"""The rows of what is wanted: bounded, and given up after a time of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from p2pserver.node.media_transfers import ASKED_MS_MAX, RELAYED_MS_MAX, REQUESTED_MS_MAX
from p2pserver.store.inline import InlineDatabase, SimulatedDisk
from p2pserver.store.media_transfers import (
    RELAYED_MAX,
    RELAYED_PER_SERVER_MAX,
    TRANSFERS_MAX,
    drop_transfers_before,
    list_transfers,
    want_media,
)
from p2pserver.store.tx import Tx


@pytest.fixture
async def database() -> AsyncIterator[InlineDatabase]:
    opened = InlineDatabase(SimulatedDisk(), commit_delay_s=0.0)
    yield opened
    await opened.close()


async def test_users_want_so_much_and_what_was_asked_for_by_name_stays(database: InlineDatabase) -> None:
    def unit(tx: Tx) -> list[str]:
        want_media(tx, origin="a.example", media_id="named", now_ms=1, hops=2, asked=True)
        for number in range(TRANSFERS_MAX + 20):
            want_media(tx, origin="a.example", media_id=f"m{number}", now_ms=10 + number, hops=2)
        return [row.media_id for row in list_transfers(tx)]

    wanted = await database.write(unit)
    assert len(wanted) == TRANSFERS_MAX
    assert wanted[0] == "named"
    assert f"m{TRANSFERS_MAX + 19}" in wanted
    assert "m0" not in wanted


async def test_neighbors_want_little(database: InlineDatabase) -> None:
    def wants(tx: Tx, server: str, number: int) -> bool:
        media_id = f"{server}-{number}"
        return want_media(tx, origin="a.example", media_id=media_id, now_ms=1, hops=1, for_server=server)

    def unit(tx: Tx) -> list[int]:
        return [sum(wants(tx, f"s{server}", number) for number in range(30)) for server in range(20)]

    taken = await database.write(unit)
    assert sum(taken) == RELAYED_MAX
    assert max(taken) == RELAYED_PER_SERVER_MAX


async def test_a_users_wish_is_more_than_a_neighbors(database: InlineDatabase) -> None:
    def unit(tx: Tx) -> None:
        want_media(tx, origin="a.example", media_id="boat", now_ms=1, hops=0, for_server="b")
        want_media(tx, origin="a.example", media_id="boat", now_ms=2, hops=2)
        want_media(tx, origin="a.example", media_id="boat", now_ms=3, hops=1, for_server="b")

    await database.write(unit)
    (row,) = await database.read(list_transfers)
    assert (row.for_server, row.hops, row.requested_ms, row.asked) == (None, 2, 3, False)


async def test_each_is_given_up_after_a_time_of_its_own(database: InlineDatabase) -> None:
    def unit(tx: Tx) -> None:
        want_media(tx, origin="a.example", media_id="named", now_ms=0, hops=2, asked=True)
        want_media(tx, origin="a.example", media_id="shown", now_ms=0, hops=2)
        want_media(tx, origin="a.example", media_id="relayed", now_ms=0, hops=1, for_server="b")

    await database.write(unit)
    left = []
    for now_ms in (RELAYED_MS_MAX, RELAYED_MS_MAX + 1, REQUESTED_MS_MAX + 1, ASKED_MS_MAX + 1):

        def drop(tx: Tx, now_ms: int = now_ms) -> None:
            drop_transfers_before(
                tx,
                requested_ms=now_ms - REQUESTED_MS_MAX,
                asked_ms=now_ms - ASKED_MS_MAX,
                relayed_ms=now_ms - RELAYED_MS_MAX,
            )

        await database.write(drop)
        left.append([row.media_id for row in await database.read(list_transfers)])
    assert left == [["named", "shown", "relayed"], ["named", "shown"], ["named"], []]
