"""As which process this node meets its peers: a conversation that is given up is never taken up under its epoch."""

from __future__ import annotations

from collections.abc import Callable

from p2pserver.link.node_key import EPOCH_OCTETS

ENDED_MAX = 1024


class Epochs:
    """Of one start of the node. Each epoch is drawn at random, so that no two processes have the same."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._own: set[int] = set()
        self._ended: dict[bytes, int] = {}
        """By key, our epoch of the last conversation that we gave up."""
        self.current = self._draw()

    def gave_up(self, key: bytes, epoch: int) -> None:
        """The peer goes on remembering a conversation: for links that are made from now on we are another process."""
        self._ended.pop(key, None)
        self._ended[key] = epoch
        while len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        self.leave(epoch)

    def was_given_up(self, key: bytes, epoch: int) -> bool:
        return self._ended.get(key) == epoch

    def leave(self, epoch: int) -> None:
        """New links get another one than this."""
        if epoch == self.current:
            self.current = self._draw()

    def is_own(self, epoch: int) -> bool:
        return epoch in self._own

    def _draw(self) -> int:
        epoch = int.from_bytes(self._random_bytes(EPOCH_OCTETS), "big")
        self._own.add(epoch)
        return epoch
