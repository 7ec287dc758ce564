"""The network that this node broadcasts in: its keys by epoch, and the counters that were spent under each.

Without one of its own a node is in the open network. Counters are reserved in blocks, in a commit of their own, before
the first of them is used: a crash loses what is left of a block, and never repeats a nonce.
"""

from __future__ import annotations

import hashlib

from p2pserver.link.network_key import EPOCH_MAX, OPEN_NETWORK, NetworkKey, NetworkKeyError
from p2pserver.store.tx import Tx


def networks_in_use(tx: Tx) -> tuple[NetworkKey, ...]:
    """The epoch to send under, and then the one before it, which is read too."""
    rows = tx.all(
        "SELECT network_id, name, epoch, key FROM network_keys WHERE used_for != 'nothing'"
        " ORDER BY used_for = 'sending' DESC, epoch DESC"
    )
    found = tuple(NetworkKey(network_id=row[0], name=row[1], epoch=row[2], key=row[3]) for row in rows)
    return found or (OPEN_NETWORK,)


def create_network(tx: Tx, name: str, *, network_id: bytes, key: bytes) -> NetworkKey:
    """Begins a network with epoch 1. Raises: NetworkKeyError, if the node is in one already."""
    _check_is_in_none(tx)
    network = NetworkKey(network_id=network_id, name=name, epoch=1, key=key)
    _send_under(tx, network)
    return network


def import_network(tx: Tx, network: NetworkKey) -> bool:
    """Takes a key that somebody handed over; False, if it is the one in use.

    Raises: NetworkKeyError, with one line that says why it cannot be used.
    """
    current, *_ = networks_in_use(tx)
    if current.network_id != network.network_id:
        _check_is_in_none(tx)
    elif network.epoch < current.epoch:
        raise NetworkKeyError(
            f"this is epoch {network.epoch} of {network.name!r}, and this node has epoch {current.epoch} already"
        )
    elif network.epoch == current.epoch:
        if network.key != current.key:
            raise NetworkKeyError(
                f"this node has another key for epoch {network.epoch} of {network.name!r}: two people rotated it;"
                " let one of them rotate once more and hand that key to all"
            )
        return False
    _send_under(tx, network)
    return True


def rotate_network(tx: Tx, *, key: bytes) -> NetworkKey:
    """Begins the next epoch; the present one is still read. Raises: NetworkKeyError in the open network."""
    current, *_ = networks_in_use(tx)
    if current.is_open:
        raise NetworkKeyError("the key of the open network is public: create a network first")
    if current.epoch >= EPOCH_MAX:
        raise NetworkKeyError(f"{current.name!r} has had all its epochs: leave it and create another")
    network = NetworkKey(network_id=current.network_id, name=current.name, epoch=current.epoch + 1, key=key)
    _send_under(tx, network)
    return network


def leave_network(tx: Tx) -> NetworkKey:
    """Goes back to the open network. Raises: NetworkKeyError, if the node is there already."""
    current, *_ = networks_in_use(tx)
    if current.is_open:
        raise NetworkKeyError("this node is in no network but the open one")
    _use_no_more(tx, "used_for != 'nothing'")
    return current


def reserve_counters(tx: Tx, network: NetworkKey, count: int) -> int:
    """The first of `count` counters that are from now on spent; use them after the commit, never before."""
    row = tx.one(
        "INSERT INTO network_keys (network_id, epoch, key_id, name, used_for, counters)"
        " VALUES (?, ?, ?, ?, 'nothing', ?)"
        " ON CONFLICT DO UPDATE SET counters = counters + excluded.counters RETURNING counters",
        (network.network_id, network.epoch, _key_id(network), network.name, count),
    )
    assert row is not None
    return int(row[0]) - count


def _send_under(tx: Tx, network: NetworkKey) -> None:
    _use_no_more(tx, "used_for = 'reading'")
    tx.execute("UPDATE network_keys SET used_for = 'reading' WHERE used_for = 'sending'")
    tx.execute(
        "INSERT INTO network_keys (network_id, epoch, key_id, name, key, used_for) VALUES (?, ?, ?, ?, ?, 'sending')"
        " ON CONFLICT DO UPDATE SET name = excluded.name, key = excluded.key, used_for = 'sending'",
        (network.network_id, network.epoch, _key_id(network), network.name, network.key),
    )


def _use_no_more(tx: Tx, which: str) -> None:
    tx.execute(f"UPDATE network_keys SET used_for = 'nothing', key = NULL WHERE {which}")


def _check_is_in_none(tx: Tx) -> None:
    current, *_ = networks_in_use(tx)
    if not current.is_open:
        raise NetworkKeyError(f"this node is in the network {current.name!r}: `p2pserver network leave` leaves it")


def _key_id(network: NetworkKey) -> bytes:
    return hashlib.blake2b(network.key, digest_size=8, person=b"p2p net key id").digest()
