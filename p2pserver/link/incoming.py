"""The receiving half of a conversation: fragments in, in any order and any number of times; each message out once.

The messages of a class are one sequence of octets, each message behind its length. What a datagram brought is
acknowledged only after it is here, so it must not be forgotten while the peer's process lives: memory is bounded by the
credit instead, which an honest peer never exceeds.
"""

from __future__ import annotations

from p2pserver.link.errors import RemoteLinkError
from p2pserver.link.frames import Fragment, decode_varint, encode_held
from p2pserver.link.limits import (
    ASSEMBLY_GAPS_MAX,
    CREDIT_OCTETS,
    MESSAGE_CHARGE_OCTETS,
    MESSAGE_OCTETS_MAX,
    Priority,
)
from p2pserver.link.memory import Holding
from p2pserver.link.ranges import RangeSet

GAP_CHARGE_OCTETS = 128
"""What a separate piece of an unfinished message costs beyond its octets."""


class _Class:
    """The octets of one class from the first message that is not whole."""

    __slots__ = ("base", "buffer", "front", "held")

    def __init__(self) -> None:
        self.base = 0
        """All octets before were handed over as messages."""
        self.buffer = bytearray()
        """From `base` to the last octet that arrived, with gaps."""
        self.front = 0
        """All octets before are here; this one is not."""
        self.held = RangeSet()
        """What is here behind `front`."""

    def holds(self) -> bool:
        """Whether anything arrived so far."""
        return self.front > 0 or len(self.held) > 0


class Incoming:
    """Messages of all classes from one peer."""

    __slots__ = (
        "_advertised",
        "_classes",
        "_gaps",
        "_held_here",
        "_holding",
        "_in_use",
        "_ready",
        "_ready_before",
        "_repeat_credit",
        "_taken",
        "_tells",
        "_to_tell",
    )

    def __init__(self, held_here: Holding) -> None:
        """`held_here`: what the peer makes this node hold, beside what others do."""
        self._held_here = held_here
        self._ready: list[list[bytes]] = [[] for _ in Priority]
        self._ready_before: list[bytes] = []
        """Whole messages from the peer's earlier life, not yet taken."""
        self._restart()

    def _restart(self) -> None:
        self._classes = [_Class() for _ in Priority]
        self._gaps = 0
        self._in_use = 0
        self._taken = 0
        self._advertised = CREDIT_OCTETS
        self._repeat_credit = False
        self._tells = False
        """Whether nothing of what is held was told yet since the pipe took over."""
        self._holding = 0
        """Bit n: something was held of class n when that was told first."""
        self._to_tell: list[Priority] = []
        """Classes of which the peer must be told what is held."""

    @property
    def octets_held(self) -> int:
        """Octets (with charges) of messages in assembly or not yet taken."""
        return self._in_use + sum(len(message) + MESSAGE_CHARGE_OCTETS for message in self._ready_before)

    def pipe_changed(self, *, peer_restarted: bool) -> None:
        """What is held stays, unless the peer restarted: then half messages are gone, whole ones stay to be taken.

        A peer that restarts again and again while nobody takes its messages loses the oldest of them.
        """
        if peer_restarted:
            whole = [message for messages in self._ready for message in messages]
            self._ready = [[] for _ in Priority]
            if self.octets_held > CREDIT_OCTETS:
                self._ready_before.clear()
            self._ready_before += whole
            self._restart()
            self._held_here.give(self._held_here.arrived - self.octets_held)
        self._repeat_credit = self._taken > 0
        self._tells = True

    def fragment_received(self, fragment: Fragment) -> None:
        """Its position is whole. Raises: RemoteLinkError, if the peer exceeds its credit or contradicts
        itself; PeerCut, if all peers hold too much.
        """
        queue = self._classes[fragment.priority]
        data = fragment.data
        start = fragment.position
        end = start + len(data)
        if start < 0:
            raise RemoteLinkError("octets before the first")
        if end <= queue.front:
            return
        more = end - queue.base - len(queue.buffer)
        if more > 0:
            if self._in_use + more > CREDIT_OCTETS:
                raise RemoteLinkError("more than the credit allows")
            self._held_here.take(more)
            self._in_use += more
        if start <= queue.front and not len(queue.held):
            queue.buffer += data[queue.front - start :]
            queue.front = end
        else:
            self._put(queue, start, end, data)
        if start <= queue.front:
            self._cut_messages(fragment.priority, queue)

    def _put(self, queue: _Class, start: int, end: int, data: bytes) -> None:
        """Octets behind a gap, or before what lies behind one."""
        if start < queue.front:
            data = data[queue.front - start :]
            start = queue.front
        if len(queue.buffer) < end - queue.base:
            queue.buffer.extend(bytes(end - queue.base - len(queue.buffer)))
        queue.buffer[start - queue.base : end - queue.base] = data
        gaps, self._gaps = self._gaps, self._gaps - len(queue.held)
        queue.held.add(start, end)
        low, high = queue.held.first()
        if low == queue.front:
            queue.front = high
            queue.held.remove(low, high)
        self._gaps += len(queue.held)
        self._held_here.take(GAP_CHARGE_OCTETS * (self._gaps - gaps))
        if self._gaps > ASSEMBLY_GAPS_MAX:
            raise RemoteLinkError("messages in too many pieces")

    def _cut_messages(self, priority: int, queue: _Class) -> None:
        """Move whole messages from the front of the buffer to those that are ready."""
        buffer = queue.buffer
        here = queue.front - queue.base
        ready = self._ready[priority]
        at, in_use = 0, self._in_use
        while at < here and at + (1 << (buffer[at] >> 6)) <= here:
            octets, start = decode_varint(bytes(memoryview(buffer)[at : at + 8]), 0)
            start += at
            if not 1 <= octets <= MESSAGE_OCTETS_MAX:
                raise RemoteLinkError(f"a message of {octets} octets")
            if start + octets > here:
                break
            ready.append(bytes(memoryview(buffer)[start : start + octets]))
            self._in_use += MESSAGE_CHARGE_OCTETS - (start - at)
            at = start + octets
        if self._in_use > CREDIT_OCTETS:
            raise RemoteLinkError("more than the credit allows")
        self._held_here.take(self._in_use - in_use)
        if at:
            del buffer[:at]
            queue.base += at

    @property
    def has_received(self) -> bool:
        return bool(self._ready_before) or any(self._ready)

    def received(self, most: int) -> list[bytes]:
        """Whole messages, urgent classes first, in order within a class."""
        messages, self._ready_before = self._ready_before[:most], self._ready_before[most:]
        self._held_here.give(sum(len(message) + MESSAGE_CHARGE_OCTETS for message in messages))
        for ready in self._ready:
            fresh = ready[: most - len(messages)]
            if fresh:
                octets = sum(len(message) + MESSAGE_CHARGE_OCTETS for message in fresh)
                self._in_use -= octets
                self._taken += octets
                self._held_here.give(octets)
                messages += fresh
                del ready[: len(fresh)]
        return messages

    def credit_due(self) -> int | None:
        """The limit that the peer should be told now, if it should."""
        limit = self._taken + CREDIT_OCTETS
        if not self._held_here.may_grow:
            return self._advertised if self._repeat_credit else None
        if self._repeat_credit or limit - self._advertised >= CREDIT_OCTETS // 4:
            return limit
        return None

    def credit_sent(self, limit_octets: int) -> None:
        self._advertised = limit_octets
        self._repeat_credit = False

    def credit_lost(self) -> None:
        """A datagram that told the credit did not arrive."""
        self._repeat_credit = self._taken > 0

    @property
    def has_to_tell(self) -> bool:
        """Whether `tell_held` would give something."""
        return self._tells or bool(self._to_tell)

    def tell_held(self, octets_max: int) -> tuple[bytes, tuple[Priority, ...]]:
        """HELD frames as they fit, and the classes that they are about: what the peer need not send again."""
        if self._tells:
            self._tells = False
            holding = [priority for priority in Priority if self._classes[priority].holds()]
            self._holding = sum(1 << priority for priority in holding)
            self._to_tell = holding or [Priority.ALERT]
        out = b""
        told: list[Priority] = []
        for priority in list(self._to_tell):
            queue = self._classes[priority]
            frame = encode_held(self._holding, priority, queue.front, tuple(queue.held), octets_max - len(out))
            if frame is None:
                break
            out += frame
            told.append(priority)
            self._to_tell.remove(priority)
        return out, tuple(told)

    def held_lost(self, priorities: tuple[Priority, ...]) -> None:
        """A datagram that told what is held of these classes did not arrive."""
        for priority in priorities:
            tellable = not self._holding or self._holding >> priority & 1  # not, if what is held was told anew since
            if tellable and priority not in self._to_tell:
                self._to_tell.append(priority)
