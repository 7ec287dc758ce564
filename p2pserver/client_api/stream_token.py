"""The tokens of `/sync` and of everything that pages: a cut in the one stream of positions.

`s<position>` stands just behind that position: what is at or below it is older, what is above it is newer. Positions of
backfilled history are negative. A token of `/sync` may carry two more numbers:

    s<position>[.<settle_from>][_<to_device>][~<live>][-<connection>]

- `settle_from`: the answer that ended here left the client with a state event that lost the state resolution; the next
  answer names the winners of what arrived after this position (docs/sync.md, "When histories merge").
- `to_device`: only to-device messages up to here were handed out; more were waiting.
- `live`: how far the client knows who is typing and present, which is in no database (rooms/live.py).
- `connection`: what a sliding sync knows of its client; for others it means nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from p2pserver.errors import InvalidParam

_TOKEN = re.compile(
    r"s(-?[0-9]{1,18})(?:\.(-?[0-9]{1,18}))?(?:_([0-9]{1,18}))?(?:~([0-9]{1,18}))?(?:-[0-9a-z]{1,32})?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class StreamToken:
    """A place in the stream, and what the client has not yet been told up to there."""

    position: int
    settle_from: int | None = None
    to_device: int | None = None
    live: int | None = None

    @classmethod
    def parse(cls, text: str) -> StreamToken:
        """Raises: InvalidParam."""
        match = _TOKEN.fullmatch(text)
        if match is None:
            raise InvalidParam("that is not a token of this server")
        position, settle_from, to_device, live = (None if part is None else int(part) for part in match.groups())
        assert position is not None
        return cls(position, settle_from, to_device, live)

    def __str__(self) -> str:
        settle = "" if self.settle_from is None else f".{self.settle_from}"
        to_device = "" if self.to_device is None else f"_{self.to_device}"
        live = "" if self.live is None else f"~{self.live}"
        return f"s{self.position}{settle}{to_device}{live}"
