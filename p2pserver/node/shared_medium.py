"""One shared medium of this node: what several neighbors are owed goes out once, and what others broadcast comes in.

Under the network key only events change anything here, and they prove themselves; in whose name they came is never a
reason to believe something. See docs/shared-medium.md.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final, Protocol

from p2pserver.federation.beacons import BeaconKey
from p2pserver.federation.effects import Broadcast, PeerHears
from p2pserver.federation.gathering import Gathered, Gathering, Misses
from p2pserver.federation.medium_beacons import MediumBeacons
from p2pserver.link.broadcast import (
    DATAGRAM_OCTETS_MIN,
    Broadcaster,
    Listener,
    message_octets_max,
)
from p2pserver.link.errors import MessageSize
from p2pserver.link.limits import Priority
from p2pserver.link.network_key import NetworkKey
from p2pserver.link.pacing import Line, Pacer
from p2pserver.link.timing import airtime_s, datagram_octets
from p2pserver.node.session import Session
from p2pserver.store.database import Database
from p2pserver.store.graph_ends import leaves as leaves_of
from p2pserver.store.networks import reserve_counters
from p2pserver.store.peers import joined_rooms
from p2pserver.store.tx import Tx
from p2pserver.wire.broadcasts import (
    BROADCAST_BEACONS_MAX,
    BroadcastBeacons,
    BroadcastEvent,
    decode_broadcast,
    encode_broadcast,
)
from p2pserver.wire.fields import WireError
from transports.contract import LinkDown, LinkProfile, Medium

log = logging.getLogger(__name__)

COUNTERS_AT_ONCE: Final = 256
EVENT_OCTETS_MAX: Final = 1_500
"""A larger event has so many fragments that few hear all of them: it goes to each neighbor alone."""
ACK_OCTETS: Final = 150
"""What one acknowledgement takes of the air, with the link's own."""
ACK_TURN_S: Final = 1.0
"""What a neighbor may take to store an event, beyond airtime."""
HEARD_AT_ONCE: Final = 32.0
HEARD_PER_S: Final = 8.0
"""Messages that are looked at: a forger with the key costs no more."""
UNREAD_TOLD: Final = 3
"""So many datagrams of an epoch that cannot be read are told to people."""


class Neighborhood(Protocol):
    """The mesh, as a medium sees it."""

    def session_of(self, key: bytes) -> Session | None: ...

    def sessions_on(self, medium: SharedMedium) -> Iterable[Session]:
        """Those that talk over this medium now."""


class SharedMedium:
    """`run` is its whole life; `use_networks` before, and whenever the keys change."""

    def __init__(
        self,
        medium: Medium,
        *,
        kind: str,
        own_key: bytes,
        database: Database,
        neighborhood: Neighborhood,
        clock: Callable[[], float],
        rng: random.Random,
        line: Line,
        salt: bytes,
    ) -> None:
        """`line`: what the pipes of the transport pace themselves by, too. `salt`: of this process, 8 octets."""
        self.kind = kind
        self._medium = medium
        self._own_key, self._salt = own_key, salt
        self._database = database
        self._neighborhood = neighborhood
        self._clock = clock
        profile = medium.profile
        self._pacer = Pacer(profile.bit_rate, profile.datagram_overhead_ms / 1000, line=line)
        self._listener = Listener(own_key)
        self._broadcaster: Broadcaster | None = None
        self._networks: tuple[NetworkKey, ...] = ()
        self._gathering: Gathering[Session] = Gathering()
        self._misses = Misses()
        self._beacons = MediumBeacons(rng)
        self._beacon_key = BeaconKey.of_network(b"")
        self._sharers = 0
        self._is_over = False
        self._wake = asyncio.Event()
        self._credits, self._credits_at = HEARD_AT_ONCE, clock()

    @property
    def profile(self) -> LinkProfile:
        return self._medium.profile

    @property
    def network(self) -> NetworkKey | None:
        """The epoch that is sent under; None, if nothing is broadcast here."""
        return None if self._broadcaster is None else self._broadcaster.network

    def _octets_max(self) -> int:
        profile = self.profile
        return min(profile.broadcast_octets_max or 0, max(DATAGRAM_OCTETS_MIN, datagram_octets(profile)))

    # Keys

    async def use_networks(self, networks: tuple[NetworkKey, ...]) -> None:
        """Sends under the first of these epochs and reads all of them. Reserves counters before any is used."""
        if networks == self._networks or self._is_over:
            return
        octets_max = self._octets_max()
        if octets_max < DATAGRAM_OCTETS_MIN:
            return
        broadcaster = Broadcaster(networks[0], self._own_key, octets_max, self._salt)
        await self._reserve(broadcaster)
        self._networks, self._broadcaster = networks, broadcaster
        self._beacon_key = BeaconKey.of_network(networks[0].key)
        self._listener.use_networks(networks)
        network = networks[0]
        log.info("broadcasting", extra={"medium": self.kind, "network": network.name, "epoch": network.epoch})
        for session in self._neighborhood.sessions_on(self):
            self.introduce(session)
        self.count_sharers()

    async def _reserve(self, broadcaster: Broadcaster) -> None:
        network = broadcaster.network
        start = await self._database.write(lambda tx: reserve_counters(tx, network, COUNTERS_AT_ONCE))
        broadcaster.use_counters(start, COUNTERS_AT_ONCE)

    def introduce(self, session: Session) -> None:
        """Tells a neighbor, in its conversation, what is read and sent here."""
        if self._broadcaster is not None:
            network = self._broadcaster.network
            session.peering.tell_hears(network.network_id, network.epoch, self._broadcaster.next_counter, self._salt)
            session.wake()

    def peer_hears(self, session: Session, effect: PeerHears) -> None:
        """A neighbor has told the same of itself."""
        session.hears = effect
        self._listen_to(session)
        self.count_sharers()

    def _listen_to(self, session: Session) -> None:
        hears = session.hears
        if self._networks and hears is not None and hears.network_id == self._networks[0].network_id:
            self._listener.know(session.key, hears.salt, next_counter=hears.next_counter, epoch=hears.epoch)

    def count_sharers(self) -> None:
        """Lets events be broadcast, if two neighbors or more read them."""
        sharers = [session for session in self._neighborhood.sessions_on(self) if self._is_heard_by(session)]
        self._sharers = len(sharers)
        for session in self._neighborhood.sessions_on(self):
            shares = len(sharers) >= 2 and session in sharers
            octets_max = min(EVENT_OCTETS_MAX, message_octets_max(self._octets_max()))
            session.peering.share_medium(octets_max if shares else 0)

    def is_shared_by(self, one: Session, other: Session) -> bool:
        """Whether two neighbors read what is broadcast here."""
        return self._is_heard_by(one) and self._is_heard_by(other)

    def grew(self, room_id: str) -> None:
        """Events of the room came over the medium: a beacon will tell those who missed them.

        Who sent them needs none: whom it reaches acknowledges, and whom it does not reach would not hear the beacon.
        """
        if self._sharers >= 2:
            self._beacons.grew(room_id, self._clock(), wait_s=self._beacon_wait_s())
            self._wake.set()

    def _beacon_wait_s(self) -> float:
        event_s = airtime_s(self.profile, EVENT_OCTETS_MAX)
        return ACK_TURN_S + event_s + 3 * self._sharers * airtime_s(self.profile, ACK_OCTETS)

    def _is_heard_by(self, session: Session) -> bool:
        """Whether the neighbor said that it reads what is sent here: its epoch is ours or the next one."""
        if self._broadcaster is None or session.hears is None:
            return False
        network = self._broadcaster.network
        ahead = session.hears.epoch - network.epoch
        return session.hears.network_id == network.network_id and ahead in (0, 1)

    def notes(self) -> tuple[str, ...]:
        """Lines for people."""
        if not self._networks:
            return ()
        newest = self._networks[0].epoch
        notes = []
        for bits, count in sorted(self._listener.epochs_unread().items()):
            ahead = (bits - newest) % 64
            if count >= UNREAD_TOLD and ahead < 32:
                notes.append(
                    f"others broadcast under epoch {newest + ahead} of the network {self._networks[0].name!r}, and this"
                    f" node has epoch {newest}: ask them for the new key"
                )
        return tuple(notes)

    # Speaking

    def request(self, session: Session, effect: Broadcast) -> None:
        """A peering has an event that others may lack too."""
        if self._broadcaster is None:
            session.peering.broadcast_declined(effect.event_id, self._clock())
            return
        left_s = self._gathering.ask(session, effect, self._clock())
        if left_s is not None:
            session.peering.broadcast_done(effect.event_id, self._clock(), wait_s=left_s)
            session.wake()
        else:
            self._misses.asked_again(effect.event_id)
        self._wake.set()

    async def run(self) -> None:
        """Hears and speaks until the transport is closed. Should it fail, everything goes pairwise."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hear(), name=f"hear {self.kind}")
                tasks.create_task(self._speak(), name=f"speak {self.kind}")
        finally:
            self._is_over, self._broadcaster = True, None
            self.count_sharers()
            for gathered in self._gathering.clear():
                self._decline(gathered)

    async def _speak(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            for gathered in self._gathering.due(self._clock()):
                if len(gathered.peers) < 2 or not await self._broadcast(gathered):
                    self._decline(gathered)
            due = self._beacons.due(self._clock())
            if due:
                await self._say_beacons(due)
            deadlines = [self._gathering.next_deadline(), self._beacons.next_deadline()]
            deadline = min((at for at in deadlines if at is not None), default=None)
            timer = None
            if deadline is not None:
                timer = loop.call_later(max(deadline - self._clock(), 0.001), self._wake.set)
            try:
                await self._wake.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    def _decline(self, gathered: Gathered[Session]) -> None:
        for session in gathered.peers:
            session.peering.broadcast_declined(gathered.effect.event_id, self._clock())
            session.wake()

    async def _broadcast(self, gathered: Gathered[Session]) -> bool:
        """Whether it went out."""
        try:
            message = encode_broadcast(BroadcastEvent(gathered.effect.pdu))
            if not await self._say(message, parity=self._misses.need_parity):
                return False
        except (WireError, MessageSize):
            return False
        except LinkDown:
            return False
        wait_s = self._ack_wait_s(len(gathered.peers))
        now = self._clock()
        self._misses.sent(gathered.effect.event_id, len(gathered.peers))
        self._gathering.was_broadcast(gathered.effect.event_id, until=now + wait_s)
        for session in gathered.peers:
            session.peering.broadcast_done(gathered.effect.event_id, now, wait_s=wait_s)
            session.wake()
        return True

    async def _say_beacons(self, due: Mapping[str, bytes | None]) -> None:
        """Where we stand in rooms that grew, but for those of which somebody has said just that."""
        leaves = await self._database.read(lambda tx: {room_id: leaves_of(tx, room_id) for room_id in due})
        beacons = [self._beacon_key.beacon(room_id, ids) for room_id, ids in leaves.items()]
        told = [beacon for beacon, heard in zip(beacons, due.values(), strict=True) if beacon.digest != heard]
        for start in range(0, len(told), BROADCAST_BEACONS_MAX):
            with suppress(LinkDown, MessageSize):
                await self._say(encode_broadcast(BroadcastBeacons(tuple(told[start : start + BROADCAST_BEACONS_MAX]))))

    async def _say(self, message: bytes, *, parity: bool = False) -> bool:
        """Whether all fragments were handed to the transport. Raises: MessageSize, LinkDown."""
        broadcaster = self._broadcaster
        if broadcaster is None:
            return False
        datagrams = broadcaster.seal(message, parity=parity)
        if datagrams is None:
            await self._reserve(broadcaster)
            datagrams = broadcaster.seal(message, parity=parity)
        for datagram in datagrams or ():
            await self._turn(len(datagram))
            await self._medium.broadcast(datagram)
            self._pacer.sent(len(datagram), self._clock())
        return datagrams is not None

    async def _turn(self, octets: int) -> None:
        """Waits until the line is free and the airtime budget has something left for a text."""
        while True:
            now = self._clock()
            classes, allowed_at = self._pacer.classes(octets, now)
            at = self._pacer.send_at if Priority.TEXT in classes or allowed_at is None else allowed_at
            if at <= now:
                return
            await asyncio.sleep(max(at - now, 0.001))

    def _ack_wait_s(self, peers: int) -> float:
        """How long acknowledgements may take: what was said is still on its way, and their turns are random."""
        on_air_s = max(0.0, self._pacer.free_at - self._clock())
        return ACK_TURN_S + on_air_s + 3 * peers * airtime_s(self.profile, ACK_OCTETS)

    # Hearing

    async def _hear(self) -> None:
        try:
            while True:
                datagram = await self._medium.heard()
                now = self._clock()
                heard = self._listener.receive(datagram, now)
                if heard is not None and self._may_look(now):
                    await self._take(heard.node_key, heard.message)
        except LinkDown:
            return

    def _may_look(self, now: float) -> bool:
        self._credits = min(HEARD_AT_ONCE, self._credits + (now - self._credits_at) * HEARD_PER_S)
        self._credits_at = now
        if self._credits < 1.0:
            return False
        self._credits -= 1.0
        return True

    async def _take(self, node_key: bytes, data: bytes) -> None:
        session = self._neighborhood.session_of(node_key)
        try:
            message = decode_broadcast(data)
        except WireError:
            return
        if session is None:
            return
        if isinstance(message, BroadcastEvent):
            neighbors = sum(1 for _ in self._neighborhood.sessions_on(self))
            spread_s = neighbors * airtime_s(self.profile, ACK_OCTETS)
            session.peering.overheard(message.room_id, message.pdu, ack_within_s=spread_s)
            session.wake()
        else:
            await self._compare(session, {beacon.tag: beacon.digest for beacon in message.rooms})

    async def _compare(self, session: Session, told: Mapping[bytes, bytes]) -> None:
        """Compares rooms with a neighbor that may stand elsewhere than we do."""

        def read(tx: Tx) -> dict[str, list[str]]:
            meant = [room_id for room_id in joined_rooms(tx) if self._beacon_key.tag(room_id) in told]
            return {room_id: leaves_of(tx, room_id) for room_id in meant}

        wait_s = self._beacon_wait_s()
        for room_id, leaves in (await self._database.read(read)).items():
            digest = told[self._beacon_key.tag(room_id)]
            self._beacons.heard(room_id, digest)
            if self._beacon_key.digest(room_id, leaves) == digest:
                continue
            now = self._clock()
            if self._beacons.may_compare(session.key, room_id, now, again_after_s=wait_s):
                session.peering.compare_soon(room_id, now, within_s=wait_s)
                session.wake()
