"""The network of a node: which key it sends under, which it reads, and counters that are never given out twice."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from p2pserver.link.network_key import OPEN_NETWORK, NetworkKey, NetworkKeyError
from p2pserver.store.database import SqliteDatabase
from p2pserver.store.networks import (
    create_network,
    import_network,
    leave_network,
    networks_in_use,
    reserve_counters,
    rotate_network,
)
from p2pserver.store.tx import Tx

ID = b"12345678"


async def opened(folder: Path) -> SqliteDatabase:
    return await SqliteDatabase.open(folder / "node.db")


def key_of(epoch: int, key: bytes = b"", network_id: bytes = ID) -> NetworkKey:
    return NetworkKey(network_id=network_id, name="Village", epoch=epoch, key=key or bytes([epoch]) * 32)


async def test_a_node_is_in_the_open_network_until_it_has_one_of_its_own(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    assert await database.read(networks_in_use) == (OPEN_NETWORK,)
    made = await database.write(lambda tx: create_network(tx, "Village", network_id=ID, key=b"k" * 32))
    assert await database.read(networks_in_use) == (made,)
    await database.close()
    database = await opened(tmp_path)
    assert await database.read(networks_in_use) == (made,)
    await database.write(leave_network)
    assert await database.read(networks_in_use) == (OPEN_NETWORK,)
    assert await database.read(lambda tx: tx.all("SELECT key FROM network_keys")) == [(None,)]
    await database.close()


async def test_one_older_epoch_is_read_after_a_rotation_and_none_older(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    await database.write(lambda tx: import_network(tx, key_of(4)))
    second = await database.write(lambda tx: rotate_network(tx, key=b"5" * 32))
    assert await database.read(networks_in_use) == (key_of(5, b"5" * 32), key_of(4))
    await database.write(lambda tx: import_network(tx, key_of(9)))
    assert await database.read(networks_in_use) == (key_of(9), second)
    await database.close()


async def test_keys_that_cannot_be_used_are_refused_with_a_reason(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    with pytest.raises(NetworkKeyError, match="public"):
        await database.write(lambda tx: rotate_network(tx, key=bytes(32)))
    with pytest.raises(NetworkKeyError, match="no network but the open one"):
        await database.write(leave_network)
    assert await database.write(lambda tx: import_network(tx, key_of(2)))
    assert not await database.write(lambda tx: import_network(tx, key_of(2)))
    for refused, says in (
        (key_of(1), "has epoch 2 already"),
        (key_of(2, b"other" * 6 + b"22"), "two people rotated it"),
        (key_of(1, network_id=b"87654321"), "is in the network 'Village'"),
    ):
        with pytest.raises(NetworkKeyError, match=says):
            await database.write(lambda tx, refused=refused: import_network(tx, refused))
    with pytest.raises(NetworkKeyError, match="is in the network 'Village'"):
        await database.write(lambda tx: create_network(tx, "Town", network_id=bytes(8), key=bytes(32)))
    assert await database.read(networks_in_use) == (key_of(2),)
    await database.close()


async def test_no_counter_is_reserved_twice_whatever_happens_to_the_key(tmp_path: Path) -> None:
    """Restarts, leaving and coming back, other epochs in between: the blocks of one key never overlap."""
    rng = random.Random(1)
    spent: dict[bytes, set[int]] = {}
    database = await opened(tmp_path)
    for _ in range(60):
        step = rng.choice(("restart", "leave", "import", "reserve", "reserve", "fail"))
        current = (await database.read(networks_in_use))[0]
        if step == "restart":
            await database.close()
            database = await opened(tmp_path)
        elif step == "leave" and not current.is_open:
            await database.write(leave_network)
        elif step == "import" and current.is_open:
            await database.write(lambda tx: import_network(tx, key_of(rng.randint(1, 2))))
        elif step == "reserve":
            size = rng.randint(1, 300)
            start = await database.write(lambda tx, current=current, size=size: reserve_counters(tx, current, size))
            block = set(range(start, start + size))
            assert not block & spent.setdefault(current.key, set())
            spent[current.key] |= block
        elif step == "fail":

            def rolled_back(tx: Tx, current: NetworkKey = current) -> None:
                reserve_counters(tx, current, 10)
                raise LookupError

            with pytest.raises(LookupError):
                await database.write(rolled_back)
    await database.close()
    assert len(spent) == 3
    assert all(block == set(range(len(block))) for block in spent.values()), "a block was left out for nothing"
