"""Signal handlers that raise, like timeouts: no lock stays taken, at any point of a call.

CPython runs handlers at the ends of calls, at the starts of functions and at backward jumps. A profile function can
raise at the first two just like a handler, so each such point is tried in turn. Real timers hit all three; most of
these tests are in the storm, without the pure Python core, which cannot be safe everywhere.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest
from helpers import PythonRunner, segment_file, segment_of


@pytest.fixture
def the_c_core(core: str) -> None:
    if core != "C":
        pytest.skip("the twin cannot do without functions in Python")


@pytest.fixture
def no_registrar(shmstats: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Python register names, because no handler runs inside the one call of C."""
    monkeypatch.setattr(shmstats.block.Block, "open_registrar", lambda *_: None)


def process_guard() -> Any:
    return sys.modules["shmstats.block.lock"].guards.current


class Interruption(BaseException):
    """The exception of a handler."""


def interrupted(number: int, operation: Callable[[], object]) -> bool:
    """Run an operation that is interrupted at a numbered point of the package's code; return whether it exists."""
    passed = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal passed
        if event in ("call", "c_return") and "/shmstats/" in frame.f_code.co_filename:
            passed += 1
            if passed == number + 1:
                raise Interruption

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        operation()
    except Interruption:
        pass
    finally:
        sys.setprofile(before)
    return passed > number


def table_locks() -> list[str]:
    """The table locks that this process has, by proc_locks(5)."""
    lines = Path("/proc/locks").read_text().splitlines()
    return [line for line in lines if f" {os.getpid()} " in line and line.split()[-2:] == ["0", "0"]]


OPERATIONS: dict[str, tuple[Callable[[Any, int], object], Callable[[Any, int], object]]] = {
    "register": (lambda stats, n: None, lambda stats, n: stats.incr("c", f"n{n}")),
    "register a label set": (lambda stats, n: None, lambda stats, n: stats.incr("c", "m", labels={"l": str(n)})),
    "register a timing": (lambda stats, n: None, lambda stats, n: stats.timing("c", f"t{n}", 1)),
    "look up a missing name": (lambda stats, n: None, lambda stats, n: stats.get("c", f"none{n}")),
    "declare": (lambda stats, n: None, lambda stats, n: stats.declare("c", f"d{n}", kind="counter", help="It.")),
    "set a total": (lambda stats, n: stats.incr("c", "total"), lambda stats, n: stats.absolute("c", "total", n)),
    "remove": (lambda stats, n: stats.incr("goes", "one"), lambda stats, n: stats.remove("goes")),
    "flush": (lambda stats, n: stats.incr("c", "held"), lambda stats, n: stats.flush()),
    "attach": (lambda stats, n: stats.close(), lambda stats, n: stats.incr("c", "first")),
    "close": (lambda stats, n: stats.incr("c", "first"), lambda stats, n: stats.close()),
}


@pytest.mark.usefixtures("the_c_core")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("no_registrar")
@pytest.mark.parametrize("buffered", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_exception_at_any_point_leaves_no_lock_taken(
    stats: Any, configure: Callable[..., Any], data: Path, operation: str, buffered: bool
) -> None:
    configure(no_buffer=not buffered, persist=False, capacity=4096)
    before, do = OPERATIONS[operation]
    # These two have hundreds of points; each run tries a part of them.
    step = 7 if operation in ("attach", "close") else 1
    stats.incr("c", "kept")
    number = 0
    before(stats, number)
    while interrupted(number, lambda number=number: do(stats, number)):
        assert not process_guard().is_held(), number
        assert not stats._guard.is_held(), number
        assert table_locks() == [], number
        number += step
        before(stats, number)
    assert number > 5
    stats.remove("c")
    stats.incr("c", "after")
    assert stats.get("c", "after") == 1
    stats.close()
    # After an interrupted attach or leave the slot belongs to this process until it ends.
    for left in segment_file(data).parent.glob(f"{segment_of(data)}*"):
        left.unlink()


@contextmanager
def interrupted_at_instruction(number: int, function: Callable[..., object]) -> Iterator[list[int]]:
    """Raise before the numbered instruction of a function; yields the number of instructions seen."""
    seen = [0]

    def in_function(frame: FrameType, event: str, argument: object) -> Any:
        if event == "opcode":
            seen[0] += 1
            if seen[0] == number + 1:
                raise Interruption
        return in_function

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code is not function.__code__:
            return None
        frame.f_trace = in_function  # since Python 3.13 a frame without a trace function reports no instructions
        frame.f_trace_opcodes = True
        return in_function

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    except Interruption:
        pass
    finally:
        sys.settrace(before)


def test_a_block_interrupted_at_the_end_of_its_creation_does_not_stop_others(
    shmstats: ModuleType, stats: Any, python: PythonRunner, data: Path
) -> None:
    """A block with its magic but without the mark of completion is whole, but must not stay either."""
    finish = shmstats.block.attaching.finish
    number = 0
    while True:
        with interrupted_at_instruction(number, finish) as seen:
            stats.incr("c", "m")
        if seen[0] <= number:
            break
        assert not segment_file(data).exists(), number
        number += 1
    assert number > 10
    assert python.run("from shmstats import stats; stats.incr('c', 'm'); print(stats.get('c', 'm'))") == "2\n"


WATCHER = """
import time
from shmstats import stats
print("watching", flush=True)
worst = number = 0
end = time.monotonic() + {seconds}
while time.monotonic() < end:
    start = time.monotonic()
    stats.incr("watched", f"n{{number % 50}}")
    stats.remove("watched", f"n{{number % 50}}")
    worst = max(worst, time.monotonic() - start)
    number += 1
    time.sleep(0.01)
print(worst < 10, flush=True)
"""

TIMED_OUT = """
import random, signal, sys, time
import shmstats
from shmstats import stats

def process_guard():
    return sys.modules["shmstats.block.lock"].guards.current

class Interruption(BaseException):
    pass

def handle(*_):
    raise Interruption

signal.signal(signal.SIGALRM, handle)
stats.incr("c", "fast")
chance, times, number = random.Random({seed}), 0, 0
end = time.monotonic() + {seconds}
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(20e-6, 400e-6))
        while True:
            stats.incr("c", f"n{{number % 100}}")
            stats.remove("c", f"n{{number % 100}}")
            number += 1
    except Interruption:
        times += 1
    assert not process_guard().is_held(), times
signal.setitimer(signal.ITIMER_REAL, 0)
assert times > 100 and number > 100, (times, number)
before = stats.get("c", "after")
stats.incr("c", "after")
assert stats.get("c", "after") == before + 1
shmstats.close()
"""


@pytest.mark.usefixtures("the_c_core")
@pytest.mark.parametrize("seconds", [1.5, pytest.param(30, marks=pytest.mark.storm)])
def test_timers_that_raise_leave_no_lock_taken(python: PythonRunner, seconds: float) -> None:
    """While one process is interrupted all the time, another registers and removes names."""
    watcher = python.start(WATCHER.format(seconds=seconds))
    assert watcher.hear() == "watching"
    python.start(TIMED_OUT.format(seconds=seconds, seed=os.getpid())).finish()
    assert watcher.finish() == "True\n"


class TimeLimitError(Exception):
    """An exception of the application."""


@contextmanager
def handled_by(handler: Callable[..., object]) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def raising(error: type[BaseException]) -> list[Callable[..., object]]:
    """Various handlers that raise."""

    class Handler:
        def handle(self, number: int, frame: object) -> None:
            raise error

    def dropping(number: int, frame: object) -> None:
        del number, frame
        raise error

    def undone(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise error

    def anything(*_: object) -> None:
        raise error

    return [Handler().handle, dropping, undone, anything]


@pytest.mark.usefixtures("no_registrar")
@pytest.mark.parametrize("error", [TimeoutError, ValueError, TimeLimitError, KeyError])
@pytest.mark.parametrize("place", ["find_or_add", "attach", "reserve", "deferred"])
def test_the_exception_of_a_handler_reaches_the_application(
    shmstats: ModuleType, stats: Any, monkeypatch: pytest.MonkeyPatch, error: type[Exception], place: str
) -> None:
    for number, handler in enumerate(raising(error)):
        with handled_by(handler), monkeypatch.context() as patch:
            if place == "attach":
                stats.close()
                patch.setattr(shmstats.block.workers, "_SLOTS", _Signalling())
            elif place == "find_or_add":
                stats.incr("c", "there")
                patch.setattr(shmstats.block.names.NameTable, "add", signalling)
            elif place == "reserve":
                stats.incr("c", "there")
                patch.setattr(shmstats.block.lock.RecordLocks, "reserve", signalling)
                patch.setattr(shmstats.block.names.NameTable, "_reserve_growth", reserve_a_byte)
            else:
                stats.incr("c", "there")
                with pytest.raises(error), process_guard():
                    process_guard().defer(signalling)
                continue
            with pytest.raises(error):
                stats.incr("c", f"new{number}")
        assert not process_guard().is_held()
        stats.incr("c", "counted")
    stats.incr("c", "counted")
    assert stats.get("c", "counted") >= 1


def reserve_a_byte(names: Any, *_: int) -> None:
    names._stripes.reserve(0, 1)


def signalling(*_: object) -> None:
    signal.raise_signal(signal.SIGUSR1)


class _Signalling(int):
    def __add__(self, other: object) -> int:
        signal.raise_signal(signal.SIGUSR1)
        return 0


@pytest.mark.usefixtures("no_registrar")
def test_an_error_of_the_system_does_not_reach_the_application(
    stats: Any, monkeypatch: pytest.MonkeyPatch, shmstats: ModuleType
) -> None:
    """An error of the system is survived, with a handler installed and without."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    stats.incr("c", "there")
    monkeypatch.setattr(shmstats.block.Block, "find_or_add", fail)
    with handled_by(lambda *_: None):
        stats.incr("c", "new")
    stats.incr("c", "new")
    monkeypatch.undo()
    stats.incr("c", "there")
    assert stats.get("c", "there") == 2
    assert stats.get("shmstats", "operations_dropped") == 2
