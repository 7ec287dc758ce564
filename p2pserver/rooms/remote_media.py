"""Other nodes' media: what the client API needs of the transfers between nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaProgress:
    """How far a transfer is. `state` is one of `looking`, `held back`, `under way`; `size` is 0 while nothing is known.

    `seconds_left`: as measured, or estimated where it is held back; None while nobody can tell.
    """

    state: str
    octets: int
    size: int
    seconds_left: int | None
    source: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "state": self.state.replace(" ", "_"),
            "octets": self.octets,
            "size": self.size,
            "seconds_left": self.seconds_left,
        }


class RemoteMedia(Protocol):
    """Fetches what other nodes have."""

    async def fetch(self, origin: str, media_id: str, *, timeout_s: float, in_vain_s: float | None = None) -> None:
        """Returns once the media is here. What does not come in time goes on coming in the background.

        `in_vain_s`: how much of the time is waited when nobody in reach has it or looks for it; None: all. What is held
        back is not waited for.

        Raises: NotYetUploaded, at the timeout; NotFound, if the origin has no such media, or cannot be asked at all;
        RemoteTooLarge.
        """

    def is_far(self, origin: str) -> bool:
        """Whether a thumbnail is better fetched than made here from the file: over slow links."""

    async def ask_for(self, origin: str, media_id: str) -> None:
        """Somebody wants it, however long it takes.

        Raises: NotFound, RemoteTooLarge, as far as it is known already.
        """

    async def progress(self, origin: str, media_id: str) -> MediaProgress | None:
        """None, if it is not wanted, or here."""

    async def give_up(self, origin: str, media_id: str) -> bool:
        """Nobody wants it any more; whether somebody did."""
