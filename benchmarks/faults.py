"""Everything that is broken on purpose, in one table: `python -P -m benchmarks.faults [--scale 1.0]`.

The status is 1 when a figure misses its bar. `tests/` runs a smaller size of the same.
"""

from __future__ import annotations

import argparse
import sys
import time

from rich.console import Console
from rich.table import Table

from benchmarks import faults_engine, faults_models


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -P -m benchmarks.faults", description="Break things on purpose."
    )
    parser.add_argument("--scale", type=float, default=1.0, help="1.0 is the full size (minutes)")
    scale = parser.parse_args().scale
    begin = time.monotonic()
    figures = faults_models.run(scale) + faults_engine.run(scale)
    table = Table("fault", "figure", "bar", "", "note", box=None, pad_edge=False)
    for figure in figures:
        verdict = "PASS" if figure.met else "MISS"
        table.add_row(figure.name, f"{figure.value:g}", figure.bar, verdict, figure.note)
    Console().print(table)
    missed = sum(not figure.met for figure in figures)
    print(f"{len(figures) - missed} passed, {missed} missed, in {time.monotonic() - begin:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
