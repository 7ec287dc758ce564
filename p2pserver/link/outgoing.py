"""The sending half of a conversation: whole messages in, fragments out, until the peer holds every octet.

A message keeps two range sets, octets still to send and octets acknowledged; an octet in neither is on its way. Nothing
here knows datagram sizes: a fragment is cut when a datagram asks for it, so a message that began on one pipe goes on
over another with other sizes.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import NamedTuple

from p2pserver.link.errors import MessageSize, QueueFull
from p2pserver.link.frames import encode_fragment, varint_octets
from p2pserver.link.limits import (
    CREDIT_OCTETS,
    CREDIT_RESERVED_OCTETS,
    MESSAGE_CHARGE_OCTETS,
    MESSAGE_OCTETS_MAX,
    QUEUE_MESSAGES_MAX,
    QUEUE_OCTETS_MAX,
    Priority,
)
from p2pserver.link.ranges import RangeSet

FRAGMENT_OCTETS_LEAST = 16
"""No fragment smaller than this is put behind other frames, unless it ends its message."""


class FragmentSent(NamedTuple):
    """What a datagram carried of a message; `generation` tells the pipe it went over from later ones."""

    generation: int
    priority: int
    number: int
    start: int
    end: int


class _Message:
    __slots__ = ("acked", "data", "handle", "queued", "started", "to_send")

    def __init__(self, handle: int, data: bytes) -> None:
        self.handle = handle
        self.data = data
        self.to_send = RangeSet(0, len(data))
        self.acked = RangeSet()
        self.started = False
        self.queued = False


class _Class:
    """Messages of one priority class that the peer does not hold yet, by number."""

    __slots__ = ("messages", "next_number", "ready")

    def __init__(self) -> None:
        self.next_number = 0
        self.messages: dict[int, _Message] = {}
        self.ready: list[int] = []
        """A heap of the numbers that have octets to send."""

    def append(self, message: _Message) -> None:
        self.messages[self.next_number] = message
        self.queue(self.next_number, message)
        self.next_number += 1

    def queue(self, number: int, message: _Message) -> None:
        if not message.queued:
            message.queued = True
            heappush(self.ready, number)

    def head(self) -> tuple[int, _Message] | None:
        """The lowest number with octets to send."""
        while self.ready:
            number = self.ready[0]
            message = self.messages.get(number)
            if message is not None and len(message.to_send):
                return number, message
            heappop(self.ready)
            if message is not None:
                message.queued = False
        return None


class Outgoing:
    """Queues of all classes to one peer, and the credit that the peer gave."""

    __slots__ = (
        "_classes",
        "_delivered",
        "_limit",
        "_message_count",
        "_next_handle",
        "_started",
        "allowed",
        "generation",
        "queued_octets",
    )

    def __init__(self) -> None:
        self._classes = [_Class() for _ in Priority]
        self._next_handle = 0
        self._message_count = 0
        self._delivered: list[int] = []
        self._started = 0
        self._limit = CREDIT_OCTETS
        self.allowed: tuple[Priority, ...] = tuple(Priority)
        """The classes that may be sent now: from the most urgent to the last for which there is airtime."""
        self.queued_octets = 0
        self.generation = 0

    def send(self, message: bytes, priority: Priority) -> int:
        """Raises: QueueFull; MessageSize."""
        if not 1 <= len(message) <= MESSAGE_OCTETS_MAX:
            raise MessageSize(f"a message of {len(message)} octets")
        if not self.can_send(len(message)):
            raise QueueFull(f"{self.queued_octets} octets in {self._message_count} messages wait already")
        handle = self._next_handle
        self._next_handle += 1
        self._classes[priority].append(_Message(handle, message))
        self._message_count += 1
        self.queued_octets += len(message)
        return handle

    def can_send(self, octets: int) -> bool:
        return self.queued_octets + octets <= QUEUE_OCTETS_MAX and self._message_count < QUEUE_MESSAGES_MAX

    def delivered(self) -> list[int]:
        drained, self._delivered = self._delivered, []
        return drained

    def pipe_changed(self, *, peer_restarted: bool) -> None:
        """Everything that is not acknowledged will be sent again; to a restarted peer, as new messages from 0 on."""
        self.generation += 1
        if peer_restarted:
            self._started = 0
            self._limit = CREDIT_OCTETS
        for index, old in enumerate(self._classes):
            if peer_restarted:
                self._classes[index] = fresh = _Class()
                for message in old.messages.values():
                    fresh.append(_Message(message.handle, message.data))
                continue
            for number, message in old.messages.items():
                if message.started:
                    message.to_send = RangeSet(0, len(message.data))
                    for start, end in message.acked:
                        message.to_send.remove(start, end)
                    old.queue(number, message)

    def credit_received(self, limit_octets: int) -> None:
        self._limit = max(self._limit, limit_octets)

    def has_fragments(self) -> bool:
        """Whether `take` would give something, if there is room for it."""
        for priority, queue in zip(self.allowed, self._classes, strict=False):
            if queue.ready and self._sendable(priority) is not None:
                return True
        return False

    def take(self, octets: int) -> tuple[bytes, list[FragmentSent]]:
        """Fragments for the end of a datagram that has `octets` left, the most urgent first."""
        parts: list[tuple[int, int, int, bytes, bool]] = []
        sent: list[FragmentSent] = []
        left = octets
        full = False
        for priority in self.allowed:
            while not full:
                head = self._sendable(priority)
                if head is None:
                    break
                number, message = head
                start, end = message.to_send.first()
                room = left - 1 - varint_octets(number) - (varint_octets(start) if start else 0)
                length = end - start
                if room < (min(length, FRAGMENT_OCTETS_LEAST) if parts else 1):
                    full = True
                    break
                if length + varint_octets(length) <= room:
                    left = room - length - varint_octets(length)
                else:
                    length = min(length, room)
                    full = True
                self._start(message)
                end = start + length
                message.to_send.remove(start, end)
                parts.append((priority, number, start, message.data[start:end], end == len(message.data)))
                sent.append(FragmentSent(self.generation, priority, number, start, end))
        final = len(parts) - 1
        out = [
            encode_fragment(priority, number, start, data, last=last, with_length=index < final)
            for index, (priority, number, start, data, last) in enumerate(parts)
        ]
        return b"".join(out), sent

    def acknowledged(self, fragment: FragmentSent) -> None:
        if fragment.generation != self.generation:
            return
        queue = self._classes[fragment.priority]
        message = queue.messages.get(fragment.number)
        if message is None:
            return
        message.acked.add(fragment.start, fragment.end)
        message.to_send.remove(fragment.start, fragment.end)
        if message.acked.covers(0, len(message.data)):
            del queue.messages[fragment.number]
            self._message_count -= 1
            self.queued_octets -= len(message.data)
            self._delivered.append(message.handle)

    def lost(self, fragment: FragmentSent) -> None:
        if fragment.generation != self.generation:
            return
        queue = self._classes[fragment.priority]
        message = queue.messages.get(fragment.number)
        if message is None:
            return
        message.to_send.add(fragment.start, fragment.end)
        for start, end in message.acked:
            message.to_send.remove(start, end)
        queue.queue(fragment.number, message)

    def _sendable(self, priority: Priority) -> tuple[int, _Message] | None:
        head = self._classes[priority].head()
        if head is None or head[1].started:
            return head
        limit = self._limit - (0 if priority <= Priority.TEXT else CREDIT_RESERVED_OCTETS)
        return head if self._started + _charge(head[1]) <= limit else None

    def _start(self, message: _Message) -> None:
        if not message.started:
            message.started = True
            self._started += _charge(message)


def _charge(message: _Message) -> int:
    return len(message.data) + MESSAGE_CHARGE_OCTETS
