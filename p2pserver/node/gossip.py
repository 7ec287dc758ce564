"""What one peer brought or lacks, passed on to the other peers in reach that are in the room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from p2pserver.federation.recent_ids import RecentIds
from p2pserver.node.claims import Claims
from p2pserver.node.session import Session
from p2pserver.node.shared_medium import SharedMedium

FORWARDED_MAX = 8192


class Gossip:
    """Of one node. Sessions are told in the order in which peers were met, so that a simulation repeats itself."""

    def __init__(
        self,
        *,
        sessions: Mapping[str, Session],
        clock: Callable[[], float],
        medium_of: Callable[[Session], SharedMedium | None],
    ) -> None:
        """`sessions`: of the peers in reach, by server name; they come and go. `medium_of`: what is shared with one."""
        self._sessions = sessions
        self._clock = clock
        self._medium_of = medium_of
        self._claims = Claims()
        self._forwarded = RecentIds(FORWARDED_MAX)

    def has_others(self, session: Session) -> bool:
        return any(other is not session for other in self._sessions.values())

    def forward(self, source: Session, room_id: str, event_ids: Sequence[str], members: Iterable[str]) -> None:
        """Offers events, that came from one peer, to the other member servers in reach: not to those on a medium that
        it shares with them, who hear of it there."""
        new = self._forwarded.add(event_ids)
        self._claims.arrived(event_ids)
        for session in self._beyond_medium(source, room_id, members) if new else ():
            session.peering.offer(room_id, new, self._clock())
            session.wake()

    def changed(self, source: Session, room_id: str, members: Iterable[str]) -> None:
        for session in self._beyond_medium(source, room_id, members):
            session.peering.compare_soon(room_id, self._clock())
            session.wake()

    def want_elsewhere(self, source: Session, room_id: str, event_ids: Sequence[str], members: Iterable[str]) -> None:
        """Asks the other member servers in reach, and nobody else: strangers need not hear of the room."""
        for session in self._others(source, members):
            session.peering.want(room_id, event_ids)
            session.wake()

    def is_asking_others(self, session: Session, room_id: str) -> bool:
        """Whether another connected peer was just asked for events of the room and is about to bring them."""
        now = self._clock()
        others = (other for other in self._sessions.values() if other is not session and other.active is not None)
        return any(other.peering.is_asking(room_id, now) for other in others)

    def claim_unknown(self, session: Session, event_ids: Sequence[str]) -> list[str]:
        """Of events that were offered: those that no other connected peer is just being asked for."""
        connected = {other.key for other in self._sessions.values() if other.active is not None}
        return self._claims.claim(session.key, event_ids, self._clock(), connected.__contains__)

    def _beyond_medium(self, source: Session, room_id: str, members: Iterable[str]) -> list[Session]:
        """The other members in reach, but for those on a medium that they share with `source`: a beacon tells them."""
        medium = self._medium_of(source)
        if medium is None:
            return self._others(source, members)
        medium.grew(room_id)
        return [
            session
            for session in self._others(source, members)
            if self._medium_of(session) is not medium or not medium.is_shared_by(source, session)
        ]

    def _others(self, source: Session, members: Iterable[str]) -> list[Session]:
        wanted = frozenset(members)
        return [session for name, session in self._sessions.items() if name in wanted and session is not source]
