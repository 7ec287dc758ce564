"""Dehydrated devices: keys of a device that is nowhere, so that people can write to who is logged in nowhere.

The device has a row among the others, and so keys, one-time keys and a queue, but no token. Source: MSC3814.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from p2pserver.errors import InvalidParam
from p2pserver.store.device_keys import device_keys_of, put_device_keys, unsigned_part
from p2pserver.store.devices import add_device, delete_device, devices_of, rename_device
from p2pserver.store.tx import Tx


def dehydrated_device(tx: Tx, user_id: str) -> tuple[str, dict[str, Any]] | None:
    """(device ID, what the client stored of it), or None."""
    row = tx.one("SELECT device_id, device_data FROM dehydrated_devices WHERE user_id = ?", (user_id,))
    return None if row is None else (row[0], json.loads(row[1]))


def put_dehydrated_device(
    tx: Tx,
    user_id: str,
    device_id: str,
    *,
    device_data: Mapping[str, Any],
    device_keys: Mapping[str, Any],
    display_name: str | None,
    now_ms: int,
    ip: str,
) -> None:
    """Stores the one dehydrated device of a user, in place of the one that he had.

    An upload that is repeated keeps the queue. Raises: InvalidParam, if the ID is that of a device with a session.
    """
    held = dehydrated_device(tx, user_id)
    if held is not None and (held[0] != device_id or not _same_keys(tx, user_id, device_id, device_keys)):
        delete_device(tx, user_id, held[0])
        held = None
    if held is None:
        if devices_of(tx, user_id, device_id):
            raise InvalidParam("another device has this ID")
        add_device(tx, user_id, device_id, display_name=display_name, now_ms=now_ms, ip=ip)
    elif display_name is not None:
        rename_device(tx, user_id, device_id, display_name)
    put_device_keys(tx, user_id, device_id, device_keys)
    tx.execute(
        "INSERT OR REPLACE INTO dehydrated_devices (user_id, device_id, device_data) VALUES (?, ?, ?)",
        (user_id, device_id, json.dumps(device_data)),
    )


def _same_keys(tx: Tx, user_id: str, device_id: str, device_keys: Mapping[str, Any]) -> bool:
    held = device_keys_of(tx, user_id, device_id)
    return held is not None and unsigned_part(held) == unsigned_part(device_keys)
