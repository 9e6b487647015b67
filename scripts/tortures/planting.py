"""Faults planted in a copy of the package, and the checks that must find them: ``scripts/plant``."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from . import debug

ROOT = Path(__file__).parents[2]


class Fault(NamedTuple):
    """A fault.

    Attributes:
        file: in ``shmstats``.
        old: the text to replace, which occurs once.
        new: its replacement.
    """

    file: str
    old: str
    new: str

    @property
    def is_of_c(self) -> bool:
        """Whether it is in the C core; others are checked with the Python core."""
        return self.file.endswith(".h")


FAULTS = {
    "not-atomic": Fault(
        "core/cell.h",
        "return __atomic_compare_exchange_n(&cell->lock, &free, owner, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);",
        "if (__atomic_load_n(&cell->lock, __ATOMIC_ACQUIRE) != free)\n        return 0;\n"
        "    __atomic_store_n(&cell->lock, owner, __ATOMIC_RELAXED);\n    return 1;",
    ),
    "not-taken-over": Fault("core/cell.h", "if (!lives && __atomic", "if (0 && __atomic"),
    "one-in-a-million": Fault(
        "core/values.h",
        "    store_value(cell, i, saturating_add(load_value(cell, i), n));",
        "    static uint64_t added;\n    if (++added % 1000000 != 0)\n"
        "        store_value(cell, i, saturating_add(load_value(cell, i), n));",
    ),
    "dropped-during-init": Fault(
        "configured.py",
        "former = self._fan_out\n",
        "former = self._fan_out\n        self._fan_out = FanOut(None)\n",
    ),
    "attached-again": Fault("attachment/attachment.py", "        self.retired = True\n", ""),
    "raised-while-leaving": Fault("attachment/saver.py", "with suppress(ValueError, OSError):", "if True:"),
    "not-repeated": Fault(
        "attachment/calls.py",
        "if is_left(self, block, error):\n                    continue",
        "if is_left(self, block, error):\n                    return",
    ),
    "refused-after-init": Fault("configured.py", "if not shared.retired:", "if True:"),
    "read-from-another-name": Fault(
        "attachment/reads.py", "if block.cells.generation == generation:  # else", "if True:  # else"
    ),
    "shown-from-another-name": Fault(
        "reading/reader.py", "                if self.header.revision == numbers[0]:\n", "                if True:\n"
    ),
}

#: Counts as fast as possible in several processes, and exits with 1 if the sum is not exact.
COUNT = """
import os, shmstats, sys, tempfile
with tempfile.TemporaryDirectory() as data:
    shmstats.init({"path": {"data": data}, "stats": {"persist": False, "max_workers": 2}})
    counter = shmstats.stats.counter("planted", "counter")
    counter.incr(0)
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            for _ in range(1_500_000):
                counter.incr()
            shmstats.close()
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    found = counter.value
    shmstats.close()
sys.exit(f"counted {found} of {4 * 1_500_000}" if found != 4 * 1_500_000 else 0)
"""

PYTEST = ["-m", "pytest", "-q", "-x"]

THREADS = ["-m", "thorough", "-k", "at_any_line and Python and not saves"]

MODEL = "no_addition_is_lost_or_doubled and C"

MODEL_CHECK = [*PYTEST, "tests/model/test_cells_model.py", "-k", MODEL]
TORTURE = ["-m", "tortures", "--minutes", "2", "--core", "C", "--only", "workers"]

#: Checks of faults in C, from the fastest to the slowest; each exits with a status other than 0 if it finds something.
CHECKS = {
    "counting in four processes at once": ["-c", COUNT],
    "the model: every interleaving, with kills": MODEL_CHECK,
    "torture: real workers, killed at random": TORTURE,
}

#: Checks of faults in Python: effects of threads of one process on each other.
CHECKS_OF_THREADS = {
    "schedules of threads that count": [*PYTEST, "tests/model/test_thread_schedules.py", *THREADS],
    "schedules of a thread that reads": [*PYTEST, "tests/model/test_read_schedules.py", *THREADS],
}


def source_of(fault: Fault) -> str:
    """Return the file of a fault.

    Raises:
        RuntimeError: the text to replace does not occur exactly once.
    """
    source = (ROOT / "shmstats" / fault.file).read_text()
    if source.count(fault.old) != 1:
        raise RuntimeError(f"{fault.file} has the place for the fault {source.count(fault.old)} times, not once")
    return source


def planted(directory: Path, fault: Fault) -> Path:
    """Copy the project with a fault planted in it, and build the C core there; returns the copy.

    Raises:
        RuntimeError: the text to replace does not occur exactly once, or there is no compiler.
    """
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for part in ("shmstats", "scripts", "tests"):
        shutil.copytree(ROOT / part, directory / part, ignore=ignored)
    shutil.copy(ROOT / "setup.cfg", directory)
    file = directory / "shmstats" / fault.file
    file.write_text(source_of(fault).replace(fault.old, fault.new))
    if fault.is_of_c:
        debug.build(file.parent, "-O3", source=file.with_name("_cells.c"))
    return directory


def found_by(copy: Path, fault: Fault) -> str | None:
    """Return the check that finds a fault in a copy of the project, with its last line of output; None: none does.

    Raises:
        RuntimeError: a check selects no test.
    """
    pure = "" if fault.is_of_c else "1"
    environment = os.environ | {"PYTHONPATH": f"{copy}:{copy / 'scripts'}", "SHMSTATS_PURE": pure}
    for name, arguments in (CHECKS if fault.is_of_c else CHECKS_OF_THREADS).items():
        done = subprocess.run(
            [sys.executable, "-P", *arguments], env=environment, cwd=copy, capture_output=True, text=True, check=False
        )
        if done.returncode == 5:
            raise RuntimeError(f"{name}: pytest has collected no test")
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip().splitlines()
            return f"{name} ({said[-1] if said else f'exit status {done.returncode}'})"
    return None


def main() -> int:
    """Plant the requested faults; returns 1 if one is not found."""
    parser = argparse.ArgumentParser(prog="scripts/plant", description="Plant faults, and say which check finds each.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of a fault: {', '.join(FAULTS)} (all)")
    names = parser.parse_args().names or list(FAULTS)
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        parser.error(f"there is no fault {unknown[0]!r}; there are {', '.join(FAULTS)}")
    missed = 0
    for name in names:
        with tempfile.TemporaryDirectory(prefix="shmstats-plant-") as directory:
            found = found_by(planted(Path(directory), FAULTS[name]), FAULTS[name])
        print(f"{name:<24}{'found by ' + found if found else 'NOT FOUND'}", flush=True)
        missed += found is None
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
