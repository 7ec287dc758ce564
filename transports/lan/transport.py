"""The LAN: found by multicast DNS or named by the operator, linked by TCP. `docs/transports.md` has the options."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import socket
from dataclasses import dataclass
from typing import Self

from transports.base import TransportBase
from transports.contract import LinkDown, Parameters, TransportStatus
from transports.lan.addresses import (
    LocalAddress,
    SocketAddress,
    is_loopback,
    local_addresses,
    parse_host_port,
    resolve,
    shown,
)
from transports.lan.dialing import Dialer
from transports.lan.discovery import Discovery
from transports.lan.link import LanLink

INBOUND_MAX = 64
INBOUND_PER_HOST_MAX = 32

_DIAL_S = 3.0
_POLL_S = 2.0
_ASK_AGAIN_ALONE_S = 60.0
_ASK_AGAIN_S = 600.0
_MDNS_RETRY_S = 10.0
_NOBODY_YET_S = 30.0
PASSES_MULTICAST_ONLY = (
    "others are announced here and none answers: this network passes multicast and blocks connections between its"
    " devices (client isolation, a firewall): use another network, or allow TCP, on a fixed port with lan:listen=:PORT"
)
PASSES_UNICAST_ONLY = (
    "a node is linked and nobody is announced: this network passes connections and blocks multicast (or the node has"
    " mDNS off): others are found only when they are named, with lan:peer=HOST:PORT"
)
NOBODY_ANNOUNCED = (
    "nobody is announced here; if others are on this network, it blocks multicast: name one with lan:peer=HOST:PORT"
)
_CLOSE_S = 0.9
_ANY = "0.0.0.0"  # noqa: S104  to be found by neighbors is what this transport is for; links authenticate above


@dataclass(frozen=True, slots=True, kw_only=True)
class LanParameters:
    """What follows `lan:` on the command line.

    listen      HOST:PORT; the host may be empty for all addresses, the port 0 for any free one
    peers       HOST:PORT each, dialed whether announced or not
    mdns        whether to announce and to browse
    interfaces  names; mDNS keeps to them, and only their addresses are announced
    """

    listen: tuple[str, int] = ("", 0)
    peers: tuple[tuple[str, int], ...] = ()
    mdns: bool = True
    interfaces: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """`listen=127.0.0.1:4001,peer=10.0.0.2:4001,peer=nas.local:4001,mdns=off,interface=wlan0`

        Raises: ValueError with one clear line.
        """
        given = Parameters.parse(text, once=frozenset({"listen", "mdns"}), repeated=frozenset({"peer", "interface"}))
        mdns = given.one("mdns") or "on"
        if mdns not in {"on", "off"}:
            raise ValueError(f"mdns is on or off, not {mdns!r}")
        listen = parse_host_port(given.one("listen") or ":0", "listen")
        if listen[0] and _as_ip(listen[0]) is None:
            raise ValueError(f"listen: {listen[0]!r} is not an IP address")
        peers = tuple(parse_host_port(value, "peer") for value in given.every("peer"))
        for host, port in peers:
            if not host or not port:
                raise ValueError(f"peer: {shown(host, port)!r} needs a host and a port")
        return cls(listen=listen, peers=peers, mdns=mdns == "on", interfaces=given.every("interface"))

    @property
    def loopback_only(self) -> bool:
        ip = _as_ip(self.listen[0])
        return ip is not None and ip.is_loopback

    @property
    def all_addresses(self) -> bool:
        ip = _as_ip(self.listen[0])
        return ip is None or ip.is_unspecified


class LanTransport(TransportBase[LanLink]):
    """Implements `transports.contract.Transport`; also the owner of its connections."""

    kind = "lan"

    def __init__(self, parameters: LanParameters, *, rng: random.Random | None = None) -> None:
        super().__init__()
        self._parameters = parameters
        self._rng = rng or random.Random()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._dialer: Dialer | None = None
        self._discovery: Discovery | None = None
        self._local: frozenset[LocalAddress] = frozenset()
        self._connections: set[LanLink] = set()
        self._open_links: dict[LanLink, None] = {}
        self._started_at_s = 0.0
        self._address_note: str | None = None
        self._broken_note: str | None = None

    @classmethod
    def from_parameters(cls, parameters: str) -> Self:
        return cls(LanParameters.parse(parameters))

    async def begin(self) -> None:
        instance_id = self.instance_id
        loop = asyncio.get_running_loop()
        self._started_at_s = loop.time()
        listener = _listen(*self._parameters.listen)
        self._port = listener.getsockname()[1]
        self._server = await loop.create_server(
            lambda: LanLink(self, instance_id, initiator=False), sock=listener, backlog=INBOUND_MAX
        )
        self._dialer = dialer = Dialer(
            instance_id, connect=self._connect, offer=self._offer, links_to=self._links_to, rng=self._rng
        )
        for host, port in self._parameters.peers:
            dialer.add_named(host, port)
        if self._parameters.mdns:
            self._discovery = Discovery(instance_id, found=dialer.announced, gone=dialer.gone)
        self.work_on(self._watch_network(dialer), name="watch network", broken=self._broken)

    def _broken(self, note: str) -> None:
        self._broken_note = f"looking for others on the network: {note}"

    def status(self) -> TransportStatus:
        return TransportStatus(
            kind=self.kind,
            listening=self._listening(),
            services=self._dialer.services() if self._dialer is not None else (),
            notes=tuple(self._notes()),
        )

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self.stop_work()
        if self._dialer is not None:
            await self._dialer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.gather(self._close_links(), self._discovery.stop() if self._discovery else _nothing())
        for link in tuple(self._connections):
            link.abort("the transport is closed")

    # LinkOwner

    def admits(self, link: LanLink) -> bool:
        if self.closed:
            return False
        if not link.initiator:
            inbound = [other for other in self._connections if not other.initiator]
            from_there = sum(other.remote_host == link.remote_host for other in inbound)
            if len(inbound) >= INBOUND_MAX or from_there >= INBOUND_PER_HOST_MAX:
                return False
        self._connections.add(link)
        return True

    def link_ready(self, link: LanLink) -> None:
        if link.initiator:
            return  # the dialer looks who it is first
        if link.peer_hint == self.instance_id:
            link.abort("that is this node itself")
            return
        self._offer(link)

    def link_over(self, link: LanLink) -> None:
        if link in self._open_links:
            del self._open_links[link]
            if self._dialer is not None:
                self._dialer.link_over(link)

    def link_gone(self, link: LanLink) -> None:
        self._connections.discard(link)

    def _offer(self, link: LanLink) -> None:
        if link.is_open:
            self._open_links[link] = None
            self.offer(link)
            if self._dialer is not None:
                self._dialer.link_made(link)

    def _links_to(self, instance_id: bytes) -> list[LanLink]:
        return [link for link in self._open_links if link.peer_hint == instance_id]

    async def _connect(self, host: str, port: int) -> LanLink:
        """Dials and greets. Raises: OSError (TimeoutError is one), LinkDown."""
        async with asyncio.timeout(_DIAL_S):
            link = await self._connect_to_any(await resolve(host, port))
            try:
                await link.greeted.wait()
            except BaseException:  # whatever it is, what was begun is undone, and it is raised again
                link.abort("no greeting")
                raise
        if not link.is_open:
            raise LinkDown(link.down_because)
        return link

    async def _connect_to_any(self, addresses: list[tuple[socket.AddressFamily, SocketAddress]]) -> LanLink:
        """A link whose greeting is under way. Raises: OSError."""
        loop = asyncio.get_running_loop()
        last_error = OSError("no address")
        for family, address in addresses:
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                connection.setblocking(False)
                await loop.sock_connect(connection, address)
                link = LanLink(self, self.instance_id, initiator=True)
                await loop.create_connection(lambda made=link: made, sock=connection)  # type: ignore[misc]
            except OSError as error:
                connection.close()
                last_error = error
            except BaseException:  # whatever it is, what was begun is undone, and it is raised again
                connection.close()
                raise
            else:
                return link
        raise last_error

    # the network under us

    async def _watch_network(self, dialer: Dialer) -> None:
        """Starts mDNS, and starts it again when interfaces or addresses have changed and settled.

        zeroconf keeps sockets on the addresses that it was started with. An address that is new is often not usable
        in the same second: only a set that was seen twice is acted on.
        """
        loop = asyncio.get_running_loop()
        self._local = seen = self._look_around()
        await self._start_discovery()
        tried_at_s = asked_at_s = loop.time()
        while True:
            await asyncio.sleep(_POLL_S)
            before, seen = seen, self._look_around()
            now_s = loop.time()
            if seen != self._local and seen == before:
                self._local = seen
                if self._discovery is not None:
                    await self._discovery.stop()
                    await self._start_discovery()
                    tried_at_s = asked_at_s = now_s
                dialer.network_changed()
            elif self._discovery is not None and not self._discovery.running:
                if now_s - tried_at_s >= _MDNS_RETRY_S:
                    tried_at_s = now_s
                    await self._start_discovery()
            elif self._discovery is not None:
                pause_s = _ASK_AGAIN_S if self._open_links else _ASK_AGAIN_ALONE_S
                if now_s - asked_at_s >= pause_s:
                    asked_at_s = now_s
                    await self._discovery.ask_again()

    def _look_around(self) -> frozenset[LocalAddress]:
        try:
            self._address_note = None
            return local_addresses(self._parameters.interfaces)
        except OSError as error:
            self._address_note = f"the system does not tell our addresses ({error})"
            return frozenset()

    async def _start_discovery(self) -> None:
        if self._discovery is not None:
            local, announced = self._scope()
            await self._discovery.start(local, announced, self._port)

    def _scope(self) -> tuple[frozenset[LocalAddress], frozenset[LocalAddress]]:
        """Where to browse, and what to announce."""
        loopback = frozenset(own for own in self._local if own.ip.is_loopback and own.ip.version == 4)
        if self._parameters.loopback_only:
            return loopback, frozenset(own for own in loopback if str(own.ip) == self._parameters.listen[0])
        outside = frozenset(own for own in self._local if not own.ip.is_loopback)
        if not self._parameters.all_addresses:
            announced = frozenset(own for own in outside if str(own.ip) == self._parameters.listen[0])
            interfaces = {own.interface for own in announced}
            return frozenset(own for own in outside if own.interface in interfaces), announced
        # two nodes on one machine find each other without a network, too
        return outside | loopback, outside or loopback

    def _listening(self) -> tuple[str, ...]:
        if self._server is None or self.closed:
            return ()
        if not self._parameters.all_addresses:
            return (shown(self._parameters.listen[0], self._port),)
        addresses = sorted(
            (own for own in self._local if not own.ip.is_link_local), key=lambda own: (own.ip.is_loopback, str(own.ip))
        )
        return tuple(shown(str(own.ip), self._port) for own in addresses) or (shown(_ANY, self._port),)

    def _notes(self) -> list[str]:
        discovery_note = self._discovery.note if self._discovery else None
        notes = [note for note in (self._address_note, self._broken_note, discovery_note) if note]
        if self._parameters.loopback_only and self._discovery is not None:
            notes.append("listening on loopback: only nodes on this machine are announced to and found")
        if self._discovery is not None and self._discovery.running:
            waited_s = asyncio.get_running_loop().time() - self._started_at_s
            others = any(not is_loopback(link.remote_host) for link in self._open_links)
            if self._dialer is not None and self._dialer.nobody_answers and not others:
                notes.append(PASSES_MULTICAST_ONLY)
            elif not self._discovery.has_heard and waited_s > _NOBODY_YET_S:
                notes.append(PASSES_UNICAST_ONLY if others else NOBODY_ANNOUNCED)
        return notes

    async def _close_links(self) -> None:
        links = tuple(self._connections)
        for link in links:
            await link.close()
        for link in links:
            await link.gone.wait()


async def _nothing() -> None:
    return


def _as_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket: for IPv6 and IPv4 together when no host is given and the system can.

    Raises: OSError, as when the address is in use.
    """
    ip = _as_ip(host)
    if (ip is None or host == "::") and socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # IPv6 may be compiled in and switched off
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    if ip is not None and ip.version == 6:
        return socket.create_server((host, port), family=socket.AF_INET6)
    return socket.create_server((host or _ANY, port))
