"""Who may stay when too many come: how much all peers may make this node hold, and how many links it keeps.

Those who share no room with this node are strangers: keys cost nothing, so they give way to those who do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

from p2pserver.link.memory import MEMORY_OCTETS_MAX, Holding, Memory
from p2pserver.node.pipes import Pipe
from p2pserver.node.session import Session

log = logging.getLogger(__name__)

PIPES_MAX = 256
"""Links at once, authenticated or not."""
HALF_OPEN_MAX = 32
"""Of them, those that were opened to us and on which nobody has proved a key yet."""


class Crowd:
    """Keeps the sums over all peers within their limits."""

    def __init__(
        self,
        *,
        sessions: Mapping[bytes, Session],
        pipes: Collection[Pipe],
        end: Callable[[Session, str], None],
        octets_max: int = MEMORY_OCTETS_MAX,
    ) -> None:
        """`sessions` and `pipes` are the node's own, and change. `end(session, reason)` ends one at once."""
        self._sessions = sessions
        self._pipes = pipes
        self._end = end
        self.memory = Memory(octets_max, cut=self._cut, eased=self._eased)

    def admits_another(self) -> bool:
        """Whether there is room for one more link; who deserves it least is asked to go for it."""
        half_open = [pipe for pipe in self._pipes if not pipe.initiator and pipe.peer_key is None]
        if len(half_open) >= HALF_OPEN_MAX:
            half_open[0].close("too many at once")
        if len(self._pipes) < PIPES_MAX:
            return True
        if half_open:
            half_open[0].close("too many at once")
        else:
            strangers = [session for session in self._sessions.values() if session.active and session.is_stranger]
            if not strangers:
                return False
            self._end(min(strangers, key=lambda session: session.heard_at), "this node has too many links")
        return len(self._pipes) < PIPES_MAX + HALF_OPEN_MAX  # those that were closed end in a moment

    def _cut(self, holding: Holding) -> None:
        for session in self._sessions.values():
            if session.conversation.holding is holding:
                log.info(
                    "a peer is cut: all of them together make this node hold too much",
                    extra={"peer": session.server_name or session.key.hex(), "octets": holding.octets},
                )
                self._end(session, "this node holds too much")
                return

    def _eased(self) -> None:
        """Those that waited for credit are given some."""
        for session in self._sessions.values():
            session.pipes.wake()
            session.wake()
