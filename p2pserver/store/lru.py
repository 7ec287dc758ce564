"""A bounded dictionary that forgets what was used longest ago."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Lru(Generic[K, V]):
    """Keeps values up to a total weight; `weigh` tells what one costs (1, if not given)."""

    def __init__(self, weight_max: int, weigh: Callable[[V], int] | None = None) -> None:
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._weight = 0
        self._weight_max = weight_max
        self._weigh = weigh

    def get(self, key: K) -> V | None:
        value = self._kept.get(key)
        if value is not None:
            self._kept.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        self.drop(key)
        self._kept[key] = value
        self._weight += self._cost(value)
        while self._weight > self._weight_max and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._weight -= self._cost(oldest)

    def drop(self, key: K) -> None:
        value = self._kept.pop(key, None)
        if value is not None:
            self._weight -= self._cost(value)

    def _cost(self, value: V) -> int:
        return 1 if self._weigh is None else self._weigh(value)
