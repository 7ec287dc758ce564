"""Drives one `LinkEndpoint` over one transport link: datagrams in and out, and the timer between them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from p2pserver.link import Conversation, LinkEndpoint, PeerAuthenticated, PipeDead, Priority
from p2pserver.mesh.sharing import PATIENCE_MAX
from p2pserver.node.alarm import Alarm
from transports.contract import Link, LinkDown

log = logging.getLogger(__name__)

BLOCKED_S = 1.0
BLOCKED_TIMEOUTS = PATIENCE_MAX
"""A pipe whose link takes nothing for so long counts as one that had so many timeouts."""

LOSS_STEP = 0.1


class PipeOwner(Protocol):
    """Who hears of what happens on a pipe."""

    def pipe_authenticated(self, pipe: Pipe, peer_key: bytes, epoch: int) -> None:
        """The other side holds `peer_key`; attach its conversation, or close the pipe."""

    def pipe_active(self, pipe: Pipe) -> None:
        """The conversation may have messages to hand out, or room for more."""

    def pipe_standing_changed(self, pipe: Pipe) -> None:
        """`timeouts` has changed: the pipe began to fail, or does not any more; or another part of it is lost."""

    def pipe_over(self, pipe: Pipe, reason: str) -> None:
        """The last word of a pipe; once for each."""


class Pipe:
    """One link from its birth until it is down. `run` is its whole life."""

    def __init__(
        self, link: Link, endpoint: LinkEndpoint, owner: PipeOwner, *, clock: Callable[[], float], transport: int = 0
    ) -> None:
        """`transport`: the number of the node's transport that the link is of."""
        self.transport = transport
        self.link = link
        self.endpoint = endpoint
        self.peer_key: bytes | None = None
        self.conversation: Conversation | None = None
        self._owner = owner
        self._clock = clock
        self._wake = asyncio.Event()
        self._over: str | None = None
        self._blocked = False
        self._timeouts_told = 0
        self._loss_told = 0.0

    @property
    def initiator(self) -> bool:
        return self.link.initiator

    def attach(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.endpoint.attach(conversation)
        self.wake()

    def carry(self, classes: Sequence[Priority], *, give_back: bool) -> None:
        """What to send on this pipe; see `LinkEndpoint.carry`."""
        self.endpoint.carry(classes, give_back=give_back)

    @property
    def timeouts(self) -> int:
        """How often in a row the peer did not answer in time. A link that takes no more datagrams counts as failing."""
        return self.endpoint.timeouts + (BLOCKED_TIMEOUTS if self._blocked else 0)

    def wake(self) -> None:
        """The conversation has something new to send, or has made room."""
        self._wake.set()

    def close(self, reason: str) -> None:
        """Says goodbye and ends soon."""
        self.endpoint.close(reason, self._clock())
        self.wake()

    async def run(self) -> None:
        """Carries datagrams until the link is down or the endpoint dead, then tells the owner."""
        receiver = asyncio.create_task(self._receive(), name=f"receive {self.link.remote}")
        reason = "stopped"
        try:
            reason = await self._send()
        except LinkDown as down:
            reason = str(down) or "link down"
        finally:
            receiver.cancel()
            with suppress(asyncio.CancelledError):
                await receiver
            self.endpoint.detach()
            self.conversation = None
            await self.link.close()
            self._owner.pipe_over(self, reason)

    async def _receive(self) -> None:
        try:
            while True:
                self.endpoint.datagram_received(await self.link.receive(), self._clock())
                self._tell()
                self._tell_standing()
                self._wake.set()
                if self.conversation is not None:
                    self._owner.pipe_active(self)
        except LinkDown as down:
            self._over = str(down) or "link down"
            self._wake.set()

    async def _send(self) -> str:
        """Returns why the pipe is over."""
        alarm = Alarm(self._wake.set, self._clock)
        deadline = self.endpoint.next_deadline()
        try:
            while True:
                self._wake.clear()
                now = self._clock()
                if deadline is not None and deadline <= now:
                    self.endpoint.handle_timeout(now)
                    self._tell_standing()
                datagrams = self.endpoint.poll_transmit(now)
                self._tell()
                if datagrams:
                    await self._hand_over(datagrams)
                if self._over is not None:
                    return self._over
                deadline = self.endpoint.next_deadline()
                if datagrams and deadline is not None and deadline <= self._clock():
                    continue
                alarm.set(deadline)
                await self._wake.wait()
        finally:
            alarm.cancel()

    async def _hand_over(self, datagrams: Sequence[bytes]) -> None:
        """Raises: LinkDown."""
        if self.link.profile.bit_rate is not None:  # it is handed no more than it carries
            for datagram in datagrams:
                await self.link.send(datagram)
            return
        watch = asyncio.get_running_loop().call_later(BLOCKED_S, self._note_blocked)
        try:
            for datagram in datagrams:
                await self.link.send(datagram)
        finally:
            watch.cancel()
            if self._blocked:
                self._blocked = False
                self._tell_standing()

    def _note_blocked(self) -> None:
        """A link that does not know its speed, and takes nothing, may be dead."""
        self._blocked = True
        self._tell_standing()

    def _tell_standing(self) -> None:
        """The owner hears of timeouts in a row, and of their end, and of a loss that is not what it was."""
        timeouts, loss = min(self.timeouts, PATIENCE_MAX), self.endpoint.path.loss(self._clock())
        if timeouts != self._timeouts_told or abs(loss - self._loss_told) >= LOSS_STEP:
            self._timeouts_told, self._loss_told = timeouts, loss
            if self.peer_key is not None:
                self._owner.pipe_standing_changed(self)

    def _tell(self) -> None:
        """Tells the owner what the endpoint has to say; notes its end."""
        for event in self.endpoint.events():
            match event:
                case PeerAuthenticated():
                    self.peer_key = event.peer_key
                    self._owner.pipe_authenticated(self, event.peer_key, event.epoch)
                case PipeDead():
                    self._over = event.reason


def places_of(link: Link) -> list[bytes | str]:
    """What tells one neighbor from another before it is known: its instance id, and the address if we dialed it."""
    hint: list[bytes | str] = [] if link.peer_hint is None else [link.peer_hint]
    return [*hint, link.remote] if link.initiator else hint
