"""The handshake of one pipe over datagrams that may be lost, doubled, reordered, forged, and smaller than a message.

    kind 1 | [session 1] | octets of the Noise message         kind: 00 | message 2 bits | last part 1 bit | part 3 bits

Each side repeats its last message, byte for byte, until the other's next one arrives; so the parts that did arrive stay
good. Nothing protects message 1, so a responder begins anew when another one arrives. Its answers carry the first octet
of the initiator's ephemeral key, so that an initiator passes over answers to others: some radios give those to it too.
"""

from __future__ import annotations

from collections.abc import Callable

from p2pserver.link.errors import RemoteLinkError
from p2pserver.link.limits import HANDSHAKE_OCTETS_MAX, HANDSHAKE_PARTS_MAX, LinkTimers
from p2pserver.link.node_key import Introduction, node_key_from, static_secret_of
from p2pserver.link.noise import KEY_OCTETS, NoiseError, XxHandshake

PROLOGUE = b"p2pserver link 2"
LAST_PART = 0x08
PART = 0x07
FIRST, SECOND, THIRD = 1, 2, 3
CODES = {FIRST: 0, SECOND: 0, THIRD: 2}
"""How the first octet tells the messages; that of a responder means another one than that of an initiator."""
FROM_INITIATOR = {0: FIRST, 2: THIRD}
FROM_RESPONDER = {0: SECOND}
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
        "peer_key",
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
        """The first octet of the initiator's ephemeral key."""
        self._first = b""
        self._sessions = 0
        self._noise: XxHandshake | None = None
        self._parts: dict[int, dict[int, tuple[bytes, bool]]] = {}
        """By message and part: its octets, and whether it is the last."""
        self._datagrams: list[bytes] = []
        self._progress_at = now
        self._retry_s = timers.handshake_retry_s
        self._repeat_at: float | None = None
        self._sent_at: float | None = None
        self.peer: Introduction | None = None
        """What the other side said of itself, once it proved its static key."""
        self.peer_key = b""
        """Its node key, likewise."""
        self.round_trip: float | None = None
        """Seconds between a message of ours and its answer, where it was sent once only."""
        if initiator:
            self._begin()
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
        PeerRefused, if it is authentic and no node key belongs to the static key.
        """
        kind = datagram[0]
        number = (FROM_RESPONDER if self.initiator else FROM_INITIATOR).get(kind >> 4)
        if number is None:
            raise RemoteLinkError("no such handshake message")
        at = 1
        if number == SECOND:
            if datagram[1:2] != self._session:
                return None
            at = 2
        if number != FIRST and (self._noise is None or self._noise.done != number - 1):
            return None
        message = self._assemble(number, kind & PART, bool(kind & LAST_PART), datagram[at:])
        if message is None:
            return None
        if number == FIRST:
            return self._first_received(message, now)
        assert self._noise is not None
        introduction = Introduction.decode(self._noise.read(message))
        assert self._noise.remote_static is not None
        self.peer_key = node_key_from(self._noise.remote_static, introduction.sign)
        self.peer = introduction
        self._progressed(now)
        if number == SECOND:
            self._write(self._introduction.encode(), now)
        return number

    def split(self) -> tuple[bytes, bytes, bytes]:
        """(secret to send with, secret to receive with, handshake hash)."""
        assert self._noise is not None
        return *self._noise.split(), self._noise.handshake_hash

    def _first_received(self, message: bytes, now: float) -> int | None:
        if message == self._first or self.peer is not None or self._sessions >= SESSIONS_MAX:
            return None
        before = (self._session, self._noise)
        self._begin()
        assert self._noise is not None
        try:
            self._noise.read(message)
            self._session = message[:1]
            self._write(self._introduction.encode(), now)
        except NoiseError:
            self._session, self._noise = before
            raise
        self._first = message
        self._sessions += 1
        if self._sessions == 1:
            self._progress_at = now
        return FIRST

    def _begin(self) -> None:
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
        number = self._noise.done
        if number == FIRST:
            self._session = message[:1]
        session = self._session if number == SECOND else b""
        step = self._octets_max - 1 - len(session)
        pieces = [message[at : at + step] for at in range(0, len(message), step)]
        assert len(pieces) <= HANDSHAKE_PARTS_MAX
        self._datagrams = [
            bytes((CODES[number] << 4 | (LAST_PART if part == len(pieces) - 1 else 0) | part,)) + session + piece
            for part, piece in enumerate(pieces)
        ]
        self._retry_s = self._timers.handshake_retry_s
        self._repeat_at = now
        self._sent_at = None

    def _assemble(self, number: int, part: int, last: bool, octets: bytes) -> bytes | None:
        """The whole message, when no part is missing. Raises: RemoteLinkError, if too much is held of messages."""
        parts = self._parts.setdefault(number, {})
        parts[part] = (octets, last)
        if sum(len(piece) for known in self._parts.values() for piece, _ in known.values()) > HANDSHAKE_OCTETS_MAX:
            self._parts.clear()
            raise RemoteLinkError("a handshake message over its limit")
        whole = []
        for index in range(HANDSHAKE_PARTS_MAX):
            piece, is_last = parts.get(index, (None, False))
            if piece is None:
                return None
            whole.append(piece)
            if is_last:
                del self._parts[number]
                return b"".join(whole)
        return None

    def _progressed(self, now: float) -> None:
        self._progress_at = now
        if self._sent_at is not None and self._sent_at >= 0:
            self.round_trip = now - self._sent_at
