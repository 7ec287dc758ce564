"""Multicast DNS: announces this instance, and finds the others, as `_p2pserver._tcp.local.` (RFC 6762, RFC 6763).

The instance name is the instance id, which is new at each start: neither a name of a person nor the node's key is
shown to the network. Nothing that goes wrong here ends anything: it becomes a note for people.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from transports.contract import INSTANCE_ID_OCTETS
from transports.lan.addresses import LocalAddress, is_near, is_on_link

SERVICE_TYPE = "_p2pserver._tcp.local."
PROTOCOL_VERSION = "1"

_LOOKUP_MS = 3_000
_LOOKUPS_AT_ONCE = 32
_LOOKUPS_WAITING_MAX = 1_024
_TTL_S = 120
"""Of all our records: what a crashed node announced is forgotten after so long."""
_GOODBYE_S = 0.6
_KNOWN_MAX = 4_096
_ADDRESSES_MAX = 8
"""Of one announcement, ours or another's."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Announcement:
    """Another instance, as it says of itself. Nothing of it is checked, except that the addresses are near."""

    name: str
    instance_id: bytes
    addresses: tuple[tuple[str, int], ...]


class Discovery:
    """Announces and browses on a set of addresses, until stopped; then again on another set."""

    def __init__(
        self,
        instance_id: bytes,
        *,
        found: Callable[[Announcement], None],
        gone: Callable[[str], None],
    ) -> None:
        self.note: str | None = None
        self._instance_id = instance_id
        self._own_name = f"{instance_id.hex()}.{SERVICE_TYPE}"
        self._found = found
        self._gone = gone
        self._local: frozenset[LocalAddress] = frozenset()
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._broadcast: asyncio.Future[None] | None = None
        self._lookups: dict[str, asyncio.Task[None]] = {}
        self._lookups_waiting: dict[str, Zeroconf] = {}
        self._known: set[str] = set()

    @property
    def running(self) -> bool:
        return self._zeroconf is not None

    @property
    def has_heard(self) -> bool:
        """Whether anybody else is announced."""
        return bool(self._known)

    async def start(
        self, local: frozenset[LocalAddress], announced: Collection[LocalAddress] | None, port: int
    ) -> None:
        """Browses on all of `local`; announces `announced`, or with None nothing. On failure there is a `note`, and
        `running` is False."""
        self._local = local
        try:
            self._zeroconf = _open(local)
            await self._zeroconf.zeroconf.async_wait_for_start(timeout=2)
            self._browse(self._zeroconf.zeroconf)
            if announced is not None:
                await self._announce(self._zeroconf, announced, port)
            self.note = None
        except Exception as error:  # noqa: BLE001  whatever ails mDNS, the node goes on without it, and says so
            await self.stop()
            self.note = f"nobody can be found by mDNS: {error or type(error).__name__}"

    async def _announce(self, zeroconf: AsyncZeroconf, announced: Collection[LocalAddress], port: int) -> None:
        service = AsyncServiceInfo(
            SERVICE_TYPE,
            self._own_name,
            port=port,
            addresses=[address.ip.packed for address in _best_first(announced)[:_ADDRESSES_MAX]],
            properties={"id": self._instance_id.hex(), "v": PROTOCOL_VERSION},
            server=f"{self._instance_id.hex()}.local.",
            host_ttl=_TTL_S,
            other_ttl=_TTL_S,
        )
        # the name is random: nobody needs to be asked whether it is taken
        broadcast = await zeroconf.async_register_service(service, cooperating_responders=True)
        self._broadcast = asyncio.ensure_future(broadcast)

    async def stop(self) -> None:
        """Says goodbye to the network, and forgets whoever was announced."""
        self._lookups_waiting.clear()
        tasks = [task for task in (*self._lookups.values(), self._broadcast) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._lookups.clear()
        self._broadcast = None
        running, self._zeroconf = self._zeroconf, None
        try:
            await self._stop_browsing()
            if running is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_GOODBYE_S):
                        await running.async_unregister_all_services()
                await running.async_close()
        except Exception as error:  # noqa: BLE001  it is over either way: sockets of interfaces that are gone may fail
            _log.debug("mDNS did not end well", exc_info=error)
        for name in tuple(self._known):
            self._forget(name)

    async def ask_again(self) -> None:
        """Asks the network once more who is there, for announcements that were lost or have expired."""
        if self._zeroconf is None:
            return
        try:
            await self._stop_browsing()
            self._browse(self._zeroconf.zeroconf)
        except Exception as error:  # noqa: BLE001  whatever ails mDNS, it is begun anew
            await self.stop()
            self.note = f"nobody can be found by mDNS: {error or type(error).__name__}"

    def _browse(self, zeroconf: Zeroconf) -> None:
        self._browser = AsyncServiceBrowser(zeroconf, SERVICE_TYPE, handlers=[self._on_change])

    async def _stop_browsing(self) -> None:
        browser, self._browser = self._browser, None
        if browser is not None:
            await browser.async_cancel()

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if name.lower() == self._own_name or not name.endswith(service_type):
            return
        if state_change is ServiceStateChange.Removed:
            self._lookups_waiting.pop(name, None)
            lookup = self._lookups.get(name)
            if lookup is not None:
                lookup.cancel()
            self._forget(name)
        elif len(self._lookups_waiting) < _LOOKUPS_WAITING_MAX:
            self._lookups_waiting[name] = zeroconf
            self._look_up_next()

    def _look_up_next(self) -> None:
        for name in tuple(self._lookups_waiting):
            if len(self._lookups) >= _LOOKUPS_AT_ONCE:
                return
            if name not in self._lookups:
                lookup = self._look_up(self._lookups_waiting.pop(name), name)
                self._lookups[name] = task = asyncio.get_running_loop().create_task(lookup, name=f"mDNS lookup {name}")
                task.add_done_callback(lambda _, name=name: self._looked_up(name))  # type: ignore[misc]

    def _looked_up(self, name: str) -> None:
        self._lookups.pop(name, None)
        self._look_up_next()

    async def _look_up(self, zeroconf: Zeroconf, name: str) -> None:
        try:
            info = AsyncServiceInfo(SERVICE_TYPE, name)
            answered = await info.async_request(zeroconf, _LOOKUP_MS)
            announcement = self._read(info) if answered else None
        except Exception as error:  # noqa: BLE001  a stranger wrote these records, another library read them
            _log.debug("mDNS lookup of %s failed", name, exc_info=error)
            return
        if announcement is not None:
            if len(self._known) < _KNOWN_MAX:
                self._known.add(name)
            self._found(announcement)

    def _read(self, info: AsyncServiceInfo) -> Announcement | None:
        """None for what cannot be one of us, or cannot be reached."""
        properties = info.properties
        id_text = properties.get(b"id") or b""
        if properties.get(b"v") != PROTOCOL_VERSION.encode() or not info.port or len(id_text) != 2 * INSTANCE_ID_OCTETS:
            return None
        try:
            instance_id = bytes.fromhex(id_text.decode("ascii"))
        except ValueError:
            return None
        near = [text for text in info.parsed_scoped_addresses(IPVersion.All) if is_near(text, self._local)]
        near.sort(key=lambda text: (not is_on_link(text, self._local), ":" in text))
        if instance_id == self._instance_id or not near:
            return None
        return Announcement(info.name, instance_id, tuple((text, info.port) for text in near[:_ADDRESSES_MAX]))

    def _forget(self, name: str) -> None:
        self._known.discard(name)
        self._gone(name)


def _best_first(addresses: Collection[LocalAddress]) -> list[LocalAddress]:
    return sorted(
        addresses, key=lambda own: (own.ip.is_loopback, own.ip.version, not own.ip.is_link_local, str(own.ip))
    )


def _open(local: frozenset[LocalAddress]) -> AsyncZeroconf:
    """Sockets on each address that takes part; on fewer where the system refuses some.

    Raises: OSError when none can be had, as when port 5353 is taken by a program that does not share it.
    """
    version_4: list[str | int] = sorted({str(own.ip) for own in local if own.ip.version == 4})
    version_6: list[str | int] = sorted({own.index for own in local if _speaks_version_6(own)})
    choices = [choice for choice in (version_4 + version_6, version_4, version_6) if choice]
    last_error: Exception = OSError("no network")
    for choice in choices:
        try:
            return AsyncZeroconf(interfaces=choice)
        except (OSError, RuntimeError) as error:  # RuntimeError: an interface vanished while it was being set up
            last_error = error
    raise OSError(str(last_error)) from last_error


def _speaks_version_6(own: LocalAddress) -> bool:
    return isinstance(own.ip, ipaddress.IPv6Address) and not own.ip.is_loopback and own.index > 0
