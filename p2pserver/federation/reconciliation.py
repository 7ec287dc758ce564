"""Finding what either side of a pair lacks in the rooms that both share, and fetching it.

For each room: beacons are compared; if they differ, leaves are exchanged; what is unknown is wanted, in answers of
bounded size, oldest first, each asked for with a fresh sample of what is held; then beacons are compared again. What
brings nothing is repeated ever more slowly, so that a liar costs one small exchange a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pserver.errors import Verdict
from p2pserver.federation.beacons import BeaconKey
from p2pserver.federation.channel import Channel
from p2pserver.federation.effects import (
    Changed,
    FindUnknown,
    ForgetRoom,
    Forward,
    NobodyHas,
    PduResult,
    ReadHave,
    ReadLeaves,
    ReadRooms,
    Receive,
    RoomView,
)
from p2pserver.federation.held_filter import SALT_OCTETS
from p2pserver.federation.recent_ids import RecentIds
from p2pserver.federation.standings import Standings
from p2pserver.link.limits import Priority
from p2pserver.wire.event_ids import is_canonical_event_id
from p2pserver.wire.messages import (
    BEACONS_MAX,
    EVENT_IDS_MAX,
    HAVE_MAX,
    WANT_MAX,
    Beacon,
    Beacons,
    Digests,
    Lacking,
    Leaves,
    Pdus,
    Stored,
    Want,
)

_LEAVES_FRESH_S = 5.0
"""The peer is not told the same leaves again within this time."""
_PUT_OFF_S, _PATIENCE_S = 0.25, 5.0
"""How soon it is tried again to ask, and how long at most, while another peer has yet to answer about the room."""
_SETTLING_STEPS = 5
"""However long an exchange goes on, owed events wait for it no longer than this many times `settle_s`."""


@dataclass(slots=True)
class _RoomExchange:
    """How far one room has got with this peer."""

    waiting: dict[str, None] = field(default_factory=dict)
    """Events that we mean to ask for."""
    reading_have: bool = False
    asked: tuple[str, ...] = ()
    asked_at: float = 0.0
    ask_at: float | None = None
    """Put off until then."""
    patient_until: float | None = None
    """Once it is over, nothing is put off any more in this contact: who is asked and silent holds others up once."""
    answer_until: float = 0.0
    vain: RecentIds = field(default_factory=lambda: RecentIds(1024))
    """Asked for in vain in this contact, or lately in a long one, and not named by the peer since then."""
    vain_since: float = 0.0
    asked_before_stored: bool = False
    """The peer did not hold the newest event of ours when it was asked for `asked`."""
    parked: int = 0
    """Events in a row that could not be judged."""
    repeats: int = 0
    """Answers in a row that held nothing new."""
    fruitless: int = 0
    """Exchanges in a row that brought nothing."""
    compare_at: float | None = None
    settling_until: float = 0.0
    """0.0: owed events of the room need not wait."""
    settling_limit: float = 0.0
    leaves_told: tuple[frozenset[str], float] = (frozenset(), float("-inf"))

    @property
    def is_at_rest(self) -> bool:
        return not self.waiting and not self.asked and not self.reading_have

    def next_deadline(self) -> float | None:
        answer_until = self.answer_until if self.asked else None
        times = [self.compare_at, answer_until, self.ask_at, self.settling_until or None]
        return min((at for at in times if at is not None), default=None)


class Reconciliation:
    """The rooms of one pair of servers. `settled()` is called when owed events of a room need wait no longer."""

    def __init__(self, channel: Channel, *, settled: Callable[[], None], room_equal: Callable[[str], None]) -> None:
        self._channel = channel
        self._settled = settled
        self._room_equal = room_equal
        self.standings = Standings(channel)
        self._key: BeaconKey | None = None
        self._rooms: dict[str, _RoomExchange] = {}
        self._restless: dict[str, _RoomExchange] = {}
        """Rooms that may have a deadline."""
        self._room_of_tag: dict[bytes, list[str]] = {}
        self.shares_rooms = False
        """Whether the peer was in a room that was looked at last."""
        self._early: list[Beacon] = []
        self._reading_rooms = False
        self._first_of_contact = False
        self._read_again = False
        self._rooms_read_at = float("-inf")
        self._compare_all_at: float | None = None
        self._look_again_at: float | None = None

    # Contact

    def contact(self, key: BeaconKey, now: float) -> None:
        """The peer can be reached: every shared room is compared."""
        self._key = key
        self.standings.contact(key)
        for exchange in self._rooms.values():
            exchange.vain, exchange.vain_since = RecentIds(1024), now
            exchange.parked = exchange.fruitless = exchange.repeats = 0
            exchange.asked = ()
        self._first_of_contact = True
        self._read_rooms(now)

    def lost(self) -> None:
        for exchange in self._rooms.values():
            exchange.asked = ()
            exchange.waiting.clear()
            exchange.compare_at = exchange.ask_at = exchange.patient_until = None
        self._compare_all_at = None

    def is_settling(self, room_id: str, now: float) -> bool:
        """Whether an exchange that has just begun may make it needless to send owed events of the room."""
        exchange = self._rooms.get(room_id)
        return exchange is not None and exchange.settling_until > now

    def knows(self, room_id: str) -> bool:
        """Whether the room was held when rooms were last read: the peer does not wait for our join."""
        return room_id in self._rooms

    def _touched(self, room_id: str) -> _RoomExchange | None:
        """The exchange of a room, about to change; None for a room that this server is not in."""
        exchange = self._rooms.get(room_id)
        if exchange is not None:
            self._restless[room_id] = exchange
        return exchange

    # Beacons

    def owes(self, room_ids: Iterable[str], now: float) -> None:
        """Events of these rooms are owed to the peer: one that is new means that somebody has just joined it."""
        if any(room_id not in self._rooms for room_id in room_ids) and self._look_again_at is None:
            self._look_again_at = max(now, self._rooms_read_at + self._channel.timers.recheck_s)

    def compare_soon(self, room_id: str, at: float) -> None:
        """The room grew elsewhere."""
        exchange = self._touched(room_id)
        if exchange is not None:
            exchange.compare_at = at if exchange.compare_at is None else min(at, exchange.compare_at)

    def _read_rooms(self, now: float) -> None:
        if self._reading_rooms:
            self._read_again = True
            return
        self._reading_rooms = True
        self._rooms_read_at = now
        self._look_again_at = None
        self._compare_all_at = now + self._channel.timers.compare_all_s
        self._channel.emit(ReadRooms())

    def rooms_read(self, views: Sequence[RoomView], now: float) -> None:
        """The answer to `ReadRooms`: all rooms that this server is in."""
        self._reading_rooms = False
        if self._key is None or not self._channel.talking:
            return
        self._rooms = {view.room_id: self._rooms.get(view.room_id, _RoomExchange()) for view in views}
        self._restless = {room_id: one for room_id, one in self._restless.items() if self._rooms.get(room_id) is one}
        self.standings.only(self._rooms)
        self.shares_rooms = any(view.shared for view in views)
        self._room_of_tag = {}
        beacons = []
        for view in views:
            tag = self._key.tag(view.room_id)
            self._room_of_tag.setdefault(tag, []).append(view.room_id)
            if not view.shared:
                continue
            beacons.append(Beacon(tag, self._key.digest(view.room_id, view.leaves)))
            exchange = self._rooms[view.room_id]
            if now - exchange.vain_since >= self._channel.timers.ask_again_s:
                exchange.vain, exchange.vain_since = RecentIds(1024), now
            self._restless[view.room_id] = exchange
            exchange.compare_at = None
            if self._first_of_contact:
                exchange.settling_until = now + self._channel.timers.settle_s
                exchange.settling_limit = now + self._channel.timers.settle_s * _SETTLING_STEPS
            self._want(view.room_id, view.wanted)
        for start in range(0, len(beacons), BEACONS_MAX):
            self._channel.say(Beacons(tuple(beacons[start : start + BEACONS_MAX])), Priority.STATE)
        self._first_of_contact = False
        self._settled()
        early, self._early = self._early, []
        self._beacons(early, now, again=False)
        if self._read_again:
            self._read_again = False
            self._read_rooms(now)

    def beacons(self, message: Beacons, now: float) -> None:
        self._beacons(message.rooms, now, again=True)

    def _beacons(self, beacons: Iterable[Beacon], now: float, *, again: bool) -> None:
        digests: dict[str, bytes | None] = {}
        for beacon in beacons:
            for room_id in self._room_of_tag.get(beacon.tag, ()):
                digests[room_id] = beacon.digest
            if again and beacon.tag not in self._room_of_tag and len(self._early) < self._channel.limits.strange_tags:
                self._early.append(beacon)
        if digests:
            self._channel.emit(ReadLeaves(digests))

    def leaves_read(self, effect: ReadLeaves, views: Sequence[RoomView], now: float) -> None:
        """The answer to `ReadLeaves`: where we stand in rooms of which the peer told its digest."""
        if self._key is None or not self._channel.talking:
            return
        beacons, equal = [], []
        self.shares_rooms = self.shares_rooms or any(view.shared for view in views)
        for view in views:
            exchange = self._touched(view.room_id)
            if exchange is None:
                continue
            digest = effect.digests[view.room_id]
            if digest is None:
                if view.shared:
                    beacons.append(self._key.beacon(view.room_id, view.leaves))
                    self._want(view.room_id, view.wanted)
            elif not view.may_see:
                self._ask_unseen(view.room_id, exchange, now)
            elif self._key.digest(view.room_id, view.leaves) == digest:
                self._equal(exchange, view)
                equal.append(view)
                self._want(view.room_id, view.wanted)
            else:
                self._keep_settling(exchange, now)
                self._tell_leaves(view, answer=False, now=now)
                self._compare_later(exchange, now)
        for start in range(0, len(beacons), BEACONS_MAX):
            self._channel.say(Beacons(tuple(beacons[start : start + BEACONS_MAX])), Priority.STATE)
        self.standings.equal(equal)

    def digests(self, message: Digests) -> None:
        self.standings.told(message, self._room_of_tag)

    def _ask_unseen(self, room_id: str, exchange: _RoomExchange, now: float) -> None:
        """Lets a peer that sent a tag of a room of ours tell its leaves: it may have joined by another way.

        It may as well have guessed the tag, so it is told no more than that its digest is not ours.
        """
        if now - exchange.leaves_told[1] >= _LEAVES_FRESH_S and self._key is not None:
            exchange.leaves_told = (frozenset(), now)
            self._channel.say(Beacons((self._key.beacon(room_id, ()),)), Priority.STATE)

    def served(self, room_id: str, now: float) -> None:
        """The peer was given what it wanted of a room."""
        exchange = self._touched(room_id)
        if exchange is not None:
            self._keep_settling(exchange, now)

    def _keep_settling(self, exchange: _RoomExchange, now: float) -> None:
        if exchange.settling_until:
            longer = min(now + self._channel.timers.settle_s, exchange.settling_limit)
            exchange.settling_until = max(longer, exchange.settling_until)

    def _equal(self, exchange: _RoomExchange, view: RoomView) -> None:
        exchange.fruitless = 0
        exchange.compare_at = None
        self._channel.known.add(view.leaves)
        self._room_equal(view.room_id)
        if view.owed:
            self._channel.emit(ForgetRoom(view.room_id, view.leaves))
        else:
            self._come_to_rest(exchange)

    def room_forgotten(self, effect: ForgetRoom) -> None:
        """The answer to `ForgetRoom`: what is still owed is new."""
        exchange = self._touched(effect.room_id)
        if exchange is not None:
            self._come_to_rest(exchange)

    def _come_to_rest(self, exchange: _RoomExchange) -> None:
        exchange.settling_until = 0.0
        self._settled()

    def _compare_later(self, exchange: _RoomExchange, now: float) -> None:
        """Compares again after the exchange that is going on, ever later while nothing comes of it."""
        timers = self._channel.timers
        wait_s = min(timers.compare_all_s, timers.recheck_s * 4.0 ** min(exchange.fruitless, 10))
        exchange.fruitless += 1
        exchange.compare_at = now + wait_s

    # Leaves

    def _tell_leaves(self, view: RoomView, *, answer: bool, now: float) -> None:
        exchange = self._rooms[view.room_id]
        leaves = frozenset(view.leaves)
        if exchange.leaves_told[0] == leaves and now - exchange.leaves_told[1] < _LEAVES_FRESH_S:
            return
        exchange.leaves_told = (leaves, now)
        told = [event_id for event_id in view.leaves if is_canonical_event_id(event_id)]
        if len(told) > EVENT_IDS_MAX:
            told = self._channel.rng.sample(told, EVENT_IDS_MAX)
        self._channel.say(Leaves(view.room_id, tuple(told), answer), Priority.STATE)

    def leaves(self, message: Leaves, now: float) -> None:
        exchange = self._rooms.get(message.room_id)
        if exchange is None:
            return
        exchange.vain.discard(message.event_ids)
        self._channel.known.add(message.event_ids)
        self._channel.emit(FindUnknown(message.room_id, message.event_ids, as_leaves=not message.answer))

    def offered(self, room_id: str, event_ids: tuple[str, ...]) -> None:
        exchange = self._rooms.get(room_id)
        if exchange is not None:
            exchange.vain.discard(event_ids)
            self._channel.known.add(event_ids)
            self._channel.emit(FindUnknown(room_id, event_ids, as_leaves=False))

    def unknown_found(self, effect: FindUnknown, unknown: Sequence[str], view: RoomView | None, now: float) -> None:
        """The answer to `FindUnknown`; `view` is None when this server is not in the room."""
        if view is None or view.room_id not in self._rooms or not self._channel.talking:
            return
        self._want(view.room_id, unknown)
        if effect.as_leaves and view.may_see and set(view.leaves) != set(effect.event_ids):
            self._tell_leaves(view, answer=True, now=now)

    # Wanting

    def want(self, room_id: str, event_ids: Iterable[str]) -> None:
        """Asks this peer, too, for events that are cited and not held."""
        if room_id in self._rooms and self._channel.talking:
            self._want(room_id, event_ids)

    def _want(self, room_id: str, event_ids: Iterable[str]) -> None:
        exchange = self._rooms[room_id]
        self._restless[room_id] = exchange
        if exchange.parked > self._channel.limits.parked_max:
            return
        for event_id in event_ids:
            if len(exchange.waiting) >= self._channel.limits.waiting_ids:
                break
            if event_id in exchange.waiting or event_id in exchange.vain or event_id in exchange.asked:
                continue
            if is_canonical_event_id(event_id):
                exchange.waiting[event_id] = None
        self._ask(room_id, exchange)

    def _ask(self, room_id: str, exchange: _RoomExchange) -> None:
        if exchange.waiting and not exchange.asked and not exchange.reading_have:
            exchange.reading_have, exchange.ask_at = True, None
            first = tuple(list(exchange.waiting)[:WANT_MAX])
            for event_id in first:
                del exchange.waiting[event_id]
            self._channel.emit(ReadHave(room_id, first, self._channel.rng.randbytes(SALT_OCTETS)))

    def is_asking(self, room_id: str, now: float) -> bool:
        """Whether the peer was asked about a room just now, and has not answered."""
        exchange = self._rooms.get(room_id)
        return exchange is not None and bool(exchange.asked) and now < exchange.asked_at + _PATIENCE_S

    def put_off(self, effect: ReadHave, now: float) -> bool:
        """Another peer is being asked: asks later, for what is lacking then. False where that was done long enough."""
        exchange = self._touched(effect.room_id)
        if exchange is None or not self._channel.talking:
            return False
        if exchange.patient_until is None:
            exchange.patient_until = now + _PATIENCE_S
        if now >= exchange.patient_until:
            return False
        exchange.reading_have = False
        exchange.waiting = {**dict.fromkeys(effect.event_ids), **exchange.waiting}
        exchange.ask_at = now + _PUT_OFF_S
        return True

    def have_read(
        self, effect: ReadHave, unknown: Sequence[str], have: Sequence[str], holds: bytes, now: float
    ) -> None:
        """The answer to `ReadHave`: those that are still unknown, a sample and a filter of what is held."""
        exchange = self._touched(effect.room_id)
        if exchange is None:
            return
        exchange.reading_have = False
        if exchange.patient_until is not None and now < exchange.patient_until:
            exchange.patient_until = None
        if not self._channel.talking:
            return
        if unknown:
            exchange.asked, exchange.asked_at = tuple(unknown), now
            exchange.asked_before_stored = False
            exchange.answer_until = now + self._channel.timers.answer_s
            held = tuple(event_id for event_id in have[:HAVE_MAX] if is_canonical_event_id(event_id))
            octets = self._channel.limits.answer_octets
            self._channel.say(Want(effect.room_id, exchange.asked, held, octets, holds), Priority.STATE)
        elif exchange.waiting:
            self._ask(effect.room_id, exchange)
        else:
            self._exchange_done(exchange, now)

    def lacking(self, message: Lacking, now: float) -> None:
        exchange = self._touched(message.room_id)
        if exchange is None:
            return
        vain = tuple(event_id for event_id in message.event_ids if event_id in exchange.asked)
        if vain:
            exchange.asked = tuple(event_id for event_id in exchange.asked if event_id not in vain)
            if exchange.asked_before_stored:
                exchange.waiting = {**dict.fromkeys(vain), **exchange.waiting}
            else:
                self._in_vain(message.room_id, exchange, vain)
            if not exchange.asked:
                self._ask(message.room_id, exchange)
                self._exchange_done(exchange, now)

    def ours_stored(self, room_id: str, now: float) -> None:
        """The peer holds an event of ours that it did not hold before. If that is the join of our user, it lacked what
        it was asked for before only because it did not know us as a member: a question can overtake the join."""
        exchange = self._touched(room_id)
        if exchange is None:
            return
        exchange.asked_before_stored = bool(exchange.asked)
        if len(exchange.vain):
            exchange.vain, exchange.vain_since = RecentIds(1024), now
            self.compare_soon(room_id, now + self._channel.timers.recheck_s)

    def _in_vain(self, room_id: str, exchange: _RoomExchange, event_ids: Sequence[str]) -> None:
        new = exchange.vain.add(event_ids)
        if new:
            self._channel.emit(NobodyHas(room_id, tuple(new)))

    # Receiving

    def pdus(self, message: Pdus) -> None:
        exchange = self._touched(message.room_id)
        asked = exchange.asked if exchange is not None and message.in_answer else ()
        if exchange is not None and asked:
            exchange.answer_until = float("inf")  # until the node has judged them
        is_answer = bool(asked)
        self._channel.emit(Receive(message.room_id, message.pdus, is_answer, is_answer and message.more, asked))

    def overheard(self, room_id: str, pdus: tuple[Mapping[str, Any], ...]) -> None:
        """Events that somebody broadcast in the name of the peer."""
        self._channel.emit(Receive(room_id, pdus, in_answer=False, more=False, asked=(), overheard=True))

    def received(
        self, effect: Receive, results: Sequence[PduResult], missing: Sequence[str], lacking: Sequence[str], now: float
    ) -> None:
        """What became of the events, and of parked ones that they set free; `missing` parents; and those of
        `effect.asked` that are still not held."""
        final = [result for result in results if result.event_id is not None and result.verdict is not None]
        ids = [result.event_id for result in final if result.event_id is not None]
        ids = [event_id for event_id in dict.fromkeys(ids) if is_canonical_event_id(event_id)]
        if effect.overheard:
            self._overheard_judged(effect, final, missing)
            return
        self._channel.known.add(ids)
        self.say_stored(effect.room_id, ids)
        judged = tuple(
            result.event_id
            for result in final
            if result.new and result.event_id is not None and result.verdict is not Verdict.DROPPED
        )
        if judged and not effect.in_answer:
            self._channel.emit(Forward(effect.room_id, judged))
        exchange = self._touched(effect.room_id)
        if exchange is None or not self._channel.talking:
            return
        is_progress = any(result.new for result in results)
        if judged:
            exchange.parked = max(0, exchange.parked - len(judged))
            exchange.fruitless = exchange.repeats = 0
            if effect.in_answer:
                self._channel.emit(Changed(effect.room_id))
        else:
            exchange.parked += sum(result.new for result in results)
        if effect.in_answer and exchange.asked:
            self._answer_judged(effect, exchange, is_progress, lacking)
        self._want(effect.room_id, missing)
        if not exchange.is_at_rest:
            return
        if not judged:
            self._exchange_done(exchange, now)
        elif effect.in_answer:
            exchange.compare_at = now + self._channel.timers.recheck_s
        else:
            exchange.compare_at = now + self._channel.timers.quiet_s

    def say_stored(self, room_id: str, event_ids: Sequence[str]) -> None:
        for start in range(0, len(event_ids), EVENT_IDS_MAX):
            part = tuple(event_ids[start : start + EVENT_IDS_MAX])
            self._channel.say(Stored(room_id, part), Priority.RECEIPT)

    def _overheard_judged(self, effect: Receive, final: Sequence[PduResult], missing: Sequence[str]) -> None:
        """That the peer holds them is not known, and nobody waits for an exchange: only new events go on from here."""
        held = [(result.event_id, result.new) for result in final if result.verdict is not Verdict.DROPPED]
        new = tuple(event_id for event_id, is_new in held if is_new and event_id is not None)
        if new:
            self._channel.emit(Forward(effect.room_id, new))
        self.want(effect.room_id, missing)

    def _answer_judged(
        self, effect: Receive, exchange: _RoomExchange, is_progress: bool, lacking: Sequence[str]
    ) -> None:
        rest, exchange.asked = exchange.asked, ()
        limits = self._channel.limits
        exchange.repeats = 0 if is_progress else exchange.repeats + 1
        if effect.more and exchange.repeats <= limits.repeats_max and exchange.parked <= limits.parked_max:
            exchange.waiting = {**dict.fromkeys(rest), **exchange.waiting}
        else:
            self._in_vain(effect.room_id, exchange, lacking)
        self._ask(effect.room_id, exchange)

    def _exchange_done(self, exchange: _RoomExchange, now: float) -> None:
        if exchange.is_at_rest and exchange.compare_at is None:
            self._compare_later(exchange, now)

    # Time

    def next_deadline(self) -> float | None:
        if not self._channel.talking:
            return None
        times = [at for at in (self._compare_all_at, self._look_again_at, self._strange_at()) if at is not None]
        for room_id, exchange in list(self._restless.items()):
            deadline = exchange.next_deadline()
            if deadline is None:
                del self._restless[room_id]
            else:
                times.append(deadline)
        return min(times, default=None)

    def handle_timeout(self, now: float) -> None:
        if not self._channel.talking:
            return
        if any(at is not None and now >= at for at in (self._compare_all_at, self._look_again_at, self._strange_at())):
            self._read_rooms(now)
        due: list[str] = []
        for room_id, exchange in list(self._restless.items()):
            if exchange.asked and now >= exchange.answer_until:
                asked, exchange.asked = exchange.asked, ()
                exchange.vain.add(asked)
                exchange.fruitless += 1
                self._ask(room_id, exchange)
            if exchange.ask_at is not None and now >= exchange.ask_at:
                exchange.ask_at = None
                self._ask(room_id, exchange)
            if exchange.settling_until and now >= exchange.settling_until:
                exchange.settling_until = 0.0
                self._settled()
            if exchange.compare_at is not None and now >= exchange.compare_at:
                if exchange.is_at_rest:
                    exchange.compare_at = None
                    due.append(room_id)
                else:
                    exchange.compare_at = now + self._channel.timers.quiet_s
        if due:
            self._channel.emit(ReadLeaves(dict.fromkeys(due)))

    def _strange_at(self) -> float | None:
        """When beacons with unknown tags make us look at our rooms again."""
        return self._rooms_read_at + self._channel.timers.reload_s if self._early and not self._reading_rooms else None
