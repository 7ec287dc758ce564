"""This node's room aliases, and which rooms it publishes."""

from __future__ import annotations

from dataclasses import dataclass

from p2pserver.store.tx import Tx


@dataclass(frozen=True, slots=True)
class Alias:
    room_id: str
    creator: str


def alias(tx: Tx, name: str) -> Alias | None:
    row = tx.one("SELECT room_id, creator FROM aliases WHERE alias = ?", (name,))
    return None if row is None else Alias(*row)


def insert_alias(tx: Tx, name: str, room_id: str, creator: str) -> None:
    tx.execute("INSERT INTO aliases (alias, room_id, creator) VALUES (?, ?, ?)", (name, room_id, creator))


def delete_alias(tx: Tx, name: str) -> None:
    tx.execute("DELETE FROM aliases WHERE alias = ?", (name,))


def move_aliases(tx: Tx, old_room_id: str, new_room_id: str) -> None:
    """All aliases of this node that point to one room point to another from now on."""
    tx.execute("UPDATE aliases SET room_id = ? WHERE room_id = ?", (new_room_id, old_room_id))


def is_published(tx: Tx, room_id: str) -> bool:
    return tx.one("SELECT 1 FROM rooms WHERE room_id = ? AND published = 1", (room_id,)) is not None


def aliases_of(tx: Tx, room_id: str) -> list[str]:
    return [name for (name,) in tx.all("SELECT alias FROM aliases WHERE room_id = ? ORDER BY alias", (room_id,))]


def set_published(tx: Tx, room_id: str, published: bool) -> None:
    tx.execute("UPDATE rooms SET published = ? WHERE room_id = ?", (int(published), room_id))


def published_room_ids(tx: Tx) -> list[str]:
    """The published rooms in which a user of this node is joined."""
    rows = tx.all(
        "SELECT room_id FROM rooms WHERE published = 1 AND EXISTS (SELECT 1 FROM local_memberships AS m"
        " WHERE m.room_id = rooms.room_id AND m.membership = 'join') ORDER BY room_id"
    )
    return [room_id for (room_id,) in rows]
