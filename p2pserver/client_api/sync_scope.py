"""What one `/sync` is about: who asks, from where to where, with which filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from p2pserver.client_api.event_filter import SyncFilter
from p2pserver.client_api.lazy_members import SentMembers
from p2pserver.client_api.stream_token import StreamToken
from p2pserver.http_api.routing import Requester
from p2pserver.rooms.service import Rooms
from p2pserver.rooms.unread import UnreadCounts
from p2pserver.store.tx import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveView:
    """What of the memory of this node (rooms/live.py) is news for one client, taken beside the snapshot."""

    serial: int
    typing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By room, who types there now, where that changed."""
    typing_now: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By room, who types there now, wherever somebody does."""
    presence: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """By user, the content of `m.presence`, where that changed; not all of them are for this client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncScope:
    """One snapshot of the database, seen by one device from one token on."""

    tx: Tx
    rooms: Rooms
    requester: Requester
    since: StreamToken | None
    upto: int
    """The newest position of the snapshot; nothing newer is in the answer."""
    sync_filter: SyncFilter
    full_state: bool
    state_after: str | None
    """The name under which the client wants the state at the end of the timeline; None: it wants that at the start."""
    wall_ms: int
    sent_members: SentMembers
    live: LiveView
    unread: UnreadCounts
    ignored: frozenset[str] = frozenset()
    """Users whose messages and invites the client does not want."""

    @property
    def user_id(self) -> str:
        return self.requester.user_id

    @property
    def position(self) -> int | None:
        return None if self.since is None else self.since.position


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSection:
    """One room in one section of the answer."""

    body: Mapping[str, object]
    settle_from: int | None = None
    """Set where the client is left with a state event that lost: the position before this section's first event."""
    members: Mapping[str, str] = field(default_factory=dict)
    """Member events in it: user ID to event ID."""
