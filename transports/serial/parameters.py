"""What follows `serial:` on the command line, and what it means for the line: rates, sizes, times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from transports.contract import INSTANCE_ID_OCTETS, LinkProfile, Parameters, airtime_of_duty_cycle
from transports.serial.control import CONTROL_OCTETS_MAX
from transports.serial.frames import body_octets_within, frame_octets

BAUD_MIN, BAUD_MAX = 50, 12_000_000
DATAGRAM_OCTETS_MIN, DATAGRAM_OCTETS_MAX = 20, 1_500
FRAME_S = 1.5
"""How long the largest frame of a wire takes: what is urgent waits no longer."""
FRAME_OCTETS_LEAST = 96
IDLE_BIT_S = 0.2
"""What it may cost to be found, in bits per second; the keepalive of the link above and what it carries come to it."""
FAST_BIT_RATE = 64_000
"""From here on it may cost a thousandth of the line."""
HELLO_S_MIN = 5.0

_BUSY_LINES = ("cts", "dsr", "cd")
_KEYS = frozenset({"port", "baud", "profile", "air", "datagram", "duty", "rtscts", "busy"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Modem:
    """A kind of thing at the end of a serial port. What a maker writes on it is in docs/serial.md.

    baud             of the port, if the operator does not say
    air_bit_rate     of the medium behind the port; None: the port's own, 10 bits for each octet
    share            of it that is ours, where directions take turns inside the modem
    frame_octets     the largest frame that the modem takes as one; None: whatever takes `FRAME_S`
    frame_s          what each frame costs beyond its octets: preamble, header, turning round
    shared           many nodes hear each other
    half_duplex      who sends does not hear
    blind            nothing of a frame is heard before all of it was sent (a modem that stores and forwards)
    latency_s        from the first bit on the medium until the node knows: the carrier cannot be sensed sooner
    """

    baud: int
    air_bit_rate: int | None = None
    share: float = 1.0
    frame_octets: int | None = None
    frame_s: float = 0.0
    shared: bool = False
    half_duplex: bool = False
    blind: bool = False
    latency_s: float = 0.02


PROFILES = {
    "cable": Modem(baud=115_200),
    "bus": Modem(baud=9_600, shared=True, half_duplex=True),
    "sik": Modem(baud=57_600, air_bit_rate=64_000, share=0.35, frame_octets=240, latency_s=0.1),
    "e22": Modem(
        baud=9_600,
        air_bit_rate=2_400,
        frame_octets=240,
        frame_s=0.08,
        shared=True,
        half_duplex=True,
        blind=True,
        latency_s=0.05,
    ),
}
_ALIASES = {"e220": "e22", "rs485": "bus"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialParameters:
    """One port and what is behind it. `busy` names a line of the modem that tells that the channel is taken."""

    port: str
    profile: str
    baud: int
    air_bit_rate: int | None = None
    datagram_octets: int | None = None
    airtime_ms_per_hour: int | None = None
    rtscts: bool = False
    busy: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """`/dev/ttyUSB0?baud=57600&profile=sik`, or `/dev/ttyUSB0,baud=57600`, or `port=/dev/ttyUSB0,baud=57600`.

        Raises: ValueError with one clear line.
        """
        path, question, rest = text.partition("?")
        if question:
            text = f"port={path},{rest.replace('&', ',')}"
        elif text and "=" not in text.partition(",")[0]:
            text = f"port={text}"
        given = Parameters.parse(text, once=_KEYS)
        port = given.one("port")
        if port is None:
            raise ValueError("name a port, as in serial:/dev/ttyUSB0?baud=57600&profile=sik")
        name = (given.one("profile") or "cable").lower()
        name = _ALIASES.get(name, name)
        if name not in PROFILES:
            raise ValueError(f"profile is one of {', '.join(sorted({*PROFILES, *_ALIASES}))}, not {name!r}")
        rtscts, busy = given.one("rtscts") or "off", given.one("busy")
        if rtscts not in {"on", "off"}:
            raise ValueError(f"rtscts is on or off, not {rtscts!r}")
        if busy is not None and busy.removeprefix("-") not in _BUSY_LINES:
            raise ValueError(
                f"busy is one of {', '.join(_BUSY_LINES)}, or -cts and so on if the line tells the opposite"
            )
        return cls(
            port=port,
            profile=name,
            baud=_whole(given, "baud", BAUD_MIN, BAUD_MAX) or PROFILES[name].baud,
            air_bit_rate=_whole(given, "air", 50, 100_000_000),
            datagram_octets=_whole(given, "datagram", DATAGRAM_OCTETS_MIN, DATAGRAM_OCTETS_MAX),
            airtime_ms_per_hour=None if (duty := given.one("duty")) is None else airtime_of_duty_cycle(duty),
            rtscts=rtscts == "on",
            busy=busy,
        )

    @property
    def modem(self) -> Modem:
        return PROFILES[self.profile]

    @property
    def port_octet_s(self) -> float:
        """Seconds for one octet between computer and modem: 8 bits, start and stop."""
        return 10 / self.baud

    @property
    def octet_s(self) -> float:
        """Seconds for one octet on the medium, or on the port where that is the slower one."""
        rate = self.air_bit_rate or self.modem.air_bit_rate
        return self.port_octet_s if rate is None else max(self.port_octet_s, 8 / (rate * self.modem.share))

    def airtime_s(self, body_octets: int) -> float:
        """How long the medium is taken by a frame with such a body."""
        return self.modem.frame_s + frame_octets(body_octets) * self.octet_s

    @property
    def link_profile(self) -> LinkProfile:
        octets = self._datagram_octets()
        return LinkProfile(
            kind="serial",
            addressed_octets_max=octets,
            broadcast_octets_max=octets if self.modem.shared else None,
            bit_rate=max(1, int(8 / self.octet_s)),
            airtime_ms_per_hour=self.airtime_ms_per_hour,
            shared_medium=self.modem.shared,
            half_duplex=self.modem.half_duplex,
            ordered=True,
            datagram_overhead_ms=round(1000 * self.airtime_s(0), 2),
        )

    def _datagram_octets(self) -> int:
        if self.datagram_octets is not None:
            return self.datagram_octets
        octets = self.modem.frame_octets or max(FRAME_OCTETS_LEAST, int(FRAME_S / self.octet_s))
        return min(body_octets_within(octets), DATAGRAM_OCTETS_MAX)

    # times of the channel

    @property
    def slot_s(self) -> float:
        """After so long, whoever listens knows that somebody has begun to send."""
        if self.modem.blind and self.busy is None:
            return self.airtime_s(CONTROL_OCTETS_MAX)
        return self.modem.latency_s + 4 * self.octet_s

    @property
    def answer_s(self) -> float:
        """How long whoever gave the floor away listens for an answer to begin to be heard."""
        if self.modem.blind and self.busy is None:
            return 2 * self.modem.latency_s + self.airtime_s(64) + 128 * self.port_octet_s
        return 2 * self.slot_s

    @property
    def hello_s(self) -> float:
        """Between two HELLOs of a node that has nothing else to say."""
        bit_rate = 8 / self.octet_s
        bit_s = IDLE_BIT_S if bit_rate < FAST_BIT_RATE else bit_rate / 1_000
        return max(8 * frame_octets(1 + INSTANCE_ID_OCTETS) / bit_s, HELLO_S_MIN)

    @property
    def silence_s(self) -> float:
        """A neighbor that was not heard for so long is gone."""
        return 3.5 * self.hello_s


def _whole(given: Parameters, key: str, least: int, most: int) -> int | None:
    text = given.one(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or not least <= int(text[:12]) <= most:
        raise ValueError(f"{key} is a whole number from {least} to {most}, not {text!r}")
    return int(text)
