"""Datagrams over one TCP connection.

Each side first sends 16 octets: `P2PSRV1` and a line feed, then its instance id. After that, each datagram is its
length in two octets, most significant first, and its octets; a length of 0 is an error. The instance id is a hint, not
an identity: nothing here is authenticated.

What a hostile peer can do: keep a connection (their number is bounded by the transport), fill the inbox up to its limit
(then it is no longer read from), stop reading (then `send` waits, and ends the link after 30 s). A greeting that takes
longer than 5 s and a datagram that takes longer than 30 s to arrive end the link.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol, cast

from transports.base import LinkBase
from transports.contract import INSTANCE_ID_OCTETS, LinkDown, LinkProfile
from transports.lan.addresses import shown

GREETING = b"P2PSRV1\n"
DATAGRAM_OCTETS_MAX = 65_535
PROFILE = LinkProfile(kind="lan", addressed_octets_max=DATAGRAM_OCTETS_MAX, ordered=True)

_GREETING_S = 5.0
_DATAGRAM_S = 30.0
_STOPPED_READING_S = 30.0
_LINGER_S = 0.4
_WRITE_BUFFER_OCTETS = 262_144
_INBOX_OCTETS = 1_048_576


class LinkOwner(Protocol):
    """Who is told what becomes of a connection."""

    def admits(self, link: LanLink) -> bool:
        """Whether there is room for one more connection. Called once, first."""
        ...

    def link_ready(self, link: LanLink) -> None:
        """The greeting has arrived: `peer_hint` is known."""
        ...

    def link_over(self, link: LanLink) -> None:
        """It is down; its socket may still be sending what was left. Called once."""
        ...

    def link_gone(self, link: LanLink) -> None:
        """Its socket is closed. Called once, last."""
        ...


class LanLink(LinkBase, asyncio.Protocol):
    """One TCP connection; implements `transports.contract.Link`."""

    def __init__(self, owner: LinkOwner, instance_id: bytes, *, initiator: bool) -> None:
        super().__init__(PROFILE, initiator=initiator, remote="lan ?")
        self.remote_host = ""
        self.greeted = asyncio.Event()
        """Set when the greeting has arrived, or never will (then the link is down)."""
        self.gone = asyncio.Event()
        """Set when the socket is closed."""
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._instance_id = instance_id
        self._transport: asyncio.Transport | None = None
        self._unparsed = bytearray()
        self._unparsed_since_s = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._reading_paused = False
        self._may_write = asyncio.Event()

    async def transmit(self, datagram: bytes) -> None:
        if not self._may_write.is_set():
            try:
                async with asyncio.timeout(_STOPPED_READING_S):
                    await self._may_write.wait()
            except TimeoutError:
                self.abort("the other side stopped reading")
            self.check_open()
        if self._transport is None:
            raise LinkDown("not connected")
        self._transport.write(len(datagram).to_bytes(2, "big") + datagram)

    def was_read(self) -> None:
        if self._reading_paused and self.inbox_octets < _INBOX_OCTETS // 2 and self._transport is not None:
            self._reading_paused = False
            self._unparsed_since_s = self._loop.time()
            self._transport.resume_reading()

    async def close(self) -> None:
        if self._transport is not None and self.is_open:
            self._transport.close()  # what is in the write buffer still goes out, for a moment
            self._loop.call_later(_LINGER_S, self._transport.abort)
        await super().close()

    def abort(self, reason: str) -> None:
        """Ends the link without a word."""
        self.end(reason, keep_inbox=False)
        if self._transport is not None:
            self._transport.abort()

    def ended(self, reason: str) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self.greeted.set()
        self._may_write.set()
        self._owner.link_over(self)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        host, port = (transport.get_extra_info("peername") or ("?", 0))[:2]
        self.remote_host = host.removeprefix("::ffff:") if "." in host else host
        self.remote = f"lan {shown(host, port)}"
        if not self._owner.admits(self):
            self.abort("no room for another connection")
            return
        tcp = transport.get_extra_info("socket")
        if tcp is not None:
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                # what is not acknowledged for so long will not be: the cable is out, the other machine is off
                tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_STOPPED_READING_S * 1000))
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_OCTETS)
        self._may_write.set()
        transport.write(GREETING + self._instance_id)
        self._deadline = self._loop.call_later(_GREETING_S, self.abort, "no greeting")

    def data_received(self, data: bytes) -> None:
        if not self.is_open:
            return
        if not self._unparsed:
            self._unparsed_since_s = self._loop.time()
        self._unparsed += data
        if self.peer_hint is None and not self._take_greeting():
            return
        self._take_datagrams()
        if self.is_open and self.inbox_octets > _INBOX_OCTETS and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def _take_greeting(self) -> bool:
        size = min(len(GREETING), len(self._unparsed))
        if self._unparsed[:size] != GREETING[:size]:
            self.abort("not one of us")
            return False
        end = len(GREETING) + INSTANCE_ID_OCTETS
        if len(self._unparsed) < end:
            return False
        self.peer_hint = bytes(self._unparsed[len(GREETING) : end])
        del self._unparsed[:end]
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self.greeted.set()
        self._owner.link_ready(self)
        return self.is_open

    def _take_datagrams(self) -> None:
        start = 0
        while len(self._unparsed) - start >= 2:
            size = int.from_bytes(self._unparsed[start : start + 2], "big")
            if size == 0:
                self.abort("an empty datagram")
                return
            if len(self._unparsed) - start - 2 < size:
                break
            self.arrived(bytes(self._unparsed[start + 2 : start + 2 + size]))
            start += 2 + size
        if start:
            del self._unparsed[:start]
            self._unparsed_since_s = self._loop.time()
        if self._unparsed and self._deadline is None:
            self._deadline = self._loop.call_later(_DATAGRAM_S, self._check_pace)

    def _check_pace(self) -> None:
        """Ends a link whose peer has been in the middle of one datagram for too long, through no fault of ours."""
        self._deadline = None
        if not self._unparsed:
            return
        left_s = self._unparsed_since_s + _DATAGRAM_S - self._loop.time()
        if self._reading_paused:
            left_s = _DATAGRAM_S
        if left_s > 0:
            self._deadline = self._loop.call_later(left_s, self._check_pace)
        else:
            self.abort("a datagram took too long")

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(str(exc) or type(exc).__name__ if exc is not None else "closed by the other side")
        self._may_write.set()
        self.gone.set()
        self._owner.link_gone(self)
