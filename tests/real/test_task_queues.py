"""Real task queues and pools, with a real Redis: every finished task is counted once, over a kill and a stop."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from documents import section, table
from real.hosts import ROOT, free_port
from real.servers import BOUND, group_lives, wait_until

pytestmark = pytest.mark.thorough

DOCUMENT = "shmstats/docs/deployment.md"

TASKS = """
import os
import redis
from shmstats import stats

server = redis.Redis(port={port})


def work(fatal=False):
    stats.incr("tasks", "done")
    server.incr("done")
    if fatal:
        os.kill(os.getpid(), 9)
"""

RQ = """
import rq

def submit(*arguments):
    rq.Queue(connection=server).enqueue(work, *arguments)
"""

DRAMATIQ = """
import dramatiq
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(client=server))

@dramatiq.actor(max_retries=0)
def task(*arguments):
    work(*arguments)

submit = task.send
"""

CELERY = """
from celery import Celery

app = Celery("tasks", broker="redis://localhost:{port}")

@app.task
def task(*arguments):
    work(*arguments)

submit = task.delay
"""

#: The configuration that the document recommends.
CELERY_HOOKS = """
from celery.signals import worker_init, worker_process_shutdown
import shmstats

@worker_init.connect
def attach(**_):
    shmstats.init()

@worker_process_shutdown.connect
def leave(**_):
    shmstats.close()
"""

LOKY = """
from joblib import Parallel, delayed

def count(handle):
    handle.incr()
    server.incr("done")

def submit(number):
    Parallel(n_jobs=3)(delayed(count)(stats.counter("tasks", "done")) for _ in range(number))
"""

#: A function that holds a handle, which cloudpickle pickles with it.
DASK = """
import dask

def submit(number):
    handle, port = stats.counter("tasks", "done"), {port}

    def count():
        import redis
        handle.incr()
        redis.Redis(port=port).incr("done")

    dask.compute(*[dask.delayed(count, pure=False)() for _ in range(number)], scheduler="processes", num_workers=3)
"""


@dataclass(frozen=True)
class TaskQueue:
    """How to run a task queue.

    Attributes:
        tasks: its part of the module ``tasks``, which has ``submit``.
        worker: the command of its workers; empty if ``submit`` is given a number, and returns when all is done.
        kill: whether a killed worker is replaced.
        buffered: whether buffered mode loses nothing at a stop.
        needs: the module that may be missing.
    """

    tasks: str
    worker: str
    kill: bool = True
    buffered: bool = True
    needs: str = ""


_CELERY = "{bin}/celery -A tasks worker --pool prefork --concurrency 3 --without-mingle --without-gossip"

#: The queues, by their names in the table of docs/deployment.md.
QUEUES = {
    "Celery, with the hooks": TaskQueue(CELERY + CELERY_HOOKS, _CELERY, needs="celery"),
    "Celery without hooks": TaskQueue(CELERY, _CELERY, needs="celery"),
    "RQ": TaskQueue(RQ, "{bin}/rq worker --url redis://localhost:{port}", buffered=False, needs="rq"),
    "dramatiq": TaskQueue(DRAMATIQ, "{bin}/dramatiq tasks --processes 3 --threads 2", kill=False, needs="dramatiq"),
    "joblib, loky": TaskQueue(LOKY, "", kill=False, needs="joblib"),
    "dask, processes": TaskQueue(DASK, "", kill=False, needs="dask"),
}


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The address of a Redis server."""
    number = free_port()
    try:
        redis = subprocess.Popen(
            ["redis-server", "--port", str(number), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
            stdout=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        if os.environ.get("CI"):
            pytest.fail("redis-server is missing, and CI must test with it")
        pytest.skip("redis-server is missing")
    yield number
    redis.terminate()
    redis.wait(BOUND)


class Workers:
    """The workers of a queue, in a separate directory."""

    def __init__(self, queue: TaskQueue, directory: Path, port: int, **stats: object) -> None:
        self._directory, self._queue, self._port = directory, queue, port
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("SHMSTATS")}
        self._environment |= {"PYTHONPATH": os.pathsep.join((str(ROOT), str(directory)))}
        (directory / "tasks.py").write_text(TASKS.format(port=port) + queue.tasks.replace("{port}", str(port)))
        (directory / "shmstats.yml").write_text(
            yaml.safe_dump({"path": {"data": str(directory / "data")}, "stats": stats})
        )

    def __enter__(self) -> Workers:
        words = self._queue.worker.format(bin=Path(sys.executable).parent, port=self._port)
        if words:
            with (self._directory / "workers.log").open("ab") as log:
                self._process = subprocess.Popen(
                    shlex.split(words), cwd=self._directory, env=self._environment, stdout=log, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is None:
            return
        try:
            self._process.terminate()
            self._process.wait(BOUND)
            wait_until(lambda: not group_lives(self._process.pid), "the end of the workers")  # type: ignore[union-attr]
        finally:
            if group_lives(self._process.pid):
                os.killpg(self._process.pid, signal.SIGKILL)

    def run(self, code: str) -> str:
        """Run code that has all of the module ``tasks``."""
        command = [sys.executable, "-c", f"from tasks import *\n{code}"]
        done = subprocess.run(
            command, cwd=self._directory, env=self._environment, check=True, stdout=subprocess.PIPE, timeout=3 * BOUND
        )
        return done.stdout.decode()

    def do(self, number: int, fatal: bool = False) -> None:
        """Run this many tasks and wait for them; the first of them may end its process."""
        if not self._queue.worker:
            self.run(f"submit({number})")
            return
        before = self.done()
        self.run("".join(f"submit({fatal and not each})\n" for each in range(number)))
        wait_until(lambda: self.done() == before + number, f"{number} more tasks")

    def done(self) -> int:
        """The number of finished tasks by the counter in Redis."""
        return int(self.run("print(int(server.get('done') or 0))"))

    def counted(self) -> int:
        """The number of counted tasks, from the block or the snapshot."""
        command = [sys.executable, "-m", "shmstats", "dump"]
        dumped = subprocess.run(
            command, cwd=self._directory, env=self._environment, check=True, stdout=subprocess.PIPE, timeout=BOUND
        )
        return int(json.loads(dumped.stdout).get("tasks", {}).get("done", 0))

    def remove_block(self) -> None:
        """Save and remove a block without processes, as the next process does."""
        self.run("import shmstats; shmstats.init()")


@pytest.fixture(params=QUEUES)
def queue(request: pytest.FixtureRequest) -> TaskQueue:
    """An installed task queue."""
    chosen = QUEUES[request.param]
    if importlib.util.find_spec(chosen.needs) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{chosen.needs} is missing, and CI must test it")
        pytest.skip(f"{chosen.needs} is missing")
    return chosen


def test_each_task_is_counted_once_over_a_kill_a_stop_and_a_start(queue: TaskQueue, tmp_path: Path, port: int) -> None:
    workers = Workers(queue, tmp_path, port, max_workers=8)
    with workers:
        workers.do(20)
        if queue.kill:
            workers.do(10, fatal=True)
    with workers:
        workers.do(10)
    assert workers.counted() == workers.done() == (40 if queue.kill else 30)
    workers.remove_block()


def test_operations_that_tasks_hold_in_buffered_mode_are_kept_after_a_stop(
    queue: TaskQueue, tmp_path: Path, port: int
) -> None:
    if not queue.buffered:
        pytest.skip("the table of the document says that held operations are lost")
    workers = Workers(queue, tmp_path, port, max_workers=8, no_buffer=False, flush_interval_ms=3_600_000)
    with workers:
        workers.do(20)
    assert workers.counted() == 20
    workers.remove_block()


def test_the_document_has_the_table_of_these_queues() -> None:
    told = {row[0]: row[1:3] for row in table(section(DOCUMENT, "Task queues"))}
    for name, queue in QUEUES.items():
        assert told[name] == ["yes" if queue.kill else "-", "yes" if queue.buffered else "no"], name
