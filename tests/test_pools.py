"""Pools of processes: every task is counted once, at any end of the pool or of a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from documents import examples
from helpers import BOUND, segment_file, wait_until

pytestmark = pytest.mark.far_from_core

ROOT = Path(__file__).parents[1]

METHODS = ("fork", "spawn", "forkserver")

#: The beginning of each program below. A task writes a byte to a file when it begins, and one when it has counted.
TASKS = """
    import multiprocessing, os, signal, sys
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    import shmstats
    from shmstats import stats

    method = sys.argv[1]

    def note(file):
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b".")
        os.close(descriptor)

    def task(number):
        note("begun")
        stats.incr("pool", "tasks")
        note("counted")
        return number

    def fatal_task(number):
        task(number)
        if number == 20:
            os.kill(os.getpid(), signal.SIGKILL)

    def stuck_task(number):
        task(number)
        signal.pause()

    def flushed_task(number):
        task(number)
        stats.flush()
"""

KILLED_WORKER = """
    if __name__ == "__main__":
        shmstats.init()  # so this process has the block too, and saves it when all workers were terminated
        pool = multiprocessing.get_context(method).Pool(3)
        results = [pool.apply_async(fatal_task, [number]) for number in range(60)]
        for number, result in enumerate(results):
            if number != 20:  # there is no answer of a worker that was killed, and none will come
                result.get(60)
        pool.close()
        pool.terminate()
        pool.join()
"""

TERMINATED_POOL = """
    if __name__ == "__main__":
        pool = multiprocessing.get_context(method).Pool(3)
        results = pool.imap_unordered(task, range(100_000), chunksize=10)
        for _ in range(200):
            next(results)
        pool.terminate()
        pool.join()
"""

STUCK_POOL = """
    import time
    if __name__ == "__main__":
        pool = multiprocessing.get_context(method).Pool(3)
        pool.map_async(stuck_task, range(10), chunksize=1)
        end = time.monotonic() + 60
        while not os.path.exists("counted") or os.path.getsize("counted") < 3:
            assert time.monotonic() < end
            time.sleep(0.002)
        pool.terminate()
        pool.join()
"""

EXECUTOR = """
    if __name__ == "__main__":
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
            assert sum(pool.map(task, range(60))) == sum(range(60))
"""

CANCELLED_EXECUTOR = """
    if __name__ == "__main__":
        pool = ProcessPoolExecutor(3, mp_context=multiprocessing.get_context(method))
        futures = [pool.submit(task, number) for number in range(2000)]
        futures[50].result(60)
        pool.shutdown(cancel_futures=True)
        done = sum(not future.cancelled() for future in futures)
        assert 50 < done < 2000, done
        assert stats.get("pool", "tasks") == done
"""

BROKEN_EXECUTOR = """
    if __name__ == "__main__":
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(3, mp_context=context) as pool:
            futures = [pool.submit(fatal_task, number) for number in range(60)]
            try:
                for future in futures:
                    future.result(60)
            except BrokenProcessPool:
                pass
            else:
                raise AssertionError("the executor did not notice that a worker was killed")
        with ProcessPoolExecutor(3, mp_context=context) as pool:
            list(pool.map(task, range(30)))
"""

CLOSED_POOL = """
    if __name__ == "__main__":
        pool = multiprocessing.get_context(method).Pool(2, maxtasksperchild=20)
        pool.map(task, range(60), chunksize=1)
        pool.close()
        pool.join()
"""

READING_PROCESS = """
    if __name__ == "__main__":
        process = multiprocessing.get_context(method).Process(target=stats.snapshot)
        process.start()
        process.join(60)
        assert process.exitcode == 0, process.exitcode
"""

FLUSHED_POOL = """
    if __name__ == "__main__":
        with multiprocessing.get_context(method).Pool(2) as pool:
            pool.map(flushed_task, range(60), chunksize=1)
"""


@pytest.fixture
def begun(tmp_path: Path) -> Any:
    return lambda: os.path.getsize(tmp_path / "begun")


@pytest.fixture
def counted(tmp_path: Path) -> Any:
    return lambda: os.path.getsize(tmp_path / "counted")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_task_that_was_counted_stays_counted_when_its_worker_is_killed(
    stats: Any, python: Any, data: Path, method: str
) -> None:
    python.run(TASKS + KILLED_WORKER, method)
    assert not segment_file(data).exists()
    assert stats.snapshot() == {"pool": {"tasks": 60}}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_terminated_pool_has_counted_every_task_once(
    stats: Any, python: Any, method: str, begun: Any, counted: Any
) -> None:
    python.run(TASKS + TERMINATED_POOL, method)
    assert 200 <= counted() <= stats.get("pool", "tasks") <= begun() <= counted() + 3


def test_a_pool_with_stuck_tasks_has_counted_exactly_the_tasks_that_began(
    stats: Any, python: Any, counted: Any
) -> None:
    python.run(TASKS + STUCK_POOL, "fork")
    assert stats.get("pool", "tasks") == counted() == 3


@pytest.mark.parametrize("method", METHODS)
def test_a_process_that_only_reads_leaves_no_block(stats: Any, python: Any, data: Path, method: str) -> None:
    python.run(TASKS + READING_PROCESS, method)
    assert not segment_file(data).exists()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_executor_that_is_shut_down_early_has_counted_all_tasks_not_cancelled(
    stats: Any, python: Any, data: Path, method: str, begun: Any, counted: Any
) -> None:
    python.run(TASKS + CANCELLED_EXECUTOR, method)
    assert not segment_file(data).exists()
    assert stats.get("pool", "tasks") == begun() == counted()


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_an_executor_that_breaks_has_counted_every_task_once(
    stats: Any, python: Any, method: str, begun: Any, counted: Any
) -> None:
    """A broken executor ends all its workers at any point of their tasks."""
    python.run(TASKS + BROKEN_EXECUTOR, method)
    assert 49 <= counted() <= stats.get("pool", "tasks") <= begun() <= counted() + 2


@pytest.mark.parametrize("program", [CLOSED_POOL, EXECUTOR], ids=["pool", "executor"])
def test_buffered_counts_are_flushed_when_workers_exit(stats: Any, python: Any, configure: Any, program: str) -> None:
    configure(no_buffer=False, flush_interval_ms=3_600_000)
    python.run(TASKS + program, "fork")
    assert stats.get("pool", "tasks") == 60


def test_buffered_counts_that_a_task_flushes_survive_the_termination_of_the_pool(
    stats: Any, python: Any, configure: Any
) -> None:
    configure(no_buffer=False, flush_interval_ms=3_600_000)
    python.run(TASKS + FLUSHED_POOL, "fork")
    assert stats.get("pool", "tasks") == 60


# The examples of the document ------------------------------------------------------------------------------------

POOLS = examples("shmstats/docs/deployment.md", "Pools of processes")

#: A worker that is killed while it waits for a task may hold the lock of Celery's queue; one in a task does not.
FATAL_TASK = """
app.conf.worker_lost_wait = 0.1

@app.task
def fail():
    import os, signal
    stats.incr("tasks", "added")
    os.kill(os.getpid(), signal.SIGKILL)
"""

CELERY_CLIENT = """
import sys
from tasks import add, fail
if sys.argv[2:] == ["fatal"]:
    fail.delay()
results = [add.delay(number, number) for number in range(int(sys.argv[1]))]
assert [result.get(timeout=60, interval=0.01) for result in results] == [2 * number for number in range(len(results))]
"""


@pytest.fixture
def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SHMSTATS")} | {
        "PYTHONPATH": str(ROOT)
    }


def counted_in(directory: Path, environment: dict[str, str]) -> dict[str, Any]:
    """The count in a directory's saved snapshot, or in its block if that still exists."""
    command = [sys.executable, "-m", "shmstats", "dump"]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, check=True, timeout=BOUND)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_the_example_of_pools_counts_every_job(tmp_path: Path, environment: dict[str, str]) -> None:
    file = tmp_path / "convert.py"
    file.write_text(POOLS[0])
    done = subprocess.run(
        [sys.executable, file], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=BOUND
    )
    assert (done.stderr, done.stdout) == ("", "656700 200\n")
    assert not segment_file(tmp_path / "data").exists()
    assert counted_in(tmp_path, environment)["jobs"] == {"converted": 200}


class Celery:
    """The document's Celery application with a worker of two processes; files are its broker."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.log = directory / "celery.log"
        urls = {"CELERY_BROKER_URL": "filesystem://", "CELERY_RESULT_BACKEND": f"file://{directory}/results"}
        self._environment = environment | urls
        (directory / "tasks.py").write_text(
            examples("shmstats/docs/deployment.md", "Pools of processes")[1] + FATAL_TASK
        )
        for folder in ("data_in", "control", "results"):
            (directory / folder).mkdir()
        (directory / "data_out").symlink_to("data_in")
        options = ("--pool", "prefork", "--concurrency", "2", "--loglevel", "INFO", "--without-mingle")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tasks", "worker", *options],
                cwd=directory,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def run(self, number: int, *before: str) -> None:
        """Run this many tasks and wait for their results; run a fatal one ``before`` them, if given."""
        wait_until(lambda: self.ended or " ready." in self.log.read_text())
        code = [sys.executable, "-c", CELERY_CLIENT, str(number), *before]
        subprocess.run(code, cwd=self.directory, env=self._environment, check=True, timeout=BOUND)

    def stop(self) -> None:
        """Make the worker end in an orderly way."""
        self._process.terminate()

    def wait(self) -> None:
        """Wait for that end."""
        assert self._process.wait(BOUND) == 0, self.log.read_text()

    def kill(self) -> None:
        """Kill the processes that still run."""
        if not self.ended:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(BOUND)


@pytest.fixture
def celery(environment: dict[str, str]) -> Iterator[Any]:
    """Start a worker in a directory: ``celery(directory)``."""
    if find_spec("celery") is None and not os.environ.get("CI"):
        pytest.skip("Celery is not installed")
    workers = []

    def start(directory: Path) -> Celery:
        workers.append(Celery(directory, environment))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


@pytest.mark.thorough
def test_the_example_of_celery_counts_every_task_once(tmp_path: Path, environment: dict[str, str], celery: Any) -> None:
    """In real time a process is killed; in buffered mode all is held until the end. Celery takes its time to end."""
    direct, buffered = tmp_path / "direct", tmp_path / "buffered"
    direct.mkdir()
    buffered.mkdir()
    (buffered / "shmstats.yml").write_text("stats: {no_buffer: false, flush_interval_ms: 3600000}\n")
    workers = celery(direct), celery(buffered)
    for worker in workers:
        worker.run(40)
    workers[0].run(40, "fatal")
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.wait()
    for directory, added, timed in ((direct, 81, 80), (buffered, 40, 40)):
        assert not segment_file(directory / "data").exists()
        tasks = counted_in(directory, environment)["tasks"]
        assert (tasks["added"], tasks["duration"]["count"]) == (added, timed)
