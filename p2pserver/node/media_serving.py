"""Octets of files for other nodes: by ticket, no more at a time than their link carries in some seconds."""

from __future__ import annotations

from p2pserver.federation.effects import ReadMedia
from p2pserver.federation.media_parts import part_octets_on
from p2pserver.node.session import Session
from p2pserver.rooms.s2s_media import Tickets
from p2pserver.store.database import Database
from p2pserver.store.media import media_numbered
from p2pserver.store.media_files import MediaFiles


class MediaServing:
    """What a peer's wants are answered from."""

    def __init__(self, *, database: Database, files: MediaFiles, tickets: Tickets) -> None:
        self._database = database
        self._files = files
        self._tickets = tickets

    async def serve(self, session: Session, effect: ReadMedia) -> None:
        octets = await self._octets(session, effect)
        session.peering.media.read(effect.number, octets)
        session.wake()

    async def _octets(self, session: Session, effect: ReadMedia) -> bytes:
        number = self._tickets.number(session.server_name or "", effect.ticket)
        if number is None:
            return b""
        found = await self._database.read(lambda tx: media_numbered(tx, number))
        if found is None or found.sha256 is None or found.quarantined_by is not None:
            return b""
        profile = session.media_profile
        octets = min(effect.octets, part_octets_on(None if profile is None else profile.bit_rate))
        try:
            return await self._files.read(self._files.path(found.sha256), effect.start, octets)
        except OSError:
            return b""
