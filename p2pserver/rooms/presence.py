"""Who is there: presence of this node's users, merged over their devices, and of users elsewhere as their nodes say.

Kept in memory. A device is there while it syncs and for a while afterwards; it may say that it is busy, or away, or
that it does not want to be seen. Source: client-server API, "Presence"; MSC3026 (busy).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from p2pserver.rooms.live import CallLater, LiveChanges

ONLINE, UNAVAILABLE, OFFLINE, BUSY = "online", "unavailable", "offline", "busy"
STATES: Final = (BUSY, ONLINE, UNAVAILABLE, OFFLINE)
"""What one of several devices shows wins in this order."""
GONE_AFTER_S: Final = 30.0
"""After its last sync a device counts as gone."""
ACTIVE_MS: Final = 60_000
"""Somebody who did something so recently is currently active."""
STATUS_CHARACTERS_MAX: Final = 512
OTHERS_MAX: Final = 5_000
"""Users of other nodes of whom it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPresence:
    """What others are told of one user."""

    state: str = OFFLINE
    status: str | None = None
    last_active_ms: int | None = None
    active: bool = False

    def content(self, now_ms: int) -> dict[str, Any]:
        """The content of an `m.presence` event."""
        content: dict[str, Any] = {"presence": self.state}
        if self.last_active_ms is not None:
            content["last_active_ago"] = max(0, now_ms - self.last_active_ms)
        if self.status:
            content["status_msg"] = self.status
        if self.state != OFFLINE:
            content["currently_active"] = self.active
        return content


@dataclass(slots=True)
class _Device:
    state: str
    seen_s: float
    syncs: int = 0
    """Requests that wait for it at this moment."""
    watched: bool = False
    """It will be looked after."""


class Presence:
    """`changed(user_id)` hears of each change that others are to be told of."""

    def __init__(
        self,
        *,
        changes: LiveChanges,
        clock_s: Callable[[], float],
        wall_ms: Callable[[], int],
        call_later: CallLater,
        changed: Callable[[str], None],
    ) -> None:
        self._changes = changes
        self._clock_s = clock_s
        self._wall_ms = wall_ms
        self._call_later = call_later
        self._tell = changed
        self._devices: dict[str, dict[str, _Device]] = {}
        self._own: dict[str, UserPresence] = {}
        self._others: OrderedDict[str, UserPresence] = OrderedDict()

    # What is known

    def of_user(self, user_id: str) -> UserPresence:
        known = self._own.get(user_id) or self._others.get(user_id) or UserPresence()
        if known.active and known.last_active_ms is not None:
            return replace(known, active=self._wall_ms() - known.last_active_ms <= ACTIVE_MS)
        return known

    def present(self) -> list[str]:
        """The users who are not offline."""
        return [
            user_id for known in (self._own, self._others) for user_id, each in known.items() if each.state != OFFLINE
        ]

    def own_present(self) -> list[str]:
        """Of this node."""
        return [user_id for user_id, each in self._own.items() if each.state != OFFLINE]

    # This node's users

    def sync_begins(self, user_id: str, device_id: str, state: str) -> None:
        """A device asks for news and shows itself as `state`; `offline`: it does not want to be seen by that."""
        if state == OFFLINE:
            return
        device = self._device(user_id, device_id, state)
        if device.state != BUSY or state != ONLINE:
            device.state = state
        device.syncs += 1
        device.seen_s = self._clock_s()
        self._merge(user_id, did_something=state == ONLINE)

    def sync_ends(self, user_id: str, device_id: str, state: str) -> None:
        if state == OFFLINE:
            return
        device = self._devices.get(user_id, {}).get(device_id)
        if device is not None:
            device.syncs -= 1
            device.seen_s = self._clock_s()
            self._watch(user_id, device_id, device, GONE_AFTER_S)

    def set(self, user_id: str, device_id: str, state: str, status: str | None) -> None:
        """What the user says himself, with a status for others to read."""
        device = self._device(user_id, device_id, state)
        device.state, device.seen_s = state, self._clock_s()
        self._watch(user_id, device_id, device, GONE_AFTER_S)
        self._own[user_id] = replace(self._own.get(user_id, UserPresence()), status=status)
        self._merge(user_id, did_something=state == ONLINE, always=True)

    def did_something(self, user_id: str) -> None:
        """The user wrote, typed or read."""
        known = self._own.get(user_id)
        if known is not None and known.state != OFFLINE:
            self._merge(user_id, did_something=True)

    def _device(self, user_id: str, device_id: str, state: str) -> _Device:
        return self._devices.setdefault(user_id, {}).setdefault(device_id, _Device(state, self._clock_s()))

    def _watch(self, user_id: str, device_id: str, device: _Device, delay_s: float) -> None:
        if not device.watched:
            device.watched = True
            self._call_later(delay_s, lambda: self._look_after(user_id, device_id))

    def _look_after(self, user_id: str, device_id: str) -> None:
        """A device that has not synced for a while is gone."""
        devices = self._devices.get(user_id, {})
        device = devices.get(device_id)
        if device is None:
            return
        device.watched = False
        left_s = device.seen_s + GONE_AFTER_S - self._clock_s()
        if device.syncs > 0:
            return
        if left_s > 0:
            self._watch(user_id, device_id, device, left_s)
            return
        del devices[device_id]
        if not devices:
            del self._devices[user_id]
        self._merge(user_id, did_something=False)

    def _merge(self, user_id: str, *, did_something: bool, always: bool = False) -> None:
        before = self._own.get(user_id, UserPresence())
        devices = self._devices.get(user_id, {}).values()
        state = next((each for each in STATES if any(device.state == each for device in devices)), OFFLINE)
        last_active_ms = self._wall_ms() if did_something else before.last_active_ms
        active = state in (ONLINE, BUSY) and (did_something or self.of_user(user_id).active)
        now = replace(before, state=state, last_active_ms=last_active_ms, active=active)
        was_active = self.of_user(user_id).active
        self._own[user_id] = now
        if always or before.state != state or was_active != active:
            self._note(user_id)

    # Users elsewhere

    def told(self, user_id: str, content: dict[str, Any]) -> bool:
        """What another node says of its user, an entry of an `m.presence` EDU; False, if it has no sense."""
        state, ago, status = content.get("presence"), content.get("last_active_ago", 0), content.get("status_msg")
        if state not in STATES or type(ago) is not int or ago < 0 or not isinstance(status, str | None):
            return False
        now = UserPresence(
            state=state,
            status=None if status is None else status[:STATUS_CHARACTERS_MAX],
            last_active_ms=self._wall_ms() - ago,
            active=content.get("currently_active") is True,
        )
        before = self._others.get(user_id, UserPresence())
        self._others[user_id] = now
        self._others.move_to_end(user_id)
        while len(self._others) > OTHERS_MAX:
            self._others.popitem(last=False)
        if (before.state, before.status, before.active) != (now.state, now.status, now.active):
            self._note(user_id)
        return True

    def lost(self, server_name: str) -> None:
        """Nothing is heard of a node any more, so its users are not there."""
        gone = [
            user_id
            for user_id, each in self._others.items()
            if each.state != OFFLINE and user_id.partition(":")[2] == server_name
        ]
        for user_id in gone:
            self._others[user_id] = replace(self._others[user_id], state=OFFLINE, active=False)
            self._note(user_id)

    def _note(self, user_id: str) -> None:
        self._changes.note(user_id)
        self._tell(user_id)
