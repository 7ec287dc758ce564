"""Application services in the store: how far each has come in the stream, and what it may be told of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from p2pserver.store.events import HEALING_TYPE
from p2pserver.store.to_device import delete_to_device
from p2pserver.store.tokens import TokenOwner
from p2pserver.store.tx import Tx


@dataclass(frozen=True, slots=True)
class Transaction:
    """What is sent to a service until it says that it has it: always the same under the same ID."""

    txn_id: str
    reached: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Progress:
    position: int
    """Everything up to here has been delivered, or need not be."""
    under_way: Transaction | None


def progress_of(tx: Tx, service_id: str) -> Progress | None:
    row = tx.one("SELECT position, txn_id, reached, body FROM app_services WHERE service_id = ?", (service_id,))
    if row is None:
        return None
    position, txn_id, reached, body = row
    return Progress(position, None if txn_id is None else Transaction(txn_id, reached, body))


def begin_service(tx: Tx, service_id: str) -> None:
    """A service that was never seen before hears of what happens from now on."""
    tx.execute("INSERT OR IGNORE INTO app_services (service_id, position) VALUES (?, ?)", (service_id, tx.position()))


def put_transaction(tx: Tx, service_id: str, transaction: Transaction) -> None:
    tx.execute(
        "UPDATE app_services SET txn_id = ?, reached = ?, body = ? WHERE service_id = ?",
        (transaction.txn_id, transaction.reached, transaction.body, service_id),
    )


def note_reached(tx: Tx, service_id: str, position: int, devices: Iterable[tuple[str, str]] = ()) -> None:
    """The service has everything up to `position`, the to-device messages of these (user, device) included."""
    for user_id, device_id in devices:
        delete_to_device(tx, user_id, device_id, position)
    tx.execute(
        "UPDATE app_services SET position = ?, txn_id = NULL, reached = NULL, body = NULL WHERE service_id = ?",
        (position, service_id),
    )


# What happened


@dataclass(frozen=True, slots=True)
class Happened:
    """An event, by what decides on whom it concerns."""

    position: int
    event_id: str
    room_id: str
    type: str
    sender: str
    state_key: str | None
    held: bool
    """Whether its room is held here; if not, the user `state_key` was invited, or the invite has ended."""


def events_since(tx: Tx, *, above: int, most: int) -> list[Happened]:
    """The accepted events after a position, oldest first."""
    rows = tx.execute(
        "SELECT position, event_id, room_id, type, sender, state_key FROM events WHERE position > ? AND outlier = 0"
        f" AND verdict = 'accepted' AND type != '{HEALING_TYPE}' ORDER BY position LIMIT ?",
        (above, most),
    )
    return [
        Happened(position, event_id, room_id, event_type, sender, state_key, True)
        for position, event_id, room_id, event_type, sender, state_key in rows
    ]


def invites_since(tx: Tx, *, above: int) -> list[Happened]:
    """Invites to rooms that are not held, and what ended them, oldest first."""
    rows = tx.execute(
        "SELECT m.position, m.event_id, m.room_id, m.sender, m.user_id FROM invites AS i JOIN local_memberships AS m"
        " ON m.user_id = i.user_id AND m.room_id = i.room_id WHERE m.position > ? AND NOT EXISTS"
        " (SELECT 1 FROM events AS e WHERE e.event_id = m.event_id AND e.outlier = 0) ORDER BY m.position",
        (above,),
    )
    return [
        Happened(position, event_id, room_id, "m.room.member", sender, user_id, False)
        for position, event_id, room_id, sender, user_id in rows
    ]


def members_changed_since(tx: Tx, room_id: str, *, above: int) -> list[tuple[int, str, str | None]]:
    """(position, user, ID of the member event before) of each change of a membership in a room, newest first."""
    return tx.all(
        "SELECT position, state_key, previous_event_id FROM current_state_deltas"
        " WHERE room_id = ? AND position > ? AND type = 'm.room.member' ORDER BY position DESC",
        (room_id, above),
    )


def to_device_since(tx: Tx, *, above: int, most: int) -> list[tuple[int, str, str, str]]:
    """(position, user, device, message as JSON) of what waits for the devices of this node, oldest first."""
    return tx.all(
        "SELECT position, user_id, device_id, message FROM to_device WHERE position > ? ORDER BY position LIMIT ?",
        (above, most),
    )


def own_devices(tx: Tx) -> list[tuple[str, str, bool]]:
    """(user, device, whether it can be written to encrypted) of each device of this node: those with keys first, then
    those that were seen last."""
    rows = tx.all(
        "SELECT user_id, device_id, keys IS NOT NULL FROM devices"
        " ORDER BY keys IS NULL, last_seen_ms DESC, user_id, device_id"
    )
    return [(user_id, device_id, bool(has_keys)) for user_id, device_id, has_keys in rows]


# Acting as users


def acting_user(tx: Tx, user_id: str, device_id: str | None) -> TokenOwner | None:
    """A user of this node as a service acts for him, with one of his devices if it names one; None: no such user."""
    row = tx.one(
        "SELECT locked, suspended, shadow_banned, admin FROM users WHERE user_id = ? AND deactivated = 0", (user_id,)
    )
    if row is None:
        return None
    seen = None
    if device_id is not None:
        seen = tx.one("SELECT last_seen_ms FROM devices WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    return replace(
        service_itself(user_id),
        device_id=device_id or "",
        last_seen_ms=None if seen is None else seen[0],
        locked=bool(row[0]),
        suspended=bool(row[1]),
        shadow_banned=bool(row[2]),
        admin=bool(row[3]),
    )


def service_itself(user_id: str) -> TokenOwner:
    """The sender of a service that has not registered him yet."""
    return TokenOwner(
        user_id=user_id,
        device_id="",
        token_id=0,
        last_seen_ms=None,
        expires_ms=None,
        used=True,
        admin=False,
        locked=False,
        suspended=False,
        shadow_banned=False,
        rate=None,
    )


def note_registered_by(tx: Tx, user_id: str, service_id: str) -> None:
    tx.execute("UPDATE users SET app_service = ? WHERE user_id = ?", (service_id, user_id))


def service_of_user(tx: Tx, user_id: str) -> str | None:
    """The ID of the service that registered a user."""
    row = tx.one("SELECT app_service FROM users WHERE user_id = ?", (user_id,))
    return None if row is None else row[0]


# Directories of networks


def set_listed(tx: Tx, service_id: str, network_id: str, room_id: str, listed: bool) -> None:
    if listed:
        tx.execute(
            "INSERT OR IGNORE INTO app_service_rooms (service_id, network_id, room_id) VALUES (?, ?, ?)",
            (service_id, network_id, room_id),
        )
    else:
        tx.execute(
            "DELETE FROM app_service_rooms WHERE service_id = ? AND network_id = ? AND room_id = ?",
            (service_id, network_id, room_id),
        )


def listed_rooms(tx: Tx, network: tuple[str, str] | None) -> list[str]:
    """The rooms in the directory of a (service, network), or of all, in which a user of this node is joined."""
    which, params = ("", ()) if network is None else ("l.service_id = ? AND l.network_id = ? AND", network)
    rows: list[tuple[Any, ...]] = tx.all(
        f"SELECT DISTINCT l.room_id FROM app_service_rooms AS l WHERE {which} EXISTS (SELECT 1 FROM local_memberships"
        " AS m WHERE m.room_id = l.room_id AND m.membership = 'join') ORDER BY l.room_id",
        params,
    )
    return [room_id for (room_id,) in rows]
