"""This node's published rooms, as entries of the public rooms list.

Source: client-server API, "Published room directory" (`PublishedRoomsChunk`).
"""

from __future__ import annotations

from typing import Any

from p2pserver.rooms import reading
from p2pserver.store.aliases import published_room_ids
from p2pserver.store.room_stream import member_counts
from p2pserver.store.tx import Tx

_SHOWN = (
    ("m.room.name", "name", "name"),
    ("m.room.topic", "topic", "topic"),
    ("m.room.canonical_alias", "alias", "canonical_alias"),
    ("m.room.avatar", "url", "avatar_url"),
    ("m.room.join_rules", "join_rule", "join_rule"),
    ("m.room.create", "type", "room_type"),
)


def published_rooms(tx: Tx, *, search: str | None, limit: int) -> list[dict[str, Any]]:
    """The published rooms that this node is in and that match `search`, at most `limit`."""
    found = []
    for room_id in published_room_ids(tx):
        entry = _entry(tx, room_id)
        if search is None or _matches(entry, search):
            found.append(entry)
        if len(found) == limit:
            break
    return found


def _entry(tx: Tx, room_id: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "room_id": room_id,
        "num_joined_members": member_counts(tx, room_id).get("join", 0),
        "world_readable": _setting(tx, room_id, "history_visibility") == "world_readable",
        "guest_can_join": _setting(tx, room_id, "guest_access") == "can_join",
    }
    for event_type, key, name in _SHOWN:
        event = reading.current_event(tx, room_id, event_type, "")
        value = None if event is None else event.content.get(key)
        if isinstance(value, str):
            entry[name] = value
    return entry


def _setting(tx: Tx, room_id: str, name: str) -> object:
    event = reading.current_event(tx, room_id, f"m.room.{name}", "")
    return None if event is None else event.content.get(name)


def _matches(entry: dict[str, Any], search: str) -> bool:
    """The search term is in the name, the topic or the alias, whatever the case."""
    wanted = search.casefold()
    return any(wanted in str(entry.get(field, "")).casefold() for field in ("name", "topic", "canonical_alias"))
