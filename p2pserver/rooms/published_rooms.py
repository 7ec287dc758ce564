"""This node's published rooms, as entries of the public rooms list.

Source: client-server API, "Published room directory" (`PublishedRoomsChunk`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from p2pserver.rooms.summaries import public_entry
from p2pserver.store.aliases import published_room_ids
from p2pserver.store.app_services import listed_rooms
from p2pserver.store.tx import Tx


@dataclass(frozen=True, slots=True)
class Network:
    """A network of an application service, by (service, network); None: all of them, and the rooms without one."""

    instance: tuple[str, str] | None


def published_rooms(tx: Tx, *, search: str | None, limit: int, network: Network | None = None) -> list[dict[str, Any]]:
    """The published rooms that this node is in and that match `search`, at most `limit`.

    Without `network` those that belong to no network.
    """
    rooms = [] if network is not None and network.instance is not None else published_room_ids(tx)
    if network is not None:
        rooms = sorted({*rooms, *listed_rooms(tx, network.instance)})
    found = []
    for room_id in rooms:
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
