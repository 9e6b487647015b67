"""Hundreds of children: pools whose processes do one task each, and processes that end abnormally.

``tests/test_processes.py`` has the ways to start and to end one child (a fork in a thread and in a signal handler,
``os._exit``, ``posix_spawn``, daemons, pools); storms fork too (``test_kill_of_all.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import PythonRunner, segment_file

pytestmark = pytest.mark.far_from_core

POOL = """
    import multiprocessing, os, sys

    def count(number):
        from shmstats import stats
        stats.incr("pool", "tasks")
        stats.timing("pool", "took", 1)
        stats.incr("pool", "labelled", labels={"digit": str(number % 10)})
        return os.getpid()

    if __name__ == "__main__":
        from shmstats import stats
        stats.incr("parent", "m")
        tasks = int(sys.argv[1])
        with multiprocessing.get_context("fork").Pool(4, maxtasksperchild=1) as pool:
            pids = pool.map(count, range(tasks), chunksize=1)
            pool.close()
            pool.join()
        block = stats.shared.attach()
        print(len(set(pids)), block.reader.header.number("slots"), len(block.reader.columns.rows_in_use()))
"""


def check_pool(stats: Any, python: PythonRunner, data: Path, tasks: int) -> None:
    child = python.start(POOL, tasks)
    pids, slots, rows = map(int, child.finish(bound=300).split())
    assert pids > 0.9 * tasks
    assert slots <= 8
    assert rows <= 9
    assert not segment_file(data).exists()
    values = stats.snapshot()["pool"]
    assert values.pop("tasks") == tasks
    assert sum(values.pop("took").buckets) == tasks
    assert stats.get("pool", "labelled", labels={"digit": "3"}) == tasks // 10


def test_short_children_of_a_pool_count_once_each_and_leave_no_slots(
    stats: Any, python: PythonRunner, data: Path
) -> None:
    check_pool(stats, python, data, 100)


@pytest.mark.storm
def test_a_thousand_short_children_of_a_pool_count_once_each(stats: Any, python: PythonRunner, data: Path) -> None:
    check_pool(stats, python, data, 1000)


ENDINGS = {
    "os._exit": "os._exit(7)",
    "an exception": "raise RuntimeError('ends badly')",
    "a signal": "os.kill(os.getpid(), signal.SIGTERM)",
    "an abort": "os.abort()",
    "exec": "os.execv('/bin/true', ['true'])",
    "a thread that counts": "threading.Thread(target=forever, daemon=True).start(); time.sleep(0.01)",
    "a full recursion": "deep()",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_children_that_end_in_any_way_lose_nothing_and_block_no_process(
    stats: Any, python: PythonRunner, data: Path, ending: str
) -> None:
    code = """
        import os, signal, sys, threading, time, resource
        from shmstats import stats
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        stats.incr("c", "parent")

        def forever():
            while True:
                stats.incr("c", "thread")

        def deep():
            stats.incr("c", "deep")
            deep()

        for _ in range(8):
            pid = os.fork()
            if pid == 0:
                os.close(2)
                os.open(os.devnull, os.O_WRONLY)
                stats.incr("c", "child")
                {ending}
                sys.exit(0)
            os.waitpid(pid, 0)
        stats.incr("c", "parent")
        assert stats.get("c", "parent") == 2
    """
    python.run(code.replace("{ending}", ENDINGS[ending]))
    assert stats.get("c", "child") == 8
    assert stats.get("c", "parent") == 2
    assert len(list(segment_file(data).parent.glob(f"{segment_file(data).name}*"))) <= 3


def test_a_program_spawned_while_threads_count_counts_by_itself(stats: Any, python: PythonRunner) -> None:
    """By ``posix_spawn``, while threads of the spawning process count."""
    code = """
        import os, sys, threading
        from shmstats import stats
        stop, counted = threading.Event(), [0, 0]

        def count(index):
            while not stop.is_set():
                stats.incr("c", "threads")
                counted[index] += 1

        threads = [threading.Thread(target=count, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        program = "from shmstats import stats; stats.incr('c', 'spawned')"
        for _ in range(2):
            pid = os.posix_spawn(sys.executable, [sys.executable, "-c", program], os.environ)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        stop.set()
        for thread in threads:
            thread.join()
        print(sum(counted))
    """
    counted = int(python.run(code))
    assert stats.get("c", "threads") == counted
    assert stats.get("c", "spawned") == 2
