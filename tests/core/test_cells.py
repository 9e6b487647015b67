"""Cells: adding, gauges, generations, closing, and locks of dead owners."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from types import ModuleType
from typing import Any

import pytest
from helpers import hold, holder, process_state, wait_until, with_hold
from hypothesis import given, settings
from hypothesis import strategies as st

MAX = 2**63 - 1
MIN = -(2**63)
int64 = st.one_of(st.integers(MIN, MAX), st.sampled_from([0, 1, -1, MAX, MIN, MAX - 1, MIN + 1]))
finite = st.floats(allow_nan=False, allow_infinity=False)


def reserved(block: Any, row: int = 1, cell: int = 0) -> Any:
    """Return a block that has memory behind a few cells of a row."""
    assert block.stripes.reserve_cells(row, cell, 8)
    return block


def saturated(value: int) -> int:
    return min(max(value, MIN), MAX)


def test_adds_saturate_at_the_limits_of_64_bits(attach: Any) -> None:
    cells = reserved(attach()).cells

    @settings(max_examples=30, derandomize=True, deadline=None, database=None)
    @given(st.lists(int64, max_size=8))
    def check(numbers: list[int]) -> None:
        cells.clear(1, 0, 2)
        total = 0
        for n in numbers:
            assert cells.add(1, 0, n, cells.generation)
            total = saturated(total + n)
            assert cells.load(1, 0) == total

    check()


def test_a_gauge_has_the_value_that_was_set_last(attach: Any) -> None:
    cells = reserved(attach(), 0).cells

    @settings(max_examples=30, derandomize=True, deadline=None, database=None)
    @given(st.lists(st.tuples(st.booleans(), st.one_of(int64, finite)), max_size=8))
    def check(steps: list[tuple[bool, float]]) -> None:
        cells.clear(0, 0, 3)
        value: float = 0
        for added, given_value in steps:
            if added:
                assert cells.add_gauge(0, 0, given_value, cells.generation)
                total = value + given_value
                if isinstance(total, float):
                    value = min(max(total, -sys.float_info.max), sys.float_info.max)
                else:
                    value = saturated(total)
            else:
                assert cells.set_gauge(0, 0, given_value, cells.generation)
                value = given_value
            read = cells.load_gauge(0, 0)
            assert (type(read), read) == (type(value), value)

    check()


@pytest.mark.parametrize("value", [MAX + 1, MIN - 1, "1", None, True])
def test_a_gauge_refuses_a_value_that_is_not_a_plain_number(attach: Any, value: Any) -> None:
    block = reserved(attach(), 0)
    cells = block.cells
    assert not cells.set_gauge(0, 0, value, cells.generation)
    assert cells.load_gauge(0, 0) == 0
    assert holder(block, 0, 0) == 0


def test_an_operation_with_an_old_generation_does_nothing(attach: Any) -> None:
    block = reserved(attach())
    cells, before = block.cells, block.cells.generation
    assert cells.raise_generation() == before + 1 == cells.generation
    assert not cells.add(1, 0, 5, before)
    assert not cells.set_gauge(1, 0, 5, before)
    assert not cells.add_gauge(1, 0, 5, before)
    assert cells.load(1, 0) == 0
    assert holder(block, 1, 0) == 0
    assert cells.add(1, 0, 5, before + 1)


def test_clear_empties_every_cell_of_the_width(attach: Any) -> None:
    block = reserved(attach())
    cells = block.cells
    for column in range(0, 8, 2):
        cells.add(1, column, 7, cells.generation)
    assert cells.clear(1, 2, 4)
    assert [cells.load(1, column) for column in range(0, 8, 2)] == [7, 0, 0, 7]
    assert holder(block, 1, 4) == 0
    cells.set_gauge(1, 4, 1.5, cells.generation)
    cells.clear(1, 4, 3)
    assert repr(cells.load_gauge(1, 4)) == "0"


@pytest.mark.parametrize(
    ("row", "column"), [(-1, 0), (5, 0), (0, -1), (0, 511), (2**62, 0), (0, 2**62), (-(2**62), 0), (0, -(2**62))]
)
def test_a_cell_outside_the_block_is_refused(attach: Any, row: int, column: int) -> None:
    cells = attach(capacity=256, max_workers=4).cells
    generation = cells.generation
    for call in (
        lambda: cells.add(row, column, 1, generation),
        lambda: cells.load(row, column),
        lambda: cells.clear(row, column, 2),
        lambda: cells.load_gauge(row, column),
        lambda: cells.set_gauge(row, column, 1, generation),
        lambda: cells.add_gauge(row, column, 1, generation),
        lambda: cells.count_takeovers_at(row, column),
    ):
        with pytest.raises(IndexError, match="there are 5 rows of 512"):
            call()


def test_a_gauge_does_not_fit_into_the_last_cell(attach: Any) -> None:
    cells = reserved(attach(capacity=256), 1, 504).cells
    assert cells.set_gauge(1, 509, 1, cells.generation)
    for call in (
        lambda: cells.set_gauge(1, 510, 1, cells.generation),
        lambda: cells.load_gauge(1, 510),
        lambda: cells.clear(1, 510, 3),
    ):
        with pytest.raises(IndexError):
            call()


def test_closed_cells_refuse_everything(attach: Any, shmstats: ModuleType) -> None:
    block = attach()
    cells = block.cells
    generation = cells.generation
    counter = shmstats.Counter(shmstats.stats, "c", "m")
    counter._bind(cells, 1, 0, 2, generation, True)
    assert counter._bound
    block.leave()
    cells.close()
    assert cells.generation == 0
    assert not counter._bound
    for call in (
        lambda: cells.add(1, 0, 1, generation),
        lambda: cells.load(1, 0),
        lambda: cells.clear(1, 0, 2),
        lambda: cells.raise_generation(),
        lambda: counter._bind(cells, 1, 0, 2, generation, True),
        lambda: counter._bind(cells, 1, 0, 2, 0, True),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    cells.direct = True
    assert not counter._bound


def test_only_a_direct_handle_is_bound(attach: Any, shmstats: ModuleType) -> None:
    cells = reserved(attach()).cells
    counter = shmstats.Counter(shmstats.stats, "c", "m")
    assert not counter._bound
    counter._bind(cells, 1, 0, 2, cells.generation, True)
    cells.direct = False
    assert not counter._bound
    assert not cells.direct
    cells.direct = True
    assert counter._bound


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": -16},
        {"offset": 4},
        {"rows": 0},
        {"rows": 100000},
        {"capacity": 0},
        {"capacity": 10**6},
        {"row_bytes": 8},
        {"generation_offset": 4},
        {"generation_offset": -8},
        {"generation_offset": 2**40},
        {"owner": 0},
        {"offset": 2**40},
        {"capacity": 2**60},
    ],
    ids=str,
)
def test_cells_that_do_not_fit_are_refused(shmstats: ModuleType, wrong: dict[str, int]) -> None:
    good: dict[str, Any] = {
        "buffer": memoryview(bytearray(4096 * 5)),
        "offset": 4096,
        "rows": 2,
        "capacity": 512,
        "row_bytes": 4096,
        "generation_offset": 32,
        "owner": 1,
        "is_live": lambda word: True,
        "locks": None,
    }
    with pytest.raises(ValueError, match="do not fit"):
        shmstats.core.Cells(**good | wrong)


def test_a_read_only_buffer_is_refused(shmstats: ModuleType, core: str) -> None:
    if core == "Python":
        pytest.skip("the twin notices when it writes")
    with pytest.raises(BufferError):
        shmstats.core.Cells(bytes(8192), 4096, 1, 256, 4096, 32, 1, bool, None)


def test_cells_are_released_with_their_last_reference(attach: Any, shmstats: ModuleType) -> None:
    block = attach()
    counter = shmstats.Counter(shmstats.stats, "c", "m")
    counts = [sys.getrefcount(block.cells)]
    for _ in range(100):
        counter._bind(block.cells, 1, 0, 2, block.cells.generation, True)
    counts.append(sys.getrefcount(block.cells))
    del counter
    gc.collect()
    counts.append(sys.getrefcount(block.cells))
    assert counts == [counts[0], counts[0] + 1, counts[0]]


# Locks of dead owners -----------------------------------------------------------------------------

HOLDER = """
    import sys
    from shmstats import stats
    stats.incr("c", "mine")
    block = stats.shared.attach()
    from shmstats.block.keys import encode_key
    record = block.names.find(encode_key("c", "m"))
    block.row_for(record)
    row = int(sys.argv[1])
    hold(block, row, record.cell, block.worker.word)
    print(block.worker.word, flush=True)
    input()
    hold(block, row, record.cell, 0)
    print("freed", flush=True)
    input()
"""


def test_the_lock_of_a_killed_owner_is_taken_over_and_counted(stats: Any, python: Any, core: str) -> None:
    stats.incr("c", "m")
    for killed in range(1, 4):
        child = python.start(with_hold(HOLDER), 1)
        word = int(child.hear())
        block = stats.shared.attach()
        record = block.names.find(b"c\0m")
        assert holder(block, 1, record.cell) == word != block.worker.word
        child.signal(signal.SIGKILL)
        child.finish(status=-signal.SIGKILL)
        stats.incr("c", "m")
        stats.counter("c", "m").incr()
        assert holder(block, 1, record.cell) == 0
        assert stats.get("c", "m") == 1 + 2 * killed
        assert stats.get("shmstats", "locks_taken_over") == killed


def test_the_lock_of_a_killed_owner_is_taken_over_after_its_slot_was_reused(stats: Any, python: Any) -> None:
    stats.incr("c", "m")
    child = python.start(with_hold(HOLDER), 1)
    word = int(child.hear())
    child.signal(signal.SIGKILL)
    child.finish(status=-signal.SIGKILL)
    other = python.start("from shmstats import stats; stats.incr('c', 'o'); print(); input()")
    other.hear()
    slots = {worker.slot for worker in stats.shared.attach().reader.workers}
    assert (word >> 20) - 1 in slots
    stats.incr("c", "m")
    assert stats.get("c", "m") == 2
    other.tell()
    other.finish()


@pytest.mark.parametrize("stopped", [False, True])
def test_the_lock_of_a_living_owner_is_waited_for(stats: Any, python: Any, stopped: bool) -> None:
    stats.incr("c", "m")
    child = python.start(with_hold(HOLDER), 1)
    word = int(child.hear())
    if stopped:
        child.signal(signal.SIGSTOP)
        wait_until(lambda: process_state(child.pid) == "T")
    waiter = python.start(
        """
        from shmstats import stats
        block = stats.shared.attach()
        cell = block.names.find(b"c\\0m").cell
        print("counting", flush=True)
        block.cells.add(1, cell, 1, block.cells.generation)
        print("counted", flush=True)
        """
    )
    assert waiter.hear() == "counting"
    # The waiter is seen asleep several times, and has not taken the lock.
    block = stats.shared.attach()
    cell = block.names.find(b"c\0m").cell
    wait_until(lambda: process_state(waiter.pid) == "S")
    assert holder(block, 1, cell) == word
    assert stats.get("c", "m") == 1
    if stopped:
        child.signal(signal.SIGCONT)
    child.tell()
    assert child.hear() == "freed"
    if stats.shared.attach().cells.__class__.__module__.endswith("_py"):
        # The kernel releases the record lock when the process ends; the word stays.
        child.tell()
        child.finish()
    assert waiter.hear() == "counted"
    assert stats.get("c", "m") == 2
    assert stats.get("shmstats", "locks_taken_over") == 0
    waiter.finish()
    if not child.ended:
        child.tell()
        child.finish()


def test_other_threads_run_while_a_thread_waits_for_a_lock(stats: Any, python: Any) -> None:
    stats.incr("c", "m")
    child = python.start(with_hold(HOLDER), 1)
    child.hear()
    waiter = python.start(
        """
        import threading
        from shmstats import stats
        block = stats.shared.attach()
        cell = block.names.find(b"c\\0m").cell
        thread = threading.Thread(target=block.cells.add, args=(1, cell, 1, block.cells.generation))
        thread.start()
        print("still running", flush=True)
        print(sum(range(1000)), flush=True)
        thread.join()
        """
    )
    assert [waiter.hear(), waiter.hear()] == ["still running", "499500"]
    child.tell()
    child.hear()
    child.tell()
    child.finish()
    waiter.finish()
    assert stats.get("c", "m") == 2


def test_a_wait_for_a_lock_ends_when_the_block_is_closed(
    attach: Any, shmstats: ModuleType, core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if core == "Python":
        pytest.skip("the twin closes under the guard, which the waiter holds")
    table, asked = shmstats.block.workers.WorkerTable, threading.Event()
    is_live = table.is_live

    def asked_is_live(self: Any, word: int) -> bool:
        asked.set()
        return bool(is_live(self, word))

    monkeypatch.setattr(table, "is_live", asked_is_live)
    block, other = reserved(attach()), attach()
    hold(block, 1, 0, other.worker.word)
    results: list[object] = []
    waiting = threading.Thread(target=lambda: results.append(block.cells.add(1, 0, 5, block.cells.generation)))
    waiting.start()
    wait_until(asked.is_set)
    block.leave()
    waiting.join(20)
    assert not waiting.is_alive()
    assert results == [False]
    hold(other, 1, 0, 0)
    assert other.cells.load(1, 0) == 0
