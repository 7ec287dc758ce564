"""The handshake of one pipe over datagrams that may be lost, doubled, reordered, forged, and smaller than a message.

    kind 0x01 | session 4 | message 1, 2 or 3 | part | parts | octets of the Noise message

Each side repeats its last message, byte for byte, until the other's next one arrives; so the parts that did arrive stay
good. The session is a random number of the initiator and keeps attempts apart. Nothing protects message 1, so a
responder begins anew when another one arrives.
"""

from __future__ import annotations

from collections.abc import Callable

from p2pserver.link.errors import RemoteLinkError
from p2pserver.link.limits import HANDSHAKE_OCTETS_MAX, HANDSHAKE_PARTS_MAX, LinkTimers
from p2pserver.link.node_key import Introduction, check_bond, static_secret_of
from p2pserver.link.noise import KEY_OCTETS, Cipher, NoiseError, XxHandshake

HANDSHAKE_KIND = 0x01
HEADER_OCTETS = 8
SESSION_OCTETS = 4
PROLOGUE = b"p2pserver link 1"
SESSIONS_MAX = 16
"""Fresh attempts that a responder answers on one pipe."""


class Handshake:
    """Makes and takes the datagrams of the handshake; `PipeState` says what follows from them."""

    __slots__ = (
        "_datagrams",
        "_first",
        "_introduction",
        "_noise",
        "_octets_max",
        "_parts",
        "_parts_total",
        "_progress_at",
        "_random_bytes",
        "_repeat_at",
        "_retry_s",
        "_secret",
        "_sent_at",
        "_session",
        "_sessions",
        "_timers",
        "initiator",
        "peer",
        "round_trip",
    )

    def __init__(
        self,
        seed: bytes,
        introduction: Introduction,
        *,
        initiator: bool,
        datagram_octets_max: int,
        random_bytes: Callable[[int], bytes],
        timers: LinkTimers,
        now: float,
    ) -> None:
        self.initiator = initiator
        self._introduction = introduction
        self._octets_max = datagram_octets_max
        self._random_bytes = random_bytes
        self._timers = timers
        self._secret = static_secret_of(seed)
        self._session = b""
        self._first = b""
        self._sessions = 0
        self._noise: XxHandshake | None = None
        self._parts: dict[int, bytes] = {}
        self._parts_total = 0
        self._datagrams: list[bytes] = []
        self._progress_at = now
        self._retry_s = timers.handshake_retry_s
        self._repeat_at: float | None = None
        self._sent_at: float | None = None
        self.peer: Introduction | None = None
        """What the other side said of itself, once its static key was proved to belong to its node key."""
        self.round_trip: float | None = None
        """Seconds between a message of ours and its answer, where it was sent once only."""
        if initiator:
            self._begin(random_bytes(SESSION_OCTETS))
            self._write(b"", now)

    @property
    def fails_at(self) -> float:
        """When a handshake without further progress has failed."""
        return self._progress_at + self._timers.handshake_limit_s

    @property
    def repeat_at(self) -> float | None:
        """When the last message must be sent again."""
        return self._repeat_at

    def transmit(self, now: float) -> list[bytes]:
        """The last message, when it is due."""
        if self._repeat_at is None or now < self._repeat_at:
            return []
        self._sent_at = now if self._sent_at is None else -1.0
        self._repeat_at = now + self._retry_s
        self._retry_s = min(2 * self._retry_s, self._timers.handshake_retry_max_s)
        return list(self._datagrams)

    def stop(self) -> None:
        """The other side has our last message."""
        self._repeat_at = None
        self._datagrams = []

    def datagram_received(self, datagram: bytes, now: float) -> int | None:
        """The number of the message that is now complete and was accepted, or None.

        Raises: RemoteLinkError, if the datagram is no part of a handshake or completes a message that is not authentic;
        PeerRefused, if it is authentic and the node key is not that of the static key.
        """
        if len(datagram) <= HEADER_OCTETS:
            raise RemoteLinkError("a handshake datagram too short")
        session = datagram[1 : 1 + SESSION_OCTETS]
        number, part, parts = datagram[1 + SESSION_OCTETS : HEADER_OCTETS]
        if not (1 <= number <= 3 and part < parts <= HANDSHAKE_PARTS_MAX):
            raise RemoteLinkError("a handshake part that cannot be")
        if (number == 2) != self.initiator:
            raise RemoteLinkError("a handshake message of the wrong side")
        octets = datagram[HEADER_OCTETS:]
        if number == 1:
            return self._first_received(session, octets, now) if parts == 1 else None
        if session != self._session or self._noise is None or self._noise.done != number - 1:
            return None
        message = self._assemble(part, parts, octets)
        if message is None:
            return None
        self._parts.clear()
        introduction = Introduction.decode(self._noise.read(message))
        assert self._noise.remote_static is not None
        check_bond(introduction.node_key, self._noise.remote_static)
        self.peer = introduction
        self._progressed(now)
        if number == 2:
            self._write(self._introduction.encode(), now)
        return number

    def split(self) -> tuple[Cipher, Cipher]:
        """(cipher to send with, cipher to receive with)."""
        assert self._noise is not None
        return self._noise.split()

    def _first_received(self, session: bytes, octets: bytes, now: float) -> int | None:
        first = session + octets
        if first == self._first or self.peer is not None or self._sessions >= SESSIONS_MAX:
            return None
        before = (self._session, self._noise)
        self._begin(session)
        assert self._noise is not None
        try:
            self._noise.read(octets)
            self._write(self._introduction.encode(), now)
        except NoiseError:
            self._session, self._noise = before
            raise
        self._first = first
        self._sessions += 1
        if self._sessions == 1:
            self._progress_at = now
        return 1

    def _begin(self, session: bytes) -> None:
        self._session = session
        self._parts.clear()
        self._noise = XxHandshake(
            initiator=self.initiator,
            static=self._secret,
            ephemeral=self._random_bytes(KEY_OCTETS),
            prologue=PROLOGUE,
        )

    def _write(self, payload: bytes, now: float) -> None:
        assert self._noise is not None
        message = self._noise.write(payload)
        step = self._octets_max - HEADER_OCTETS
        pieces = [message[at : at + step] for at in range(0, len(message), step)]
        number = self._noise.done
        self._datagrams = [
            bytes((HANDSHAKE_KIND,)) + self._session + bytes((number, part, len(pieces))) + piece
            for part, piece in enumerate(pieces)
        ]
        self._retry_s = self._timers.handshake_retry_s
        self._repeat_at = now
        self._sent_at = None

    def _assemble(self, part: int, parts: int, octets: bytes) -> bytes | None:
        if parts != self._parts_total:
            self._parts.clear()
            self._parts_total = parts
        self._parts.setdefault(part, octets)
        if sum(map(len, self._parts.values())) > HANDSHAKE_OCTETS_MAX:
            self._parts.clear()
            raise RemoteLinkError("a handshake message over its limit")
        if len(self._parts) < parts:
            return None
        return b"".join(self._parts[index] for index in range(parts))

    def _progressed(self, now: float) -> None:
        self._progress_at = now
        if self._sent_at is not None and self._sent_at >= 0:
            self.round_trip = now - self._sent_at
