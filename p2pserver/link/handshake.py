"""The handshake of one pipe over datagrams that may be lost, doubled, reordered, forged, and smaller than a message.

    kind 1 | [session 1] | octets of the Noise message         kind: 00 | message 2 bits | last part 1 bit | part 3 bits

XX among strangers. Who knows the key of the responder tries IK, two messages; a responder that cannot read the first
goes on from it with XXfallback (Noise, section 10.4, "Noise Pipes").

Each side repeats its last message, byte for byte, until the other's next one arrives; so the parts that did arrive stay
good. Nothing protects the first message from being forged or played again, so a responder begins anew when another one
arrives. Its answers carry the first octet of the initiator's ephemeral key, so that an initiator passes over answers to
others: some radios give those to it too.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from p2pserver.link.errors import RemoteLinkError
from p2pserver.link.frames import Fragment, decode_frames
from p2pserver.link.limits import EARLY_OCTETS_MAX, HANDSHAKE_OCTETS_MAX, HANDSHAKE_PARTS_MAX, LinkTimers
from p2pserver.link.node_key import (
    EPOCH_OCTETS,
    INTRODUCTION_OCTETS,
    Introduction,
    node_key_from,
    static_key_of,
    static_secret_of,
)
from p2pserver.link.noise import (
    IK,
    KEY_OCTETS,
    TAG_OCTETS,
    XX,
    XX_FALLBACK,
    NoiseError,
    NoiseHandshake,
    Pattern,
    public_key_of,
)

PROLOGUE = b"p2pserver link 2"
LAST_PART = 0x08
PART = 0x07
EARLY_OCTETS_LEAST = 16
SESSIONS_MAX = 16
"""Fresh attempts that a responder answers on one pipe."""
KNOWN_FIRST_OCTETS = 150
"""Message 1 of IK takes at most so many octets where datagrams are smaller."""


class Message(Enum):
    """The messages, with how the first octet tells them; that of a responder means another than an initiator's."""

    FIRST = ("XX 1", True, 0)
    SECOND = ("XX 2", False, 0)
    THIRD = ("XX 3", True, 2)
    KNOWN_FIRST = ("IK 1", True, 1)
    KNOWN_SECOND = ("IK 2", False, 1)
    FALLBACK_SECOND = ("XXfallback 1", False, 2)

    @property
    def from_initiator(self) -> bool:
        return self.value[1]

    @property
    def code(self) -> int:
        return self.value[2]


_MESSAGES = {(message.from_initiator, message.code): message for message in Message}


def early_room(datagram_octets_max: int) -> int:
    """Octets of frames that message 1 of IK has room for; 0, if it is hardly any."""
    piece = datagram_octets_max - 1
    message = max(piece, min(KNOWN_FIRST_OCTETS, HANDSHAKE_PARTS_MAX * piece))
    room = message - 2 * (KEY_OCTETS + TAG_OCTETS) - INTRODUCTION_OCTETS - EPOCH_OCTETS
    return min(room, EARLY_OCTETS_MAX) if room >= EARLY_OCTETS_LEAST else 0


class Handshake:
    """Makes and takes the datagrams of the handshake; `PipeState` says what follows from them."""

    __slots__ = (
        "_datagrams",
        "_early_octets",
        "_ephemeral",
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
        known_key: bytes | None = None,
        early: bytes = b"",
    ) -> None:
        """`known_key`: the node key that an initiator expects; with it, `early` is the peer's epoch and frames.

        Raises: PeerRefused, if `known_key` is none.
        """
        self.initiator = initiator
        self._introduction = introduction
        self._octets_max = datagram_octets_max
        self._random_bytes = random_bytes
        self._timers = timers
        self._secret = static_secret_of(seed)
        self._session = b""
        """The first octet of the initiator's ephemeral key."""
        self._first = b""
        """Message 1 in full, of either pattern."""
        self._sessions = 0
        self._ephemeral = b""
        self._noise: NoiseHandshake | None = None
        self._parts: dict[Message, dict[int, tuple[bytes, bool]]] = {}
        """By message and part: its octets, and whether it is the last."""
        self._datagrams: list[bytes] = []
        self._progress_at = now
        self._retry_s = timers.handshake_retry_s
        self._repeat_at: float | None = None
        self._sent_at: float | None = None
        self.peer: Introduction | None = None
        """What the other side said of itself, once it proved its static key; in message 1 of IK it may be a replay."""
        self.peer_key = b""
        """Its node key, likewise."""
        self._early_octets = b""
        """What came in message 1 of IK behind the introduction: our epoch, as the peer knows it, and frames."""
        self.round_trip: float | None = None
        """Seconds between a message of ours and its answer, where it was sent once only."""
        if initiator:
            self._ephemeral = random_bytes(KEY_OCTETS)
            remote_static = None if known_key is None else static_key_of(known_key)
            self._begin(XX if known_key is None else IK, remote_static=remote_static)
            if known_key is None:
                self._write(Message.FIRST, b"", now)
            else:
                self._write(Message.KNOWN_FIRST, introduction.encode() + early, now)

    def early_fragments(self) -> list[Fragment]:
        """Those of message 1 of IK, if it was for this process. Raises: RemoteLinkError."""
        epoch, frames = self._early_octets[:EPOCH_OCTETS], self._early_octets[EPOCH_OCTETS:]
        if epoch != self._introduction.epoch.to_bytes(EPOCH_OCTETS, "big"):
            return []
        return [frame for frame in decode_frames(frames) if isinstance(frame, Fragment)]

    @property
    def fails_at(self) -> float:
        """When a handshake without further progress has failed."""
        return self._progress_at + self._timers.handshake_limit_s

    @property
    def is_known(self) -> bool:
        """Whether it was IK: then an initiator has the last word outside of the handshake."""
        return self._noise is not None and self._noise.pattern is IK

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

    def datagram_received(self, datagram: bytes, now: float) -> Message | None:
        """The message that is now complete and was accepted, or None.

        Raises: RemoteLinkError, if the datagram is no part of a handshake or completes a message that is not authentic;
        PeerRefused, if it is authentic and no node key belongs to the static key.
        """
        kind = datagram[0]
        message = _MESSAGES.get((not self.initiator, kind >> 4))
        if message is None:
            raise RemoteLinkError("no such handshake message")
        at = 1
        if self.initiator:
            if datagram[1:2] != self._session or self.peer is not None:
                return None
            at = 2
        octets = self._assemble(message, kind & PART, bool(kind & LAST_PART), datagram[at:])
        if octets is None:
            return None
        if self.initiator:
            return self._second_received(message, octets, now)
        if message is Message.THIRD:
            return self._third_received(octets, now)
        return self._first_received(message, octets, now)

    def confirmed(self, now: float) -> None:
        """What followed message 2 of IK has arrived."""
        self._progressed(now)

    def split(self) -> tuple[bytes, bytes, bytes]:
        """(secret to send with, secret to receive with, handshake hash)."""
        assert self._noise is not None
        return *self._noise.split(), self._noise.handshake_hash

    def _first_received(self, message: Message, octets: bytes, now: float) -> Message | None:
        """Answer an attempt; one at IK that cannot be read with XXfallback."""
        if octets == self._first or self._sessions >= SESSIONS_MAX:
            return None
        if len(octets) < KEY_OCTETS:
            raise RemoteLinkError("a message too short for its keys")
        before = (self._session, self._noise, self._ephemeral, self.peer, self.peer_key)
        self._ephemeral = self._random_bytes(KEY_OCTETS)
        self.peer, self._early_octets = None, b""
        self._parts.clear()
        try:
            answer = self._read_first(message, octets)
            self._session = octets[:1]
            self._write(answer, self._introduction.encode(), now)
        except RemoteLinkError:
            self._session, self._noise, self._ephemeral, self.peer, self.peer_key = before
            raise
        self._first = octets
        self._sessions += 1
        if self._sessions == 1:
            self._progress_at = now
        return message if answer is not Message.FALLBACK_SECOND else Message.FIRST

    def _read_first(self, message: Message, octets: bytes) -> Message:
        """The message to answer with."""
        if message is Message.FIRST:
            self._begin(XX).read(octets)
            return Message.SECOND
        try:
            noise = self._begin(IK)
            payload = noise.read(octets)
            self._meet(noise, payload)
        except NoiseError:
            self._begin(XX_FALLBACK, first=octets[:KEY_OCTETS])
            return Message.FALLBACK_SECOND
        self._early_octets = payload[INTRODUCTION_OCTETS:]
        return Message.KNOWN_SECOND

    def _second_received(self, message: Message, octets: bytes, now: float) -> Message | None:
        noise = self._noise
        assert noise is not None
        if (noise.pattern is IK) != (message is not Message.SECOND):
            return None
        if message is Message.FALLBACK_SECOND:
            noise = self._new_noise(XX_FALLBACK, first=public_key_of(self._ephemeral))
        self._meet(noise, noise.read(octets))
        self._noise = noise
        self._progressed(now)
        if message is Message.KNOWN_SECOND:
            self.stop()
        else:
            self._write(Message.THIRD, self._introduction.encode(), now)
        return message

    def _third_received(self, octets: bytes, now: float) -> Message | None:
        noise = self._noise
        if noise is None or noise.pattern is IK or self.peer is not None:
            return None
        self._meet(noise, noise.read(octets))
        self._progressed(now)
        return Message.THIRD

    def _meet(self, noise: NoiseHandshake, payload: bytes) -> None:
        introduction = Introduction.decode(payload)
        assert noise.remote_static is not None
        self.peer_key = node_key_from(noise.remote_static, introduction.sign)
        self.peer = introduction

    def _begin(self, pattern: Pattern, *, remote_static: bytes | None = None, first: bytes = b"") -> NoiseHandshake:
        self._noise = self._new_noise(pattern, remote_static=remote_static, first=first)
        return self._noise

    def _new_noise(self, pattern: Pattern, *, remote_static: bytes | None = None, first: bytes = b"") -> NoiseHandshake:
        return NoiseHandshake(
            pattern,
            initiator=self.initiator,
            static=self._secret,
            ephemeral=self._ephemeral,
            prologue=PROLOGUE,
            remote_static=remote_static,
            first=first,
        )

    def _write(self, message: Message, payload: bytes, now: float) -> None:
        assert self._noise is not None
        octets = self._noise.write(payload)
        if self.initiator and not self._session:
            self._session = octets[:1]
        session = b"" if self.initiator else self._session
        step = self._octets_max - 1 - len(session)
        pieces = [octets[at : at + step] for at in range(0, len(octets), step)]
        assert len(pieces) <= HANDSHAKE_PARTS_MAX
        self._datagrams = [
            bytes((message.code << 4 | (LAST_PART if part == len(pieces) - 1 else 0) | part,)) + session + piece
            for part, piece in enumerate(pieces)
        ]
        self._retry_s = self._timers.handshake_retry_s
        self._repeat_at = now
        self._sent_at = None

    def _assemble(self, message: Message, part: int, last: bool, octets: bytes) -> bytes | None:
        """The whole message, when no part is missing. Raises: RemoteLinkError, if too much is held of messages."""
        parts = self._parts.setdefault(message, {})
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
                del self._parts[message]
                return b"".join(whole)
        return None

    def _progressed(self, now: float) -> None:
        self._progress_at = now
        if self._sent_at is not None and self._sent_at >= 0:
            self.round_trip = now - self._sent_at
