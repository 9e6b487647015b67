"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from shmstats.terminal.command import progress

from . import report
from .cases import CASES
from .cases.quick import quick
from .rows import Row, not_measured
from .subjects import Effort, NotAvailableError, SubjectError, Workshop


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 1 if a target is missed or could not be measured."""
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Measure the costs of the package and of its peers in one run.",
        epilog="Exit status: 0 every target is met, 1 one is missed or could not be measured, 2 wrong usage.",
    )
    parser.add_argument("case", nargs="*", help=f"what to measure; everything if none is named: {', '.join(CASES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE too")
    parser.add_argument(
        "--update",
        type=Path,
        nargs="?",
        const=Path(__file__).with_name("README.md"),
        metavar="FILE",
        help=f"put the table between {report.BEGIN} and {report.END} of FILE; none named: of the README",
    )
    parser.add_argument("--tiny", action="store_true", help="hardly any work: to see that it runs, not to measure")
    parser.add_argument("--instructions", action="store_true", help="count instructions under callgrind instead")
    parser.add_argument("--walks", action="store_true", help="count modules and moves of each operation instead")
    parser.add_argument("--quick", action="store_true", help="the ten rows that matter, roughly, within a minute")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.case if name not in CASES]
    if unknown:
        parser.error(f"there is no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    if options.update is not None:
        try:
            report.split(options.update)
        except (OSError, ValueError) as error:
            parser.error(str(error))
    if options.instructions:
        from . import instructions

        return instructions.main(options.json)
    if options.walks:  # in a new process, without imports
        return subprocess.run([sys.executable, "-P", "-m", "benchmarks.walks"], check=False).returncode
    if options.quick and options.case:
        parser.error("--quick has its own choice of cases: name none")
    return measure(
        ["quick"] if options.quick else options.case or list(CASES), options.tiny, options.json, options.update
    )


def measure(names: Sequence[str], tiny: bool, file: Path | None, shown: Path | None) -> int:
    """Measure some cases and report; returns the exit status."""
    # A run that is stopped ends its processes and removes its directories.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    about = report.machine()
    rows: list[Row] = []
    versions: dict[str, str] = {}
    for name in progress(names, "Measuring"):
        start = time.monotonic()
        with Workshop(Effort(tiny)) as shop:
            rows += _rows(name, shop)
            versions |= shop.versions
        if not sys.stderr.isatty():
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(report.heading(about, versions))
    if tiny:
        print("tiny: next to nothing was measured, and the figures mean nothing")
    print()
    print(report.table(rows))
    if file is not None:
        report.write_json(file, about, versions, rows)
    if shown is not None:
        report.update(shown, f"{report.heading(about, versions)}\n\n{report.table(rows, aligned=False)}")
    return int(any(row.fails for row in rows))


def _rows(name: str, shop: Workshop) -> list[Row]:
    """Run a case; if it raises, the others still run."""
    try:
        return quick(shop) if name == "quick" else CASES[name](shop)
    except (NotAvailableError, SubjectError) as error:
        return [not_measured(name, "", "all of its targets", str(error))]
    except Exception as error:
        traceback.print_exc()
        return [not_measured(name, "", "all of its targets", repr(error))]


if __name__ == "__main__":
    sys.exit(main())
