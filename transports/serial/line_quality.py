"""What the octets on a line say about it, in a sentence for people: a wrong baud rate, noise."""

from __future__ import annotations

OCTETS_THAT_TELL = 64
WINDOW_S = 60.0
NOISY_PERCENT = 10
_FRAMES_THAT_TELL = 20


class LineQuality:
    """Counts over windows of a minute, so that what is over is forgotten."""

    def __init__(self) -> None:
        self._begun_at = 0.0
        self._octets = self._good = self._damaged = 0
        self._noisy = False
        self._nonsense = False

    def begin(self, now: float) -> None:
        """The port was opened."""
        self._begun_at = now
        self._octets = self._good = self._damaged = 0
        self._noisy = self._nonsense = False

    def heard(self, octets: int, good: int, damaged: int, now: float) -> None:
        if now - self._begun_at > WINDOW_S:
            self._begun_at = now
            self._octets = self._good = self._damaged = 0
        self._octets += octets
        self._good += good
        self._damaged += damaged
        if good:
            self._nonsense = False
        elif not self._good and self._octets >= OCTETS_THAT_TELL:
            self._nonsense = True
        frames = self._good + self._damaged
        if frames >= _FRAMES_THAT_TELL:
            self._noisy = self._good > 0 and 100 * self._damaged >= NOISY_PERCENT * frames

    def notes(self) -> list[str]:
        if self._nonsense:
            return ["octets arrive but no frames: wrong baud rate, another protocol, or noise?"]
        if self._noisy:
            return ["many frames arrive damaged: noise on the line, or several send at once"]
        return []
