"""What all peers of a node together make it hold, and who gives way when that is too much.

Each conversation has a `Holding`. What arrives is taken into account before there is memory for it, so the sum is under
the limit at every moment. Where it would not be, somebody is cut: strangers before those who have a right to be heard,
of those first who holds more than everybody may, and the one that holds most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from p2pserver.link.errors import PeerCut
from p2pserver.link.limits import CREDIT_RESERVED_OCTETS, MESSAGE_CHARGE_OCTETS

MEMORY_OCTETS_MAX: Final = 32 << 20
"""Of all peers of a node."""
KEPT_OCTETS: Final = 384 * 1024 + MESSAGE_CHARGE_OCTETS + CREDIT_RESERVED_OCTETS
"""What a peer that is no stranger may hold while others hold more: the largest message of a peering, and a text."""
TIGHT: Final = 0.75
"""From this share on nobody gets more credit than he needs."""


class Holding:
    """What one peer makes us hold."""

    __slots__ = ("_memory", "arrived", "is_stranger", "octets", "queued")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.is_stranger = True
        self.octets = 0
        self.arrived = 0
        """Of `octets`: of messages that are incomplete or not yet taken."""
        self.queued = 0
        """Of `octets`: what waits to be sent to the peer, and parts of what was asked of it."""

    @property
    def may_grow(self) -> bool:
        """Whether the peer should be given more credit, and we should begin to say more to it."""
        return not self._memory.is_tight or (not self.is_stranger and self.octets < KEPT_OCTETS)

    def take(self, octets: int) -> None:
        """So much more arrives. Raises: PeerCut, if this peer has to give way for it."""
        if not self._memory.knows(self):
            raise PeerCut("the conversation is over")
        self._memory.make_room(self, octets)
        self.arrived += octets
        self._grow(octets)

    def give(self, octets: int) -> None:
        self.arrived -= octets
        self._grow(-octets)

    def queue(self, octets: int) -> None:
        """So much waits now. What is ours to say is there already, so this may come to more than the limit for a
        moment, by the largest answer. Raises: PeerCut."""
        more, self.queued = octets - self.queued, octets
        self._grow(more)
        if more > 0:
            self._memory.make_room(self, 0)

    def end(self) -> None:
        """The conversation is over, and all that it held is forgotten."""
        self._grow(-self.octets)
        self._memory.forget(self)

    def _grow(self, octets: int) -> None:
        if self._memory.knows(self):
            self.octets += octets
            self._memory.changed(octets)


class Memory:
    """The sum of all holdings, never over `octets_max`."""

    def __init__(
        self,
        octets_max: int = MEMORY_OCTETS_MAX,
        *,
        cut: Callable[[Holding], None] = lambda _: None,
        eased: Callable[[], None] = lambda: None,
    ) -> None:
        """`cut(holding)`: end that conversation at once, with `Holding.end`. `eased()`: there is room again for what
        had to wait."""
        self.octets_max = octets_max
        self.octets = 0
        self._cut = cut
        self._eased = eased
        self._holdings: dict[Holding, None] = {}

    def holding(self) -> Holding:
        made = Holding(self)
        self._holdings[made] = None
        return made

    def knows(self, holding: Holding) -> bool:
        return holding in self._holdings

    def forget(self, holding: Holding) -> None:
        self._holdings.pop(holding, None)

    @property
    def is_tight(self) -> bool:
        return self.octets > TIGHT * self.octets_max

    def changed(self, octets: int) -> None:
        was_tight = self.is_tight
        self.octets += octets
        if was_tight and not self.is_tight:
            self._eased()

    def make_room(self, taker: Holding, octets: int) -> None:
        """Raises: PeerCut, if it is `taker` who has to give way."""
        while self.octets + octets > self.octets_max:
            last = self._least_deserving(taker, octets)
            self._cut(last)
            last.end()
            if last is taker:
                raise PeerCut("this node holds too much already")

    def _least_deserving(self, taker: Holding, octets: int) -> Holding:
        def rank(holding: Holding) -> tuple[bool, bool, int]:
            held = holding.octets + (octets if holding is taker else 0)
            return holding.is_stranger, held > KEPT_OCTETS, held

        return max((*self._holdings, taker), key=rank)
