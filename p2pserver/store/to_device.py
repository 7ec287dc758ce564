"""To-device messages: each local device's queue, and what has been received from other servers already.

A message stays until the client comes back with a token that covers it: an answer may be lost on the way.
Source: client-server API, "Send-to-Device messaging"; server-server API, `m.direct_to_device`.
"""

from __future__ import annotations

import json
from typing import Any

from p2pserver.store.tx import Tx

QUEUE_MAX = 5_000
"""Messages that wait for one device. What comes then is dropped: the device has been away for too long."""
QUEUE_OCTETS_MAX = 16 * 1024 * 1024
STRANGERS_MAX = 200
"""Of a queue, messages from servers that share no room with this one: they must not keep out those that do."""
STRANGERS_OCTETS_MAX = 1024 * 1024
REMEMBERED_PER_ORIGIN_MAX = 10_000
REMEMBERED_MAX = 100_000
_LOOK_EVERY = 1_000
"""Message IDs between two counts of all that are remembered."""


def add_to_device(tx: Tx, user_id: str, device_id: str, message: dict[str, Any], *, stranger: bool = False) -> None:
    """Queues `{type, sender, content}` for one device, or with `*` for all of a user's; unknown ones get nothing.

    `stranger`: it comes from a server that shares no room with this one.
    """
    if device_id == "*":
        rows = tx.all("SELECT device_id FROM devices WHERE user_id = ?", (user_id,))
    else:
        rows = tx.all("SELECT device_id FROM devices WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    text = json.dumps(message, separators=(",", ":"))
    for (device,) in rows:
        if _has_room(tx, user_id, device, len(text), stranger=stranger):
            tx.execute(
                "INSERT INTO to_device (user_id, device_id, position, message, octets, stranger)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (user_id, device, tx.next_position(), text, len(text), int(stranger)),
            )
            tx.notify(f"user:{user_id}")
            tx.notify("to_device")


def _has_room(tx: Tx, user_id: str, device_id: str, octets: int, *, stranger: bool) -> bool:
    row = tx.one(
        "SELECT COUNT(*), TOTAL(octets), TOTAL(stranger), TOTAL(octets * stranger) FROM to_device"
        " WHERE user_id = ? AND device_id = ?",
        (user_id, device_id),
    )
    assert row is not None
    count, total, by_strangers, octets_by_strangers = row
    if stranger and (by_strangers >= STRANGERS_MAX or octets_by_strangers + octets > STRANGERS_OCTETS_MAX):
        return False
    return bool(count < QUEUE_MAX and total + octets <= QUEUE_OCTETS_MAX)


def to_device_since(
    tx: Tx, user_id: str, device_id: str, since: int, upto: int, limit: int = 100
) -> list[tuple[int, dict[str, Any]]]:
    """(position, message) of the oldest messages at `since` < position <= `upto`, in order of arrival."""
    rows = tx.all(
        "SELECT position, message FROM to_device WHERE user_id = ? AND device_id = ? AND position > ? AND position <= ?"
        " ORDER BY position LIMIT ?",
        (user_id, device_id, since, upto, limit),
    )
    return [(position, json.loads(text)) for position, text in rows]


def delete_to_device(tx: Tx, user_id: str, device_id: str, upto: int) -> int:
    """Deletes what the client has shown, by its token, to have; returns how many."""
    return tx.execute(
        "DELETE FROM to_device WHERE user_id = ? AND device_id = ? AND position <= ?", (user_id, device_id, upto)
    ).rowcount


def is_first_receipt(tx: Tx, origin: str, message_id: str) -> bool:
    """Remembers a message ID of another server; False, if it was received before."""
    added = tx.execute(
        "INSERT OR IGNORE INTO to_device_received (origin, message_id) VALUES (?, ?)", (origin, message_id)
    )
    if added.rowcount == 0:
        return False
    count = tx.one("SELECT COUNT(*) FROM to_device_received WHERE origin = ?", (origin,))
    assert count is not None
    if count[0] > REMEMBERED_PER_ORIGIN_MAX:
        tx.execute(
            "DELETE FROM to_device_received WHERE number IN"
            " (SELECT number FROM to_device_received WHERE origin = ? ORDER BY number LIMIT ?)",
            (origin, REMEMBERED_PER_ORIGIN_MAX // 10),
        )
    if added.lastrowid is not None and added.lastrowid % _LOOK_EVERY == 0:
        tx.execute(
            "DELETE FROM to_device_received WHERE number IN"
            " (SELECT number FROM to_device_received ORDER BY number DESC LIMIT -1 OFFSET ?)",
            (REMEMBERED_MAX,),
        )
    return True
