"""One end of a conversation over a transport's link: what the node has, without the rest of the node."""

from __future__ import annotations

import asyncio
import os
import secrets

from p2pserver.link import EPOCHS, Conversation, LinkEndpoint, Priority, datagram_octets, pacer_for, timers_for
from p2pserver.node.pipes import Pipe
from transports.contract import Link


class Talker:
    """Owns a pipe, attaches a conversation to it, and keeps what arrives."""

    def __init__(self, link: Link, before: Talker | None = None) -> None:
        """`before`: who had the last link; its conversation goes on over this one."""
        loop = asyncio.get_running_loop()
        self._seed = before._seed if before is not None else os.urandom(32)
        self._conversation = before._conversation if before is not None else Conversation(random_epoch())
        self.received: list[bytes] = before.received if before is not None else []
        self.endpoint = endpoint_of(link, self._seed, self._conversation.local_epoch, loop.time())
        self.pipe = Pipe(link, self.endpoint, self, clock=loop.time)

    async def run(self) -> None:
        await self.pipe.run()

    def say(self, text: bytes, part_octets: int = 10_000) -> None:
        """Sends it as several messages."""
        for at in range(0, len(text), part_octets):
            self._conversation.send(text[at : at + part_octets], Priority.STATE)
        self.pipe.wake()

    # PipeOwner

    def pipe_authenticated(self, pipe: Pipe, peer_key: bytes, epoch: int) -> None:
        pipe.attach(self._conversation)

    def pipe_active(self, pipe: Pipe) -> None:
        self.received += self._conversation.received()
        pipe.wake()

    def pipe_standing_changed(self, pipe: Pipe) -> None:
        return

    def pipe_over(self, pipe: Pipe, reason: str) -> None:
        return


def random_epoch() -> int:
    return secrets.randbelow(EPOCHS)


def endpoint_of(link: Link, seed: bytes, epoch: int, now: float) -> LinkEndpoint:
    """As the node makes it."""
    return LinkEndpoint(
        seed,
        link.initiator,
        datagram_octets(link.profile),
        os.urandom,
        now,
        lambda _key: True,
        local_epoch=epoch,
        timers=timers_for(link.profile),
        pacer=pacer_for(link.profile, None),
    )
