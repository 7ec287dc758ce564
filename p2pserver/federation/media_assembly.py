"""A file that comes in parts from several servers: which of its chunks are missing, and whether what came is right.

    assembly = Assembly(manifest, chunks)
    span = assembly.take(octets)                         # whole chunks, side by side, that nobody else is asked for
    good, bad = assembly.put(span, data)                 # what may be written; whether something was forged
    assembly.give_back(span)                             # it did not come

Every chunk is checked against its hash before it counts, so whoever sent a wrong one is known by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from p2pserver.federation.media_manifest import BadManifest, Manifest
from p2pserver.wire.chunks import CHUNK_HASH_OCTETS, chunk_hash

AIRTIME_SHARE = 0.6
"""Of the airtime budget that media may use: `link.airtime.SHARES`."""
QUESTION_OCTETS = 600
"""The question who has a file, and the answer with its manifest."""
LINE_SHARE = 0.6
"""Of a line's bit rate that is left for the octets of a file."""


@dataclass(frozen=True, slots=True)
class Span:
    """Octets of a file, from chunk `first` to before chunk `end`."""

    first: int
    end: int
    start: int
    octets: int


class Assembly:
    """What is held of one file."""

    def __init__(self, manifest: Manifest, chunks: bytes) -> None:
        """`chunks`: the joined hashes of its chunks, b"" for a file of one.

        Raises: BadManifest, if they are not those of the manifest.
        """
        self.manifest = manifest
        if manifest.chunks is None:
            chunks = manifest.sha256[:CHUNK_HASH_OCTETS]
        elif sha256(chunks).digest() != manifest.chunks or len(chunks) != manifest.chunk_count * CHUNK_HASH_OCTETS:
            raise BadManifest("the hashes of the chunks are others")
        self._chunks = chunks
        self._missing = dict.fromkeys(range(manifest.chunk_count))
        self._taken: set[int] = set()

    @property
    def is_whole(self) -> bool:
        return not self._missing

    @property
    def octets_held(self) -> int:
        missing = sum(self._octets_of(number) for number in self._missing)
        return self.manifest.size - missing

    def take(self, octets: int) -> Span | None:
        """Missing chunks that nobody is asked for: one at least, and as many as `octets` hold; None: there is none."""
        first = next((number for number in self._missing if number not in self._taken), None)
        if first is None:
            return None
        end, size = first, 0
        while end in self._missing and end not in self._taken:
            size += self._octets_of(end)
            if end > first and size > octets:
                break
            end += 1
        self._taken.update(range(first, end))
        start = first * self.manifest.chunk_octets
        return Span(first, end, start, min(end * self.manifest.chunk_octets, self.manifest.size) - start)

    def give_back(self, span: Span) -> None:
        self._taken.difference_update(range(span.first, span.end))

    def put(self, span: Span, data: bytes) -> tuple[list[tuple[int, bytes]], bool]:
        """((start, octets) of the chunks that are right, whether one was wrong). The span is given back."""
        self.give_back(span)
        good: list[tuple[int, bytes]] = []
        bad = False
        for number in range(span.first, span.end):
            start = number * self.manifest.chunk_octets
            chunk = data[start - span.start : start - span.start + self._octets_of(number)]
            if self.is_right(number, chunk):
                self._missing.pop(number, None)
                good.append((start, chunk))
            else:
                bad = True
        return good, bad

    def is_right(self, number: int, chunk: bytes) -> bool:
        at = number * CHUNK_HASH_OCTETS
        return chunk_hash(chunk) == self._chunks[at : at + CHUNK_HASH_OCTETS]

    def found(self, number: int, chunk: bytes) -> None:
        """A chunk that an earlier run of the node left."""
        if number in self._missing and self.is_right(number, chunk):
            del self._missing[number]

    def _octets_of(self, number: int) -> int:
        octets = self.manifest.chunk_octets
        return min(octets, self.manifest.size - number * octets)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRate:
    """What a link carries. `bit_rate` None: fast; `airtime_ms_per_hour` None: unmetered."""

    bit_rate: int | None
    airtime_ms_per_hour: int | None = None

    def seconds_for(self, octets: int) -> float:
        """About how long so many octets of a file take, when little else is sent."""
        if self.bit_rate is None:
            return 0.0
        seconds = octets * 8 / (self.bit_rate * LINE_SHARE)
        if self.airtime_ms_per_hour is not None:
            seconds = max(seconds, seconds * 3_600_000 / (self.airtime_ms_per_hour * AIRTIME_SHARE))
        return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPolicy:
    """What is fetched though nobody asked for it by name: a client that draws a room asks for all that is in it."""

    seconds_max: float = 60.0
    """What takes longer waits for somebody's word."""
    slow_s: float = 5.0
    """What takes longer than this is of one of the types `slow_types`, or waits as well."""
    slow_types: tuple[str, ...] = ("*/*",)

    def may_ask(self, link: LinkRate) -> bool:
        """Whether a server may be asked over this link if it has a file: that costs `QUESTION_OCTETS`."""
        return link.seconds_for(QUESTION_OCTETS) <= self.slow_s

    def allows(self, octets: int, content_type: str, link: LinkRate) -> bool:
        seconds = link.seconds_for(octets)
        if seconds <= self.slow_s:
            return True
        kind = content_type.partition(";")[0].strip().lower()
        return seconds <= self.seconds_max and any(_matches(kind, pattern) for pattern in self.slow_types)


def _matches(kind: str, pattern: str) -> bool:
    main, _, sub = pattern.partition("/")
    return main in ("*", kind.partition("/")[0]) and sub in ("*", kind.partition("/")[2])
