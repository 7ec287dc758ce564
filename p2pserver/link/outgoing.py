"""The sending half of a conversation: whole messages in, fragments out, until the peer holds every octet.

The messages of a class are one sequence of octets, each message behind its length. A class keeps what was acknowledged
and what must be sent again; an octet in neither, below those never sent, is on its way. Nothing here knows datagram
sizes beforehand: a fragment is cut when a datagram asks for it, so a message that began on one pipe goes on over
another with other sizes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from p2pserver.link.errors import MessageSize, QueueFull, RemoteLinkError
from p2pserver.link.frames import (
    HELD_POSITION_BITS,
    WHOLE_BITS,
    Held,
    encode_fragment,
    encode_varint,
    fragment_header_octets,
    nearest,
    varint_octets,
)
from p2pserver.link.limits import (
    ALL_CLASSES,
    CREDIT_OCTETS,
    CREDIT_RESERVED_OCTETS,
    MESSAGE_CHARGE_OCTETS,
    MESSAGE_OCTETS_MAX,
    QUEUE_MESSAGES_MAX,
    QUEUE_OCTETS_MAX,
    Priority,
)
from p2pserver.link.positions import PositionsSent
from p2pserver.link.ranges import RangeSet

FRAGMENT_OCTETS_LEAST = 16
"""No fragment smaller than this is put behind other frames, unless it is all that there is of its class."""
_FORGET_EVERY = 64

_Part = tuple[Priority, int, int, int]
"""Of a class, with a position of so many bits: from start to end."""


class FragmentSent(NamedTuple):
    """What a datagram carried of a class; `generation` tells the peer's process it went to from later ones."""

    generation: int
    priority: int
    start: int
    end: int


class _Message(NamedTuple):
    handle: int
    data: bytes
    octets: bytes
    """The data behind its length."""

    def charge(self) -> int:
        """What it costs of the credit."""
        return len(self.data) + MESSAGE_CHARGE_OCTETS


class _Class:
    """Messages of one priority class that the peer does not hold yet, laid end to end."""

    __slots__ = (
        "acked",
        "end",
        "first",
        "messages",
        "sent_to",
        "started",
        "started_to",
        "starts",
        "to_send",
        "unsure_to",
    )

    def __init__(self) -> None:
        self.messages: list[_Message] = []
        self.starts: list[int] = []
        self.first = 0
        """The index of the first message that the peer does not hold."""
        self.started = 0
        """The index of the first message that was not begun."""
        self.started_to = 0
        self.sent_to = 0
        self.end = 0
        self.acked = RangeSet()
        self.to_send = RangeSet()
        self.unsure_to = 0
        """Octets below this that were not acknowledged went over an earlier pipe: the peer will tell what it holds."""

    def append(self, message: _Message) -> None:
        self.messages.append(message)
        self.starts.append(self.end)
        self.end += len(message.octets)

    def waiting(self) -> list[_Message]:
        return self.messages[self.first :]

    def acked_to(self) -> int:
        """The peer holds all octets below this."""
        if not len(self.acked):
            return 0
        start, end = self.acked.first()
        return end if start == 0 else 0

    def octets(self, start: int, end: int) -> bytes:
        """Octets of the sequence that were not yet acknowledged."""
        index = bisect_right(self.starts, start, lo=self.first) - 1
        at = self.starts[index]
        octets = self.messages[index].octets[start - at : end - at]
        if len(octets) == end - start:
            return octets
        parts = [octets]
        missing = end - start - len(octets)
        while missing:
            index += 1
            parts.append(self.messages[index].octets[:missing])
            missing -= len(parts[-1])
        return b"".join(parts)

    def begin(self, credit: int, octets: int) -> int:
        """Begin messages until there are `octets` to send, or the next exceeds the credit; what they cost of it."""
        cost = 0
        while self.started < len(self.messages) and self.started_to - self.sent_to < octets:
            message = self.messages[self.started]
            charge = message.charge()
            if cost + charge > credit:
                break
            cost += charge
            self.started += 1
            self.started_to += len(message.octets)
        return cost

    def forget(self, held: int) -> None:
        """The peer holds the first `held` of the messages that are kept."""
        self.first = held
        if held >= _FORGET_EVERY and 2 * held >= len(self.messages):
            del self.messages[:held]
            del self.starts[:held]
            self.started -= held
            self.first = 0


class Outgoing:
    """Queues of all classes to one peer, and the credit that the peer gave."""

    __slots__ = (
        "_classes",
        "_delivered",
        "_limit",
        "_message_count",
        "_next_handle",
        "_started",
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
        self._classes[priority].append(_Message(handle, message, encode_varint(len(message)) + message))
        self._message_count += 1
        self.queued_octets += len(message)
        return handle

    def can_send(self, octets: int) -> bool:
        return self.queued_octets + octets <= QUEUE_OCTETS_MAX and self._message_count < QUEUE_MESSAGES_MAX

    def delivered(self) -> list[int]:
        drained, self._delivered = self._delivered, []
        return drained

    def pipe_entered(self, *, peer_restarted: bool, alone: bool) -> None:
        """A pipe more. If it is `alone`, what was not acknowledged waits for the peer to tell what it holds.

        To a restarted peer everything is sent again, as new messages from 0 on.
        """
        if peer_restarted:
            self.generation += 1
            self._started = 0
            self._limit = CREDIT_OCTETS
        elif not alone:
            return
        for index, old in enumerate(self._classes):
            if peer_restarted:
                self._classes[index] = fresh = _Class()
                for message in old.waiting():
                    fresh.append(message)
            else:
                old.to_send = RangeSet()
                old.unsure_to = old.sent_to

    def held_received(self, held: Held) -> None:
        """The peer tells what it held at some time since this pipe took over; what it lacks is sent again, once.

        Raises: RemoteLinkError, if it holds what was never sent.
        """
        for priority in Priority:
            queue = self._classes[priority]
            if held.mask >> priority & 1:
                if priority != held.priority:
                    continue
                front = nearest(held.front, HELD_POSITION_BITS, queue.acked_to())
                ranges = [(front + start, front + end) for start, end in held.ranges]
                if front < 0 or max(front, *(end for _, end in ranges), 0) > queue.sent_to:
                    raise RemoteLinkError("the peer holds what was never sent")
                for start, end in [(0, front)] * (front > 0) + ranges:
                    self._acknowledged(queue, start, end)
            for start, end in queue.acked.gaps(0, queue.unsure_to):
                queue.to_send.add(start, end)
            queue.unsure_to = 0

    def credit_received(self, limit_octets: int) -> None:
        self._limit = max(self._limit, limit_octets)

    def has_fragments(self, classes: Sequence[Priority]) -> bool:
        """Whether `take` would give something, if there is room for it."""
        for priority in classes:
            queue = self._classes[priority]
            if len(queue.to_send) or queue.sent_to < queue.started_to:
                return True
            if queue.started < len(queue.messages) and queue.messages[queue.started].charge() <= self._credit(priority):
                return True
        return False

    def take(
        self, octets: int, classes: Sequence[Priority], positions: PositionsSent | None = None
    ) -> tuple[bytes, list[FragmentSent]]:
        """Fragments of these classes for the end of a datagram that has `octets` left, the most urgent first.

        `positions`: of the pipe it goes over; without them, positions are told whole.
        """
        parts: list[_Part] = []
        left = octets
        short = positions is not None and positions.short
        for priority in classes:
            while (span := self._next(priority, left)) is not None:
                placed = self._placed(priority, *span, left, positions, alone=not parts)
                if placed is None:
                    return self._encoded(parts, short)
                part, left = placed
                _, _, start, end = part
                queue = self._classes[priority]
                queue.to_send.remove(start, end)
                queue.sent_to = max(queue.sent_to, end)
                parts.append(part)
        return self._encoded(parts, short)

    def again(
        self, fragments: Sequence[FragmentSent], octets: int, positions: PositionsSent
    ) -> tuple[bytes, list[FragmentSent]]:
        """Fragments that are on their way, once more, as far as there is room and they were not acknowledged yet."""
        parts: list[_Part] = []
        left = octets
        for fragment in fragments:
            if fragment.generation != self.generation:
                continue
            priority = Priority(fragment.priority)
            for start, end in self._classes[priority].acked.gaps(fragment.start, fragment.end):
                placed = self._placed(priority, start, end, left, positions, alone=not parts)
                if placed is not None:
                    part, left = placed
                    parts.append(part)
        return self._encoded(parts, positions.short)

    @staticmethod
    def _placed(
        priority: Priority, start: int, end: int, octets: int, positions: PositionsSent | None, *, alone: bool
    ) -> tuple[_Part, int] | None:
        """(as much of a span as fits, what is left of the room); None, if it is too little to be worth a header."""
        bits = WHOLE_BITS if positions is None else positions.bits(priority, start)
        room = octets - fragment_header_octets(bits, start)
        length = end - start
        if room < (1 if alone else min(length, FRAGMENT_OCTETS_LEAST)):
            return None
        if positions is not None and bits == WHOLE_BITS:
            positions.told_whole(priority, start)
        if length + varint_octets(length) <= room:
            return (priority, bits, start, end), room - length - varint_octets(length)
        return (priority, bits, start, start + min(length, room)), 0

    def take_early(self, octets: int) -> bytes:
        """Fragments that were never sent, before there is a pipe; the others wait until the peer tells what it has."""
        for queue in self._classes:
            queue.to_send = RangeSet()
            queue.unsure_to = queue.sent_to
        return self.take(octets, ALL_CLASSES)[0]

    def _encoded(self, parts: list[_Part], short: bool) -> tuple[bytes, list[FragmentSent]]:
        final = len(parts) - 1
        out = [
            encode_fragment(
                priority,
                start,
                bits,
                self._classes[priority].octets(start, end),
                with_length=index < final,
                short=short,
            )
            for index, (priority, bits, start, end) in enumerate(parts)
        ]
        sent = [FragmentSent(self.generation, priority, start, end) for priority, _, start, end in parts]
        return out[0] if len(out) == 1 else b"".join(out), sent

    def acknowledged(self, fragment: FragmentSent) -> None:
        if fragment.generation == self.generation:
            self._acknowledged(self._classes[fragment.priority], fragment.start, fragment.end)

    def _acknowledged(self, queue: _Class, start: int, end: int) -> None:
        queue.acked.add(start, end)
        queue.to_send.remove(start, end)
        acked_to = queue.acked_to()
        held = queue.first
        while held < queue.started:
            message = queue.messages[held]
            if queue.starts[held] + len(message.octets) > acked_to:
                break
            self._message_count -= 1
            self.queued_octets -= len(message.data)
            self._delivered.append(message.handle)
            held += 1
        if held != queue.first:
            queue.forget(held)

    def lost(self, fragment: FragmentSent) -> None:
        if fragment.generation == self.generation:
            queue = self._classes[fragment.priority]
            for start, end in queue.acked.gaps(fragment.start, fragment.end):
                queue.to_send.add(start, end)

    def _next(self, priority: Priority, octets: int) -> tuple[int, int] | None:
        """The octets of a class that go next: what was lost, then the rest of what was begun, then new messages."""
        queue = self._classes[priority]
        if len(queue.to_send):
            return queue.to_send.first()
        if queue.started_to - queue.sent_to < octets:
            self._started += queue.begin(self._credit(priority), octets)
        return (queue.sent_to, queue.started_to) if queue.sent_to < queue.started_to else None

    def _credit(self, priority: Priority) -> int:
        return self._limit - self._started - (0 if priority <= Priority.TEXT else CREDIT_RESERVED_OCTETS)
