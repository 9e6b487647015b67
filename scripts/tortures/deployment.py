"""A year of a deployment: what happens to a server in its life, under load and while it is scraped, with a ledger.

As root, the server runs as another user, with its data directory on a small disk,
and ``/dev/shm`` loses the block in a power loss. Only counts after the last page may be lost, and only
by a power loss; no total that a page has shown may go back; no page and no boot may fail.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from shmstats.reading.reader import read_only
from shmstats.snapshot import store

from .servers import ServerStorm
from .storm import Tally, remove_block
from .watchers import Bystander, Scraper

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "real"))

from servers import BOUND, SITE, Gunicorn, Load, wait_until

#: The events, each once in a season. Those of `DOWN` keep the server from answering for a moment.
EVENTS = (
    "reload", "upgrade", "kill_worker", "kill_everything", "lose_power", "restart", "redefine", "ask_as_root",
    "count_as_root", "fill_disk", "restore_old_version", "stop_saver", "more_workers", "fewer_workers",
)  # fmt: skip

#: Events in which a page may be cut off, because the worker that serves it was killed or stopped.
DOWN = {"upgrade", "kill_worker", "kill_everything", "lose_power", "restart", "restore_old_version", "stop_saver"}

#: The server's user, if this process is root.
NOBODY = 65534

#: Size of the disk: the history takes most of it.
DISK = "24m"

_SITE = (
    SITE
    + """
import pathlib
exec(pathlib.Path("definitions.txt").read_text())


@app.get("/plain")
def plain():
    return "nothing of statistics"


@app.get("/visit")
def visit():
    stats.incr("requests", "total")
    use()
    return str(os.getpid())
"""
)

#: What releases make of one metric: its declaration, and a use of it.
DEFINITIONS = (
    ("kind='counter'", "stats.incr('app', 'level')"),
    ("kind='counter', labelnames=('a',)", "stats.incr('app', 'level', labels={'a': 'x'})"),
    ("kind='counter', labelnames=('a', 'b')", "stats.incr('app', 'level', labels={'a': 'x', 'b': 'y'})"),
    ("kind='gauge', mode='livesum'", "stats.gauge('app', 'level', 3)"),
    ("kind='gauge', mode='max', unit='bytes'", "stats.gauge('app', 'level', 4)"),
    ("kind='histogram'", "stats.timing('app', 'level', 5)"),
    ("kind='histogram', buckets=(1, 2, 3)", "stats.timing('app', 'level', 2)"),
)

_CONFIG = "path: {data: data}\nstats: {snapshot_interval_ms: 300}\n"

#: Interval and timeout of a real Prometheus: its default.
SCRAPE_SECONDS = 10

#: A traceback in a log, except that of a worker that a signal ends.
_TRACE = re.compile(r"^Traceback (?:.+\n)(?:  .*\n)*(?!SystemExit).*$", re.M)


class Deployment(ServerStorm):
    """A server and everything that happens to it; a context manager.

    Args:
        directory: for all files.
        chance: every choice comes from it.
        tally: to add to.
        pure: whether the server uses the pure Python core.
        private: whether file systems may be mounted, because nobody else sees them.
        prometheus: whether a real Prometheus scrapes, too.

    Attributes:
        scraper: asks for pages.
        away: when pages may have failed: beginning and end, in seconds since 1970.
        happened: beginning and end of each event, and its name.
        scrapes: number of successful scrapes of the real Prometheus.
    """

    ends_upgrade = signal.SIGTERM

    def __init__(
        self,
        directory: Path,
        chance: random.Random,
        tally: Tally,
        pure: bool = False,
        private: bool = False,
        prometheus: bool = False,
    ) -> None:
        super().__init__(directory, chance, tally, pure)
        options: list[str] = ["--worker-class", self.workers, "--workers", "3", "--timeout", "5"]
        options += ["--log-level", "debug"]
        options += ["--threads", "3"] if self.workers == "gthread" else []
        options += chance.choice(([], ["--config", "python:shmstats.integrations.gunicorn"], ["--preload"]))
        self._user = NOBODY if os.geteuid() == 0 and _can_import(NOBODY) else None
        if self._user is not None:
            options += ["--user", str(NOBODY), "--group", str(NOBODY)]
        self.server = Gunicorn(directory, *options, site=_SITE, config=_CONFIG)
        self._directory, self._prometheus = directory, prometheus
        self._definition = -1
        self._stack = ExitStack()
        self._private = private
        self._load: Load | None = None
        self.away: list[tuple[float, float]] = []
        self.happened: list[tuple[float, float, str]] = []
        self.scrapes = 0
        self.scraper, self._bystander = Scraper(self.server), Bystander(self.server)
        self._prepare()

    def _prepare(self) -> None:
        for place in (self._directory, *self._directory.parents[:2]):
            place.chmod(0o755)
        data = self.server.data
        data.mkdir()
        if self._private:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", data], check=True)
            self._stack.callback(subprocess.run, ["umount", "--lazy", data], check=False)
        data.chmod(0o700)
        if self._user is not None:
            os.chown(data, NOBODY, NOBODY)
        self._define()

    def _define(self) -> None:
        others = [number for number in range(len(DEFINITIONS)) if number != self._definition]
        self._definition = self.chance.choice(others)
        declared, used = DEFINITIONS[self._definition]
        text = f"stats.declare('app', 'level', {declared})\ndef use():\n    {used}\n"
        (self._directory / "definitions.txt").write_text(text)

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        self._stack.close()

    def live(self, events: int, until: Callable[[], bool] = lambda: False) -> None:
        """Let so many events happen, or as many as come before a condition holds; and judge.

        Raises:
            AssertionError: something did not happen in time.
        """
        season: list[str] = []
        self.server.start()
        with self._stack, self.scraper, self._bystander:
            prometheus = self._stack.enter_context(self._real_prometheus()) if self._prometheus else None
            for _ in range(events):
                if until() or not self.tally.clean:
                    break
                if not season:
                    season = list(EVENTS)
                    self.chance.shuffle(season)
                self._have(season.pop())
            if prometheus is not None:
                self._judge_prometheus(prometheus)
            self.server.stop()

    def _real_prometheus(self) -> Any:
        from prometheus import Prometheus

        return Prometheus(self._directory, {"site": self.server.port}, f"{SCRAPE_SECONDS}s")

    def _have(self, event: str) -> None:
        self._load = Load(self.server, "/visit", threads=2)
        with self._load:
            self._load.more(self.chance.randrange(10, 60))
            begun = time.time()
            with self.scraper.excused() if event in DOWN else ExitStack():
                getattr(self, event)()
            self.happened.append((begun, time.time(), event))
            if event in DOWN:
                self.away.append((begun, time.time()))
        with Load(self.server, "/visit", threads=2) as load:
            load.more(10)
        self._settle()
        self._load = load
        self._settle()
        self._judge_total()
        self.tally.faults[f"deployment: {event.replace('_', ' ')}"] += 1
        self.tally.problems += [f"{event}: {problem}" for problem in self.scraper.problems]
        self.scraper.problems.clear()
        log = self.server.log.read_text()
        self.tally.problems += [f"{event}: {trace[0]}" for trace in _TRACE.finditer(log) if "/shmstats/" in trace[0]]

    # The ledger --------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Add the answered requests of the load, which has ended."""
        load, self._load = self._load, None
        if load is not None:
            load.stop()
            self.answered += load.total
            self.failed += load.failed
            self.tally.operations += load.total + load.failed
            self.tally.unanswered += load.failed

    def _judge_total(self, least: int | None = None) -> None:
        """Judge the server's total: all answered requests, or the shown total or more; each failed one at most once."""
        least = self.answered if least is None else least
        counted = self._counted()
        self.tally.lost += max(0, least - counted)
        self.tally.doubled += max(0, counted - self.answered - self.failed)
        self.answered, self.failed = counted, 0
        self.scraper.shown = max(self.scraper.shown, counted)

    def _judge_prometheus(self, prometheus: Any) -> None:
        """Judge the totals that a real Prometheus has scraped."""
        total = self._counted()
        wait_until(lambda: prometheus.query("requests_total") == {"site": total}, "the last total")
        (seen,) = prometheus.samples("requests_total[1d]")
        values = [(at, int(float(value))) for at, value in seen["values"]]
        self.scrapes = len(values)
        fallen = [pair for pair in itertools.pairwise(values) if pair[0][1] > pair[1][1]]
        missed = [
            at
            for at, up in prometheus.samples("up[1d]")[0]["values"]
            if up == "0"
            and not any(begun - SCRAPE_SECONDS < at < ended + 1 for begun, ended in self.away)
            and not self._is_slow_altogether(at, prometheus.failure(at))
        ]
        problems = [f"Prometheus saw {before[1]}, and then {after[1]}" for before, after in fallen]
        problems += [f"a scrape failed at {at}, {self._around(at)}: {prometheus.failure(at)}" for at in missed]
        self.tally.problems += problems + prometheus.complaints()

    def _is_slow_altogether(self, at: float, failure: str) -> bool:
        """Tell whether a scrape timed out while a page without statistics was hardly answered either."""
        return "deadline" in failure and self._bystander.longest_wait(at, at + SCRAPE_SECONDS) > SCRAPE_SECONDS / 2

    def _around(self, moment: float) -> str:
        """Return the event in which a moment was, or the last one before it."""
        for begun, ended, event in reversed(self.happened):
            if begun <= moment:
                return f"{moment - begun:.1f} s after the beginning of {event}, which took {ended - begun:.1f} s"
        return "before all events"

    def _start(self) -> None:
        """Start the server again, and keep its log so far."""
        with (self._directory / "gunicorn.before.log").open("a") as kept:
            kept.write(self.server.log.read_text())
        self.server.start()

    # What happens ------------------------------------------------------------------------------------

    def kill_everything(self) -> None:
        """Kill master and workers at once, and start again."""
        self.tally.killed += 1 + len(self.server.workers())
        self.server.kill_group()
        self._settle()
        self._start()

    def restart(self) -> None:
        """Stop the server, and start it again."""
        self._stop()
        self._start()

    def _stop(self) -> None:
        """Stop the server under load, until nothing listens any more."""
        self.server.signal(signal.SIGTERM)
        self._settle()
        self.server.stop()

    def lose_power(self) -> None:
        """Kill everything, and lose the memory: counts since the last page are lost."""
        self.tally.killed += 1 + len(self.server.workers())
        self.server.kill_group()
        self._settle()
        remove_block(self.server.data)
        self._start()
        self._judge_total(self.scraper.shown)

    def restore_old_version(self) -> None:
        """Stop the server, and start with a snapshot of version 0.1."""
        self._stop()
        stats = self.server.data / "stats"
        saved = store.load(stats / store.FILE)
        total = next(value for name, value in zip(saved.names, saved.values, strict=True) if name.metric == "total")
        content = {
            "saved": time.time(), "category": ["requests"], "metric": ["total"], "labels": [[]], "kind": [1],
            "monotonic": [True], "bounds": [[]], "value": [total],
        }  # fmt: skip
        data = json.dumps(content)
        checksum = hashlib.blake2b(data.encode(), digest_size=16).hexdigest()
        (stats / store.FILE).write_text(f'{{"version": 1, "checksum": "{checksum}", "data": {data}}}\n')
        self._start()
        self._judge_total()

    def redefine(self) -> None:
        """Reload with a release that declares a metric differently."""
        self._define()
        self.reload()

    def ask_as_root(self) -> None:
        """Read everything by commands as root, beside the server's user."""
        data = str(self.server.data)
        for command in (["dump", "--format", "json"], ["info"], ["dump", "--format", "prometheus"]):
            done = self._run("-m", "shmstats", *command, "--data", data)
            if done.returncode not in (0, 1) or "Traceback" in done.stderr or "no live block" in done.stderr:
                self.tally.problems.append(f"shmstats {command}: {done.stderr}")

    def count_as_root(self) -> None:
        """Count in a job that runs as root."""
        code = "from shmstats import stats; stats.incr('requests', 'total', 5)"
        done = self._run("-c", code)
        if done.returncode or done.stderr:
            self.tally.problems.append(f"a job of root's: {done.stderr}")
        self.answered += 5

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=self._directory, capture_output=True, text=True, timeout=BOUND, check=False)

    def fill_disk(self) -> None:
        """Fill the disk for some saves; if no small one can be mounted, do nothing."""
        if not self._private:
            return
        file = self.server.data / "ballast"
        with file.open("wb", buffering=0) as ballast:
            with suppress(OSError):
                while True:
                    ballast.write(bytes(4096))
            wait_until(lambda: self._header("save_error"), "an error of saving")
            if self._load is not None:
                self._load.more(10)
        file.unlink()
        wait_until(lambda: not self._header("save_error"), "the end of the error of saving")

    def stop_saver(self) -> None:
        """Stop the saver until another process takes its place, and let it continue."""
        saver = wait_until(lambda: self._header("saver_pid"), "a process that saves")
        with suppress(ProcessLookupError):
            os.kill(saver, signal.SIGSTOP)
            try:
                wait_until(lambda: self._header("saver_pid") not in (0, saver), "another process that saves")
            finally:
                os.kill(saver, signal.SIGCONT)

    def _header(self, field: str) -> Any:
        with read_only(self.server.data) as reader:
            return getattr(reader.header, field)


def _can_import(user: int) -> bool:
    """Return whether another user can import the modules of the server."""
    command = [sys.executable, "-c", "import shmstats, flask, gunicorn"]
    try:
        return subprocess.run(command, user=user, group=user, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
