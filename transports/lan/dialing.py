"""Whom to dial, and when: one task for each neighbor that is announced, or named by the operator.

A neighbor that appears, appears again, or appears at another address is dialed at once; one whose link ended, or who
did not answer, after 1, 2, 4, ... 30 s, with jitter. Of two instances that see each other's announcement the one with
the smaller instance id dials; the other waits 2 s for it. Both may still dial at the same moment: which of two links
to one peer survives is decided above, where the peer is known for sure.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from transports.contract import DiscoveredService, LinkDown, ServiceState
from transports.lan.addresses import shown
from transports.lan.discovery import Announcement
from transports.lan.link import LanLink

NEIGHBORS_MAX = 256
DIALS_AT_ONCE = 64

_BACK_OFF_S_FIRST = 1.0
_BACK_OFF_S_MAX = 30.0
_LASTED_S = 60.0
"""A link that lived this long clears the back-off."""
_POLITE_S = 2.0


class Refused(Exception):
    """Who answered is not whom we wanted. The message is for people."""


@dataclass(slots=True, eq=False)
class _Neighbor:
    addresses: tuple[tuple[str, int], ...]
    instance_id: bytes | None
    announced: bool
    state: ServiceState = ServiceState.WAITING
    last_error: str | None = None
    failures: int = 0
    due_s: float = 0.0
    dial_although_linked: bool = False
    ever_linked: bool = False
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Dialer:
    """The table of neighbors and the tasks that keep each of them linked.

    connect     dials one address; returns a greeted link that nobody else has yet. Raises OSError or LinkDown.
    offer       takes a link to the right neighbor
    link_to     the open link to an instance, if there is one
    """

    def __init__(
        self,
        instance_id: bytes,
        *,
        connect: Callable[[str, int], Awaitable[LanLink]],
        offer: Callable[[LanLink], None],
        link_to: Callable[[bytes], LanLink | None],
        rng: random.Random,
    ) -> None:
        self._instance_id = instance_id
        self._connect = connect
        self._offer = offer
        self._link_to = link_to
        self._rng = rng
        self._neighbors: dict[str, _Neighbor] = {}
        self._slots = asyncio.Semaphore(DIALS_AT_ONCE)
        self._closed = False

    def add_named(self, host: str, port: int) -> None:
        """A neighbor that the operator named: dialed for as long as the transport runs."""
        self._add(f"peer {shown(host, port)}", _Neighbor(((host, port),), None, announced=False))

    def announced(self, announcement: Announcement) -> None:
        """A neighbor was announced, for the first time or again.

        The table is bounded. In a full one somebody who was never linked gives way, so that a flood of impostors cannot
        keep a neighbor out for long; who had to give way comes back when the network is asked again.
        """
        neighbor = self._neighbors.get(announcement.name)
        if neighbor is None:
            if len(self._neighbors) >= NEIGHBORS_MAX and not self._make_room():
                return
            neighbor = _Neighbor(announcement.addresses, announcement.instance_id, announced=True)
            neighbor.due_s = self._now_s() + self._politeness_s(neighbor)
            self._add(announcement.name, neighbor)
            return
        moved = set(neighbor.addresses) != set(announcement.addresses)
        if moved or neighbor.instance_id != announcement.instance_id:
            neighbor.addresses, neighbor.instance_id = announcement.addresses, announcement.instance_id
            link = self._link_to(announcement.instance_id)
            if link is not None and link.remote_host not in {host for host, _ in announcement.addresses}:
                neighbor.dial_although_linked = moved
            self._dial_soon(neighbor)

    def gone(self, name: str) -> None:
        """No longer announced: not dialed again. A link to it lives on."""
        neighbor = self._neighbors.pop(name, None)
        if neighbor is not None and neighbor.task is not None:
            neighbor.task.cancel()

    def link_made(self, link: LanLink) -> None:
        """By whichever side: who waits to dial the same instance need not."""
        for neighbor in self._neighbors.values():
            if neighbor.instance_id == link.peer_hint:
                neighbor.woken.set()

    def link_over(self, link: LanLink) -> None:
        for neighbor in self._neighbors.values():
            if neighbor.instance_id == link.peer_hint and neighbor.state is ServiceState.LINKED:
                lasted = self._now_s() - link.made_at_s >= _LASTED_S
                neighbor.failures = 0 if lasted else neighbor.failures + 1
                self._back_off(neighbor)
                neighbor.woken.set()

    def network_changed(self) -> None:
        """Interfaces or addresses of ours came or went: whoever is not linked is worth another try now."""
        for neighbor in self._neighbors.values():
            self._dial_soon(neighbor)

    def services(self) -> tuple[DiscoveredService, ...]:
        return tuple(
            DiscoveredService(
                address=shown(*neighbor.addresses[0]),
                hint=neighbor.instance_id,
                state=neighbor.state,
                last_error=neighbor.last_error,
            )
            for neighbor in self._neighbors.values()
        )

    async def close(self) -> None:
        self._closed = True
        tasks = [neighbor.task for neighbor in self._neighbors.values() if neighbor.task is not None]
        self._neighbors.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _add(self, key: str, neighbor: _Neighbor) -> None:
        if self._closed:
            return
        self._neighbors[key] = neighbor
        neighbor.task = asyncio.get_running_loop().create_task(self._keep_linked(neighbor), name=f"lan dial {key}")

    def _make_room(self) -> bool:
        """Drops one who never had a link: by chance, but somebody who failed if there is one."""
        strangers = [
            key for key, neighbor in self._neighbors.items() if neighbor.announced and not neighbor.ever_linked
        ]
        failed = [key for key in strangers if self._neighbors[key].failures]
        if strangers:
            self.gone(self._rng.choice(failed or strangers))
        return bool(strangers)

    async def _keep_linked(self, neighbor: _Neighbor) -> None:
        while True:
            neighbor.woken.clear()
            linked = neighbor.instance_id is not None and self._link_to(neighbor.instance_id) is not None
            if linked and not neighbor.dial_although_linked:
                neighbor.state, neighbor.last_error, neighbor.ever_linked = ServiceState.LINKED, None, True
                await neighbor.woken.wait()
                continue
            if neighbor.state is ServiceState.LINKED:
                neighbor.state = ServiceState.WAITING
            wait_s = neighbor.due_s - self._now_s()
            if wait_s > 0:
                await self._wait(neighbor, wait_s)
                continue
            async with self._slots:
                await self._dial(neighbor)

    async def _wait(self, neighbor: _Neighbor, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await neighbor.woken.wait()
        except TimeoutError:
            return

    async def _dial(self, neighbor: _Neighbor) -> None:
        neighbor.state = ServiceState.DIALING
        neighbor.dial_although_linked = False
        due_s = neighbor.due_s
        for host, port in neighbor.addresses:
            try:
                link = await self._connect(host, port)
                self._check(neighbor, link)
            except (OSError, LinkDown, Refused) as error:
                neighbor.last_error = f"{shown(host, port)}: {error or type(error).__name__}"
                continue
            neighbor.instance_id = link.peer_hint
            neighbor.state = ServiceState.LINKED
            self._offer(link)
            return
        neighbor.state = ServiceState.FAILED
        if neighbor.due_s == due_s:  # otherwise there was news of it meanwhile
            neighbor.failures += 1
            self._back_off(neighbor)

    def _check(self, neighbor: _Neighbor, link: LanLink) -> None:
        """Raises: Refused, and ends the link, when it leads to ourselves or to another than was announced."""
        reason = ""
        if link.peer_hint == self._instance_id:
            reason = "that is this node itself"
        elif neighbor.announced and link.peer_hint != neighbor.instance_id:
            reason = "another instance answers there"
        if reason:
            link.abort(reason)
            raise Refused(reason)

    def _dial_soon(self, neighbor: _Neighbor) -> None:
        neighbor.failures = 0
        neighbor.due_s = self._now_s() + self._politeness_s(neighbor)
        neighbor.woken.set()

    def _back_off(self, neighbor: _Neighbor) -> None:
        back_off_s = min(_BACK_OFF_S_MAX, _BACK_OFF_S_FIRST * 2 ** min(max(neighbor.failures - 1, 0), 10))
        neighbor.due_s = self._now_s() + back_off_s * self._rng.uniform(0.75, 1.25) + self._politeness_s(neighbor)

    def _politeness_s(self, neighbor: _Neighbor) -> float:
        """How long to wait for the other side's dial: only where it has probably seen our announcement too."""
        if neighbor.announced and neighbor.instance_id is not None and neighbor.instance_id < self._instance_id:
            return _POLITE_S
        return 0.0

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()
