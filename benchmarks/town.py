"""A town of a hundred nodes, a third of them hostile, for a week of virtual time: do the honest ones agree at the end?

    python -m benchmarks.town                  # 100 nodes, 7 days, in two processes, one for each bank of the river
    python -m benchmarks.town --short          # 15 nodes, 1 day
    python -m benchmarks.town --days 2         # 100 nodes, 2 days
    python -m benchmarks.town --seed 2 --alone # no pure verdicts are shared between the nodes

Whole nodes on a simulated network; what is simulated and what is shared is told in docs/simulation.md. Exit status 0:
all honest nodes hold the same room.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.machine import machine
from benchmarks.simulated_town.banks import run_both_banks
from benchmarks.simulated_town.lies import LIES
from benchmarks.simulated_town.life import Life
from benchmarks.simulated_town.outcome import FULL, SHORT, Disagreement, Outcome


def report(outcome: Outcome) -> str:
    scale = outcome.scale
    after = outcome.agreed_after_s
    waiting = f", waiting for each other {seconds(outcome.waited_s)}" if outcome.waited_s else ""
    lines = [
        f"{scale.people} nodes, {scale.hostile} hostile, {scale.days} days, seed {outcome.seed}",
        (
            f"user events: {outcome.users_did.total():,}; {dict(outcome.users_did.most_common())}; "
            f"refused by the room's rules: {outcome.users_refused.total()}"
        ),
        f"lies told: {outcome.lies_told.total()}, with {outcome.hostile_events} hostile events or messages:",
    ]
    for kind, found in sorted(outcome.hostile_verdicts.items(), key=lambda item: LIES[item[0]][0]):
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(found.items()))
        lines.append(f"  {LIES[kind][0]} {kind}: {verdicts}")
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(outcome.events_by_verdict.items()))
    lines += [
        f"events in the room: {outcome.events:,} ({verdicts})",
        (
            f"contacts: {outcome.contacts:,}; partitions: {outcome.cuts}; datagrams: {outcome.datagrams:,} "
            f"({outcome.datagrams_lost:,} lost); {outcome.octets / 1e6:.1f} MB"
        ),
        (
            "after the last partition healed, a node held everything after "
            f"{_hours(after, 0.5)} (p50), {_hours(after, 0.95)} (p95), {_hours(after, 1.0)} (max); "
            f"healing events: {outcome.healing_events}"
        ),
        (
            f"SEC digest {outcome.sec[:16]}, current state {outcome.operational[:16]}: the same at all "
            f"{scale.people - scale.hostile} honest nodes; "
            f"errors logged: {len(outcome.errors)} {outcome.errors[:3] or ''}"
        ),
        (
            f"pure verdicts shared between the nodes of a process: {outcome.checks[1]:,} of {outcome.checks[0]:,} "
            f"checks on receipt, {outcome.resolutions[1]:,} of {outcome.resolutions[0]:,} state resolutions"
        ),
        f"{outcome.wall_s:.0f} s; CPU time {seconds(outcome.cpu_s)}{waiting}; {outcome.memory_mib} MiB",
    ]
    return "\n".join(lines)


def seconds(each: Sequence[float]) -> str:
    return " + ".join(f"{value:.0f} s" for value in each)


def _hours(values: Sequence[float], share: float) -> str:
    value = values[min(len(values) - 1, int(share * len(values)))]
    return f"{value / 3600:.1f} h"


def tell(line: str) -> None:
    print(line, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.town", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--days", type=int, help="of the large town: with fewer events, lies and partitions to match")
    parser.add_argument("--alone", action="store_true", help="share no pure verdicts between the nodes")
    options = parser.parse_args(arguments)
    print(machine(), flush=True)
    scale = SHORT if options.short else FULL
    if options.days is not None:
        scale = scale.for_days(options.days)
    try:
        if options.short:
            outcome = Life(scale, seed=options.seed, share=not options.alone, tell=tell).run()
        else:
            outcome = run_both_banks(scale, seed=options.seed, share=not options.alone, tell=tell)
    except Disagreement as disagreement:
        print(f"DISAGREEMENT: {disagreement}")
        return 1
    print(report(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
