"""What one sliding sync answer is about: who asks, from where to where."""

from __future__ import annotations

from dataclasses import dataclass

from p2pserver.client_api.sync_scope import LiveView
from p2pserver.http_api.routing import Requester
from p2pserver.rooms.service import Rooms
from p2pserver.rooms.unread import UnreadCounts
from p2pserver.store.tx import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingScope:
    """One snapshot of the database, seen by one device on one connection."""

    tx: Tx
    rooms: Rooms
    requester: Requester
    since: int | None
    """The position of the last answer that the client has; None: it is the first on this connection."""
    upto: int
    live: LiveView
    unread: UnreadCounts
    wall_ms: int
    ignored: frozenset[str]
    dms: frozenset[str]
    """The rooms that are direct chats, by the user's account data."""

    @property
    def user_id(self) -> str:
        return self.requester.user_id
