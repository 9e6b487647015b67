"""Torture the package for a given time: `scripts/torture`.

The run is made of bouts. Each has its own workers with a random configuration, and some hundred faults
against them. Every choice comes from the seed, so the same seed repeats them, in the same order; the exact moment of
a fault depends on the machine.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from . import debug
from .deployment import Deployment
from .nursery import HangError, Nursery
from .servers import FAULTS as SERVER_FAULTS
from .servers import ServerStorm
from .storm import Storm, Tally

FAULTS_OF_A_SERVER = 6

#: The targets of bouts.
KINDS = ("workers", "servers", "deployments")

#: The size of /dev/shm during the torture, if it can have its own: that of a default container.
SHARED_MEMORY = "64m"

_PRIVATE = "TORTURE_PRIVATE_MEMORY"


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line, or of ``words``."""
    parser = argparse.ArgumentParser(prog="scripts/torture", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (1)")
    parser.add_argument("--seed", type=int, help="repeats a run (at random)")
    parser.add_argument("--first", type=int, default=1, metavar="BOUT", help="begin with this bout (1)")
    parser.add_argument(
        "--least", type=int, default=0, metavar="FAULTS", help="continue until there were at least this many (0)"
    )
    parser.add_argument("--bouts", type=int, help="end after so many bouts")
    parser.add_argument("--faults", type=int, default=150, help="in each bout of workers (150)")
    parser.add_argument("--core", choices=["C", "Python"], help="only this core (both)")
    parser.add_argument("--only", choices=KINDS, help="only bouts of this kind (all)")
    parser.add_argument("--events", type=int, default=14, help="in each bout of a deployment (14)")
    parser.add_argument("--prometheus", action="store_true", help="have a real one scrape deployments, too")
    parser.add_argument("--keep", type=Path, help="keep all files, the servers' logs among them, in this directory")
    parser.add_argument("--log", type=Path, help="where workers log to (nowhere)")
    return parser.parse_args(words)


def with_private_memory(module: str = "tortures") -> None:
    """Run a module again with its own small /dev/shm, if the kernel allows that; otherwise continue."""
    if _PRIVATE in os.environ:
        return
    mount = f"mount -t tmpfs -o size={SHARED_MEMORY} tmpfs /dev/shm"
    if shutil.which("unshare") is None:
        return
    tried = subprocess.run(["unshare", "--mount", "sh", "-c", mount], capture_output=True, check=False)
    if tried.returncode == 0:
        os.environ[_PRIVATE] = "1"
        again = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", *again])


class Torture:
    """A run.

    Args:
        options: of the command line.
        directory: for all files.
        stack: closes what is opened.
    """

    def __init__(self, options: argparse.Namespace, directory: Path, stack: ExitStack) -> None:
        self._options, self._directory = options, directory
        self._bar: Any = None
        if sys.stderr.isatty():
            self._bar = stack.enter_context(
                click.progressbar(length=round(60 * options.minutes), label="Torturing", file=sys.stderr)
            )
        self.tally = Tally()
        cells = None
        if options.core != "Python" and options.only in (None, "workers") and debug.compiler() is not None:
            cells = debug.build(directory, *debug.STOP_POINTS)
        log = options.log or Path(os.devnull)
        self._nurseries = {
            "C": stack.enter_context(Nursery(log=log)),
            "Python": stack.enter_context(Nursery(pure=True, log=log)),
        }
        self._steps = {"Python": self._nurseries["Python"]}
        if cells is not None:
            self._steps["C"] = stack.enter_context(Nursery(cells=cells, log=log))
        self.private = _PRIVATE in os.environ
        self._start = time.monotonic()
        self._end = self._start + 60 * options.minutes

    def run(self, seed: int) -> None:
        """Run bouts until the time is up, or something is wrong."""
        bout = self._options.first
        while not self._is_late() and self.tally.clean:
            if self._options.bouts is not None and bout >= self._options.first + self._options.bouts:
                break
            chance = random.Random(f"{seed} {bout}")
            core = self._options.core or ("C", "Python")[bout % 2]
            kind = self._options.only or {5: "servers", 2: "deployments"}.get(bout % 6, "workers")
            killed, faults = self.tally.killed, sum(self.tally.faults.values())
            try:
                about = getattr(self, f"_{kind}")(bout, chance, core)
            except (AssertionError, HangError, OSError) as error:
                self.tally.problems.append(f"bout {bout}: {error!r}")
                break
            faults = sum(self.tally.faults.values()) - faults
            if self._bar is not None:
                click.echo("\r\x1b[K", nl=False, err=True)
            print(f"bout {bout}: {about}: {faults} faults, {self.tally.killed - killed} killed", flush=True)
            bout += 1

    def _is_over(self, faults: int) -> bool:
        if self._bar is not None:
            self._bar.update(int(time.monotonic() - self._start) - self._bar.pos)
        return sum(self.tally.faults.values()) >= faults or self._is_late()

    def _is_late(self) -> bool:
        """Whether the time is up, and there were as many faults as required."""
        return time.monotonic() > self._end and sum(self.tally.faults.values()) >= self._options.least

    def _workers(self, bout: int, chance: random.Random, core: str) -> str:
        """Run a bout against workers; returns its description."""
        works = chance.choice([("count",), ("count", "change"), ("count", "change", "come and go", "fork")])
        workers, rows = chance.randrange(3, 7), chance.choice((1, 2, 8))
        stats: dict[str, Any] = {"max_workers": rows, "snapshot_interval_ms": chance.choice((100, 1000))}
        mode = "real-time"
        if chance.randrange(4) == 0:
            mode = "buffered"
            stats |= {"no_buffer": False, "buffer_size": chance.choice((10, 100)), "flush_interval_ms": 20}
        faults = {"kill": 60, "kill_all": 4, "stop_and_continue": 10, "leave": 6, "leave_all": 2, "read": 10}
        faults |= {"damage_snapshot": 2, "obstruct_saving": 3}
        if core in self._steps:
            faults |= {"kill_inside": 15, "continue_inside": 8}
        if self.private and "fork" not in works:
            faults["fill_memory"] = 5
        goal = sum(self.tally.faults.values()) + self._options.faults
        place = self._directory / f"bout {bout}"
        nursery, steps = self._nurseries[core], self._steps.get(core)
        with Storm(nursery, place, chance, self.tally, works, workers, stats, steps) as storm:
            storm.run(faults, lambda: self._is_over(goal))
        return f"{core} core, {mode}, {workers} workers in {rows} row{'s' * (rows > 1)}, who {', '.join(works)}"

    def _servers(self, bout: int, chance: random.Random, core: str) -> str:
        """Run a bout against gunicorn under load; returns its description."""
        goal = sum(self.tally.faults.values()) + FAULTS_OF_A_SERVER
        with ServerStorm(self._directory / f"bout {bout}", chance, self.tally, pure=core == "Python") as storm:
            storm.run(SERVER_FAULTS, lambda: self._is_over(goal))
        return f"{core} core, gunicorn, {storm.workers}, {storm.answered} requests answered"

    def _deployments(self, bout: int, chance: random.Random, core: str) -> str:
        """Run a bout against a deployment; returns its description."""
        place, pure = self._directory / f"bout {bout}", core == "Python"
        with Deployment(place, chance, self.tally, pure, self.private, self._options.prometheus) as deployment:
            deployment.live(self._options.events, self._is_late)
        pages = deployment.scraper.pages + deployment.scrapes
        return f"{core} core, a deployment with {deployment.workers}, {deployment.scraper.shown} visits, {pages} pages"


def report(tally: Tally, seconds: float, seed: int) -> str:
    """Return the text to print at the end."""
    lines = ["", f"{'fault':<24}{'times':>8}"]
    lines += [f"{name:<24}{number:>8}" for name, number in sorted(tally.faults.items())]
    lines += [
        "",
        f"seed {seed}, {seconds:.0f} s, {sum(tally.faults.values())} faults, {tally.killed} processes killed",
        f"{tally.operations} operations, {tally.uncertain} of them in flight at a kill",
        f"{tally.unanswered} requests were not answered, each of which was counted once or not at all",
        f"{tally.held} were held in buffers of killed workers, and are gone with them",
        f"{tally.takeovers} operations took a dead one's lock over, the longest took {1000 * tally.longest:.1f} ms",
        f"the longest after a kill inside took {1000 * tally.awake:.1f} ms besides waiting for a processor",
        f"lost: {tally.lost}, counted twice: {tally.doubled}",
        *(f"wrong: {problem}" for problem in tally.problems),
    ]
    return "\n".join(lines)


def main() -> int:
    """Run, report, and return the exit status."""
    options = arguments()
    with_private_memory()
    seed = random.SystemRandom().randrange(10**9) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    start = time.monotonic()
    with ExitStack() as stack:
        directory = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="torture-")))
        torture = Torture(options, directory, stack)
        if not torture.private:
            print("no /dev/shm of its own could be mounted here, so it will never be full", flush=True)
        torture.run(seed)
    print(report(torture.tally, time.monotonic() - start, seed))
    return 0 if torture.tally.clean else 1


if __name__ == "__main__":
    sys.exit(main())
