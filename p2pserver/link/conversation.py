"""A conversation with one peer, over any number of pipes, side by side or one after another.

It belongs to the peer and lives as long as the process. Every pipe (`LinkEndpoint`) that is attached takes what the
peer sends, and sends the classes that it carries. When a pipe is lost, what was not acknowledged goes over another, and
what the receiver already holds stays held. So while both processes live nothing is lost and nothing is delivered twice.
A peer that restarted (another epoch) knows nothing of before: what it had not acknowledged is sent to it again as new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from p2pserver.link.frames import Fragment, Held
from p2pserver.link.incoming import Incoming
from p2pserver.link.limits import ALL_CLASSES, QUEUE_MESSAGES_MAX, Priority
from p2pserver.link.memory import Holding, Memory
from p2pserver.link.node_key import EPOCH_OCTETS
from p2pserver.link.outgoing import FragmentSent, Outgoing
from p2pserver.link.positions import PositionsSent


class Carrier(Protocol):
    """A pipe, to the conversation that is attached to it."""

    def displaced(self) -> None:
        """The conversation has left by itself: the peer's process that the pipe leads to is over."""


class Conversation:
    """What the application sends to one peer and receives from it, in whole messages.

    After `send` and `received` the attached endpoints may have something to transmit: call their `poll_transmit`.
    """

    __slots__ = ("_carriers", "_incoming", "_outgoing", "_peer_epoch", "holding", "local_epoch")

    def __init__(self, local_epoch: int, holding: Holding | None = None) -> None:
        """`local_epoch`: the random number (below `EPOCHS`) of this process, for all conversations and endpoints.

        `holding`: what the peer makes this node hold; None: there are no others to share the memory with.
        """
        self.local_epoch = local_epoch
        self._peer_epoch: int | None = None
        self.holding = holding or Memory().holding()
        self._incoming = Incoming(self.holding)
        self._outgoing = Outgoing()
        self._carriers: list[Carrier] = []

    # For the application.

    def send(self, message: bytes, priority: Priority) -> int:
        """Queue a message; its number comes back through `delivered`. With no pipe attached, it waits for one.

        Raises: QueueFull; MessageSize.
        """
        return self._outgoing.send(bytes(message), priority)

    @property
    def has_received(self) -> bool:
        """Whether `received` would give something."""
        return self._incoming.has_received

    def received(self, most: int = QUEUE_MESSAGES_MAX) -> list[bytes]:
        """Whole messages, each exactly once, urgent classes first, in order within a class; `most` at once.

        The peer may send as much again as is taken here.
        """
        return self._incoming.received(most)

    def delivered(self) -> list[int]:
        """Numbers of messages that the peer's link layer holds completely, since the last call.

        That is no promise that the peer has stored them.
        """
        return self._outgoing.delivered()

    @property
    def queued_octets(self) -> int:
        """Octets of messages that the peer does not hold completely."""
        return self._outgoing.queued_octets

    @property
    def octets_held(self) -> int:
        """Octets of received messages that are incomplete or not yet taken; never over twice the credit."""
        return self._incoming.octets_held

    def can_send(self, octets: int) -> bool:
        """Whether a message of that many octets would be taken now."""
        return self._outgoing.can_send(octets)

    @property
    def attached(self) -> bool:
        """Whether a pipe carries this conversation now."""
        return bool(self._carriers)

    # For the pipes.

    def enter(self, carrier: Carrier, peer_epoch: int) -> None:
        """One more pipe; those that lead to an earlier process of the peer are displaced."""
        restarted = self._peer_epoch is not None and self._peer_epoch != peer_epoch
        self._peer_epoch = peer_epoch
        if restarted:
            before, self._carriers = self._carriers, []
            for other in before:
                other.displaced()
        self._outgoing.pipe_entered(peer_restarted=restarted, alone=not self._carriers)
        self._incoming.pipe_changed(peer_restarted=restarted)
        self._carriers.append(carrier)

    def leave(self, carrier: Carrier) -> None:
        """The pipe is gone, or carries this conversation no more. It has given back what was on its way."""
        self._carriers.remove(carrier)
        self._incoming.pipe_changed(peer_restarted=False)

    def early(self, octets: int) -> bytes:
        """What a pipe may say in its first message to a peer that it expects: the peer's epoch, and fragments.

        Nothing, if a pipe carries the conversation, or the peer's epoch is not known. The fragments are not followed
        up: what became of them is told, like all of earlier pipes, when a pipe takes over.
        """
        if self._carriers or self._peer_epoch is None:
            return b""
        frames = self._outgoing.take_early(octets)
        return self._peer_epoch.to_bytes(EPOCH_OCTETS, "big") + frames if frames else b""

    def has_fragments(self, classes: Sequence[Priority] = ALL_CLASSES) -> bool:
        return self._outgoing.has_fragments(classes)

    def take_fragments(
        self, octets: int, classes: Sequence[Priority], positions: PositionsSent
    ) -> tuple[bytes, list[FragmentSent]]:
        return self._outgoing.take(octets, classes, positions)

    def take_again(
        self, fragments: Sequence[FragmentSent], octets: int, positions: PositionsSent
    ) -> tuple[bytes, list[FragmentSent]]:
        return self._outgoing.again(fragments, octets, positions)

    def fragments_acknowledged(self, fragments: Sequence[FragmentSent]) -> None:
        for fragment in fragments:
            self._outgoing.acknowledged(fragment)

    def fragments_lost(self, fragments: Sequence[FragmentSent]) -> None:
        for fragment in fragments:
            self._outgoing.lost(fragment)

    def fragment_received(self, fragment: Fragment) -> None:
        """Raises: RemoteLinkError."""
        self._incoming.fragment_received(fragment)

    def credit_received(self, limit_octets: int) -> None:
        self._outgoing.credit_received(limit_octets)

    def credit_due(self) -> int | None:
        return self._incoming.credit_due()

    def credit_sent(self, limit_octets: int) -> None:
        self._incoming.credit_sent(limit_octets)

    def credit_lost(self) -> None:
        self._incoming.credit_lost()

    def held_received(self, held: Held) -> None:
        """Raises: RemoteLinkError."""
        self._outgoing.held_received(held)

    @property
    def has_to_tell(self) -> bool:
        return self._incoming.has_to_tell

    def tell_held(self, octets_max: int) -> tuple[bytes, tuple[Priority, ...]]:
        return self._incoming.tell_held(octets_max)

    def held_lost(self, priorities: tuple[Priority, ...]) -> None:
        self._incoming.held_lost(priorities)
