"""docs/links.md says what the software does."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import links
from p2pserver.link import timing
from p2pserver.link.airtime import SHARES
from p2pserver.link.limits import Priority

PAGE = (Path(__file__).parents[2] / "docs" / "links.md").read_text()


def test_the_shares_of_the_airtime() -> None:
    told = {}
    for names, percent in re.findall(r"^\| ([A-Z][^|]+) \| (\d+) % \|", PAGE, flags=re.MULTILINE):
        told |= {
            Priority[name]: int(percent) for name in re.findall(r"[A-Z]{4,}", names) if name in Priority.__members__
        }
    assert told == {priority: round(100 * share) for priority, share in SHARES.items()}


def test_the_times_of_silence() -> None:
    assert timing.SLOW_KEEPALIVE_S == 20 * 60
    assert timing.KEEPALIVE_BIT_RATE_MIN == 1_200
    assert "20 min from 1,200 bit/s on; below, never" in PAGE


def test_the_tables_are_those_of_the_benchmark_and_hold_the_bar() -> None:
    made = PAGE.partition(links.BEGIN)[2].partition(links.END)[0]
    rows = [line for line in made.splitlines() if line.startswith("| ")]
    names = [line.split("|")[1].strip() for line in rows]
    assert names == ["link", *(it.name for it in links.PROFILES)] * 2
    (bar,) = [line for line in rows[len(rows) // 2 :] if links.BAR_PROFILE.name in line]
    told = re.findall(r"5 of 5, [^,|]+, (0\.\d\d)", bar)
    assert len(told) == len(links.LOSSES)
    for loss, share in zip(links.LOSSES, told, strict=True):
        assert float(share) >= (1 - loss) * links.BAR
