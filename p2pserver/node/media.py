"""What the pipes of one transport have in common: its line and, where all hear what one sends, its medium."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator

from p2pserver.link import Line, line_for
from p2pserver.link.network_key import NetworkKey
from p2pserver.node.airtime import AirtimeKeeper
from p2pserver.node.session import Session
from p2pserver.node.shared_medium import Neighborhood, SharedMedium
from p2pserver.store.database import Database
from p2pserver.store.networks import networks_in_use
from transports.contract import LinkProfile, Transport, medium_of


class Media:
    """The lines and shared media of a node, by transport."""

    def __init__(
        self,
        *,
        own_key: bytes,
        database: Database,
        neighborhood: Neighborhood,
        clock: Callable[[], float],
        rng: random.Random,
        airtime: AirtimeKeeper,
        salt: bytes,
    ) -> None:
        """`salt`: of this process, 8 octets."""
        self._own_key, self._salt = own_key, salt
        self._database = database
        self._neighborhood = neighborhood
        self._clock = clock
        self._rng = rng
        self._airtime = airtime
        self._radios: dict[Transport, str] = {}
        """What each is called in the store: by its kind, and a number from the second one of that kind on."""
        self._lines: dict[Transport, Line] = {}
        self._media: dict[Transport, SharedMedium] = {}

    async def open(self, transport: Transport) -> SharedMedium | None:
        """The transport's medium, ready to `run`; None, if it has none."""
        alike = sum(other.kind == transport.kind for other in self._radios)
        self._radios[transport] = transport.kind if not alike else f"{transport.kind} {alike + 1}"
        medium = medium_of(transport)
        if medium is None:
            return None
        shared = SharedMedium(
            medium,
            kind=transport.kind,
            own_key=self._own_key,
            database=self._database,
            neighborhood=self._neighborhood,
            clock=self._clock,
            rng=self._rng,
            line=self._line(transport, medium.profile),
            salt=self._salt,
        )
        await shared.use_networks(await self._database.read(networks_in_use))
        self._media[transport] = shared
        return shared

    def __iter__(self) -> Iterator[SharedMedium]:
        """The shared media that are open."""
        return iter(self._media.values())

    def of(self, transport: Transport) -> SharedMedium | None:
        return self._media.get(transport)

    def line_of(self, transport: Transport, profile: LinkProfile) -> Line | None:
        """What the pipes of a transport share, if they share their medium or its airtime."""
        if profile.airtime_ms_per_hour is None and not profile.shared_medium and not profile.half_duplex:
            return None
        return self._line(transport, profile)

    def _line(self, transport: Transport, profile: LinkProfile) -> Line:
        line = self._lines.get(transport)
        if line is None:
            line = self._lines[transport] = line_for(profile)
            if line.budget is not None:
                self._airtime.keep(self._radios[transport], line.budget)
        return line

    @property
    def network(self) -> NetworkKey | None:
        """What is broadcast under, on whatever medium; None, if no transport has one."""
        return next((medium.network for medium in self if medium.network is not None), None)

    def notes(self, transport: Transport) -> tuple[str, ...]:
        """For people: what has to wait for airtime, and what is heard of other keys."""
        line, medium = self._lines.get(transport), self._media.get(transport)
        note = line.budget.note(self._clock()) if line is not None and line.budget is not None else None
        return (*(() if note is None else (note,)), *(() if medium is None else medium.notes()))

    def session_changed(self, session: Session, medium: SharedMedium | None) -> None:
        """The peer is now talked to over `medium`, or over none that is shared."""
        if medium is None:
            session.peering.share_medium(0)
        else:
            medium.introduce(session)
        for each in self:
            each.count_sharers()

    async def watch_networks(self, every_s: float) -> None:
        """Another process may have changed the keys."""
        while self._media:
            await asyncio.sleep(every_s)
            networks = await self._database.read(networks_in_use)
            for medium in self:
                await medium.use_networks(networks)
