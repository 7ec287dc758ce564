"""The rooms of this node's users, as their clients ask for them."""

from __future__ import annotations

from p2pserver.store.memberships import LocalMembership
from p2pserver.store.tx import Tx


def memberships_of(tx: Tx, user_id: str, *, above: int | None = None) -> list[LocalMembership]:
    """Every room that the user is or was something to; with `above`, where that changed after this position."""
    rows = tx.all(
        "SELECT room_id, membership, event_id, sender, position, forgotten FROM local_memberships WHERE user_id = ?"
        + ("" if above is None else " AND position > ?")
        + " ORDER BY room_id",
        (user_id,) if above is None else (user_id, above),
    )
    return [
        LocalMembership(
            user_id=user_id,
            room_id=room_id,
            membership=membership,
            event_id=event_id,
            sender=sender,
            position=position,
            forgotten=bool(forgotten),
        )
        for room_id, membership, event_id, sender, position, forgotten in rows
    ]


def joined_rooms_of(tx: Tx, user_id: str) -> list[str]:
    rows = tx.all(
        "SELECT room_id FROM local_memberships WHERE user_id = ? AND membership = 'join' ORDER BY room_id", (user_id,)
    )
    return [room_id for (room_id,) in rows]


def rooms_of_both(tx: Tx, user_id: str, other: str) -> list[str]:
    """The rooms in which a user of this node and somebody, of any node, are joined."""
    rows = tx.all(
        "SELECT m.room_id FROM local_memberships AS m JOIN current_state AS s ON s.room_id = m.room_id"
        " AND s.type = 'm.room.member' AND s.state_key = ? AND s.membership = 'join'"
        " WHERE m.user_id = ? AND m.membership = 'join' ORDER BY m.room_id",
        (other, user_id),
    )
    return [room_id for (room_id,) in rows]


def is_joined(tx: Tx, user_id: str, room_id: str) -> bool:
    row = tx.one(
        "SELECT 1 FROM local_memberships WHERE user_id = ? AND room_id = ? AND membership = 'join'", (user_id, room_id)
    )
    return row is not None


def local_members(tx: Tx, room_id: str) -> list[str]:
    """The users of this node who are joined."""
    rows = tx.all(
        "SELECT user_id FROM local_memberships WHERE room_id = ? AND membership = 'join' ORDER BY user_id", (room_id,)
    )
    return [user_id for (user_id,) in rows]


def local_users_of(tx: Tx, room_id: str) -> list[str]:
    """The users of this node who are joined or invited, or knock."""
    rows = tx.all(
        "SELECT user_id FROM local_memberships WHERE room_id = ? AND membership IN ('join', 'invite', 'knock')"
        " ORDER BY user_id",
        (room_id,),
    )
    return [user_id for (user_id,) in rows]


def forget_room(tx: Tx, user_id: str, room_id: str) -> None:
    """The user does not want to hear of a room he has left any more."""
    tx.execute("UPDATE local_memberships SET forgotten = 1 WHERE user_id = ? AND room_id = ?", (user_id, room_id))
