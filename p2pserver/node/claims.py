"""Which peer is just being asked for an event, so that no other one is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

CLAIMS_MAX = 8192
CLAIM_S = 5.0


class Claims:
    """Claims of peers, by key, on events that they are asked for; forgotten after 5 s, or when the peer is gone."""

    def __init__(self) -> None:
        self._claims: dict[str, tuple[bytes, float]] = {}

    def claim(self, key: bytes, event_ids: Sequence[str], now: float, connected: Callable[[bytes], bool]) -> list[str]:
        """The events that no other connected peer is being asked for; this one is from now on."""
        claimed = []
        for event_id in event_ids:
            holder, until = self._claims.get(event_id, (key, 0.0))
            if holder != key and until > now and connected(holder):
                continue
            self._claims.pop(event_id, None)
            self._claims[event_id] = (key, now + CLAIM_S)
            claimed.append(event_id)
        while len(self._claims) > CLAIMS_MAX:
            del self._claims[next(iter(self._claims))]
        return claimed

    def arrived(self, event_ids: Iterable[str]) -> None:
        for event_id in event_ids:
            self._claims.pop(event_id, None)
