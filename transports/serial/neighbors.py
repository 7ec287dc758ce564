"""Who is on this line, under which handle, and what is to be said about it. No I/O and no clock: time is an argument.

A handle is a number from 1 to 127 that a node draws for itself; two may draw the same. Of two the instance with the
smaller id keeps it. Whoever hears somebody else say HELLO with its own handle draws another, or insists; who hears two
others with one handle tells them, as they may not hear each other.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from transports.contract import ServiceState
from transports.serial.control import Control, Kind
from transports.serial.frames import EVERYBODY, HANDLE_MAX
from transports.serial.link import SerialLink

NEIGHBORS_MAX = 64
"""On one line; whoever was heard least recently and has no link gives way."""
UNKNOWN = EVERYBODY
"""Instead of a handle: nothing can be sent to such a neighbor until it says HELLO again."""
OPEN_TRIES = 6
BACK_OFF_S_MAX = 30.0
LASTED_S = 60.0
"""A link that lived this long clears the back-off."""


@dataclass(slots=True, eq=False)
class Neighbor:
    """Another instance on the line."""

    instance_id: bytes
    handle: int
    heard_at: float
    link: SerialLink | None = None
    opening: int | None = None
    """The nonce of the link that we ask for."""
    tries: int = 0
    due_at: float = 0.0
    """When to ask (again)."""
    failures: int = 0
    closed_told_at: float = float("-inf")
    state: ServiceState = ServiceState.WAITING

    def link_over(self, now: float, *, lasted_s: float, rng: random.Random, least_s: float) -> None:
        """The link ended; a new one is asked for after 1, 2, 4, ... 30 s, or longer where the line is slow."""
        self.link = None
        self.state = ServiceState.WAITING
        self.failures = 0 if lasted_s >= LASTED_S else self.failures + 1
        back_off_s = min(BACK_OFF_S_MAX, 2.0 ** min(max(self.failures - 1, 0), 10))
        self.due_at = now + max(back_off_s, least_s) * rng.uniform(0.75, 1.25)


class Neighbors:
    """The table, and our own handle."""

    def __init__(self, instance_id: bytes, rng: random.Random) -> None:
        self.instance_id = instance_id
        self._rng = rng
        self._by_id: dict[bytes, Neighbor] = {}
        self._by_handle: dict[int, Neighbor] = {}
        self._unknown: dict[int, float] = {}
        """Handles heard without knowing whose, and when each was asked who it is."""
        self.clashes = 0
        self.handle = self._draw()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Neighbor]:
        return iter(tuple(self._by_id.values()))

    def with_handle(self, handle: int) -> Neighbor | None:
        return self._by_handle.get(handle)

    def with_id(self, instance_id: bytes) -> Neighbor | None:
        return self._by_id.get(instance_id)

    def handle_of(self, instance_id: bytes) -> int:
        """Where frames to an instance go; UNKNOWN when it has no handle, or is not here any more."""
        neighbor = self._by_id.get(instance_id)
        return neighbor.handle if neighbor is not None else UNKNOWN

    def learn(self, handle: int, instance_id: bytes, now: float) -> list[Control]:
        """An instance said that it has this handle. Returns what everybody should be told."""
        if instance_id == self.instance_id:
            return []  # our own voice
        if handle == self.handle:
            self.clashes += 1
            return [Control(Kind.HELLO, self.instance_id)] if self.instance_id < instance_id else self._redraw()
        holder = self._by_handle.get(handle)
        if holder is not None and holder.instance_id != instance_id:
            self.clashes += 1
            keeper = min(holder.instance_id, instance_id)
            clash = Control(Kind.CLASH, keeper, handle=handle)
            if keeper == holder.instance_id:
                return [clash]
            holder.handle = UNKNOWN  # it will draw another, and say so
            del self._by_handle[handle]
            self._take(handle, instance_id, now)
            return [clash]
        self._take(handle, instance_id, now)
        return []

    def told_of_clash(self, control: Control) -> list[Control]:
        """Somebody hears two with one handle."""
        if control.handle != self.handle or control.instance_id == self.instance_id:
            return []
        return self._redraw()

    def heard(self, handle: int, now: float) -> Neighbor | None:
        """Anything but a HELLO came from there. None: nobody knows who that is."""
        neighbor = self._by_handle.get(handle)
        if neighbor is not None:
            neighbor.heard_at = now
        return neighbor

    def may_ask(self, handle: int, now: float, pause_s: float) -> bool:
        """Whether it is time to ask an unknown handle who it is."""
        if handle == self.handle or now - self._unknown.get(handle, float("-inf")) < pause_s:
            return False
        self._unknown[handle] = now
        return True

    def forget(self, neighbor: Neighbor) -> None:
        self._by_id.pop(neighbor.instance_id, None)
        if self._by_handle.get(neighbor.handle) is neighbor:
            del self._by_handle[neighbor.handle]

    def _take(self, handle: int, instance_id: bytes, now: float) -> None:
        neighbor = self._by_id.get(instance_id)
        if neighbor is None:
            if len(self._by_id) >= NEIGHBORS_MAX and not self._make_room():
                return
            neighbor = self._by_id[instance_id] = Neighbor(instance_id, handle, now, due_at=now)
        elif neighbor.handle != handle and self._by_handle.get(neighbor.handle) is neighbor:
            del self._by_handle[neighbor.handle]
        neighbor.handle, neighbor.heard_at = handle, now
        self._by_handle[handle] = neighbor
        self._unknown.pop(handle, None)

    def _make_room(self) -> bool:
        strangers = [neighbor for neighbor in self._by_id.values() if neighbor.link is None]
        if strangers:
            self.forget(min(strangers, key=lambda neighbor: neighbor.heard_at))
        return bool(strangers)

    def _redraw(self) -> list[Control]:
        self.handle = self._draw()
        return [Control(Kind.HELLO, self.instance_id)]

    def _draw(self) -> int:
        taken = {*self._by_handle, *self._unknown}
        free = [handle for handle in range(1, HANDLE_MAX + 1) if handle not in taken]
        return self._rng.choice(free or list(range(1, HANDLE_MAX + 1)))
