"""Faults at random against gunicorn under load."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from .nursery import HangError
from .storm import Tally, remove_block

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "real"))

from servers import Gunicorn, Load, children, group_lives, wait_until

#: What can be done to a server, and how often.
FAULTS = {
    "kill_worker": 4,
    "reload": 2,
    "more_workers": 1,
    "fewer_workers": 1,
    "stop_worker": 2,
    "kill_everything": 1,
    "upgrade": 1,
    "restart": 1,
}

CLASSES = {"sync": ("--workers", "3"), "gthread": ("--workers", "3", "--threads", "3")}


class ServerStorm:
    """gunicorn with a site that counts its requests, clients, and faults; a context manager.

    Args:
        directory: for all files; it is made if it is missing.
        chance: every choice comes from it.
        tally: to add to.
        pure: whether the server uses the pure Python core.

    Attributes:
        workers: the class of its workers.
        answered: number of answered requests.
        ends_upgrade: the signal that ends the second master.
    """

    ends_upgrade = signal.SIGQUIT

    def __init__(self, directory: Path, chance: random.Random, tally: Tally, pure: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.chance, self.tally = chance, tally
        self.workers = chance.choice(sorted(CLASSES))
        jitter = ("--max-requests", "200", "--max-requests-jitter", "100")
        recycled = jitter if chance.randrange(2) else ()
        preload = ("--preload",) if chance.randrange(3) == 0 else ()
        options = ("--worker-class", self.workers, *CLASSES[self.workers], *recycled, *preload, "--timeout", "3")
        self.answered = self.failed = 0
        self.server = Gunicorn(directory, *options)
        self._environment = {
            "SHMSTATS_PURE": "1" if pure else "",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> ServerStorm:
        for name, value in self._environment.items():
            self._before[name] = os.environ.get(name)
            os.environ[name] = value
        os.environ.pop("SHMSTATS_CONFIG", None)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name, value in self._before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        with suppress(AssertionError, ProcessLookupError):
            if group_lives(self.server.master):
                self.server.kill_group()
        remove_block(self.server.data)

    def run(self, faults: Mapping[str, int], until: Callable[[], bool]) -> None:
        """Cause random faults, by their weights, until a condition holds; and judge."""
        names, weights = list(faults), list(faults.values())
        try:
            self.server.start()
            while not until() and self.tally.clean:
                fault = self.chance.choices(names, weights)[0]
                with Load(self.server) as load:
                    load.more(self.chance.randrange(20, 120))
                    getattr(self, fault)()
                    load.more(30)
                self._judge(load)
                self.tally.faults[f"gunicorn: {fault.replace('_', ' ')}"] += 1
            self.server.stop()
        except AssertionError as error:
            raise HangError(f"gunicorn: {error}; its log: {self.server.log.read_text()[-2000:]}") from error

    def _judge(self, load: Load) -> None:
        """Judge the requests: all answered ones are counted, and each failed one at most once."""
        self.answered += load.total
        self.failed += load.failed
        self.tally.operations += load.total + load.failed
        counted = self._counted()
        self.tally.lost += max(0, self.answered - counted)
        self.tally.doubled += max(0, counted - self.answered - self.failed)
        self.tally.unanswered += load.failed
        self.answered, self.failed = counted, 0
        rows = self._document()["pool"]["rows"]
        if rows["used"] > rows["capacity"]:
            self.tally.problems.append(f"{rows['used']} rows are in use, of {rows['capacity']}")

    def _counted(self) -> int:
        """Return the total of all counted requests."""
        return int(self._document()["simple"].get("requests", {}).get("total", 0))

    def _document(self) -> dict[str, Any]:
        """Return the document of /stats; asked again if the asked worker ends, by recycling or a timeout."""
        return dict(wait_until(self._asked, "an answer of /stats"))

    def _asked(self) -> dict[str, Any]:
        try:
            return self.server.document()
        except (OSError, HTTPException):
            return {}

    def _any_worker(self) -> int:
        workers: set[int] = wait_until(self.server.workers, "a worker")
        return self.chance.choice(sorted(workers))

    def kill_worker(self) -> None:
        """Kill a worker; the master starts another."""
        with suppress(ProcessLookupError):
            os.kill(self._any_worker(), signal.SIGKILL)
            self.tally.killed += 1

    def stop_worker(self) -> None:
        """Stop a worker until the master aborts it, or for a moment."""
        pid = self._any_worker()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            if self.chance.randrange(3) == 0:
                end = time.monotonic() + 8
                while pid in self.server.workers() and time.monotonic() < end:
                    time.sleep(0.02)
                # gunicorn never aborts a worker that was stopped before its first heartbeat.
                os.kill(pid, signal.SIGCONT)
            else:
                time.sleep(0.05)
                os.kill(pid, signal.SIGCONT)

    def reload(self) -> None:
        """Replace all workers."""
        before = self.server.workers()
        self.server.signal(signal.SIGHUP)
        wait_until(lambda: not self.server.workers() & before, "the old workers' end")

    def more_workers(self) -> None:
        """Add a worker."""
        self.server.signal(signal.SIGTTIN)

    def fewer_workers(self) -> None:
        """Remove a worker, if it is not the last."""
        if len(self.server.workers()) > 2:
            self.server.signal(signal.SIGTTOU)

    def kill_everything(self) -> None:
        """Kill master and workers at once, and start again."""
        self.tally.killed += 1 + len(self.server.workers())
        self.server.kill_group()
        self.server.start()

    def restart(self) -> None:
        """Stop in an orderly way, and start again."""
        self.server.stop()
        self.server.start()

    def upgrade(self) -> None:
        """Start a second master, end its workers and itself: the first one continues."""
        second_file = Path(f"{self.server.pidfile}.2")
        self.server.signal(signal.SIGUSR2)
        wait_until(lambda: second_file.exists() and second_file.read_text().strip(), "the second master")
        second = int(second_file.read_text())
        wait_until(lambda: children(second), "the second master's workers")
        time.sleep(0.1)
        os.kill(second, self.ends_upgrade)
        # It must be gone, and reaped by the first master, which starts no other until then.
        wait_until(lambda: not Path(f"/proc/{second}").exists(), "the second master's end")
