"""One conversation between two servers: who says what, when. No clock, no database, no socket.

    peering = Peering(our_name, their_key, ...)
    peering.contact(now)                                 # a pipe to the peer is up
    for data in conversation.received():
        peering.receive(data, now)
    for effect in peering.effects():                     # what the node is to do; its results come back as calls
        ...
    for data, priority in peering.messages_to_send(now, octets):
        conversation.send(data, priority)
    wake_at = peering.next_deadline()                    # seconds on the same clock, or None

A peering lives as long as the link's conversation with the same process of the peer; pipes come and go under it. The
messages are drawn in docs/peering.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from p2pserver.errors import Verdict
from p2pserver.federation.allowance import Allowance
from p2pserver.federation.beacons import BeaconKey
from p2pserver.federation.channel import Channel
from p2pserver.federation.effects import (
    Effect,
    FindUnknown,
    ForgetRoom,
    Greeted,
    HeardEphemera,
    Leave,
    OwedItem,
    PduResult,
    PeerHears,
    PeerMarked,
    ReadHave,
    ReadLeaves,
    ReadMissing,
    ReadStandings,
    Receive,
    RoomStanding,
    RoomView,
    StoreItems,
)
from p2pserver.federation.held_filter import HeldThere
from p2pserver.federation.limits import PeeringLimits, PeeringTimers, answer_octets_on, timers_on
from p2pserver.federation.mark import Mark
from p2pserver.federation.media_parts import MediaParts
from p2pserver.federation.outbox_window import OutboxWindow
from p2pserver.federation.questions import Questions
from p2pserver.federation.recent_ids import RecentIds
from p2pserver.federation.reconciliation import Reconciliation
from p2pserver.identifiers import public_key_of
from p2pserver.link.limits import Priority
from p2pserver.wire.event_ids import is_canonical_event_id
from p2pserver.wire.fields import WireError
from p2pserver.wire.messages import (
    EVENT_IDS_MAX,
    ITEM_OCTETS_MAX,
    PDUS_MAX,
    Beacons,
    Digests,
    Ephemera,
    Hears,
    Hello,
    Item,
    ItemsStored,
    Keep,
    Lacking,
    Leaves,
    MediaPart,
    MediaWant,
    Message,
    Offer,
    Pdus,
    Request,
    Response,
    Stored,
    Want,
    decode_message,
    pdu_octets,
)
from p2pserver.wire.packing import pack, unpack

if TYPE_CHECKING:
    from random import Random

EPHEMERA_OCTETS_MAX = 256 * 1024
"""Of the EDUs in one message, unpacked."""


class PeeringState(Enum):
    """`contact` leads to GREETING, the peer's Hello to TALKING, a breach of the protocol to LEFT, for ever."""

    GREETING = "greeting"
    TALKING = "talking"
    LEFT = "left"


class Peering:
    """What this server and one other say to each other. Whatever arrives costs bounded memory and work."""

    def __init__(
        self,
        *,
        our_name: str,
        their_key: bytes,
        known_name: str | None,
        agent: str,
        salt: bytes,
        rng: Random,
        now: float,
        limits: PeeringLimits | None = None,
        timers: PeeringTimers | None = None,
        mark: Callable[[], bytes] = lambda: b"",
        kept: bytes = b"",
    ) -> None:
        """`their_key`: the key that the link proved. `known_name`: the server name it had before; another is refused.

        `salt`: 8 random octets. `mark`: what the peer is to keep of us, as of now; `kept`: what we keep of it.
        """
        self._limits = limits or PeeringLimits()
        self._lan_timers = self._timers = timers or PeeringTimers()
        self._lan_answer_octets = self._limits.answer_octets
        self._our_name, self._their_key, self._known_name = our_name, their_key, known_name
        self._agent, self._salt, self._rng = agent, salt, rng
        self._channel = Channel(
            rng=rng,
            limits=self._limits,
            timers=self._timers,
            known=RecentIds(self._limits.known_ids),
            stored=RecentIds(self._limits.known_ids),
        )
        self._state = PeeringState.GREETING
        self._mark, self._kept = Mark(self._channel, mark), kept
        self._said_hello = False
        self._beacon_key: BeaconKey | None = None
        self._early: list[bytes] = []
        self._early_octets = 0
        self._allowance = Allowance(self._limits, now)
        self._wants: deque[Want] = deque()
        self._reading_missing = False
        self._items: list[tuple[int, str, bytes]] = []
        self._item_parts = bytearray()
        self._item_number = -1
        self._offers: dict[str, dict[str, None]] = {}
        self._offer_at: float | None = None
        self._acks: dict[str, dict[str, None]] = {}
        """By room, events that were overheard and are to be acknowledged."""
        self._ack_at: float | None = None
        self._ack_spread_s = 0.0
        self._outbox = OutboxWindow(self._channel, self._is_settling, self._knows_room)
        self._questions = Questions(self._channel)
        self.media = MediaParts(self._channel)
        """Octets of files, asked for and served."""
        self._rooms = Reconciliation(self._channel, settled=self._outbox.settled, room_equal=self._outbox.room_equal)
        self.server_name: str | None = None

    def _is_settling(self, room_id: str, now: float) -> bool:
        return self._rooms.is_settling(room_id, now)

    def _knows_room(self, room_id: str) -> bool:
        return self._rooms.knows(room_id)

    # The node asks

    @property
    def state(self) -> PeeringState:
        return self._state

    @property
    def talking(self) -> bool:
        """Whether the peer can be asked and told things now."""
        return self._channel.talking

    @property
    def shares_rooms(self) -> bool:
        """Whether, when rooms were last read, the peer was in one of them."""
        return self._rooms.shares_rooms

    @property
    def octets_held(self) -> int:
        """What waits to be sent, and what arrived in parts or too early to be understood."""
        return self._channel.outgoing_octets + self._questions.octets_held + len(self._item_parts) + self._early_octets

    def effects(self) -> list[Effect]:
        """What the node is to do, in order, since the last call."""
        if self._items:
            self._channel.emit(StoreItems(tuple(self._items)))
            self._items = []
        effects, self._channel.effects = self._channel.effects, []
        return effects

    def may_receive(self, now: float) -> bool:
        """Whether the next message may be taken now; if not, `next_deadline` says when to ask again.

        A peer that says more than it may is not listened to for a while; the link's credit then holds it up.
        """
        self._allowance.earn(now)
        return (
            self._state is not PeeringState.LEFT
            and not self._allowance.is_used_up
            and len(self._wants) < self._limits.wants_waiting
            and not self._questions.is_busy
        )

    def messages_to_send(self, now: float, octets: int) -> list[tuple[bytes, Priority]]:
        """Messages until `octets` are used up, the last one whole; the rest waits."""
        self._pump(now)
        messages: list[tuple[bytes, Priority]] = []
        outgoing = self._channel.outgoing
        while self._channel.connected and outgoing and octets > 0:
            data, priority = outgoing.popleft()
            self._channel.outgoing_octets -= len(data)
            octets -= len(data)
            messages.append((data, priority))
            if not outgoing:
                self._pump(now)
        return messages

    def next_deadline(self) -> float | None:
        """When `handle_timeout` and `may_receive` should be called again, in seconds."""
        parts = (self._rooms, self._outbox, self._mark, self._allowance)
        times = [self._offer_at, self._ack_at, *(part.next_deadline() for part in parts)]
        return min((at for at in times if at is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        self._allowance.earn(now)
        self._outbox.handle_timeout(now)
        self._rooms.handle_timeout(now)
        if self._offer_at is not None and now >= self._offer_at:
            self._send_offers()
        if self._ack_at is not None and now >= self._ack_at:
            self._send_acks()
        self._mark.handle_timeout(now)
        self._pump(now)

    # Contact

    def contact(self, now: float, *, clock_ms: int, bit_rate: int | None = None) -> None:
        """A pipe to the peer is up, and none was. `clock_ms`: our wall clock, since 1970; `bit_rate`: of the pipe."""
        if self._state is PeeringState.LEFT:
            return
        self.goes_over(bit_rate)
        self._channel.connected = True
        if not self._said_hello:
            self._said_hello = True
            hello = Hello(
                server_name=self._our_name,
                agent=self._agent,
                salt=self._salt,
                clock_ms=clock_ms,
                mark=self._mark.for_hello(),
                kept=self._kept,
            )
            self._channel.say(hello, Priority.ALERT)
        if self._beacon_key is not None:
            self._begin(now)

    def goes_over(self, bit_rate: int | None) -> None:
        """Most of what is said goes over a pipe of this bit rate from now on."""
        self._timers = self._channel.timers = timers_on(bit_rate, self._lan_timers)
        answer_octets = min(self._lan_answer_octets, answer_octets_on(bit_rate))
        self._limits = self._channel.limits = replace(self._limits, answer_octets=answer_octets)

    def lost(self) -> None:
        """No pipe leads to the peer any more."""
        self._channel.connected = False
        self._rooms.lost()
        self._questions.lost()
        self.media.lost()

    def _begin(self, now: float) -> None:
        assert self._beacon_key is not None
        self._channel.greeted = True
        self._outbox.contact(now)
        self._rooms.contact(self._beacon_key, now)

    def _leave(self, reason: str) -> None:
        if self._state is not PeeringState.LEFT:
            self._state = PeeringState.LEFT
            self.lost()
            self._early.clear()
            self._channel.emit(Leave(reason))

    # What happens here

    def outbox_grew(self) -> None:
        """Something new is owed to the peer."""
        self._outbox.grew()

    def offer(self, room_id: str, event_ids: Iterable[str], now: float) -> None:
        """Events came from somebody else; the peer is a member of the room and may lack them."""
        if not self._channel.talking:
            return
        offers = self._offers.setdefault(room_id, {})
        for event_id in event_ids:
            if event_id not in self._channel.known and len(offers) < EVENT_IDS_MAX:
                offers[event_id] = None
        if self._offer_at is None:
            self._offer_at = now + self._rng.uniform(*self._timers.offer_s)

    def compare_soon(self, room_id: str, now: float, *, within_s: float | None = None) -> None:
        """A room grew by an exchange with somebody else, or (then `within_s` is given) the peer may stand elsewhere."""
        jitter_s = self._timers.offer_s if within_s is None else (0.0, within_s)
        self._rooms.compare_soon(room_id, now + self._rng.uniform(*jitter_s))

    def want(self, room_id: str, event_ids: Iterable[str]) -> None:
        """Somebody else was asked for these events in vain."""
        self._rooms.want(room_id, event_ids)

    def share_medium(self, octets_max: int) -> None:
        """The peer and others hear what is broadcast: events of up to so many octets are broadcast; 0: none."""
        self._outbox.share_medium(octets_max)

    def tell_hears(self, network_id: bytes, epoch: int, next_counter: int, salt: bytes) -> None:
        """Tells the peer what we read and send on the medium that we share."""
        if self._channel.talking:
            self._channel.say(Hears(network_id, epoch, next_counter, salt), Priority.STATE)

    def tell_ephemera(self, edus: bytes, priority: Priority) -> bool:
        """Tells EDUs that may be lost, as JSON text; False, if nothing can be told now.

        Raises: WireError, if it is too much for one message.
        """
        if not self._channel.talking or self._channel.is_full:
            return False
        self._channel.say(Ephemera(pack(edus)), priority)
        return True

    def overheard(self, room_id: str, pdu: Mapping[str, Any], *, ack_within_s: float) -> None:
        """An event was broadcast in the name of the peer, perhaps by somebody else.

        `ack_within_s`: over so long the acknowledgements of all who heard it are spread.
        """
        if self._channel.talking and len(self._acks) < EVENT_IDS_MAX:
            self._ack_spread_s = ack_within_s
            self._rooms.overheard(room_id, (pdu,))

    def ask(self, name: str, body: bytes) -> int | None:
        """Asks the peer; its answer comes as `Answered` or `Unanswered`. None: not now.

        Raises: WireError, for a question that cannot be written.
        """
        return self._questions.ask(name, body) if self._channel.talking else None

    def cancel(self, number: int) -> None:
        """Nobody waits for the answer any more."""
        self._questions.cancel(number)

    # Results of effects

    def rooms_read(self, views: Sequence[RoomView], now: float) -> None:
        self._rooms.rooms_read(views, now)

    def leaves_read(self, effect: ReadLeaves, views: Sequence[RoomView], now: float) -> None:
        self._rooms.leaves_read(effect, views, now)

    def standings_read(self, effect: ReadStandings, standings: Iterable[RoomStanding]) -> None:
        self._rooms.standings.read(effect, standings)

    def unknown_found(self, effect: FindUnknown, unknown: Sequence[str], view: RoomView | None, now: float) -> None:
        self._rooms.unknown_found(effect, unknown, view, now)

    def is_asking(self, room_id: str, now: float) -> bool:
        return self._rooms.is_asking(room_id, now)

    def put_off(self, effect: ReadHave, now: float) -> bool:
        return self._rooms.put_off(effect, now)

    def have_read(
        self, effect: ReadHave, unknown: Sequence[str], have: Sequence[str], now: float, *, holds: bytes = b""
    ) -> None:
        self._rooms.have_read(effect, unknown, have, holds, now)

    def received(
        self, effect: Receive, results: Sequence[PduResult], missing: Sequence[str], lacking: Sequence[str], now: float
    ) -> None:
        """The events are durable: never call this before."""
        self._rooms.received(effect, results, missing, lacking, now)
        if effect.overheard:
            self._acknowledge_soon(effect.room_id, results, now)

    def _acknowledge_soon(self, room_id: str, results: Sequence[PduResult], now: float) -> None:
        """All who heard a broadcast would answer at once; a random wait lets one after the other, and joins answers."""
        for result in results:
            is_held = result.verdict is not None and result.verdict is not Verdict.DROPPED
            if is_held and result.event_id is not None and is_canonical_event_id(result.event_id):
                self._acks.setdefault(room_id, {})[result.event_id] = None
        if self._acks and self._ack_at is None:
            self._ack_at = now + self._rng.uniform(0.0, self._ack_spread_s)

    def _send_acks(self) -> None:
        self._ack_at = None
        acks, self._acks = self._acks, {}
        for room_id, event_ids in acks.items() if self._channel.talking else ():
            self._rooms.say_stored(room_id, tuple(event_ids))

    def missing_read(
        self,
        effect: ReadMissing,
        pdus: Sequence[Mapping[str, Any]],
        more: bool,
        lacking: Sequence[str],
        now: float,
    ) -> None:
        """What the peer wants; `lacking`: of `effect.want`, what is not held here or not for the peer."""
        self._reading_missing = False
        if lacking:
            self._channel.say(Lacking(effect.room_id, tuple(lacking)), Priority.STATE)
        fitting: list[Mapping[str, Any]] = []
        octets = 0
        for pdu in pdus:
            octets += pdu_octets(pdu)
            if len(fitting) >= PDUS_MAX or (fitting and octets > self._limits.answer_octets):
                more = True
                break
            fitting.append(pdu)
        if fitting or len(lacking) < len(effect.want):
            self._channel.say(Pdus(effect.room_id, tuple(fitting), more, in_answer=True), Priority.STATE)
        self._rooms.served(effect.room_id, now)

    def room_forgotten(self, effect: ForgetRoom) -> None:
        self._rooms.room_forgotten(effect)

    def broadcast_done(self, event_id: str, now: float, *, wait_s: float) -> None:
        """An event was on the air. Who has not acknowledged it after so long is sent it again."""
        self._outbox.broadcast_done(event_id, now + wait_s)

    def broadcast_declined(self, event_id: str, now: float) -> None:
        """An event was not broadcast: it is pushed to the peer."""
        self._outbox.broadcast_declined(event_id)
        self._pump(now)

    def outbox_read(self, items: Sequence[OwedItem], now: float, *, more: bool) -> None:
        """A page of the outbox; `more`: there may be rows behind it."""
        if items:
            self._mark.outdated()
        self._rooms.owes(self._outbox.read(items, now, more=more), now)

    def items_stored(self, numbers: Sequence[int]) -> None:
        """The items are durable, or refused for good."""
        self._channel.say(ItemsStored(tuple(numbers)), Priority.RECEIPT)

    def served(self, number: int, *, ok: bool, body: bytes) -> None:
        self._mark.outdated()
        self._questions.served(number, ok, body)

    # What the peer says

    def receive(self, data: bytes, now: float) -> None:
        """Takes one message. What breaks the protocol ends the peering; nothing is raised."""
        if self._state is PeeringState.LEFT:
            return
        self._allowance.earn(now)
        if self._state is PeeringState.GREETING and data[1:2] != _HELLO_NUMBER:
            self._early.append(data)  # it overtook the Hello: order is kept within a priority class only
            self._early_octets += len(data)
            if self._early_octets > self._limits.early_octets:
                self._leave("says much and not who it is")
            return
        try:
            message = decode_message(data)
        except WireError as error:
            self._leave(f"sent {error}")
            return
        self._allowance.spend(message)
        if isinstance(message, Hello):
            self._hello(message, now)
        else:
            self._dispatch(message, now)
        self._pump(now)

    def _hello(self, message: Hello, now: float) -> None:
        if self._state is not PeeringState.GREETING:
            self._leave("said who it is twice")
        elif public_key_of(message.server_name) != self._their_key:
            self._leave("its name is not of its key")
        elif self._known_name not in (None, message.server_name):
            self._leave(f"its key had the name {self._known_name} before")
        else:
            self._state = PeeringState.TALKING
            self.server_name = message.server_name
            self._beacon_key = BeaconKey((self._our_name, self._salt), (message.server_name, message.salt))
            self._channel.emit(
                Greeted(message.server_name, message.agent, message.clock_ms, message.mark, message.kept)
            )
            self._begin(now)
            early, self._early, self._early_octets = self._early, [], 0
            for data in early:
                self.receive(data, now)

    def _dispatch(self, message: Message, now: float) -> None:
        match message:
            case Pdus():
                self._rooms.pdus(message)
            case Stored():
                self._channel.known.add(message.event_ids)
                self._channel.stored.add(message.event_ids)
                if self._outbox.stored(message.event_ids, now):
                    self._rooms.ours_stored(message.room_id, now)
            case Offer():
                self._rooms.offered(message.room_id, message.event_ids)
            case Beacons():
                self._rooms.beacons(message, now)
            case Digests():
                self._rooms.digests(message)
            case Leaves():
                self._rooms.leaves(message, now)
            case Want():
                self._wants.append(message)
            case Lacking():
                self._rooms.lacking(message, now)
            case Ephemera():
                self._ephemera(message)
            case Hears():
                self._channel.emit(PeerHears(message.network_id, message.epoch, message.next_counter, message.salt))
            case Keep():
                self._channel.emit(PeerMarked(message.mark))
            case Item():
                self._item(message)
            case ItemsStored():
                self._outbox.items_stored(message.numbers, now)
            case Request():
                self._questions.request(message)
            case Response():
                self._questions.response(message)
            case MediaWant():
                self.media.want(message)
            case MediaPart():
                self.media.part(message)

    def _ephemera(self, message: Ephemera) -> None:
        try:
            self._channel.emit(HeardEphemera(unpack(message.edus, EPHEMERA_OCTETS_MAX)))
        except WireError as error:
            self._leave(f"sent EDUs that cannot be read: {error}")

    def _item(self, message: Item) -> None:
        """Joins the parts of an item; parts of different items do not mix."""
        if self._item_parts and message.number != self._item_number:
            self._leave("began an item before the last one was whole")
            return
        self._item_number = message.number
        self._item_parts += message.part
        if len(self._item_parts) > ITEM_OCTETS_MAX:
            self._leave("sent an item that is too large")
        elif not message.more:
            parts, self._item_parts = bytes(self._item_parts), bytearray()
            try:
                self._items.append((message.number, message.kind, unpack(parts, ITEM_OCTETS_MAX)))
            except WireError as error:
                self._leave(f"sent an item that cannot be read: {error}")

    # Parts

    def _pump(self, now: float) -> None:
        """Begins what there is room for."""
        self._mark.pump(now, quiet_s=self._timers.quiet_s)
        self._questions.pump()
        if self._wants and not self._reading_missing and self._channel.talking and not self._channel.is_full:
            want = self._wants.popleft()
            self._reading_missing = True
            octets_max = min(want.octets_max, self._limits.answer_octets)
            known = HeldThere(self._channel.stored, want.holds)
            copies = frozenset(filter(known.is_in_filter, want.want))
            self._channel.emit(ReadMissing(want.room_id, want.want, want.have, octets_max, known, copies))
        self._outbox.pump(now)
        self.media.pump()

    def _send_offers(self) -> None:
        self._offer_at = None
        offers, self._offers = self._offers, {}
        if not self._channel.talking:
            return
        for room_id, event_ids in offers.items():
            lacked = [event_id for event_id in event_ids if event_id not in self._channel.known]
            lacked = [event_id for event_id in lacked if is_canonical_event_id(event_id)]
            if lacked:
                self._channel.known.add(lacked)
                self._channel.say(Offer(room_id, tuple(lacked)), Priority.STATE)


_HELLO_NUMBER = b"\x01"
