"""Pushing what is owed to the peer: read in pages, sent in order, bounded until it is acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from p2pserver.federation.channel import Channel
from p2pserver.federation.effects import ForgetOwed, OwedItem, ReadOutbox
from p2pserver.link.limits import Priority
from p2pserver.wire.messages import (
    ITEM_OCTETS_MAX,
    PART_OCTETS_MAX,
    PDUS_MAX,
    Item,
    Pdus,
    WireError,
    encode_json,
    is_canonical_event_id,
    pdu_octets,
)


@dataclass(slots=True)
class _Sent:
    event_id: str | None
    room_id: str | None
    octets: int
    at: float
    counts: bool = True
    """It is part of the window; no longer, once it is overdue."""


class OutboxWindow:
    """The sending side of the outbox. `is_settling(room_id, now)`: events of that room wait, for they may be held."""

    def __init__(self, channel: Channel, is_settling: Callable[[str, float], bool]) -> None:
        self._channel = channel
        self._is_settling = is_settling
        self._cursor = 0
        self._reading = False
        self._more = False
        """There may be rows beyond the cursor."""
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
            full = batch_octets + octets > self._channel.limits.push_octets or len(batch) >= PDUS_MAX
            if batch and (item.room_id != batch_room or full):
                self._flush(batch_room, batch)
                batch_octets = 0
            batch_room = item.room_id
            batch.append(dict(item.payload))
            batch_octets += octets
            self._remember(item, octets, now)
        self._flush(batch_room, batch)
        return list(rooms)

    def stored(self, event_ids: Iterable[str], now: float) -> bool:
        """The peer holds these events, whoever sent them. Returns whether one is of those that were sent from here."""
        sent_here = False
        for event_id in event_ids:
            number = self._number_of.get(event_id)
            if number is not None:
                sent_here = True
                self._drop(number)
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

    # Time

    def next_deadline(self) -> float | None:
        overdue = next((sent.at for sent in self._sent.values() if sent.counts), None)
        if overdue is None:
            return self._forget_at
        overdue += self._channel.timers.resend_s
        return overdue if self._forget_at is None else min(overdue, self._forget_at)

    def handle_timeout(self, now: float) -> None:
        if self._forget_at is not None and now >= self._forget_at:
            self._forget()
        for sent in self._sent.values():
            if sent.counts:
                if now - sent.at < self._channel.timers.resend_s:
                    break
                sent.counts = False
                self._octets -= sent.octets
                self._count -= 1

    # Parts

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
