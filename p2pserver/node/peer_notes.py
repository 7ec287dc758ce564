"""What the store is told of peers, for people to look at, and what in the store wakes a conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from p2pserver.node.session import Session
from p2pserver.store.database import Database
from p2pserver.store.peers import note_links, peer_connected, peers_seen

LINKS_NOTED_AFTER_S = 1.0


class PeerNotes:
    """Who is connected, over which links, and when each peer was last seen."""

    def __init__(
        self,
        database: Database,
        *,
        wall_ms: Callable[[], int],
        spawn: Callable[..., None],
        is_kept: Callable[[Session], bool],
    ) -> None:
        """`is_kept`: whether the node still has this conversation."""
        self._database = database
        self._is_kept = is_kept
        self._wall_ms = wall_ms
        self._spawn = spawn

    async def connected(self, session: Session, name: str) -> None:
        now_ms = self._wall_ms()
        await self._database.write(
            lambda tx: peer_connected(
                tx, session.key, server_name=name, agent=session.agent, link=session.last_link, now_ms=now_ms
            )
        )

    async def seen(self, keys: Sequence[bytes]) -> None:
        now_ms = self._wall_ms()
        await self._database.write(lambda tx: peers_seen(tx, keys, now_ms=now_ms))

    def links_soon(self, session: Session) -> None:
        """Notes what leads to the peer: soon, and once for changes that follow each other."""
        if session.server_name is not None and not session.links_noted_soon:
            session.links_noted_soon = True
            self._spawn(self._links(session), name="note links")

    async def _links(self, session: Session) -> None:
        await asyncio.sleep(LINKS_NOTED_AFTER_S)
        session.links_noted_soon = False
        links = [(link, [priority.name.lower() for priority in carries]) for link, carries in session.pipes.links()]
        if links and links != session.links_noted and self._is_kept(session):
            session.links_noted = links
            await self._database.write(lambda tx: note_links(tx, session.key, links))


async def watch_outbox(database: Database, session: Session, server_name: str) -> None:
    """Wakes the session when something new is owed to the peer."""
    while True:
        position = database.position
        session.peering.outbox_grew()
        session.wake()
        await database.wait([f"peer:{server_name}"], after=position, timeout_s=None)
