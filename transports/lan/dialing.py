"""Whom to dial, and when: one task for each neighbor that is announced, or named by the operator.

A neighbor that appears, appears again, or appears at another address is dialed at once; one whose link ended, or who
did not answer, after 1, 2, 4, ... 30 s, with jitter. Of two instances that see each other's announcement the one with
the smaller instance id dials; the other waits 2 s for it. Both may still dial at the same moment: which of two links
to one peer survives is decided above, where the peer is known for sure.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from transports.contract import DiscoveredService, LinkDown, ServiceState
from transports.lan.addresses import bare, shown
from transports.lan.discovery import Announcement
from transports.lan.link import LanLink
from transports.watched import watched

NEIGHBORS_MAX = 256
DIALS_AT_ONCE = 64
DIALS_PER_HOST = 20
"""In a minute, of announced neighbors and without success: an announcement may name the address of a third host."""

_BACK_OFF_S_FIRST = 1.0
_BACK_OFF_S_MAX = 30.0
_LASTED_S = 60.0
"""A link that lived this long clears the back-off."""
_POLITE_S = 2.0
_CHANGES_S = 5.0
"""A neighbor whose announcement changes all the time is not dialed at once more often than this."""
_PER_HOST_S = 60.0
_SILENT_AFTER = 2
"""Dials, before a neighbor that was never linked is called silent."""
_HOSTS_MAX = 4_096


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
    ever_linked: bool = False
    silent: bool = False
    """Nothing came back from any of its addresses when it was dialed last."""
    dialed_s: float = float("-inf")
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Dialer:
    """The table of neighbors and the tasks that keep each of them linked.

    connect     dials one address; returns a greeted link that nobody else has yet. Raises OSError or LinkDown.
    offer       takes a link to the right neighbor
    links_to    the open links on which somebody says to be that instance
    """

    def __init__(
        self,
        instance_id: bytes,
        *,
        connect: Callable[[str, int], Awaitable[LanLink]],
        offer: Callable[[LanLink], None],
        links_to: Callable[[bytes], Sequence[LanLink]],
        rng: random.Random,
    ) -> None:
        self._instance_id = instance_id
        self._connect = connect
        self._offer = offer
        self._links_to = links_to
        self._rng = rng
        self._neighbors: dict[str, _Neighbor] = {}
        self._failed_s: dict[str, deque[float]] = {}
        """By host: when it was dialed without success, or since when it is being dialed."""
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
        if set(neighbor.addresses) != set(announcement.addresses) or neighbor.instance_id != announcement.instance_id:
            neighbor.addresses, neighbor.instance_id = announcement.addresses, announcement.instance_id
            self._dial_soon(neighbor)
            neighbor.due_s = max(neighbor.due_s, neighbor.dialed_s + _CHANGES_S)

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

    @property
    def nobody_answers(self) -> bool:
        """Whether neighbors are announced, and nothing at all comes back from any of them."""
        announced = [neighbor for neighbor in self._neighbors.values() if neighbor.announced]
        silent = any(each.silent and not each.ever_linked and each.failures >= _SILENT_AFTER for each in announced)
        return silent and not any(neighbor.state is ServiceState.LINKED for neighbor in announced)

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
        neighbor.task = watched(self._keep_linked(neighbor), name=f"lan dial {key}")

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
            if self._is_linked(neighbor):
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
        neighbor.dialed_s = self._now_s()
        due_s = neighbor.due_s
        silent = True
        for host, port in neighbor.addresses:
            try:
                self._spend(neighbor, host)
                link = await self._connect(host, port)
                self._check(neighbor, link)
            except (OSError, LinkDown, Refused) as error:
                silent = silent and isinstance(error, OSError) and not isinstance(error, ConnectionError)
                neighbor.last_error = f"{shown(host, port)}: {error or type(error).__name__}"
                continue
            if neighbor.announced and (failed_s := self._failed_s.get(bare(host))):
                failed_s.pop()
            neighbor.silent = False
            neighbor.instance_id = link.peer_hint
            neighbor.state = ServiceState.LINKED
            self._offer(link)
            return
        neighbor.state = ServiceState.FAILED
        neighbor.silent = silent
        if neighbor.due_s == due_s:  # otherwise there was news of it meanwhile
            neighbor.failures += 1
            self._back_off(neighbor)

    def _spend(self, neighbor: _Neighbor, host: str) -> None:
        """Raises: Refused, when that host was dialed without success too often of late."""
        if not neighbor.announced:
            return
        now_s = self._now_s()
        failed_s = self._failed_s.pop(bare(host), None) or deque(maxlen=DIALS_PER_HOST)
        self._failed_s[bare(host)] = failed_s
        while len(self._failed_s) > _HOSTS_MAX:
            del self._failed_s[next(iter(self._failed_s))]
        if len(failed_s) == DIALS_PER_HOST and now_s - failed_s[0] < _PER_HOST_S:
            raise Refused("too many that are announced at this address do not answer")
        failed_s.append(now_s)

    def _is_linked(self, neighbor: _Neighbor) -> bool:
        """Whether there is a link to it: where its addresses are known, only one from there is believed."""
        if neighbor.instance_id is None:
            return False
        hosts = {bare(host) for host, _ in neighbor.addresses}
        links = self._links_to(neighbor.instance_id)
        return any(not neighbor.announced or bare(link.remote_host) in hosts for link in links)

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
