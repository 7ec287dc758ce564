"""Pushing what is owed to the peer: read in pages, sent in order, bounded until it is acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from p2pserver.federation.channel import Channel
from p2pserver.federation.effects import Broadcast, ForgetOwed, OwedItem, ReadOutbox
from p2pserver.link.limits import Priority
from p2pserver.wire.event_ids import is_canonical_event_id
from p2pserver.wire.fields import WireError
from p2pserver.wire.messages import ITEM_OCTETS_MAX, PART_OCTETS_MAX, PDUS_MAX, Item, Pdus, encode_json, pdu_octets
from p2pserver.wire.packing import pack

BROADCASTS_MAX = 2
"""So often an event is broadcast before whoever has not acknowledged it gets it alone."""


@dataclass(slots=True)
class _Sent:
    event_id: str | None
    room_id: str | None
    octets: int
    at: float
    counts: bool = True
    """It is part of the window; no longer, once it is overdue."""
    is_broadcast: bool = False
    repair_at: float | None = None
    """Once it was broadcast: when it is sent again, if it is not acknowledged."""


class OutboxWindow:
    """The sending side of the outbox. `is_settling(room_id, now)`: events of that room wait, for they may be held.

    `knows_room(room_id)`: the room is an old one. The first event of a new one is our join, which gives the right to
    ask: it goes at once and to each peer alone.
    """

    def __init__(
        self, channel: Channel, is_settling: Callable[[str, float], bool], knows_room: Callable[[str], bool]
    ) -> None:
        self._channel = channel
        self._is_settling = is_settling
        self._knows_room = knows_room
        self._cursor = 0
        self._reading = False
        self._more = False
        """There may be rows beyond the cursor."""
        self._catching_up = True
        """What is read was owed before the contact."""
        self._broadcast_octets = 0
        self._broadcasts: dict[int, int] = {}
        """How often an item was broadcast; BROADCASTS_MAX, if it must not be."""
        self._held_back: int | None = None
        """The lowest number that waits for its room to settle."""
        self._sent: dict[int, _Sent] = {}
        self._number_of: dict[str, int] = {}
        self._octets = 0
        self._count = 0
        self._done_events: list[str] = []
        self._done_numbers: list[int] = []
        self._forget_at: float | None = None

    # What happens

    def contact(self, now: float) -> None:
        """Begins from the oldest row; what was sent just before is still on its way."""
        for number, sent in list(self._sent.items()):
            if now - sent.at > self._channel.timers.resend_s:
                self._drop(number)
        self._cursor = 0
        self._held_back = None
        self._more = True
        self._catching_up = True
        self._broadcasts.clear()

    def share_medium(self, octets_max: int) -> None:
        """From now on events of up to so many octets are broadcast, for somebody else hears them too; 0: none."""
        self._broadcast_octets = octets_max

    def broadcast_done(self, event_id: str, repair_at: float) -> None:
        """It was on the air; if it is not acknowledged by then, it is sent again."""
        number = self._number_of.get(event_id)
        if number is not None and self._sent[number].is_broadcast:
            self._sent[number].repair_at = repair_at

    def broadcast_declined(self, event_id: str) -> None:
        """Nobody else lacks it, or it cannot be broadcast: it is pushed."""
        number = self._number_of.get(event_id)
        if number is not None and self._sent[number].is_broadcast:
            self._broadcasts[number] = BROADCASTS_MAX
            self._send_again(number)

    def _send_again(self, number: int) -> None:
        self._forget()  # before the page is read again, so that nothing in it is sent for nothing
        self._drop(number)
        self._cursor = min(self._cursor, number - 1)
        self._more = True

    def grew(self) -> None:
        self._more = True

    def settled(self) -> None:
        """A room came to rest: rows that were held back may go."""
        if self._held_back is not None:
            self._cursor = min(self._cursor, self._held_back - 1)
            self._held_back = None
            self._more = True

    def pump(self, now: float) -> None:
        """Asks for the next page, if there is one and room for it."""
        limits = self._channel.limits
        if not self._channel.talking or self._reading or not self._more or self._channel.is_full:
            return
        if len(self._sent) >= limits.unacknowledged_count or self._count >= limits.window_count:
            return
        room = limits.window_octets - self._octets
        if room <= 0:
            return
        self._reading, self._more = True, False
        self._channel.emit(ReadOutbox(self._cursor, room))

    def read(self, items: Sequence[OwedItem], now: float, *, more: bool) -> list[str]:
        """A page arrived. Returns the rooms whose events were in it."""
        self._reading = False
        self._more = self._more or more
        batch: list[dict[str, Any]] = []
        batch_room, batch_octets = "", 0
        rooms: dict[str, None] = {}
        for item in items:
            self._cursor = max(self._cursor, item.number)
            if item.room_id is not None and item.kind == "pdu":
                rooms[item.room_id] = None
            if item.number in self._sent:
                continue
            if item.kind != "pdu":
                self._flush(batch_room, batch)
                batch_octets = 0
                self._send_item(item, now)
                continue
            octets = self._check_pdu(item, now)
            if octets is None:
                continue
            assert item.room_id is not None
            if self._is_for_all(item, octets):
                self._broadcast(item, octets, now)
                continue
            full = batch_octets + octets > self._channel.limits.push_octets or len(batch) >= PDUS_MAX
            if batch and (item.room_id != batch_room or full):
                self._flush(batch_room, batch)
                batch_octets = 0
            batch_room = item.room_id
            batch.append(dict(item.payload))
            batch_octets += octets
            self._remember(item, octets, now)
        self._flush(batch_room, batch)
        self._catching_up = self._catching_up and more
        return list(rooms)

    def stored(self, event_ids: Iterable[str], now: float) -> bool:
        """The peer holds these events, whoever sent them. Returns whether one is of those that were sent from here."""
        sent_here = False
        for event_id in event_ids:
            number = self._number_of.get(event_id)
            if number is not None:
                sent_here = True
                self._drop(number)
                self._broadcasts.pop(number, None)
            self._done_events.append(event_id)
        self._forget_soon(now)
        return sent_here

    def items_stored(self, numbers: Iterable[int], now: float) -> None:
        for number in numbers:
            if number in self._sent:
                self._drop(number)
                self._done_numbers.append(number)
        self._forget_soon(now)

    def room_equal(self, room_id: str) -> None:
        """The peer holds all events of the room."""
        for number, sent in list(self._sent.items()):
            if sent.room_id == room_id and sent.event_id is not None:
                self._drop(number)
                self._broadcasts.pop(number, None)

    # Time

    def next_deadline(self) -> float | None:
        times = [self._forget_at, *(sent.repair_at for sent in self._sent.values())]
        overdue = next((sent.at for sent in self._sent.values() if sent.counts), None)
        if overdue is not None:
            times.append(overdue + self._channel.timers.resend_s)
        return min((at for at in times if at is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        if self._forget_at is not None and now >= self._forget_at:
            self._forget()
        for number, sent in list(self._sent.items()):
            if sent.repair_at is not None and sent.repair_at <= now:
                self._send_again(number)
        for number, sent in list(self._sent.items()):
            if sent.counts:
                if now - sent.at < self._channel.timers.resend_s:
                    break
                sent.counts = False
                self._octets -= sent.octets
                self._count -= 1
                if sent.is_broadcast and sent.repair_at is None:
                    self._send_again(number)  # nobody told what became of its broadcast

    # Parts

    def _is_for_all(self, item: OwedItem, octets: int) -> bool:
        """Whether an event that is to be sent now should be broadcast."""
        assert item.room_id is not None
        is_new = not self._catching_up and self._broadcasts.get(item.number, 0) < BROADCASTS_MAX
        fits = octets <= self._broadcast_octets and item.payload.get("room_id") == item.room_id
        return is_new and fits and self._knows_room(item.room_id)

    def _broadcast(self, item: OwedItem, octets: int, now: float) -> None:
        assert item.room_id is not None
        assert item.event_id is not None
        self._broadcasts[item.number] = self._broadcasts.get(item.number, 0) + 1
        self._remember(item, octets, now)
        self._sent[item.number].is_broadcast = True
        self._channel.emit(Broadcast(item.room_id, item.event_id, item.payload))

    def _check_pdu(self, item: OwedItem, now: float) -> int | None:
        """The size of a PDU that is to be sent now; None, if it is not."""
        assert item.room_id is not None
        assert item.event_id is not None
        if self._is_settling(item.room_id, now):
            self._held_back = item.number if self._held_back is None else min(self._held_back, item.number)
            return None
        if not is_canonical_event_id(item.event_id):
            self._done_numbers.append(item.number)
            self._forget_soon(now)
            return None
        try:
            return pdu_octets(item.payload)
        except WireError:
            self._done_numbers.append(item.number)
            self._forget_soon(now)
            return None

    def _flush(self, room_id: str, batch: list[dict[str, Any]]) -> None:
        if batch:
            self._channel.say(Pdus(room_id, tuple(batch), more=False, in_answer=False), Priority.TEXT)
            batch.clear()

    def _send_item(self, item: OwedItem, now: float) -> None:
        payload = encode_json(item.payload)
        if len(payload) > ITEM_OCTETS_MAX:
            self._done_numbers.append(item.number)
            self._forget_soon(now)
            return
        payload = pack(payload)
        self._remember(item, len(payload), now)
        for start in range(0, len(payload), PART_OCTETS_MAX):
            part = payload[start : start + PART_OCTETS_MAX]
            more = start + PART_OCTETS_MAX < len(payload)
            self._channel.say(Item(item.number, item.kind, part, more), Priority.STATE)

    def _remember(self, item: OwedItem, octets: int, now: float) -> None:
        self._sent[item.number] = _Sent(item.event_id, item.room_id, octets, now)
        if item.event_id is not None:
            self._number_of[item.event_id] = item.number
            self._channel.known.add((item.event_id,))
        self._octets += octets
        self._count += 1

    def _drop(self, number: int) -> None:
        sent = self._sent.pop(number)
        if sent.event_id is not None:
            self._number_of.pop(sent.event_id, None)
        if sent.counts:
            self._octets -= sent.octets
            self._count -= 1

    def _forget_soon(self, now: float) -> None:
        if len(self._done_events) + len(self._done_numbers) >= self._channel.limits.window_count:
            self._forget()
        elif self._forget_at is None:
            self._forget_at = now + self._channel.timers.forget_s

    def _forget(self) -> None:
        self._forget_at = None
        if self._done_events or self._done_numbers:
            self._channel.emit(ForgetOwed(tuple(self._done_events), tuple(self._done_numbers)))
            self._done_events, self._done_numbers = [], []
