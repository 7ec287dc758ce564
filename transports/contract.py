"""What every transport promises, and no more.

A transport finds neighbors and opens links to them; a link moves datagrams. Neither promises delivery, order or single
delivery, and neither authenticates anybody: all of that is done once, above, for all transports. `conformance.py` holds
each implementation to this page. A third party ships a transport by naming a `TransportFactory` in the entry point
group `p2pserver.transports` (`docs/transports.md`).

Errors:
    LinkDown     the link (or the transport, from `next_link`) is over; it never comes back to life
    ValueError   a datagram that is empty or larger than the profile allows; a parameter that cannot be understood
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self, runtime_checkable

INSTANCE_ID_OCTETS = 8

DUTY_CYCLES = {"eu868-1": 36_000, "eu868-10": 360_000}
"""Milliseconds of airtime per hour that the sub-bands of 863 to 870 MHz give (ETSI EN 300 220-2, annex B): 1 % in most,
as at 868.0 to 868.6 MHz, and 10 % at 869.4 to 869.65 MHz."""


class LinkDown(Exception):
    """The link is over. The message is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkProfile:
    """What the layers above need to know of a link to use it well."""

    kind: str
    """The transport's name: `lan`, `sim`, `ble`, ..."""
    addressed_octets_max: int
    """The largest datagram to one neighbor."""
    broadcast_octets_max: int | None = None
    """The largest datagram to all neighbors at once; None: the medium is not shared."""
    bit_rate: int | None = None
    """Bits per second; None: fast enough not to pace."""
    airtime_ms_per_hour: int | None = None
    """A 1 % duty cycle is 36_000; None: unmetered."""
    shared_medium: bool = False
    """All neighbors hear what one sends."""
    half_duplex: bool = False
    """Sending and receiving exclude each other."""
    may_encrypt: bool = True
    """False where the law forbids it (amateur packet radio)."""
    ordered: bool = False
    """What arrives does so in the order it was sent. A hint that saves buffers, never a promise to rely on."""
    datagram_overhead_ms: float = 0.0
    """Airtime of a datagram beyond that of its octets at `bit_rate`: preamble, framing, turning round to send."""
    reorder_ms: int = 0
    """How much later than one that was sent behind it a datagram may arrive, where the medium is known to do that."""


class Link(Protocol):
    """A pipe for datagrams to one neighbor, from its birth until it is down."""

    @property
    def profile(self) -> LinkProfile: ...

    @property
    def initiator(self) -> bool:
        """Whether this side opened the link."""
        ...

    @property
    def remote(self) -> str:
        """The other side, for people: `lan 192.168.1.7:41234`."""
        ...

    @property
    def peer_hint(self) -> bytes | None:
        """The instance id that the other side says it has: unauthenticated, good for saving a dial and nothing else."""
        ...

    async def send(self, datagram: bytes) -> None:
        """Hands over 1 to `profile.addressed_octets_max` octets whole; never splits them, never sends them again.

        Waits while the link's bounded buffer is full. Returning says nothing about arrival. One that is cancelled while
        it waits has sent nothing.

        Raises: LinkDown; ValueError for a datagram of a size that the profile does not allow (the link stays up).
        """
        ...

    async def receive(self) -> bytes:
        """The next datagram, with the boundaries it was sent with. Cancelling a call loses nothing.

        What had arrived before the other side closed is handed out first. One caller at a time.

        Raises: LinkDown when the link is over: closed by either side, or noticed to be dead.
        """
        ...

    async def close(self) -> None:
        """Ends the link on this side at once, and tells the other side if it can be told. May be called again."""
        ...


class ServiceState(StrEnum):
    """What a transport is doing about a neighbor that it knows of."""

    WAITING = "waiting"
    DIALING = "dialing"
    LINKED = "linked"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveredService:
    """A neighbor that was announced, or named by the operator."""

    address: str
    hint: bytes | None
    """Its instance id as announced; None when not yet known."""
    state: ServiceState
    last_error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportStatus:
    """A snapshot for people: what `p2pserver run` prints is made of it."""

    kind: str
    listening: tuple[str, ...] = ()
    services: tuple[DiscoveredService, ...] = ()
    notes: tuple[str, ...] = ()
    """One plain sentence each, such as "no mDNS: port 5353 is in use"."""


class Transport(Protocol):
    """Finds neighbors on one medium. Started once, closed once; a restart is a new object."""

    @property
    def kind(self) -> str: ...

    async def start(self, instance_id: bytes) -> None:
        """Begins to listen, to announce and to dial.

        `instance_id` is 8 octets that the node draws at each start, the same for all its transports: it lets a
        transport recognize itself and a neighbor that it is already linked to. It is not the node's identity.

        Raises: OSError when what the operator asked for cannot be had (an address in use). What may come back by
        itself, such as a network, is a note in `status()` instead.
        """
        ...

    async def next_link(self) -> Link:
        """The next link, dialed or accepted. Cancelling a call loses none.

        Raises: LinkDown when the transport is closed.
        """
        ...

    def status(self) -> TransportStatus: ...

    async def close(self) -> None:
        """Stops everything and closes every link within 1 s; no task, no socket stays behind. May be called again."""
        ...


class Medium(Protocol):
    """The air (or the wire) that all neighbors of a transport share: what one sends once, all in reach may hear.

    It lives as long as its transport, beside the links, and carries datagrams of its own: what was broadcast never
    comes out of a link, and what was sent on a link is never heard here.
    """

    @property
    def profile(self) -> LinkProfile:
        """`shared_medium` is true and `broadcast_octets_max` a number."""
        ...

    async def broadcast(self, datagram: bytes) -> None:
        """Hands over 1 to `profile.broadcast_octets_max` octets whole, once, for whoever hears them.

        Waits while the bounded buffer is full. Returning says nothing about arrival. One that is cancelled while it
        waits has sent nothing.

        Raises: LinkDown while the transport does not run; ValueError for a datagram of a size that the profile does not
        allow.
        """
        ...

    async def heard(self) -> bytes:
        """The next datagram that somebody else broadcast; its own are not heard. Cancelling a call loses nothing.

        Who does not call holds nobody up: the transport keeps a bounded number of datagrams and forgets the oldest.

        Raises: LinkDown when the transport is closed.
        """
        ...


@runtime_checkable
class SharesMedium(Protocol):
    """A transport may have a medium; most have none, and need not have the attribute either: see `medium_of`."""

    @property
    def medium(self) -> Medium | None:
        """The same object for the life of the transport; None, if what it is set up for is not shared."""
        ...


def medium_of(transport: Transport) -> Medium | None:
    """The medium that the neighbors of a transport share, if there is one."""
    return transport.medium if isinstance(transport, SharesMedium) else None


class TransportFactory(Protocol):
    """What the entry point names: usually the transport's class."""

    def from_parameters(self, parameters: str) -> Transport:
        """From the part after the colon in `--transport kind:parameters`; "" means the defaults.

        Raises: ValueError with one clear line.
        """
        ...


def airtime_of_duty_cycle(text: str) -> int:
    """Milliseconds of airtime per hour, from the name of a duty cycle or from percent: `eu868-1`, `10`, `0.1%`.

    Raises: ValueError with one clear line.
    """
    if text in DUTY_CYCLES:
        return DUTY_CYCLES[text]
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise ValueError(f"a duty cycle is one of {', '.join(DUTY_CYCLES)} or a percentage, not {text!r}")
    return round(36_000 * percent)


@dataclass(frozen=True, slots=True)
class Parameters:
    """`key=value,key=value`, in order; a key may be given more than once where that makes sense."""

    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str, *, once: frozenset[str], repeated: frozenset[str] = frozenset()) -> Self:
        """Splits and checks the keys against those that may be given once, or any number of times.

        Raises: ValueError with one clear line.
        """
        pairs: list[tuple[str, str]] = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not value:
                raise ValueError(f"{part!r} is not of the form key=value")
            if key not in once and key not in repeated:
                raise ValueError(f"unknown parameter {key!r}; known are {', '.join(sorted(once | repeated))}")
            if key in once and any(key == earlier for earlier, _ in pairs):
                raise ValueError(f"parameter {key!r} is given twice")
            pairs.append((key, value))
        return cls(tuple(pairs))

    @classmethod
    def all_of(cls, text: str, *keys: str) -> dict[str, str]:
        """For who has no defaults: each key once. Raises: ValueError with one clear line."""
        given = cls.parse(text, once=frozenset(keys))
        if len(given.pairs) < len(keys):
            raise ValueError(f"give {', '.join(f'{key}=...' for key in keys)}")
        return dict(given.pairs)

    def one(self, key: str) -> str | None:
        """The value of a key that is given at most once."""
        return next((value for name, value in self.pairs if name == key), None)

    def every(self, key: str) -> tuple[str, ...]:
        """All values of a key, in order."""
        return tuple(value for name, value in self.pairs if name == key)


def check_datagram(datagram: bytes, profile: LinkProfile) -> None:
    """Raises: ValueError, unless the datagram has 1 to `addressed_octets_max` octets."""
    if not 1 <= len(datagram) <= profile.addressed_octets_max:
        raise ValueError(f"a datagram has 1 to {profile.addressed_octets_max} octets here, not {len(datagram)}")


def check_broadcast(datagram: bytes, profile: LinkProfile) -> None:
    """Raises: ValueError, unless the datagram has 1 to `broadcast_octets_max` octets."""
    most = profile.broadcast_octets_max or 0
    if not 1 <= len(datagram) <= most:
        raise ValueError(f"a broadcast datagram has 1 to {most} octets here, not {len(datagram)}")
