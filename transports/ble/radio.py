"""What the transport asks of Bluetooth: a central that scans and dials, a peripheral that advertises and is dialed.

A driver implements one of them or both: `bleak_central` and `bluez_peripheral` over the system's Bluetooth,
`bumble_radio` over a controller of its own. They move octets and keep no policy. The transport calls one method at a
time of all but connections, since adapters do not scan and connect at once.

Errors:
    RadioDown      the adapter is gone, off, or its daemon is; everything is begun anew later
    ConnectFailed  one dial failed; the adapter goes on
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class RadioDown(Exception):
    """The adapter cannot be used now. The message is for people."""


class ConnectFailed(Exception):
    """The other side did not answer, or not as one of us. The message is for people."""


class Refused(Exception):
    """Raised to a driver by the transport: the operation is to be answered with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """An advertisement of the service."""

    address: str
    """As the driver wants it back in `connect`; changes when the other side's address does."""
    short_id: bytes | None
    """None: its platform cannot advertise one."""


class Channel(Protocol):
    """One GATT connection, as either side has it."""

    @property
    def address(self) -> str: ...

    @property
    def att_mtu(self) -> int: ...

    async def write(self, datagram: bytes) -> None:
        """Sends one value; waits while the local buffers are full. Any exception means that the connection is over."""
        ...

    async def disconnect(self) -> None: ...


class ChannelUser(Protocol):
    """Who hears what happens on a channel."""

    def datagram_arrived(self, datagram: bytes) -> None: ...

    def channel_over(self, reason: str) -> None: ...


class ClientChannel(Channel, Protocol):
    """The central's end: the services are known, nothing is subscribed to yet."""

    async def read_info(self) -> bytes: ...

    async def subscribe(self, user: ChannelUser) -> None:
        """Asks for notifications; from now on the user hears of datagrams and of the end."""
        ...

    async def write_control(self, octets: bytes) -> None:
        """A write that is answered. Raises: ConnectFailed, when it is answered with an error."""
        ...


class Central(Protocol):
    """Finds peripherals and dials them."""

    note: str | None
    """What there is to say to people about this adapter."""

    async def hear(self, seen: Callable[[Sighting], None], down: Callable[[str], None]) -> None:
        """Called first. Raises: RadioDown."""
        ...

    async def scan(self, on: bool) -> None:
        """Raises: RadioDown."""
        ...

    async def connect(self, address: str) -> ClientChannel:
        """Dials, agrees on the MTU and finds the service. Raises: ConnectFailed, RadioDown."""
        ...

    async def close(self) -> None: ...


class PeripheralUser(Protocol):
    """Who decides about those that dial us."""

    def info(self) -> bytes:
        """What INFO reads now."""
        ...

    def dialed(self, channel: Channel) -> None:
        """Somebody connected."""
        ...

    def control(self, channel: Channel, octets: bytes) -> None:
        """A write to CTL. Raises: Refused."""
        ...

    def data(self, channel: Channel, datagram: bytes) -> None:
        """A write to RX."""
        ...

    def hung_up(self, channel: Channel, reason: str) -> None: ...


class Peripheral(Protocol):
    """Advertises the service and is dialed."""

    note: str | None

    async def serve(self, user: PeripheralUser, down: Callable[[str], None]) -> None:
        """Called first: offers the service. Raises: RadioDown."""
        ...

    async def advertise(self, short_id: bytes | None) -> None:
        """Advertises with this id from now on, also if it did before (a connection may have ended that); None: stop.

        When the adapter refuses, that is said in `note`, and it is asked again after a while. Raises: RadioDown.
        """
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Radio:
    """One adapter, in the roles that it can have."""

    central: Central | None
    peripheral: Peripheral | None
    name: str
    reorder_ms: int = 0
    """How late a value may come behind one that was sent after it."""
    tags: bool = False
    """Whether its notifications go to all centrals, so that each needs a tag."""
    bit_rate: int = 1_000_000
    """Of the physical layer."""
