"""The table lock: across processes, threads and signal handlers, and after kills and forks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import process_state, wait_until

LOCKS = """
    import os, sys
    from shmstats.block.lock import RecordLocks, guards
"""

HOLDER = f"""{LOCKS}
    with RecordLocks(sys.argv[1]).table():
        print("inside", flush=True)
        input()
    print("outside", flush=True)
"""


@pytest.fixture
def locks(shmstats: ModuleType, path: Path) -> Iterator[Any]:
    """The locks of a file, as this process has them."""
    locks = shmstats.block.lock.RecordLocks(str(path))
    yield locks
    locks.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "lock"
    path.touch()
    return path


def test_only_one_process_at_a_time_holds_the_lock(python: Any, path: Path) -> None:
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


ENTANGLED = f"""{LOCKS}
    import fcntl, threading

    def wait_for_other():
        fcntl.lockf(other.descriptor(), fcntl.LOCK_EX)

    other = RecordLocks(sys.argv[2])
    with RecordLocks(sys.argv[1]).table():
        threading.Thread(target=wait_for_other, daemon=True).start()
        print("inside", flush=True)
        input()
    print("outside", flush=True)
    os._exit(0)
"""

WAITER = f"""{LOCKS}
    import fcntl
    other = RecordLocks(sys.argv[2])
    fcntl.lockf(other.descriptor(), fcntl.LOCK_EX)
    print("has the other", flush=True)
    input()
    with RecordLocks(sys.argv[1]).table():
        print("inside", flush=True)
"""


def test_a_lock_is_waited_for_if_the_kernel_wrongly_reports_a_deadlock(python: Any, path: Path, tmp_path: Path) -> None:
    """The server has other locks (mod_wsgi's accept mutex), and threads that wait for them."""
    (tmp_path / "other").touch()
    waiter = python.start(WAITER, path, tmp_path / "other")
    assert waiter.hear() == "has the other"
    holder = python.start(ENTANGLED, path, tmp_path / "other")
    assert holder.hear() == "inside"
    wait_until(lambda: _waits(holder.pid))
    waiter.tell()
    wait_until(lambda: process_state(waiter.pid) == "S")
    holder.tell()
    assert holder.hear() == "outside"
    assert waiter.hear() == "inside"
    waiter.finish()
    holder.finish()


def test_a_stopped_holder_keeps_the_lock(python: Any, path: Path) -> None:
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


def test_the_lock_is_reentrant(locks: Any, path: Path, python: Any) -> None:
    with locks.table():
        with locks.table():
            pass
        other = python.start(HOLDER, path)
        wait_until(lambda: _waits(other.pid))
    assert other.hear() == "inside"
    other.tell()
    other.finish()


def test_threads_take_turns(locks: Any) -> None:
    inside, most = 0, 0

    def enter() -> None:
        nonlocal inside, most
        for _ in range(100):
            with locks.table():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_signal_handler_that_interrupts_the_holder_defers_its_call(locks: Any) -> None:
    done: list[str] = []

    def handle(*_: object) -> None:
        assert locks.guard.is_held()
        locks.guard.defer(lambda: done.append("deferred"))

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with locks.table():
            with locks.table():
                signal.raise_signal(signal.SIGUSR1)
            assert done == []
            signal.raise_signal(signal.SIGUSR1)
            done.append("inside")
        assert done == ["inside", "deferred", "deferred"]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_deferred_call_may_defer_and_enter_again(shmstats: ModuleType) -> None:
    guard, done = shmstats.block.lock.Guard(), []

    def again() -> None:
        assert not guard.is_held()
        with guard:
            guard.defer(lambda: done.append("second"))
            done.append("first")

    with guard:
        guard.defer(again)
    assert done == ["first", "second"]


def test_a_deferred_call_is_made_once_if_a_signal_handler_takes_it(
    shmstats: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler may leave the guard between the check of the queue and the pop from it."""
    lock, done = shmstats.block.lock, []

    class Interrupted(lock._Deferred):  # type: ignore[misc, name-defined]
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

    monkeypatch.setattr(lock, "_Deferred", Interrupted)
    guard = lock.Guard()
    with guard:
        guard.defer(lambda: done.append(1))
    assert done == [1]


def test_a_failure_of_a_deferred_call_is_logged_and_not_raised(
    shmstats: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    guard, done = shmstats.block.lock.Guard(), []

    def fail() -> None:
        raise shmstats.KindError("the handler's own")

    with guard:
        guard.defer(fail)
        guard.defer(lambda: done.append(1))
    assert done == [1]
    assert "the handler's own" in caplog.text


def test_a_forked_child_neither_holds_nor_releases_the_lock(python: Any, path: Path) -> None:
    code = f"""{LOCKS}
    locks = RecordLocks(sys.argv[1])
    with locks.table():
        pid = os.fork()
        if pid == 0:
            assert not guards.current.is_held()
            # Closing the child's descriptors must not free the parent's lock.
            os.close(locks.descriptor())
            print("child", flush=True)
            with RecordLocks(sys.argv[1]).table():
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


def test_a_child_forked_while_another_thread_holds_the_lock_can_take_it(python: Any, path: Path) -> None:
    code = f"""{LOCKS}
    import threading
    locks = RecordLocks(sys.argv[1])
    inside, leave = threading.Event(), threading.Event()
    def hold():
        with locks.table():
            inside.set()
            leave.wait()
    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    pid = os.fork()
    if pid == 0:
        with guards.current:
            os.write(1, b"guard\\n")
        with RecordLocks(sys.argv[1]).table():
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


def test_a_worker_slot_is_free_when_its_process_has_ended_or_called_exec(
    locks: Any, shmstats: ModuleType, python: Any, path: Path
) -> None:
    code = f"""{LOCKS}
    locks = RecordLocks(sys.argv[1])
    with locks.table():
        print(locks.take_slot(5), locks.take_slot(5), flush=True)
    input()
    os.execvp("sleep", ["sleep", "60"])
    """
    first = shmstats.block.layout.FIRST_SLOT
    child = python.start(code, path)
    assert child.hear() == "True False"
    assert locks.held([first + 4, first + 5]) == {first + 5}
    assert locks.slots_held()
    assert not locks.take_slot(5)
    child.tell()
    wait_until(lambda: not locks.slots_held())
    assert locks.take_slot(5)
    assert not locks.slots_held()  # locked by others
    child.kill()


def test_a_process_whose_main_thread_has_ended_keeps_its_slot(locks: Any, python: Any, path: Path) -> None:
    code = f"""{LOCKS}
    import ctypes, threading
    locks = RecordLocks(sys.argv[1])
    assert locks.take_slot(5)
    def stay():
        print("there", flush=True)
        input()
        os._exit(0)
    threading.Thread(target=stay).start()
    ctypes.CDLL(None).pthread_exit(None)
    """
    child = python.start(code, path)
    child.hear()
    wait_until(lambda: process_state(child.pid) == "Z")
    assert locks.slots_held()
    child.tell()
    wait_until(lambda: not locks.slots_held())
    child.kill()


def _waits(pid: int) -> bool:
    """Whether a process waits for a record lock, by proc_locks(5)."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f" {pid} " in line for line in lines)
