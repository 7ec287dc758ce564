"""This node's published rooms, as entries of the public rooms list.

Source: client-server API, "Published room directory" (`PublishedRoomsChunk`).
"""

from __future__ import annotations

from typing import Any

from p2pserver.rooms.summaries import public_entry
from p2pserver.store.aliases import published_room_ids
from p2pserver.store.tx import Tx


def published_rooms(tx: Tx, *, search: str | None, limit: int) -> list[dict[str, Any]]:
    """The published rooms that this node is in and that match `search`, at most `limit`."""
    found = []
    for room_id in published_room_ids(tx):
        entry = public_entry(tx, room_id)
        if search is None or _matches(entry, search):
            found.append(entry)
        if len(found) == limit:
            break
    return found


def _matches(entry: dict[str, Any], search: str) -> bool:
    """The search term is in the name, the topic or the alias, whatever the case."""
    wanted = search.casefold()
    return any(wanted in str(entry.get(field, "")).casefold() for field in ("name", "topic", "canonical_alias"))
