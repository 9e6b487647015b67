"""Upgrades while processes work: new ones beside those of 0.1, and old ones whose files have been replaced."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

import pytest
from helpers import SHARED_MEMORY, PythonRunner
from servers import Gunicorn, wait_until

import shmstats
from shmstats.snapshot.store import load

pytestmark = pytest.mark.far_from_core

SAVED = Path(__file__).parents[1] / "snapshot" / "versions" / "version-2.json"

#: The files of a process of 0.1: a block named by user and path, and a lock file with a byte that all share.
OLD_PROCESS = """
import fcntl, os, shutil, sys
from pathlib import Path
segment, saved, stats = map(Path, sys.argv[1:])
segment.write_bytes(bytes(4096))
lock = open(f"{segment}.lock", "w+b")
fcntl.lockf(lock, fcntl.LOCK_SH, 1, 2**60 + 1)
print(flush=True)
input()
stats.mkdir(parents=True)
shutil.copy(saved, stats / "simple.json")
os.unlink(segment)
os.unlink(lock.name)
"""

SITE = """
import os
from flask import Flask
from shmstats import stats
from shmstats.web import blueprint

app = Flask(__name__)
app.register_blueprint(blueprint)


@app.get("/hit")
def hit():
    stats.incr("shop", "visits")
    return str(os.getpid())
"""


@pytest.fixture
def old_process(data: Path) -> Iterator[subprocess.Popen[str]]:
    data.mkdir(mode=0o700)
    segment = Path(SHARED_MEMORY, f"shmstats_0_{blake2b(bytes(data), digest_size=8).hexdigest()}")
    command = [sys.executable, "-c", OLD_PROCESS, segment, SAVED, data / "stats"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()
            for left in segment.parent.glob(f"{segment.name}*"):
                left.unlink()


@pytest.mark.parametrize("end", ["leaves", pytest.param("is killed", marks=pytest.mark.thorough)])
def test_new_processes_count_as_soon_as_the_last_process_of_0_1_ends(
    tmp_path: Path, old_process: subprocess.Popen[str], end: str
) -> None:
    with Gunicorn(tmp_path, "--workers", "2", site=SITE) as server:
        assert server.get("/hit")[0] == 200
        for path in ("/stats", "/stats/prometheus", "/debug/threads"):
            status, body = server.get(path)
            assert status == 503
            assert "is used by processes of shmstats 0.1" in body
            assert "wait until they end" in body
        if end == "leaves":
            old_process.communicate("\n")
        else:
            old_process.kill()
            old_process.wait()
        wait_until(lambda: server.get("/stats")[0] == 200, "an answer of the statistics")
        before = 42 if end == "leaves" else 0
        wait_until(lambda: server.get("/hit")[0] == 200 and visits(server) >= before + 10, "the counts")
        log = server.log.read_text()
        assert 1 <= log.count("nothing is counted: block") <= 2, log  # once for each worker that tried to count
        assert log.count("was left by processes of shmstats 0.1 that are gone") == (end == "is killed")
        assert "Traceback" not in log


def visits(server: Gunicorn) -> int:
    found: int = server.document()["simple"].get("shop", {}).get("visits", 0)
    return found


#: A process of a package that is about to be replaced; it waits until it has imported what saving takes.
REPLACED = """
import sys, time
sys.path.insert(0, sys.argv[1])
import shmstats
from shmstats import stats

assert shmstats.__file__.startswith(sys.argv[1])
stats.incr("shop", "visits")
end = time.monotonic() + 20
while not stats.shared._can_save and time.monotonic() < end:
    time.sleep(0.01)
print(flush=True)
input()
stats.incr("shop", "visits")
stats.timing("shop", "answer", 3.5, labels={"later": "yes"})
print(stats.snapshot()["shop"]["visits"], flush=True)
input()
"""


def test_processes_whose_package_is_replaced_count_read_and_save_at_their_end(
    configure: Callable[..., object], python: PythonRunner, tmp_path: Path, data: Path
) -> None:
    """As by `pip install -U` before a restart: the process that leaves last has not saved before."""
    configure(snapshot_interval_ms=100)
    package = tmp_path / "site" / "shmstats"
    shutil.copytree(Path(shmstats.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "docs"))
    saver, last = (python.start(REPLACED, package.parent) for _ in range(2))
    for process in (saver, last):
        process.hear()
    for module in package.rglob("*.py"):
        module.write_text("raise AttributeError('this is of another version')\n")
    for process in (saver, last):
        process.tell("")
        process.hear()
    for process in (saver, last):
        process.tell("")
        process.finish(quiet=False)
        assert "Traceback" not in process.stderr
    assert load(data / "stats" / "simple.json").value_of("shop", "visits") == 4


def test_a_fork_does_not_wait_for_a_background_thread_that_wants_to_import(python: PythonRunner) -> None:
    said = python.run(
        """
        import os, threading
        from shmstats import lifecycle
        from shmstats.attachment.late import import_to_save

        class Background:
            def pause(self):
                thread = threading.Thread(target=lambda: said.append(import_to_save()))
                thread.start()
                thread.join(20)

            def forget(self):
                pass

        background, said = Background(), []
        lifecycle.take_part(lifecycle.Stage.AGENTS, background)
        if not os.fork():
            os._exit(0)
        os.wait()
        print(said, import_to_save())
        """
    )
    assert said == "[False] True\n"
