"""`python -m benchmarks.beside_synapse`: p2pserver beside Synapse on SQLite, one run, medians of five rounds.

Takes about 15 minutes, the first time some more: Synapse's worlds are made once and kept in the folder for temporary
files. `--without-synapse` measures p2pserver alone; `--part` takes some of the figures. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.beside_synapse import run as parts
from benchmarks.beside_synapse.measures import Effort
from benchmarks.beside_synapse.report import table
from benchmarks.beside_synapse.worlds import Size
from benchmarks.machine import machine


def main() -> int:
    names = [part.__name__ for part in parts.PARTS]
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.beside_synapse", description=__doc__)
    arguments.add_argument("--without-synapse", action="store_true")
    arguments.add_argument("--part", action="append", choices=names, help="may be repeated")
    arguments.add_argument("--rounds", type=int, default=Effort().rounds)
    arguments.add_argument("--seconds", type=float, default=Effort().seconds, help="of sending, in each round")
    given = arguments.parse_args()
    synapse = not given.without_synapse
    print(f"# {machine()}")
    if synapse:
        print(f"# matrix-synapse {version('matrix-synapse')} on SQLite, one process")
    with tempfile.TemporaryDirectory(prefix="beside-synapse-run-") as folder:
        run = parts.Run(
            folder=Path(folder),
            size=Size(),
            effort=Effort(rounds=given.rounds, seconds=given.seconds),
            synapse=synapse,
            tell=lambda line: print(f"# {line}", file=sys.stderr, flush=True),
        )
        lines = asyncio.run(parts.all_figures(run, only=given.part))
    print(table(lines))
    return 0 if all(line.is_met for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
