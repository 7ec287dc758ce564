"""Frames on a serial line: COBS, a CRC of 16 bits, and two octets that say who speaks to whom.

    00? | COBS( to 1 | sender 1 | body | CRC 2 ) | 00

COBS (Cheshire and Baker, 1999) takes zeros out of a frame for one octet in 254, so a zero is always a border:
whatever was lost or added, the next frame is read. A zero before a frame cuts it from noise that came earlier; it is
sent when the line was silent before. The lower 7 bits of `to` and `sender` are handles of nodes on this line, 0 meaning
everybody; the highest bit of `to` marks a frame of the transport itself, that of `sender` gives the floor away.

The CRC is CRC-16/GENIBUS over header and body; its inversion at the end notices a zero too many, which a damaged COBS
code leaves. CRC-32 would cost 2 octets more, a tenth of a frame of 20 octets, and
buy little: every datagram of an authenticated peer carries a tag of its own, so an error that slips through (1 in
65,536 damaged frames) costs what a lost frame costs.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass

from cobs import cobs

HEADER_OCTETS = 2
CRC_OCTETS = 2
EVERYBODY = 0
HANDLE_MAX = 127
_HIGH = 0x80
_BORDER = b"\0"


@dataclass(frozen=True, slots=True)
class Frame:
    """`to` and `sender` are handles; `control` marks the transport's own frames."""

    to: int
    sender: int
    body: bytes
    control: bool = False
    over: bool = False
    """The sender falls silent and listens: the addressee has the floor."""


def frame_octets(body_octets: int) -> int:
    """The most that a frame with such a body takes on the line, both borders included."""
    inner = HEADER_OCTETS + body_octets + CRC_OCTETS
    return 2 + inner + (inner + 253) // 254


def body_octets_within(frame_octets_max: int) -> int:
    """The largest body whose frame surely fits."""
    body = frame_octets_max - 2 - HEADER_OCTETS - CRC_OCTETS
    while frame_octets(body) > frame_octets_max:
        body -= 1
    return body


def encode_frame(frame: Frame, *, after_silence: bool) -> bytes:
    """The octets to write; with a border in front, if the line was silent before."""
    head = bytes((frame.to | _HIGH * frame.control, frame.sender | _HIGH * frame.over))
    inner = head + frame.body
    inner += _crc(inner)
    stuffed: bytes = cobs.encode(inner)
    return (_BORDER if after_silence else b"") + stuffed + _BORDER


def _crc(octets: bytes) -> bytes:
    return (binascii.crc_hqx(octets, 0xFFFF) ^ 0xFFFF).to_bytes(CRC_OCTETS, "big")


class FrameDecoder:
    """Cuts what arrives into frames. Whatever arrives, it never raises and holds one frame's octets at most."""

    def __init__(self, body_octets_max: int) -> None:
        self._octets_max = frame_octets(body_octets_max)
        self._begun = bytearray()
        self._too_long = False
        self.octets = 0
        """That arrived so far, borders included."""
        self.good = 0
        """Frames with a right CRC."""
        self.damaged = 0
        """Pieces between borders that were none."""

    @property
    def mid_frame(self) -> bool:
        """Whether something has arrived since the last border."""
        return bool(self._begun) or self._too_long

    def feed(self, octets: bytes) -> list[Frame]:
        self.octets += len(octets)
        *finished, rest = octets.split(_BORDER)
        frames = []
        for piece in finished:
            self._append(piece)
            frame = self._finish()
            if frame is not None:
                frames.append(frame)
        self._append(rest)
        return frames

    def forget(self) -> None:
        """The line was cut: what had begun will not go on."""
        self._begun.clear()
        self._too_long = False

    def _append(self, piece: bytes) -> None:
        if len(self._begun) + len(piece) > self._octets_max:
            self._too_long = True
            self._begun.clear()
        elif not self._too_long:
            self._begun += piece

    def _finish(self) -> Frame | None:
        piece, too_long = bytes(self._begun), self._too_long
        self.forget()
        if not piece and not too_long:
            return None  # two borders in a row
        frame = None if too_long else decode_frame(piece)
        if frame is None:
            self.damaged += 1
        else:
            self.good += 1
        return frame


def decode_frame(piece: bytes) -> Frame | None:
    """What stood between two borders; None if it is no frame."""
    try:
        inner = cobs.decode(piece)
    except cobs.DecodeError:
        return None
    if len(inner) <= HEADER_OCTETS + CRC_OCTETS or _crc(inner[:-CRC_OCTETS]) != inner[-CRC_OCTETS:]:
        return None
    to, sender = inner[0], inner[1]
    if not sender & HANDLE_MAX:
        return None
    return Frame(
        to & HANDLE_MAX,
        sender & HANDLE_MAX,
        inner[HEADER_OCTETS:-CRC_OCTETS],
        control=bool(to & _HIGH),
        over=bool(sender & _HIGH),
    )
