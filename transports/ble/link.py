"""Datagrams over one GATT connection: a value written without response, or notified, is one datagram.

Nothing below says whether a value arrived: the radio acknowledges packets, yet what is queued in a stack when the
connection ends is lost, and a stack may reorder. So a link that lives loses nothing as long as it is read from, and one
that is not read from drops what comes behind the first 256 datagrams: GATT has no word for "wait".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from transports.base import LinkBase
from transports.ble.radio import Channel
from transports.ble.uuids import DATAGRAM_OCTETS_MAX
from transports.contract import LinkDown, LinkProfile

INBOX_DATAGRAMS_MAX = 256
WRITE_S = 20.0
"""A stack that takes nothing for so long hangs, or its link is dead and it has not noticed."""
OVERSIZED_MAX = 16


class BleLink(LinkBase):
    """Implements `transports.contract.Link` and `transports.ble.radio.ChannelUser`.

    It has no `peer_hint`: the instance id lives as long as the process, and whoever reads it could follow a person
    around.
    """

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
        profile = LinkProfile(
            kind="ble", addressed_octets_max=datagram_octets_max, bit_rate=bit_rate, reorder_ms=reorder_ms
        )
        super().__init__(profile, initiator=initiator, remote=f"ble {channel.address}")
        self.channel = channel
        self.short_id = short_id
        """The other side's, as it said last."""
        self.tag = tag
        self.dropped = 0
        self.not_for_us = 0
        self._outgoing_tag = bytes([tag]) if tag is not None and not initiator else None
        self._over = over
        self._oversized = 0

    async def transmit(self, datagram: bytes) -> None:
        try:
            async with asyncio.timeout(WRITE_S):
                await self.channel.write(datagram if self._outgoing_tag is None else self._outgoing_tag + datagram)
        except Exception as error:  # noqa: BLE001  every error of a write means a lost link, whatever stack it is
            reason = "the adapter hangs" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            self.end(reason)
            raise LinkDown(reason) from None
        self.check_open()

    def ended(self, reason: str) -> None:
        self._over(self, reason)

    # ChannelUser

    def datagram_arrived(self, datagram: bytes) -> None:
        if not self.is_open:
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
        elif self.inbox_datagrams >= INBOX_DATAGRAMS_MAX:
            self.dropped += 1
        else:
            self.arrived(datagram)

    def channel_over(self, reason: str) -> None:
        self.end(reason)
