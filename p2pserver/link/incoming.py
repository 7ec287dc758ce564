"""The receiving half of a conversation: fragments in, in any order and any number of times; each message out once.

What a datagram brought is acknowledged only after it is here, so it must not be forgotten while the peer's process
lives: memory is bounded by the credit instead, which an honest peer never exceeds.
"""

from __future__ import annotations

from p2pserver.link.errors import RemoteLinkError
from p2pserver.link.frames import Fragment
from p2pserver.link.limits import ASSEMBLY_GAPS_MAX, CREDIT_OCTETS, MESSAGE_CHARGE_OCTETS, Priority
from p2pserver.link.ranges import RangeSet


class _Assembly:
    __slots__ = ("buffer", "held", "octets")

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.held = RangeSet()
        self.octets: int | None = None
        """The length of the message, once its last fragment told it."""


class _Class:
    __slots__ = ("assemblies", "complete", "next_number")

    def __init__(self) -> None:
        self.next_number = 0
        """All messages below were handed over."""
        self.assemblies: dict[int, _Assembly] = {}
        self.complete: dict[int, bytes] = {}
        """Whole messages that wait for an earlier one of their class."""


class Incoming:
    """Messages of all classes from one peer."""

    __slots__ = ("_advertised", "_classes", "_gaps", "_in_use", "_ready", "_ready_before", "_repeat_credit", "_taken")

    def __init__(self) -> None:
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

    @property
    def octets_held(self) -> int:
        """Octets (with charges) of messages in assembly, waiting for earlier ones, or not yet taken."""
        return self._in_use + sum(len(message) + MESSAGE_CHARGE_OCTETS for message in self._ready_before)

    def pipe_changed(self, *, peer_restarted: bool) -> None:
        """What is held stays, unless the peer restarted: then half messages are gone, whole ones stay to be taken.

        A peer that restarts again and again while nobody takes its messages loses the oldest of them.
        """
        if not peer_restarted:
            self._repeat_credit = self._taken > 0
            return
        whole = [message for messages in self._ready for message in messages]
        self._ready = [[] for _ in Priority]
        if self.octets_held > CREDIT_OCTETS:
            self._ready_before.clear()
        self._ready_before += whole
        self._restart()

    def fragment_received(self, fragment: Fragment) -> None:
        """Raises: RemoteLinkError, if the peer exceeds its credit or contradicts itself."""
        queue = self._classes[fragment.priority]
        number, end = fragment.number, fragment.offset + len(fragment.data)
        if number < queue.next_number or number in queue.complete:
            return
        assembly = queue.assemblies.get(number)
        if assembly is None:
            self._charge(end + MESSAGE_CHARGE_OCTETS)
            if fragment.last and fragment.offset == 0:
                self._complete(queue, fragment.priority, number, fragment.data)
                return
            assembly = queue.assemblies[number] = _Assembly()
        elif end > len(assembly.buffer):
            self._charge(end - len(assembly.buffer))
        if fragment.last:
            if assembly.octets not in (None, end) or len(assembly.buffer) > end:
                raise RemoteLinkError("a message with two lengths")
            assembly.octets = end
        elif assembly.octets is not None and end > assembly.octets:
            raise RemoteLinkError("a fragment behind the end of its message")
        if len(assembly.buffer) < end:
            assembly.buffer.extend(bytes(end - len(assembly.buffer)))
        assembly.buffer[fragment.offset : end] = fragment.data
        self._gaps -= len(assembly.held)
        assembly.held.add(fragment.offset, end)
        self._gaps += len(assembly.held)
        if self._gaps > ASSEMBLY_GAPS_MAX:
            raise RemoteLinkError("messages in too many pieces")
        if assembly.octets is not None and assembly.held.covers(0, assembly.octets):
            self._gaps -= len(assembly.held)
            del queue.assemblies[number]
            self._complete(queue, fragment.priority, number, bytes(assembly.buffer))

    @property
    def has_received(self) -> bool:
        return bool(self._ready_before) or any(self._ready)

    def received(self) -> list[bytes]:
        """Whole messages, urgent classes first, in order within a class."""
        messages = self._ready_before
        self._ready_before = []
        for index, ready in enumerate(self._ready):
            if ready:
                octets = sum(len(message) + MESSAGE_CHARGE_OCTETS for message in ready)
                self._in_use -= octets
                self._taken += octets
                messages += ready
                self._ready[index] = []
        return messages

    def credit_due(self) -> int | None:
        """The limit that the peer should be told now, if it should."""
        limit = self._taken + CREDIT_OCTETS
        if self._repeat_credit or limit - self._advertised >= CREDIT_OCTETS // 4:
            return limit
        return None

    def credit_sent(self, limit_octets: int) -> None:
        self._advertised = limit_octets
        self._repeat_credit = False

    def credit_lost(self) -> None:
        """A datagram that told the credit did not arrive."""
        self._repeat_credit = self._taken > 0

    def _charge(self, octets: int) -> None:
        if self._in_use + octets > CREDIT_OCTETS:
            raise RemoteLinkError("more than the credit allows")
        self._in_use += octets

    def _complete(self, queue: _Class, priority: int, number: int, message: bytes) -> None:
        if number != queue.next_number:
            queue.complete[number] = message
            return
        ready = self._ready[priority]
        ready.append(message)
        number += 1
        while queue.complete and number in queue.complete:
            ready.append(queue.complete.pop(number))
            number += 1
        queue.next_number = number
