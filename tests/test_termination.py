"""SIGTERM: buffered operations are flushed and saved, and the process ends by the signal, as its parent expects."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
from helpers import PythonRunner, segment_file

pytestmark = pytest.mark.far_from_core

COUNT = """
    import signal, threading, time
    from shmstats import stats
    for _ in range(25): stats.incr('c', 'm')
    print('counted')
    {wait}
"""


def read(python: PythonRunner) -> str:
    return python.run("from shmstats import stats; print(stats.get('c', 'm'))").strip()


@pytest.mark.parametrize(
    "wait",
    ["time.sleep(60)", "threading.Event().wait(60)", "input()"],
    ids=["asleep", "in a lock", "in a read"],
)
def test_buffered_operations_are_saved_at_any_place_of_the_main_thread(
    wait: str, python: PythonRunner, configure: Callable[..., Any], data: Any
) -> None:
    configure(no_buffer=False, flush_interval_ms=3_600_000)
    child = python.start(COUNT.format(wait=wait))
    assert child.hear() == "counted"
    child.signal(signal.SIGTERM)
    child.finish(status=-signal.SIGTERM)
    assert not segment_file(data).exists()
    assert read(python) == "25"


def test_a_handler_of_the_application_is_kept_and_called_alone(python: PythonRunner) -> None:
    child = python.start(
        """
        import signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        import shmstats
        print("ready")
        signal.pause()
        """
    )
    assert child.hear() == "ready"
    child.signal(signal.SIGTERM)
    child.finish(status=7)


def test_an_import_in_another_thread_sets_no_handler(python: PythonRunner) -> None:
    said = python.run(
        """
        import signal, threading
        thread = threading.Thread(target=__import__, args=("shmstats",))
        thread.start(), thread.join()
        print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
        """
    )
    assert said == "True\n"


def test_a_handler_set_in_c_is_kept(python: PythonRunner) -> None:
    said = python.run(
        """
        import ctypes, signal
        libc = ctypes.CDLL(None)
        handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: None)
        libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        libc.signal(signal.SIGTERM, ctypes.cast(handler, ctypes.c_void_p))
        import shmstats
        print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
        """
    )
    assert said == "True\n"


def test_a_forked_child_leaves_by_itself(python: PythonRunner, configure: Callable[..., Any]) -> None:
    configure(no_buffer=False, flush_interval_ms=3_600_000)
    python.run(
        """
        import os, signal, time
        from shmstats import stats
        stats.incr("c", "m")
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            for _ in range(25): stats.incr("c", "m")
            os.write(told, b"x")
            time.sleep(60)
        os.read(ready, 1)
        os.kill(pid, signal.SIGTERM)
        assert os.waitpid(pid, 0)[1] == signal.SIGTERM
        """
    )
    assert read(python) == "26"


@pytest.mark.thorough
def test_a_signal_during_a_fork_is_not_lost(python: PythonRunner) -> None:
    python.run(
        """
        import os, signal, time
        import shmstats
        for _ in range(60):
            pid = os.fork()
            if pid == 0:
                time.sleep(30)
                os._exit(1)
            os.kill(pid, signal.SIGTERM)
            assert os.waitpid(pid, 0)[1] == signal.SIGTERM
        """
    )


POOL_PROCESS = """
    import multiprocessing, signal, sys
    import shmstats
    from shmstats import stats

    def show():
        stats.incr("c", "m")
        print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)

    if __name__ == "__main__":
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        process = multiprocessing.get_context(sys.argv[1]).Process(target=show)
        process.start()
        process.join(60)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_worker_of_a_pool_has_no_handler(python: PythonRunner, method: str) -> None:
    assert python.run(POOL_PROCESS, method) == "True\n"


def test_a_close_that_a_signal_handler_interrupts_by_raising_is_complete(python: PythonRunner) -> None:
    """The process has neither its threads nor its block any more, and the next use attaches again."""
    said = python.run(
        """
        import os, signal, threading, time
        import shmstats
        from shmstats import stats
        from shmstats.attachment.asking import ask_all
        from shmstats.attachment.peers import socket_path

        def expire(*_):
            expired.set()
            raise TimeoutError("of the application")

        def answer():
            asked.set()
            expired.wait()

        asked, expired = threading.Event(), threading.Event()
        signal.signal(signal.SIGALRM, expire)
        shmstats.init({"path": {"data": "data"}, "stats": {"snapshot_interval_ms": 100}})
        stats.incr("c", "m")
        stats.shared.answer("slow", answer)
        block = stats.shared.attach()
        here = {os.getpid(): socket_path(block.name, block.worker.slot)}
        while not os.path.exists(here[os.getpid()]):
            time.sleep(0.01)
        asker = threading.Thread(target=ask_all, args=(here, "slow", 20))
        asker.start()
        asked.wait()
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            shmstats.close()
        except TimeoutError as error:
            print(error)
        asker.join()
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith("shmstats")]
        print(left, os.path.exists(f"/dev/shm/{block.name}"), os.path.exists("data/stats/simple.json"))
        stats.incr("c", "m")
        print(stats.get("c", "m"))
        """
    )
    assert said.splitlines() == ["of the application", "[] False True", "2"]
