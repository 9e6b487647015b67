"""Faults of gunicorn under load: aborted workers, upgrades, recycling, a failing boot, a killed master, storms.

``tests/real/test_gunicorn.py`` has reloads by ``HUP``, ``TTIN`` and ``TTOU``, and the upgrade by ``USR2`` and ``TERM``;
``tests/real/test_persistence.py`` has the kill of all processes.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import process_state
from servers import BOUND, SITE, Gunicorn, Load, children, group_lives, wait_until
from tortures.servers import FAULTS, ServerStorm
from tortures.storm import Tally

KINDS = {"sync": ("--workers", "2"), "gthread": ("--workers", "2", "--threads", "2")}

GUNICORN = str(Path(sys.executable).with_name("gunicorn"))

HANGING = (
    SITE
    + """

@app.get("/hang")
def hang():
    import time
    stats.incr("requests", "hung")
    if os.environ.get("HANG_IN_PYTHON"):
        while True:
            stats.incr("requests", "spins")
    time.sleep(1000)
"""
)


@pytest.fixture(params=KINDS)
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return ("--worker-class", request.param, *KINDS[request.param])


def counted_once(load: Load, counted: int) -> bool:
    """All answered requests must be counted, and any number of the failed ones may be."""
    return load.total <= counted <= load.total + load.failed


def hang(server: Gunicorn) -> None:
    with suppress(OSError, Exception):
        server.get("/hang")


@pytest.mark.parametrize("way", ["asleep", "counting"])
def test_the_counts_of_an_aborted_worker_are_kept_once(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master aborts a hanging worker after the timeout, possibly in the middle of a count."""
    if way == "counting":
        monkeypatch.setenv("HANG_IN_PYTHON", "1")
    with Gunicorn(tmp_path, "--workers", "3", "--timeout", "1", site=HANGING) as server:
        with Load(server) as load:
            load.more(50)
            before = server.workers()
            hanging = [threading.Thread(target=hang, args=(server,)) for _ in range(2)]
            for each in hanging:
                each.start()
            wait_until(lambda: len(before - server.workers()) >= 2, "the abort of two workers")
            for each in hanging:
                each.join()
            load.more(100)
        assert "WORKER TIMEOUT" in server.log.read_text()
        assert counted_once(load, server.total())
        document = server.document()
        assert document["simple"]["requests"]["hung"] == 2
        assert document["pool"]["rows"]["used"] <= 4
        assert document["simple"].get("shmstats", {}).get("operations_dropped", 0) == 0


class Daemon(Gunicorn):
    """gunicorn in the background, because it ignores ``WINCH`` on a terminal."""

    _pid = 0

    @property
    def master(self) -> int:
        return self._pid

    def start(self) -> Daemon:
        self.log.touch()
        command = [
            *(GUNICORN, "--daemon", "--bind", f"127.0.0.1:{self._port}"),
            *("--no-control-socket", "--pid", str(self.pidfile), "--log-file", str(self.log)),
            *(*self._options, "site_under_test:app"),
        ]
        subprocess.run(command, cwd=self.directory, check=True, timeout=BOUND)
        wait_until(lambda: self.pidfile.exists() and self.pidfile.read_text().strip(), "the master")
        self._pid = int(self.pidfile.read_text())
        listening = re.compile(r"Listening at: http://127\.0\.0\.1:(\d+)")
        self._port = int(wait_until(lambda: listening.search(self.log.read_text()), "a listening port")[1])
        wait_until(lambda: len(self.workers()) == 2, "the workers")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end(self._pid)

    def end(self, master: int) -> None:
        """End a master that still runs, with all its workers."""
        workers = children(master)
        with suppress(ProcessLookupError):
            os.kill(master, signal.SIGTERM)
        wait_until(lambda: not any(map(lives, (master, *workers))), "the end of a master and its workers")

    def upgrade(self) -> int:
        """Start a second master, and wait for its workers; returns its pid."""
        self.signal(signal.SIGUSR2)
        file = Path(f"{self.pidfile}.2")
        wait_until(lambda: file.exists() and file.read_text().strip(), "the second master")
        successor = int(file.read_text())
        wait_until(lambda: len(children(successor)) == 2, "the second master's workers")
        return successor


def lives(pid: int) -> bool:
    """Whether there is such a process that is not a zombie."""
    try:
        return process_state(pid) != "Z"
    except OSError:
        return False


def test_no_count_is_lost_or_doubled_by_an_upgrade_that_retires_the_old_master(tmp_path: Path) -> None:
    """By the book: ``USR2``, ``WINCH`` when the new master is there, ``QUIT`` when the old workers are gone."""
    with Daemon(tmp_path, "--workers", "2") as server, Load(server) as load:
        load.more(100)
        successor = server.upgrade()
        try:
            server.signal(signal.SIGWINCH)
            wait_until(lambda: server.workers() == {successor}, "the end of the old workers")
            load.more(100)
            server.signal(signal.SIGQUIT)
            wait_until(lambda: not lives(server.master), "the old master's end")
            load.more(100)
            load.stop()
            assert counted_once(load, server.total())
            assert server.document()["pool"]["rows"]["used"] <= 3
        finally:
            server.end(successor)


@pytest.mark.thorough
def test_no_count_is_lost_or_doubled_by_a_cancelled_upgrade(tmp_path: Path) -> None:
    """``WINCH`` to the old master, then ``HUP`` brings its workers back, and the new one is ended."""
    with Daemon(tmp_path, "--workers", "2") as server, Load(server) as load:
        load.more(100)
        successor = server.upgrade()
        try:
            server.signal(signal.SIGWINCH)
            wait_until(lambda: server.workers() == {successor}, "the end of the old workers")
            load.more(50)
            server.signal(signal.SIGHUP)
            wait_until(lambda: len(server.workers() - {successor}) == 2, "the old master's workers")
        finally:
            server.end(successor)
        load.more(100)
        load.stop()
        assert counted_once(load, server.total())


@pytest.mark.thorough
def test_no_count_is_lost_or_doubled_by_recycling_with_jitter(tmp_path: Path, options: tuple[str, ...]) -> None:
    recycling = ("--max-requests", "30", "--max-requests-jitter", "30")
    with Gunicorn(tmp_path, *options, *recycling) as server:
        with Load(server) as load:
            load.more(200)
        assert counted_once(load, server.total())
        assert len(load.answered) > 3, "no worker was recycled"
        document = server.document()
        assert document["pool"]["rows"]["used"] <= 6
        assert document["pool"]["cells"]["bytes"] <= 8 * 4096


@pytest.mark.thorough
def test_an_application_that_fails_to_boot_loses_no_counts(tmp_path: Path) -> None:
    """It counts before it fails, in workers and in a preloading master: the next start has all counts."""
    failing = SITE + '\nstats.incr("boots", "tried")\nraise RuntimeError("this application does not boot")\n'
    server = Gunicorn(tmp_path, "--workers", "2")
    code = tmp_path / "site_under_test.py"
    with server:
        with Load(server) as load:
            load.more(100)
        code.write_text(failing)
        server.signal(signal.SIGHUP)
        wait_until(lambda: not group_lives(server.master), "the master's end")
        assert "this application does not boot" in server.log.read_text()
    command = [GUNICORN, "--preload", "--bind", "127.0.0.1:0", "site_under_test:app"]
    preloading = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=BOUND, check=False)
    assert preloading.returncode != 0
    assert "this application does not boot" in preloading.stderr
    code.write_text(SITE)
    with server:
        assert load.failed == 0
        assert server.total() == load.total
        assert server.document()["simple"]["boots"]["tried"] >= 2


@pytest.mark.thorough
def test_workers_of_a_killed_master_leave_and_the_next_start_has_all_counts(tmp_path: Path) -> None:
    server = Gunicorn(tmp_path, "--workers", "3", "--timeout", "2")
    with server, Load(server) as load:
        load.more(100)
        os.kill(server.master, signal.SIGKILL)
        load.more(50)
        load.stop()  # a worker of gunicorn does not check its master during a request
        wait_until(lambda: not group_lives(server.master), "the end of the orphans")
    with server:
        assert counted_once(load, server.total())


@pytest.mark.storm
@pytest.mark.parametrize("seed", range(6))
def test_a_storm_against_servers_loses_no_counts(tmp_path: Path, core: str, seed: int) -> None:
    tally = Tally()
    with ServerStorm(tmp_path / "server", random.Random(seed), tally, pure=core == "Python") as storm:
        storm.run(FAULTS, lambda: sum(tally.faults.values()) >= 15)
    print(tally)
    assert tally.clean, tally
