"""What is true for seconds only and is kept in memory: who is typing where; and that this, or presence, changed.

Each change gets a number of its own sequence, so that a token can say how far a client knows them. The numbers begin at
the wall clock of the start, above all that were given out before a restart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Final

TYPING_S_MAX: Final = 120.0
CHANGES_MAX: Final = 20_000
TYPING_MAX: Final = 50
"""Users who type in one room at once; more of them nobody can read."""

LIVE_TOPIC: Final = "live"
"""Who waits for it is woken by every change."""

CallLater = Callable[[float, Callable[[], None]], object]


class LiveChanges:
    """Which rooms (by their typing) and users (by their presence) changed, and when: the newest change of each."""

    def __init__(self, start: int) -> None:
        self.serial = start
        self._changed: OrderedDict[str, int] = OrderedDict()

    def note(self, key: str) -> None:
        self.serial += 1
        self._changed[key] = self.serial
        self._changed.move_to_end(key)
        if len(self._changed) > CHANGES_MAX:
            self._changed.popitem(last=False)

    def since(self, serial: int) -> list[str]:
        """What changed after `serial`, the newest first. Costs one step per change."""
        found = []
        for key in reversed(self._changed):
            if self._changed[key] <= serial:
                break
            found.append(key)
        return found


class Typing:
    """Who is typing in which room. A notice ends by itself, at the latest after `TYPING_S_MAX`."""

    def __init__(
        self,
        *,
        changes: LiveChanges,
        clock_s: Callable[[], float],
        call_later: CallLater,
        wake: Callable[[Collection[str]], None],
    ) -> None:
        self._changes = changes
        self._clock_s = clock_s
        self._call_later = call_later
        self._wake = wake
        self._rooms: dict[str, dict[str, float]] = {}
        """By room and user, when the notice ends."""

    def begin(self, room_id: str, user_id: str, *, for_s: float) -> bool:
        """Somebody types for so long from now on; whether he did not before."""
        for_s = min(for_s, TYPING_S_MAX)
        users = self._rooms.setdefault(room_id, {})
        is_new = user_id not in users
        if is_new and len(users) >= TYPING_MAX:
            return False
        users[user_id] = self._clock_s() + for_s
        if is_new:
            self._changed(room_id)
            self._call_later(for_s, lambda: self._expire(room_id, user_id))
        return is_new

    def end(self, room_id: str, user_id: str) -> bool:
        """Whether somebody stops typing who did."""
        users = self._rooms.get(room_id)
        if users is None or users.pop(user_id, None) is None:
            return False
        if not users:
            del self._rooms[room_id]
        self._changed(room_id)
        return True

    def users(self, room_id: str) -> list[str]:
        """In the order in which they began."""
        return list(self._rooms.get(room_id, ()))

    def rooms(self) -> list[str]:
        """Where somebody types."""
        return list(self._rooms)

    def _expire(self, room_id: str, user_id: str) -> None:
        until = self._rooms.get(room_id, {}).get(user_id)
        if until is None:
            return
        left_s = until - self._clock_s()
        if left_s > 0:
            self._call_later(left_s, lambda: self._expire(room_id, user_id))
        else:
            self.end(room_id, user_id)

    def _changed(self, room_id: str) -> None:
        self._changes.note(room_id)
        self._wake([f"room:{room_id}", LIVE_TOPIC])
