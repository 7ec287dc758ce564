"""What the parts of a peering share: the way to the peer, the way to the node, the limits."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from p2pserver.federation.effects import Effect
from p2pserver.federation.limits import PeeringLimits, PeeringTimers
from p2pserver.federation.recent_ids import RecentIds
from p2pserver.link.limits import Priority
from p2pserver.wire.messages import Message, encode_message


@dataclass(slots=True, kw_only=True)
class Channel:
    """Messages that wait to be sent, and effects that wait for the node."""

    rng: random.Random
    limits: PeeringLimits
    timers: PeeringTimers
    known: RecentIds
    """Events that the peer is known to have, or was sent."""
    stored: RecentIds
    """Events that the peer said it holds."""
    connected: bool = False
    greeted: bool = False
    outgoing: deque[tuple[bytes, Priority]] = field(default_factory=deque)
    outgoing_octets: int = 0
    effects: list[Effect] = field(default_factory=list)

    def say(self, message: Message, priority: Priority) -> None:
        """Queues a message. Raises: WireError, for one that cannot be written."""
        data = encode_message(message)
        self.outgoing.append((data, priority))
        self.outgoing_octets += len(data)

    def emit(self, effect: Effect) -> None:
        self.effects.append(effect)

    @property
    def talking(self) -> bool:
        return self.connected and self.greeted

    @property
    def is_full(self) -> bool:
        """Whether enough is ready to be sent that nothing new should be begun."""
        return self.outgoing_octets >= self.limits.queue_octets
