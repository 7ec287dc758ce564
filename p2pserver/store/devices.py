"""Devices of local users and the access tokens they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from p2pserver.store.device_lists import note_device_change
from p2pserver.store.tokens import add_token, delete_tokens
from p2pserver.store.tx import Tx

DEVICES_PER_USER_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a user is told about one of his devices."""

    device_id: str
    display_name: str | None
    last_seen_ms: int
    last_seen_ip: str

    def to_json(self) -> dict[str, str | int]:
        """A name is a string by the specification, and matrix-nio wants one of every device: its ID, if it has none."""
        return {
            "device_id": self.device_id,
            "display_name": self.display_name or self.device_id,
            "last_seen_ts": self.last_seen_ms,
            "last_seen_ip": self.last_seen_ip,
        }


def log_in_device(
    tx: Tx,
    user_id: str,
    device_id: str,
    *,
    token: str,
    display_name: str | None,
    now_ms: int,
    ip: str,
    expires_ms: int | None = None,
    refresh_token: str | None = None,
) -> None:
    """Gives a device its one token; a device that is known keeps its name and its keys and loses its old tokens."""
    known = tx.execute(
        "UPDATE devices SET last_seen_ms = ?, last_seen_ip = ? WHERE user_id = ? AND device_id = ?",
        (now_ms, ip, user_id, device_id),
    )
    if known.rowcount == 0:
        add_device(tx, user_id, device_id, display_name=display_name, now_ms=now_ms, ip=ip)
    else:
        tx.execute("DELETE FROM dehydrated_devices WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    delete_tokens(tx, user_id, device_id)
    add_token(tx, user_id, device_id, token=token, expires_ms=expires_ms, refresh_token=refresh_token)
    tx.notify(f"user:{user_id}")


def add_device(tx: Tx, user_id: str, device_id: str, *, display_name: str | None, now_ms: int, ip: str) -> None:
    """A device without token and keys."""
    _make_room(tx, user_id)
    tx.execute(
        "INSERT INTO devices (user_id, device_id, display_name, last_seen_ms, last_seen_ip) VALUES (?, ?, ?, ?, ?)",
        (user_id, device_id, display_name, now_ms, ip),
    )


def _make_room(tx: Tx, user_id: str) -> None:
    """A script that logs in for ever loses its oldest devices."""
    rows = tx.all(
        "SELECT device_id FROM devices WHERE user_id = ?"
        " AND device_id NOT IN (SELECT device_id FROM dehydrated_devices WHERE user_id = ?)"
        " ORDER BY last_seen_ms DESC LIMIT -1 OFFSET ?",
        (user_id, user_id, DEVICES_PER_USER_MAX - 1),
    )
    for (device_id,) in rows:
        delete_device(tx, user_id, device_id)


def device_ids(tx: Tx, user_id: str) -> list[str]:
    return [row[0] for row in tx.all("SELECT device_id FROM devices WHERE user_id = ?", (user_id,))]


def log_out_everywhere(tx: Tx, user_id: str) -> None:
    """Deletes every device that somebody could use, and so not the dehydrated one: it is for who is logged out."""
    rows = tx.all(
        "SELECT device_id FROM devices WHERE user_id = ?"
        " AND device_id NOT IN (SELECT device_id FROM dehydrated_devices WHERE user_id = ?)",
        (user_id, user_id),
    )
    for (device_id,) in rows:
        delete_device(tx, user_id, device_id)
    delete_tokens(tx, user_id)


def devices_of(tx: Tx, user_id: str, device_id: str | None = None) -> list[Device]:
    """All devices of a user, or the one named, if it exists."""
    sql = "SELECT device_id, display_name, last_seen_ms, last_seen_ip FROM devices WHERE user_id = ?"
    rows = tx.all(sql, (user_id,)) if device_id is None else tx.all(sql + " AND device_id = ?", (user_id, device_id))
    return [Device(device_id=row[0], display_name=row[1], last_seen_ms=row[2], last_seen_ip=row[3]) for row in rows]


def whois(tx: Tx, user_id: str) -> dict[str, Any]:
    """Where a user's devices were last seen. Source: client-server API, `GET /admin/whois/{userId}`."""
    seen = {
        device.device_id: {
            "sessions": [
                {"connections": [{"ip": device.last_seen_ip, "last_seen": device.last_seen_ms, "user_agent": ""}]}
            ]
        }
        for device in devices_of(tx, user_id)
    }
    return {"user_id": user_id, "devices": seen}


def rename_device(tx: Tx, user_id: str, device_id: str, display_name: str | None) -> bool:
    """False, if there is no such device. Other people see the name beside the device's keys."""
    row = tx.one("SELECT display_name FROM devices WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    if row is None:
        return False
    if row[0] != display_name:
        tx.execute(
            "UPDATE devices SET display_name = ? WHERE user_id = ? AND device_id = ?",
            (display_name, user_id, device_id),
        )
        note_device_change(tx, user_id, device_id)
    return True


def delete_device(tx: Tx, user_id: str, device_id: str) -> bool:
    """Deletes a device with its tokens, keys and queue, and tells who shares a room. False: no such device."""
    row = tx.one("SELECT keys FROM devices WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    if row is None:
        return False
    for table in (
        "access_tokens",
        "devices",
        "one_time_keys",
        "claimed_keys",
        "fallback_keys",
        "to_device",
        "client_transactions",
        "pushers",
        "dehydrated_devices",
    ):
        tx.execute(f"DELETE FROM {table} WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    if row[0] is not None:
        note_device_change(tx, user_id, device_id)
    tx.notify(f"user:{user_id}")
    return True


def touch_device(tx: Tx, user_id: str, device_id: str, *, now_ms: int, ip: str) -> None:
    """Remembers when and from where a device was last heard of."""
    tx.execute(
        "UPDATE devices SET last_seen_ms = ?, last_seen_ip = ? WHERE user_id = ? AND device_id = ?",
        (now_ms, ip, user_id, device_id),
    )
