"""The table lock: across processes, threads and signal handlers, and after kills and forks."""

from __future__ import annotations

import os
import signal
import stat
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import process_state, wait_until

HOLDER = """
    import sys
    from shmstats.block.lock import lock_file
    with lock_file(sys.argv[1]).table():
        print("inside", flush=True)
        input()
    print("outside", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_only_one_process_at_a_time_is_inside(python: Any, path: Path) -> None:
    first = python.start(HOLDER, path)
    assert first.hear() == "inside"
    second = python.start(HOLDER, path)
    wait_until(lambda: process_state(second.pid) == "S" and _waits(second.pid))
    first.tell()
    assert first.hear() == "outside"
    assert second.hear() == "inside"
    second.tell()
    assert second.finish() == "outside\n"
    first.finish()


def test_the_kernel_drops_the_lock_of_a_killed_holder(python: Any, path: Path) -> None:
    first, second = python.start(HOLDER, path), None
    assert first.hear() == "inside"
    second = python.start(HOLDER, path)
    wait_until(lambda: _waits(second.pid))
    first.signal(signal.SIGKILL)
    assert second.hear() == "inside"
    second.tell()
    second.finish()
    first.finish(status=-signal.SIGKILL)


def test_the_holder_may_be_stopped_and_nobody_goes_in(python: Any, path: Path) -> None:
    first = python.start(HOLDER, path)
    first.hear()
    first.signal(signal.SIGSTOP)
    wait_until(lambda: process_state(first.pid) == "T")
    second = python.start(HOLDER, path)
    wait_until(lambda: _waits(second.pid))
    first.signal(signal.SIGCONT)
    first.tell()
    assert second.hear() == "inside"
    second.tell()
    second.finish()
    first.finish()


def test_who_waited_for_a_removed_file_opens_the_new_one(python: Any, path: Path) -> None:
    remover = python.start(HOLDER.replace("input()\n", "input()\n        lock_file(sys.argv[1]).remove()\n"), path)
    assert remover.hear() == "inside"
    waiting = [python.start(HOLDER, path) for _ in range(2)]
    wait_until(lambda: all(_waits(child.pid) for child in waiting))
    before = path.stat().st_ino
    remover.tell()
    remover.finish()
    inside = next(child for child in _heard_one(waiting) if child)
    other = next(child for child in waiting if child is not inside)
    assert path.exists()
    assert path.stat().st_ino != before or path.stat().st_nlink == 1
    wait_until(lambda: _waits(other.pid))
    inside.tell()
    assert other.hear() == "inside"
    other.tell()
    for child in waiting:
        child.finish()


def test_it_nests(shmstats: ModuleType, path: Path, python: Any) -> None:
    lock = shmstats.block.lock.lock_file(str(path))
    with lock.table():
        with lock.table():
            pass
        other = python.start(HOLDER, path)
        wait_until(lambda: _waits(other.pid))
    assert other.hear() == "inside"
    other.tell()
    other.finish()
    lock.forget()


def test_there_is_one_lock_file_of_a_path_in_a_process(shmstats: ModuleType, path: Path) -> None:
    lock_file = shmstats.block.lock.lock_file
    assert lock_file(str(path)) is lock_file(str(path))
    assert not path.exists()


def test_the_file_is_private_and_not_inherited(shmstats: ModuleType, path: Path) -> None:
    before = os.umask(0)
    try:
        lock = shmstats.block.lock.lock_file(str(path))
        with lock.table():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert not os.get_inheritable(lock._fd)
    finally:
        os.umask(before)
        lock.forget()


@pytest.mark.parametrize("wrong", ["mode", "link", "owner"])
def test_a_file_that_is_not_ours_alone_is_refused(shmstats: ModuleType, path: Path, wrong: str) -> None:
    if wrong == "owner" and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    target = path if wrong != "link" else path.with_name("target")
    target.touch(0o600)
    if wrong == "mode":
        path.chmod(0o620)
    elif wrong == "link":
        path.symlink_to(target)
    else:
        os.chown(path, 12345, -1)
    lock = shmstats.block.lock.lock_file(str(path))
    with pytest.raises(OSError, match=f"{path}|symbolic links"), lock.table():
        pass
    assert not lock.guard.held


def test_threads_take_turns(shmstats: ModuleType, path: Path) -> None:
    lock = shmstats.block.lock.lock_file(str(path))
    inside, most = 0, 0

    def enter() -> None:
        nonlocal inside, most
        for _ in range(100):
            with lock.table():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    lock.forget()


def test_a_signal_handler_inside_defers_what_it_wants(shmstats: ModuleType, path: Path) -> None:
    lock = shmstats.block.lock.lock_file(str(path))
    done: list[str] = []

    def handle(*_: object) -> None:
        assert lock.guard.held
        lock.guard.defer(lambda: done.append("deferred"))

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with lock.table():
            with lock.table():
                signal.raise_signal(signal.SIGUSR1)
            assert done == []
            signal.raise_signal(signal.SIGUSR1)
            done.append("inside")
        assert done == ["inside", "deferred", "deferred"]
    finally:
        signal.signal(signal.SIGUSR1, before)
        lock.forget()


def test_what_is_deferred_may_defer_and_enter_again(shmstats: ModuleType) -> None:
    guard, done = shmstats.block.lock.Guard(), []

    def again() -> None:
        assert not guard.held
        with guard:
            guard.defer(lambda: done.append("second"))
            done.append("first")

    with guard:
        guard.defer(again)
    assert done == ["first", "second"]


def test_a_deferred_call_that_another_has_taken_is_done_once(shmstats: ModuleType) -> None:
    """Between the look at the queue and the taking from it a signal handler may leave the guard, too."""
    from collections import deque

    guard, done = shmstats.block.lock.Guard(), []

    class Interrupted(deque):  # type: ignore[type-arg]
        def _drain(self) -> None:
            while len(self):
                super().popleft()()

        def __bool__(self) -> bool:
            waiting = len(self) > 0
            self._drain()
            return waiting

        def popleft(self) -> Any:
            self._drain()
            return super().popleft()

    guard._deferred = Interrupted()
    with guard:
        guard.defer(lambda: done.append(1))
    assert done == [1]


def test_a_deferred_call_that_fails_is_nobody_elses_failure(
    shmstats: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    guard, done = shmstats.block.lock.Guard(), []

    def fail() -> None:
        raise ZeroDivisionError("the handler's own")

    with guard:
        guard.defer(fail)
        guard.defer(lambda: done.append(1))
    assert done == [1]
    assert "the handler's own" in caplog.text


def test_the_child_of_a_fork_holds_nothing_and_lets_nothing_go(python: Any, path: Path) -> None:
    code = """
        import os, sys, threading
        from shmstats.block.lock import lock_file
        lock = lock_file(sys.argv[1])
        with lock.table():
            pid = os.fork()
            if pid == 0:
                assert not lock.guard.held
                # Closing the child's descriptors must not free the parent's lock.
                print("child", flush=True)
                with lock.table():
                    print("child inside", flush=True)
                os._exit(0)
            input()
            print("parent inside", flush=True)
        os.waitpid(pid, 0)
    """
    child = python.start(code, path)
    assert child.hear() == "child"
    child.tell()
    assert child.hear() == "parent inside"
    assert child.hear() == "child inside"
    child.finish()


def test_a_fork_while_another_thread_is_inside_leaves_the_child_free(python: Any, path: Path) -> None:
    code = """
        import os, sys, threading
        from shmstats.block.lock import lock_file
        lock = lock_file(sys.argv[1])
        inside, leave = threading.Event(), threading.Event()
        def hold():
            with lock.table():
                inside.set()
                leave.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait()
        pid = os.fork()
        if pid == 0:
            with lock.guard:
                os.write(1, b"guard\\n")
            with lock.table():
                os.write(1, b"table\\n")
            os._exit(0)
        os.write(1, b"parent\\n")  # in one piece, for two processes write here
        input()
        leave.set()
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    """
    child = python.start(code, path)
    assert {child.hear(), child.hear()} == {"guard", "parent"}
    child.tell()
    assert child.hear() == "table"
    child.finish()


def test_a_false_alarm_of_the_kernels_deadlock_detection_is_survived(python: Any, path: Path) -> None:
    """Two processes, two files: each has one and waits, in another thread, for the other's.

    That is no deadlock, for the holders do not wait; but the kernel looks at processes, and says EDEADLK.
    """
    code = """
        import sys, threading
        from shmstats.block.lock import lock_file
        mine, other = map(lock_file, sys.argv[1:])
        inside, leave = threading.Event(), threading.Event()
        def hold():
            with mine.table():
                inside.set()
                leave.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait()
        print("holding", flush=True)
        asked = threading.Event()
        lock = other.lock
        def lock_and_tell(position):
            asked.set()
            lock(position)
        other.lock = lock_and_tell
        def want():
            try:
                with other.table():
                    print("got it", flush=True)
            except OSError as error:
                print(error, flush=True)
        wanting = threading.Thread(target=want)
        input()
        wanting.start()
        asked.wait()
        print("wanting", flush=True)
        input()
        leave.set()
        thread.join()
        wanting.join()
    """
    second = path.with_name("second")
    one, two = python.start(code, path, second), python.start(code, second, path)
    for child in (one, two):
        assert child.hear() == "holding"
    one.tell()
    wait_until(lambda: _waits(one.pid))
    two.tell()
    assert two.hear() == "wanting"
    for child in (one, two):
        child.tell()
    assert one.hear() == "wanting"
    assert [one.hear(), two.hear()] == ["got it", "got it"]
    one.finish()
    two.finish()


def _waits(pid: int) -> bool:
    """Whether a process waits for a record lock, by proc_locks(5)."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f" {pid} " in line for line in lines)


def _heard_one(children: list[Any]) -> list[Any]:
    import select

    streams = {child._process.stdout.fileno(): child for child in children}
    ready, _, _ = select.select(list(streams), [], [], 20)
    for stream in ready:
        assert streams[stream].hear() == "inside"
    assert len(ready) == 1
    return [streams[stream] for stream in ready]
