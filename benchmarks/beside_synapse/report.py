"""The figures beside the bars: medians over the rounds, ratios, and which bar is met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One bar. `ours` and `theirs` have one figure for each round; `theirs` is empty where the bar is a number."""

    what: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float] = ()
    more_is_better: bool = False
    times: float = 1.0
    """How many times better than Synapse we must be; without Synapse, `bar` says what is asked for."""
    bar: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better we are: the median of the rounds' medians."""
        if not self.theirs:
            return None
        ours, theirs = median(self.ours), median(self.theirs)
        return ours / theirs if self.more_is_better else theirs / ours

    @property
    def is_met(self) -> bool:
        ratio = self.ratio
        if ratio is not None:
            return ratio >= self.times
        assert self.bar is not None
        return median(self.ours) >= self.bar if self.more_is_better else median(self.ours) <= self.bar

    def cells(self) -> list[str]:
        wanted = f"{'≥' if self.more_is_better else '≤'} {self.bar:g}" if self.bar is not None else f"{self.times:g} ×"
        ratio = "" if self.ratio is None else f"{self.ratio:.1f} ×"
        theirs = _figure(self.theirs) if self.theirs else ""
        met = "yes" if self.is_met else "**no**"
        return [f"{self.what}, {self.unit}", _figure(self.ours), theirs, ratio, wanted, met, self.note]


HEAD = ("what", "p2pserver", "Synapse", "times better", "bar", "met", "")


def table(lines: Sequence[Line]) -> str:
    """A table in Markdown."""
    rows = [list(HEAD), ["---"] * len(HEAD), *(line.cells() for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _figure(rounds: Sequence[float]) -> str:
    middle = median(rounds)
    text = f"{middle:.0f}" if middle >= 100 else f"{middle:.1f}" if middle >= 1 else f"{middle:.2f}"
    if len(rounds) == 1 or min(rounds) == max(rounds):
        return text
    return f"{text} ({min(rounds):.3g} to {max(rounds):.3g})"
