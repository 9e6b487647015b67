"""Counts the machine instructions of the hot calls, under callgrind (Debian's package valgrind).

Two loops of different lengths are counted; their difference, minus that of two empty loops, is the cost of the calls,
including the interpreter's part. On the same machine, with the same interpreter and compiler, the result repeats to
within a few instructions.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from .nothing import nothing_directory
from .subjects import NotAvailableError, find_program, package_path

CALLS = 10_000

#: The loops of ``peers.ours_instructions`` in order: the hot calls, then their other forms.
HOT = (
    "counter.incr()",
    "stats.incr(category, metric, 1)",
    "the same, stats being a local variable",
    "histogram.observe(12.5)",
)
NOTHING = ("a C method that does nothing", "the same with 3 arguments")
FORMS = (
    "stats.incr(category, metric, n=1)",
    "stats.incr(category, metric, labels=...)",
    "parent.labels(a, b).incr()",
    "parent.labels(group=a, name=b).incr()",
    "stats.gauge(category, metric, 1.5)",
    "stats.timing(category, metric, 1.5)",
    "with stats.timer(category, metric)",
    "stats.get(category, metric)",
)
LOOPS = ("the empty loop", *HOT, *NOTHING, *FORMS)


def count(calls: int = CALLS) -> dict[str, float]:
    """Return the instructions of an iteration of each loop, less those of the empty loop.

    Raises:
        NotAvailableError: valgrind or a C compiler is not installed.
    """
    valgrind = find_program("valgrind")
    if not nothing_directory():
        raise NotAvailableError("there is no C compiler")
    with tempfile.TemporaryDirectory(prefix="shmstats-bench-") as directory:
        command = [
            valgrind, "--tool=callgrind", "--quiet", "--collect-atstart=no",
            "--toggle-collect=shmstats_bench_region", "--dump-after=shmstats_bench_region",
            f"--callgrind-out-file={directory}/out",
            sys.executable, "-P", "-m", "benchmarks.peers.ours_instructions", str(calls),
        ]  # fmt: skip
        environment = os.environ | {
            "PYTHONPATH": package_path(), "PYTHONHASHSEED": "0", "SHMSTATS_PURE": "",
            "BENCH_NOTHING": nothing_directory(), "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotAvailableError(f"valgrind ended with status {done.returncode}: {done.stderr[-2000:]}")
        parts = [Path(f"{directory}/out.{number + 1}").read_text() for number in range(3 * len(LOOPS))]
    totals = [int(re.findall(r"^(?:totals|summary): (\d+)", part, re.MULTILINE)[-1]) for part in parts]
    each = [(long - short) / calls for short, long in zip(totals[1::3], totals[2::3], strict=True)]
    return {name: n - each[0] if i else n for i, (name, n) in enumerate(zip(LOOPS, each, strict=True))}


def main(file: Path | None = None) -> int:
    """Count twice and print; return 1 if it could not be counted, or the counts differ."""
    try:
        first, second = count(), count()
    except NotAvailableError as error:
        print(f"not measured: {error}")
        return 1
    print(f"Instructions of a call, CPython {platform.python_version()}, {platform.machine()}:\n")
    for name, instructions in first.items():
        differs = "" if _alike(instructions, second[name]) else f"  (the second time {second[name]:.0f})"
        print(f"{name:<42}{instructions:>8.0f}{differs}")
    if file is not None:
        file.write_text(json.dumps({"Python": platform.python_version(), "instructions": first}, indent=1) + "\n")
    alike = all(_alike(first[name], second[name]) for name in first)
    print("\nCounted twice, and alike." if alike else "\nCounted twice, and not alike.")
    return int(not alike)


def _alike(first: float, second: float) -> bool:
    """Return whether two counts differ by less than 1 %: memory addresses affect a few instructions."""
    return abs(first - second) <= max(2.0, 0.01 * first)
