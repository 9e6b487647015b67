"""Attack the package in every known way: `scripts/attack`.

Programs attack their own statistics and storms kill their workers for the requested time; tests that are attacks run
once. The same seed repeats the random choices; the exact moments of events depend on the machine.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tortures.__main__ import Torture, with_private_memory
from tortures.__main__ import arguments as of_torture

from .fuzzing import run_all
from .programs import PROGRAMS
from .runner import Score, run_program, run_tests, score_of

COLUMNS = ("attacks", "kills", "operations", "lost", "doubled", "hung", "crashed", "let in")

#: Tests that are attacks: the column in which a failure counts, and the tests.
TESTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "other users, with and without token": (
        "let_in",
        ("tests/web/test_access_table.py", "tests/deployments/test_identity.py"),
    ),
    "tokens, hosts, origins, proxies": ("let_in", ("tests/web/test_access.py", "tests/test_security.py")),
    "clients that send slowly, too much, or garbage": (
        "hung",
        ("tests/faults/test_half_sent.py", "tests/faults/test_clients.py", "tests/attachment/test_peers.py"),
    ),
    "damaged blocks": ("crashed", ("tests/faults/test_damaged_block.py",)),
    "damaged snapshots": ("crashed", ("tests/faults/test_damaged_snapshot.py", "tests/snapshot")),
    "forks, signals, pids, namespaces": (
        "lost",
        (
            "tests/deployments/test_forks.py", "tests/faults/test_children.py", "tests/faults/test_pids.py",
            "tests/faults/test_raising_handlers.py", "tests/block/test_lock.py", "tests/test_processes.py",
        ),
    ),
    "full memory, slow and failing disks": (
        "lost",
        ("tests/faults/test_full.py", "tests/deployments/test_saving.py", "tests/deployments/test_exposition.py"),
    ),
}  # fmt: skip


#: The target of storms, their share of the time, and the least number of faults, however long those take, because
#: servers have to start.
STORMS = (("workers", 0.5, 100), ("servers", 0.2, 24), ("deployments", 0.3, 28))


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(prog="scripts/attack", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=4.0, help="of programs and of storms, each (4)")
    parser.add_argument("--seed", type=int, help="repeats a run (at random)")
    parser.add_argument("--no-tests", action="store_true", help="leave out the tests that are attacks")
    parser.add_argument("--fuzz", type=int, metavar="SECONDS", help="only fuzz each reader and parser for so long")
    parser.add_argument("--core", choices=["C", "Python"], help="only this core (both)")
    return parser.parse_args()


def programs(minutes: float, chance: random.Random, core: str | None) -> Iterator[tuple[str, Score]]:
    """Run each program for its share of the time, on both cores in turn."""
    share = 60 * minutes / len(PROGRAMS)
    cores = [core] if core else ["C", "C", "Python"]
    for name in PROGRAMS:
        score = Score()
        for turn in cores:
            score += run_program(name, share / len(cores), chance.randrange(10**9), turn == "Python")
        yield name, score


def storms(minutes: float, seed: int, core: str | None) -> Iterator[tuple[str, Score]]:
    """Run storms against workers, and against servers, until each has made a least number of faults."""
    for kind, share, least in STORMS:
        options = ["--minutes", str(minutes * share), "--least", str(least), "--seed", str(seed), "--only", kind]
        options += ["--core", core] if core else []
        with tempfile.TemporaryDirectory(prefix="torture-") as directory, ExitStack() as stack:
            torture = Torture(of_torture(options), Path(directory), stack)
            torture.run(seed)
        yield f"kills and stops of {kind} at random", score_of(torture.tally)


def tests() -> Iterator[tuple[str, Score]]:
    """Run the tests that are attacks."""
    for name, (column, paths) in TESTS.items():
        yield name, run_tests(column, *paths)


def fuzzers(seconds: int) -> Iterator[tuple[str, Score]]:
    """Fuzz each reader and parser."""
    for name, inputs, processor, wrong in run_all(seconds):
        score = Score(attacks=inputs, crashed=bool(wrong), said=[f"{name}: {wrong}"] if wrong else [])
        yield f"fuzzing of {name}, {processor:.0f} s of a processor", score


def table(rows: Iterator[tuple[str, Score]]) -> Score:
    """Print a row for each kind of attack as soon as it is done, and the sum; return it."""
    print(f"{'':<48}" + "".join(f"{column:>14}" for column in COLUMNS), flush=True)
    total = Score()
    for name, score in rows:
        print(f"{name:<48}" + "".join(f"{number:>14,}" for number in score.numbers), flush=True)
        if not score.attacks:
            score.said.append(f"{name}: nothing was attacked")
        for said in score.said:
            print(said, file=sys.stderr, flush=True)
        total += score
    print(f"{'all':<48}" + "".join(f"{number:>14,}" for number in total.numbers), flush=True)
    return total


def main() -> int:
    """Run, report, and return the exit status."""
    options = arguments()
    if options.fuzz:
        return 0 if table(fuzzers(options.fuzz)).clean else 1
    with_private_memory("attacks")
    seed = random.SystemRandom().randrange(10**9) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    start = time.monotonic()

    def rows() -> Iterator[tuple[str, Score]]:
        yield from programs(options.minutes, random.Random(seed), options.core)
        yield from storms(options.minutes, seed, options.core)
        if not options.no_tests:
            yield from tests()

    total = table(rows())
    print(f"{time.monotonic() - start:.0f} s")
    return 0 if total.clean else 1


if __name__ == "__main__":
    sys.exit(main())
