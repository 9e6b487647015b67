"""Buffered mode: no operation is lost or flushed twice, over flushes, forks, signals and exits."""

from __future__ import annotations

import linecache
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import FORKING, hold, wait_until

NEVER = 3_600_000  # ms; the longest interval that is allowed


@pytest.fixture(autouse=True)
def buffered(configure: Callable[..., Any]) -> Callable[..., Any]:
    """Configure buffered mode, in which only the test flushes: ``buffered(buffer_size=5)``."""

    def buffered(**stats: Any) -> dict[str, Any]:
        settings = {"no_buffer": False, "buffer_size": 1_000_000, "flush_interval_ms": NEVER, **stats}
        return configure(**settings)  # type: ignore[no-any-return]

    buffered()
    return buffered


@pytest.fixture
def seen(shmstats: ModuleType, data: Path) -> Callable[..., Any]:
    """Read a value from the block without a flush, as another process does: ``seen("c", "m")``."""

    def seen(category: str = "c", metric: str = "m") -> Any:
        with shmstats.reading.reader.read_only(data) as reader:
            snapshot = reader.read()
        for name, value in zip(snapshot.names, snapshot.values, strict=True):
            if (name.category, name.metric) == (category, metric):
                return value
        return 0

    return seen


def held_by(stats: Any) -> int:
    """Operations in this process's buffer."""
    return stats.shared.attach().held  # type: ignore[no-any-return]


def during(line: int, operation: Callable[[], object], interruption: Callable[[], object]) -> bool:
    """Do something in the middle of an operation, before the line of that number of the buffer's code.

    Returns whether the operation has that many lines.
    """
    left = line

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        file, number = frame.f_code.co_filename, frame.f_lineno
        if "shmstats" not in file:
            return None
        # The line of a with statement is traced again at its end, where no signal handler can be called.
        inside = not linecache.getline(file, number).lstrip().startswith("with ")
        if event == "line" and inside and file.endswith(("/buffer.py", "/shared.py", "/_cells_py.py")):
            left -= 1
            if left == -1:
                interruption()
        return trace

    sys.settrace(trace)
    try:
        operation()
    finally:
        sys.settrace(None)
    return left < 0


# When it is flushed -----------------------------------------------------------------------------------


def test_operations_are_held_until_a_flush(stats: Any, seen: Callable[..., Any]) -> None:
    handle = stats.counter("c", "m")
    stats.incr("c", "m", 5)
    handle.incr()
    handle.decr(2)
    stats.decr("c", "m")
    assert (seen(), held_by(stats)) == (0, 4)
    stats.flush()
    assert (seen(), held_by(stats)) == (3, 0)
    stats.flush()
    assert seen() == 3


def test_a_full_buffer_is_flushed_and_drops_nothing(
    stats: Any, buffered: Callable[..., Any], seen: Callable[..., Any]
) -> None:
    buffered(buffer_size=10)
    for number in range(1, 36):
        stats.incr("c", f"m{number % 3}")
        assert held_by(stats) == number % 10
        assert sum(seen("c", f"m{i}") for i in range(3)) == number - number % 10
    assert sum(stats.snapshot()["c"].values()) == 35


def test_reading_shows_what_this_process_has_counted(stats: Any, shmstats: ModuleType) -> None:
    handle = stats.counter("c", "m")
    for number in range(1, 4):
        handle.incr()
        assert stats.get("c", "m") == number
        handle.incr()
        assert handle.value == number + 1
        handle.decr()
        assert stats.snapshot()["c"] == {"m": number}
    stats.incr("c", "m")
    assert shmstats.stats.read().values[[name.metric for name in stats.read().names].index("m")] == 4


def test_close_flushes(shmstats: ModuleType, stats: Any) -> None:
    stats.incr("c", "m", 3)
    stats.timing("c", "t", 70)
    shmstats.close()
    assert stats.get("c", "m") == 3
    assert (stats.get("c", "t").count, stats.get("c", "t").sum) == (1, 70)


def test_a_second_init_flushes_to_the_first_data_directory(
    shmstats: ModuleType, stats: Any, tmp_path: Path, buffered: Callable[..., Any]
) -> None:
    stats.incr("c", "m", 3)
    stats.init(buffered() | {"path": {"data": str(tmp_path / "elsewhere")}})
    stats.incr("c", "m", 4)
    assert stats.get("c", "m") == 4
    stats.init()
    assert stats.get("c", "m") == 3


ENDS = {
    "end": "",
    "sys.exit": "sys.exit(0)",
    "SystemExit": "raise SystemExit",
    "sys.exit in a thread": """
t = threading.Thread(target=lambda: (stats.incr('c', 'm'), sys.exit(3)))
t.start(); t.join()
stats.decr('c', 'm')
""",
    "a thread goes on": """
threading.Thread(target=lambda: [stats.incr('c', 'm') for _ in range(100)]).start()
stats.decr('c', 'm', 100)
""",
    "atexit": "atexit.register(lambda: stats.incr('c', 'm')); stats.decr('c', 'm')",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_process_flushes(stats: Any, python: Any, end: str) -> None:
    start = """
import atexit, sys, threading
from shmstats import stats
for _ in range(7): stats.incr('c', 'm')
stats.timing('c', 't', 3)
"""
    python.run(start + ENDS[end])
    assert stats.get("c", "m") == 7
    assert stats.get("c", "t").count == 1


def test_a_process_that_ends_by_an_exception_flushes(stats: Any, python: Any) -> None:
    child = python.start("from shmstats import stats\nstats.incr('c', 'm', 7)\nraise RuntimeError('on purpose')")
    child.finish(status=1, quiet=False)
    assert "on purpose" in child.stderr
    assert stats.get("c", "m") == 7


def test_an_exit_by_a_handler_of_sigterm_flushes(stats: Any, python: Any) -> None:
    child = python.start(
        """
        import signal, sys
        from shmstats import stats
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        stats.incr('c', 'm', 7)
        print('ready')
        signal.pause()
        """
    )
    assert child.hear() == "ready"
    child.signal(signal.SIGTERM)
    child.finish()
    assert stats.get("c", "m") == 7


# Forks ------------------------------------------------------------------------------------------------


def test_a_forked_child_never_flushes_operations_of_its_parent(stats: Any, python: Any) -> None:
    python.run(
        """
        import os, sys
        from shmstats import stats
        handle = stats.counter('c', 'handle')
        for _ in range(7):
            stats.incr('c', 'm'); handle.incr(); stats.timing('c', 't', 5)
        def count():
            stats.incr('c', 'm', 100); handle.incr(100); stats.timing('c', 't', 5)
        ends = [lambda: os._exit(0), lambda: sys.exit(0), lambda: (stats.flush(), os._exit(0)),
                lambda: (count(), sys.exit(0)), lambda: (count(), stats.flush(), os._exit(0)),
                lambda: (stats.get('c', 'm'), os._exit(0)), lambda: (stats.close(), os._exit(0))]
        for end in ends:
            pid = os.fork()
            if not pid:
                end()
            assert os.waitpid(pid, 0)[1] == 0
        """
    )
    assert stats.get("c", "m") == 207
    assert stats.get("c", "handle") == 207
    assert (stats.get("c", "t").count, stats.get("c", "t").sum) == (9, 45)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_flushes_when_it_ends(stats: Any, python: Any, method: str) -> None:
    python.run(
        """
        import multiprocessing, sys
        from shmstats import stats

        def work(number):
            stats.incr('c', 'm', 10)
            stats.timing('c', 't', number)
            if number == 1:
                sys.exit(1)
            if number == 2:
                sys.stderr = None
                raise RuntimeError('on purpose')

        if __name__ == '__main__':
            context = multiprocessing.get_context(sys.argv[1])
            stats.incr('c', 'm', 5)
            children = [context.Process(target=work, args=(number,)) for number in range(3)]
            for child in children:
                child.start()
            for child in children:
                child.join()
            assert stats.get('c', 'm') == 35, stats.snapshot()
        """,
        method,
    )
    assert (stats.get("c", "m"), stats.get("c", "t").sum) == (35, 3)


def test_a_process_that_forks_all_the_time_flushes_at_the_interval(
    stats: Any, python: Any, buffered: Callable[..., Any], seen: Callable[..., Any]
) -> None:
    buffered(flush_interval_ms=300)
    stats.incr("c", "own")
    child = python.start(FORKING)
    assert child.hear() == "ready"
    wait_until(lambda: seen() == 7, 10)
    child.tell()
    child.finish()


# Threads and signals ----------------------------------------------------------------------------------


def test_threads_count_exactly_while_others_flush_and_read(
    stats: Any, core: str, buffered: Callable[..., Any], seen: Callable[..., Any]
) -> None:
    buffered(buffer_size=37, flush_interval_ms=1)
    done = threading.Event()
    each = 20_000 if core == "C" else 1_000

    def count(thread: int) -> None:
        handle = stats.counter("c", "handle")
        for number in range(each):
            stats.incr("c", "m")
            handle.incr(2)
            stats.timing("c", "t", 5)
            if number % 100 == 0:
                stats.incr("c", f"own {thread} {number}")

    def flush() -> None:
        while not done.is_set():
            stats.flush()
            stats.get("c", "m")

    with ThreadPoolExecutor(6) as pool:
        flushers = [pool.submit(flush) for _ in range(2)]
        for future in [pool.submit(count, thread) for thread in range(4)]:
            future.result()
        done.set()
        for future in flushers:
            future.result()
    stats.flush()
    assert (seen(), seen("c", "handle")) == (4 * each, 8 * each)
    assert (seen("c", "t").count, seen("c", "t").sum) == (4 * each, 20 * each)
    assert sum(value for metric, value in stats.snapshot()["c"].items() if metric.startswith("own")) == 4 * each / 100


def test_threads_count_exactly_while_another_closes(
    shmstats: ModuleType, stats: Any, core: str, buffered: Callable[..., Any]
) -> None:
    buffered(buffer_size=50)
    done = threading.Event()
    each = 20_000 if core == "C" else 1_000

    def count() -> None:
        for _ in range(each):
            stats.incr("c", "m")
            stats.timing("c", "t", 1)

    def close() -> None:
        while not done.is_set():
            shmstats.close()

    with ThreadPoolExecutor(4) as pool:
        closer = pool.submit(close)
        counting = [pool.submit(count) for _ in range(3)]
        try:
            for future in counting:
                future.result()
        finally:
            done.set()
        closer.result()
    assert stats.get("c", "m") == 3 * each
    assert stats.get("c", "t").count == 3 * each


@pytest.mark.parametrize("metric", ["counter", "histogram"])
def test_a_flush_that_waits_for_a_lock_while_another_thread_closes_loses_nothing(
    shmstats: ModuleType, stats: Any, core: str, buffered: Callable[..., Any], metric: str
) -> None:
    """The flush has taken a column out of the buffer, which the close must not discard."""
    if core == "Python":
        pytest.skip("the twin flushes under the guard, and a close waits for the flush")
    buffered(buffer_size=100, flush_interval_ms=3_600_000)
    handle = stats.counter("c", "m") if metric == "counter" else stats.timing("c", "m")
    count = (lambda: handle.incr()) if metric == "counter" else (lambda: handle.observe(1))
    count()
    stats.flush()
    block = stats.shared.attach()
    record = block.names.find(b"c\0m")
    hold(block, block.worker.row, record.cell, block.worker.word)
    with ThreadPoolExecutor(2) as pool:
        try:
            counting = pool.submit(lambda: [count() for _ in range(100)])
            wait_until(lambda: block.held == 0)  # the flush has begun
            closing = pool.submit(shmstats.close)
            wait_until(lambda: not stats.shared._buffer.cells.direct)  # the flush empties the buffer
        finally:
            hold(block, block.worker.row, record.cell, 0)
        counting.result()
        closing.result()
    found = stats.get("c", "m")
    assert (found if metric == "counter" else found.count) == 101


@pytest.mark.far_from_core
@pytest.mark.parametrize("operation", ["incr", "handle", "timing", "flush", "get"])
def test_a_close_at_any_line_of_an_operation_loses_nothing(
    shmstats: ModuleType, stats: Any, python: Any, operation: str
) -> None:
    """Another thread or a signal handler may close at any line."""
    child = python.start("from shmstats import stats; stats.incr('other', 'm'); print('ready'); input()")
    assert child.hear() == "ready"  # keeps the block
    handle = stats.counter("c", "handle")
    operations = {
        "incr": lambda: stats.incr("c", "m"),
        "handle": handle.incr,
        "timing": lambda: stats.timing("c", "t", 1),
        "flush": stats.flush,
        "get": lambda: stats.get("c", "m"),
    }
    line, reached = 0, True
    while reached:
        stats.incr("c", "m")
        handle.incr()
        stats.timing("c", "t", 1)
        reached = during(line, operations[operation], shmstats.close)
        line += 1
    values = stats.snapshot()["c"]
    assert values["m"] == line + line * (operation == "incr")
    assert values["handle"] == line + line * (operation == "handle")
    assert values["t"].count == line + line * (operation == "timing")
    child.tell()
    child.finish()


def test_a_lookup_before_a_removal_does_not_affect_other_operations(
    shmstats: ModuleType, stats: Any, seen: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread removes a name and counts between the lookup and the binding of this one."""
    stats.incr("other", "m")
    block = shmstats.block.Block
    find = block.find_or_add

    def slowly(self: Any, key: bytes, *arguments: Any) -> Any:
        found = find(self, key, *arguments)
        if b"slow" in key:
            monkeypatch.undo()
            stats.remove("other")
            stats.incr("c", "quick", 5)
        return found

    monkeypatch.setattr(block, "find_or_add", slowly)
    stats.incr("c", "slow")
    stats.incr("c", "quick", 2)
    stats.flush()
    assert (seen("c", "slow"), seen("c", "quick")) == (1, 7)


def test_a_signal_handler_that_counts_during_flushes_loses_nothing(stats: Any, buffered: Callable[..., Any]) -> None:
    buffered(buffer_size=5)
    handled = 0

    def handle(*_: object) -> None:
        nonlocal handled
        handled += 1
        stats.incr("signals", "m")
        stats.timing("signals", "t", 1)
        stats.incr("signals", f"name {handled % 20}")

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    counted = 0
    try:
        while handled < 200:
            stats.incr("main", "m")
            stats.incr("main", f"name {counted % 50}")
            counted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    values = stats.snapshot()
    assert values["main"].pop("m") == sum(values["main"].values()) == counted
    assert (values["signals"].pop("m"), values["signals"].pop("t").count) == (handled, handled)
    assert sum(values["signals"].values()) == handled


@pytest.mark.parametrize("core", ["C"], indirect=True)  # pure Python can be interrupted anywhere
@pytest.mark.parametrize("moved_on", [False, True])
def test_an_exception_from_a_signal_handler_loses_no_held_operation(
    stats: Any, seen: Callable[..., Any], moved_on: bool
) -> None:
    """A server's worker calls sys.exit() in a signal handler, and Ctrl-C raises, also during a flush."""

    class InterruptionError(BaseException):
        pass

    for metric in ("a", "b", "d"):
        stats.incr("c", metric, 5)
    stats.timing("c", "t", 5)
    stats.flush()

    def interrupt() -> None:
        raise InterruptionError

    line, reached = 0, True
    while reached:
        for metric in ("a", "b", "d"):
            stats.incr("c", metric)
        stats.timing("c", "t", 1)
        if moved_on:
            # Stands for another process that removes a name.
            stats.shared.attach().cells.raise_generation()
        try:
            reached = during(line, stats.flush, interrupt)
        except InterruptionError:
            stats.flush()
        line += 1
        values = [seen("c", metric) for metric in ("a", "b", "d")]
        assert (values, seen("c", "t").count) == ([5 + line] * 3, 1 + line), f"interrupted at line {line - 1}"
    assert line > (3 if moved_on else 1)


# Other processes --------------------------------------------------------------------------------------


def test_held_operations_survive_the_removal_of_other_names(stats: Any, python: Any) -> None:
    stats.incr("other", "m")
    stats.incr("c", "m", 5)
    stats.timing("c", "t", 5)
    python.run("from shmstats import stats; assert stats.remove('other') == 1; stats.incr('new', 'm', 70)")
    stats.incr("c", "late", 3)
    stats.timing("c", "t", 6)
    assert stats.snapshot()["c"] == {"m": 5, "t": stats.get("c", "t"), "late": 3}
    assert (stats.get("c", "t").count, stats.get("new", "m")) == (2, 70)


def test_held_operations_of_a_removed_name_never_go_to_another_name(stats: Any, python: Any) -> None:
    handle = stats.counter("c", "gone")
    handle.incr(5)
    stats.timing("c", "gone time", 5)
    stats.flush()
    handle.incr(100)
    stats.timing("c", "gone time", 50)
    python.run(
        """
        from shmstats import stats
        stats.remove('c')
        stats.incr('new', 'm', 7)
        stats.timing('new', 't', 1)
        """
    )
    stats.flush()
    assert (stats.get("new", "m"), stats.get("new", "t").sum) == (7, 1)
    assert stats.get("c", "gone") == 0
    handle.incr(2)
    assert (handle.value, stats.get("new", "m")) == (2, 7)


def test_a_worker_killed_while_it_rebuilds_the_index_costs_no_held_operation(stats: Any, python: Any) -> None:
    handle = stats.counter("c", "m")
    handle.incr()
    stats.flush()
    handle.incr(5)
    stats.timing("c", "t", 5)
    python.start(
        """
        import os, signal
        from shmstats import stats
        stats.incr("other", "m")
        stats.remove("other", "m")
        names = stats.shared.attach().names
        with stats.shared.attach().exclusive(), names.changing():
            layout = stats.shared.attach().layout
            names.buffer[layout.index : layout.index + 4 * names.index_slots] = bytes(4 * names.index_slots)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    ).finish(status=-signal.SIGKILL)
    stats.flush()
    assert (stats.get("c", "m"), stats.get("c", "t").count) == (6, 1)


def test_durations_of_flushes_are_counted_where_there_is_memory_for_them(
    shmstats: ModuleType, stats: Any, python: Any, buffered: Callable[..., Any]
) -> None:
    buffered(no_buffer=True)
    for number in range(230):
        stats.incr("c", f"m{number}")
    shmstats.close()
    buffered()
    stats.init()
    python.run(
        """
        from shmstats import stats
        for number in range(3):
            stats.incr("c", "m0")
            stats.flush()
        record = stats.shared.attach().find(b"shmstats\\0flush")
        assert record.cell // 512 < (record.cell + record.width - 1) // 512  # not all in the page of other columns
        """
    )
    assert stats.get("shmstats", "flushes") == stats.get("shmstats", "flush").count >= 3


def test_a_name_reset_by_another_process_begins_with_the_held_operations(stats: Any, python: Any) -> None:
    stats.incr("c", "m", 5)
    stats.flush()
    stats.incr("c", "m", 2)
    python.run("from shmstats import stats; assert stats.reset('c') == 1; assert stats.get('c', 'm') == 0")
    assert stats.get("c", "m") == 2


def test_a_removal_and_a_reset_drop_the_operations_that_the_process_holds(stats: Any) -> None:
    stats.incr("c", "m", 5)
    stats.timing("c", "t", 5)
    assert stats.reset("c") == 2
    assert (stats.get("c", "m"), stats.get("c", "t").count) == (0, 0)
    stats.incr("c", "m", 5)
    assert stats.remove("c", "m") == 1
    assert stats.get("c", "m") == 0
    stats.incr("c", "m", 1)
    assert stats.get("c", "m") == 1


def test_two_buffering_processes_and_one_without_a_buffer_add_up(
    stats: Any, python: Any, configure: Callable[..., Any], buffered: Callable[..., Any]
) -> None:
    stats.incr("c", "m", 5)
    stats.timing("c", "t", 5)
    code = "from shmstats import stats\nfor _ in range(10): stats.incr('c', 'm'); stats.timing('c', 't', 1)"
    python.run(code)
    configure(no_buffer=True)
    python.run(code)
    assert (stats.get("c", "m"), stats.get("c", "t").count, stats.get("c", "t").sum) == (25, 21, 25)


LOSING_ENDS = {
    "a kill": "os.kill(os.getpid(), 9)",
    "os._exit": "os._exit(0)",
    "a crash in C": "faulthandler.disable(); os.abort()",
    "a terminated pool": """
if __name__ == '__main__':
    stats.flush()
    with multiprocessing.get_context('fork').Pool(1) as pool:
        pool.apply_async(hold_and_wait, [writing])
        os.read(reading, 1)
""",
}


@pytest.mark.parametrize("end", LOSING_ENDS)
def test_a_killed_process_loses_only_the_operations_that_it_holds(stats: Any, python: Any, end: str) -> None:
    start = """
import faulthandler, multiprocessing, os, time
from shmstats import stats
def hold_and_wait(writing):
    stats.incr('c', 'm', 100)
    os.write(writing, b'.')
    time.sleep(600)
reading, writing = os.pipe()
stats.incr('c', 'm', 5)
stats.flush()
"""
    hold = "" if "pool" in end else "stats.incr('c', 'm', 100)\n"
    python.start(start + hold + LOSING_ENDS[end]).finish(status=None)
    assert stats.get("c", "m") == 5
    assert stats.get("shmstats", "operations_held") == 0


@pytest.mark.parametrize(
    "interrupted", ["agent.Agent.stop", "saver.Saver.stop", "buffer.Buffer.flush", "buffer.Buffer.empty"]
)
def test_a_second_signal_during_the_exit_loses_nothing(stats: Any, python: Any, interrupted: str) -> None:
    stats.incr("c", "other")
    module, kind, method = interrupted.split(".")
    code = f"""
import signal, sys
from shmstats import stats
signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(0))
for i in range(100):
    stats.incr('c', f'm{{i}}')
from shmstats.attachment import {module}
whole = {module}.{kind}.{method}
def interrupted(self, *arguments, **named):
    {module}.{kind}.{method} = whole
    whole(self, *arguments, **named)
    signal.raise_signal(signal.SIGUSR1)
{module}.{kind}.{method} = interrupted
"""
    python.start(code).finish(status=None, quiet=False)
    assert [stats.get("c", f"m{i}") for i in range(100)] == [1] * 100
    assert len(list(stats.shared.attach().workers)) == 1


# Kinds ------------------------------------------------------------------------------------------------


def test_a_total_can_be_set_while_operations_are_held(stats: Any) -> None:
    stats.incr("c", "m", 5)
    stats.absolute("c", "m", 10)
    assert stats.get("c", "m") == 10
    stats.incr("c", "m", 1)
    stats.gauge("c", "m", 3)
    assert stats.get("c", "m") == 3
    stats.incr("c", "m", 1)
    assert stats.get("c", "m") == 4


def test_a_counter_becomes_a_gauge_while_operations_are_held(stats: Any) -> None:
    handle = stats.counter("c", "m")
    handle.incr(5)
    stats.gauge("c", "m", 1.5)
    assert stats.get("c", "m") == 1.5
    handle.incr(2)
    assert stats.get("c", "m") == 3.5


def test_gauges_and_timestamps_are_not_held(stats: Any, seen: Callable[..., Any]) -> None:
    stats.gauge("c", "g", 1.5)
    stats.absolute("c", "a", 7)
    stats.timestamp("c", "t", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    assert (seen("c", "g"), seen("c", "a"), seen("c", "t"), held_by(stats)) == (1.5, 7, 1_000_000, 0)


def test_a_held_decrement_makes_a_counter_a_gauge_for_readers(stats: Any) -> None:
    stats.incr("c", "m", 5)
    stats.decr("c", "m")
    (name,) = [name for name in stats.read().names if name.category == "c"]
    assert not name.monotonic
    assert stats.get("c", "m") == 4


def test_held_sums_saturate_at_the_limits_of_64_bits(stats: Any) -> None:
    for _ in range(2):
        stats.incr("c", "most", 2**63 - 1)
        stats.decr("c", "least", 2**63 - 1)
        stats.decr("c", "least", 2**63 - 1)
        stats.flush()
    assert (stats.get("c", "most"), stats.get("c", "least")) == (2**63 - 1, -(2**63))


def test_held_timings_make_the_same_histogram(stats: Any, seen: Callable[..., Any]) -> None:
    durations = [0, 0.1, 0.25, 3, 3, 60_000, 99_999.5]
    for duration in durations:
        stats.timing("c", "t", duration)
    assert stats.get("c", "t") == seen("c", "t")
    assert (seen("c", "t").sum, seen("c", "t").max) == (sum(durations), 99_999.5)
    assert [count for count in seen("c", "t").buckets if count] == [1, 1, 1, 2, 1, 1]
    assert seen("c", "t").min == 0
    with stats.timer("c", "t"):
        pass
    assert stats.get("c", "t").count == len(durations) + 1
    assert stats.get("c", "t").max == 99_999.5


def test_more_processes_than_rows_buffer_exactly(stats: Any, python: Any, buffered: Callable[..., Any]) -> None:
    buffered(max_workers=1, buffer_size=7)
    stats.incr("c", "m", 3)
    children = [
        python.start(
            """
            from shmstats import stats
            print('ready'); input()
            for _ in range(1000): stats.incr('c', 'm'); stats.timing('c', 't', 2)
            """
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.hear() == "ready"
    for child in children:
        child.tell()
    for child in children:
        child.finish()
    assert (stats.get("c", "m"), stats.get("c", "t").count, stats.get("c", "t").sum) == (3003, 3000, 6000)


# Metrics of the package itself ------------------------------------------------------------------------


def test_a_flush_of_nothing_is_no_flush(stats: Any) -> None:
    stats.incr("c", "m")
    for _ in range(5):
        stats.flush()
        stats.get("c", "m")
    assert stats.get("shmstats", "flushes") == 1


def test_operations_held_before_a_restart_are_not_shown_afterwards(
    shmstats: ModuleType, stats: Any, python: Any, configure: Callable[..., Any]
) -> None:
    stats.incr("c", "m")
    child = python.start("from shmstats import stats; stats.incr('c', 'm', 4); print('ready'); input()")
    assert child.hear() == "ready"
    assert stats.snapshot()["shmstats"]["operations_held"] == 1
    child.kill()
    shmstats.close()
    configure(no_buffer=True)
    stats.init()
    assert stats.snapshot().get("shmstats", {}).get("operations_held", 0) == 0
