"""Datagrams over one GATT connection: a value written without response, or notified, is one datagram.

Nothing below says whether a value arrived: the radio acknowledges packets, yet what is queued in a stack when the
connection ends is lost, and a stack may reorder. So a link that lives loses nothing as long as it is read from, and one
that is not read from drops what comes behind the first 256 datagrams: GATT has no word for "wait".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from transports.ble.radio import Channel
from transports.ble.uuids import DATAGRAM_OCTETS_MAX
from transports.contract import LinkDown, LinkProfile, check_datagram

INBOX_DATAGRAMS_MAX = 256
WRITE_S = 20.0
"""A stack that takes nothing for so long hangs, or its link is dead and it has not noticed."""
OVERSIZED_MAX = 16


class BleLink:
    """Implements `transports.contract.Link` and `transports.ble.radio.ChannelUser`."""

    def __init__(
        self,
        channel: Channel,
        *,
        initiator: bool,
        short_id: bytes,
        datagram_octets_max: int,
        bit_rate: int,
        reorder_ms: int,
        tag: int | None,
        over: Callable[[BleLink, str], None],
    ) -> None:
        """`over(link, reason)` is called once, when the link goes down.

        `tag`: notifications begin with it, and those with another are for somebody else.
        """
        self.channel = channel
        self.initiator = initiator
        self.short_id = short_id
        """The other side's, as it said last."""
        self.made_at_s = asyncio.get_running_loop().time()
        self.profile = LinkProfile(
            kind="ble",
            addressed_octets_max=datagram_octets_max,
            broadcast_octets_max=None,
            bit_rate=bit_rate,
            airtime_ms_per_hour=None,
            shared_medium=False,
            half_duplex=False,
            reorder_ms=reorder_ms,
        )
        self.tag = tag
        self.dropped = 0
        self.not_for_us = 0
        self._outgoing_tag = bytes([tag]) if tag is not None and not initiator else None
        self._over = over
        self._down_because: str | None = None
        self._inbox: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._turn_to_send = asyncio.Lock()
        self._oversized = 0

    @property
    def remote(self) -> str:
        return f"ble {self.channel.address}"

    @property
    def peer_hint(self) -> bytes | None:
        """None: the instance id lives as long as the process, and whoever reads it could follow a person around."""
        return None

    @property
    def is_open(self) -> bool:
        return self._down_because is None

    async def send(self, datagram: bytes) -> None:
        check_datagram(datagram, self.profile)
        async with self._turn_to_send:
            if self._down_because is not None:
                raise LinkDown(self._down_because)
            try:
                async with asyncio.timeout(WRITE_S):
                    await self.channel.write(datagram if self._outgoing_tag is None else self._outgoing_tag + datagram)
            except Exception as error:  # noqa: BLE001  every error of a write means a lost link, whatever stack it is
                reason = "the adapter hangs" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
                self.end(self._down_because or reason)
                raise LinkDown(reason) from None
            if self._down_because is not None:
                raise LinkDown(self._down_because)

    async def receive(self) -> bytes:
        while not self._inbox:
            if self._down_because is not None:
                raise LinkDown(self._down_because)
            self._arrived.clear()
            await self._arrived.wait()
        return self._inbox.popleft()

    async def close(self) -> None:
        self._inbox.clear()
        self.end("closed here")
        self._inbox.clear()

    def end(self, reason: str) -> None:
        """Down from now on; what had arrived can still be read."""
        if self._down_because is None:
            self._down_because = reason
            self._arrived.set()
            self._over(self, reason)

    # ChannelUser

    def datagram_arrived(self, datagram: bytes) -> None:
        if self._down_because is not None:
            return
        if self.tag is not None and self.initiator:
            if datagram[:1] != bytes([self.tag]):
                self.not_for_us += 1
                return
            datagram = datagram[1:]
        if not 1 <= len(datagram) <= DATAGRAM_OCTETS_MAX:
            self._oversized += 1
            if self._oversized > OVERSIZED_MAX:
                self.end("values of impossible sizes")
        elif len(self._inbox) >= INBOX_DATAGRAMS_MAX:
            self.dropped += 1
        else:
            self._inbox.append(datagram)
            self._arrived.set()

    def channel_over(self, reason: str) -> None:
        self.end(reason)
