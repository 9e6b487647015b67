"""Worker slots and rows: claimed, shared, released, and taken from the dead."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import process_state, wait_until

COUNT = """
    from shmstats import stats
    stats.incr("c", "m")
    print(stats.shared.attach().worker.row, flush=True)
    input()
"""


def test_a_worker_is_identified_as_its_process(attach: Any, shmstats: ModuleType) -> None:
    block = attach()
    (worker,) = block.reader.workers
    assert worker == block.worker
    assert (worker.slot, worker.row, worker.pid) == (0, 1, os.getpid())
    assert worker.start_time == shmstats.block.workers.own_start_time()
    assert worker in block.workers.live()


def test_the_lowest_free_row_is_taken(attach: Any) -> None:
    blocks = [attach(max_workers=4) for _ in range(4)]
    assert [block.worker.row for block in blocks] == [1, 2, 3, 4]
    for left in (2, 0):
        blocks[left].leave()
    assert attach(max_workers=4).worker.row == 1
    assert attach(max_workers=4).worker.row == 3


def test_the_least_shared_row_is_shared_when_all_have_workers(attach: Any) -> None:
    blocks = [attach(max_workers=2) for _ in range(5)]
    assert [block.worker.row for block in blocks] == [1, 2, 1, 2, 1]
    assert len({block.worker.slot for block in blocks}) == 5
    blocks[0].leave()
    blocks[2].leave()
    blocks[4].leave()
    assert attach(max_workers=2).worker.row == 1


def test_every_claim_has_a_unique_number(attach: Any) -> None:
    words = set()
    for _ in range(5):
        block = attach()
        words.add(block.worker.word)
        keep = attach()
        words.add(keep.worker.word)
        block.leave()
    assert len(words) == 10


def test_slot_and_row_of_a_dead_worker_go_to_the_next_worker(stats: Any, python: Any) -> None:
    stats.incr("c", "m")
    workers = stats.shared.attach().reader.workers
    for round_ in range(3):
        child = python.start(COUNT)
        assert child.hear() == "2"
        assert {worker.pid for worker in workers.live()} == {os.getpid(), child.pid}
        child.signal(signal.SIGKILL)
        child.finish(status=-signal.SIGKILL)
        assert [worker.pid for worker in workers.live()] == [os.getpid()]
        assert {worker.pid for worker in workers} == {os.getpid(), child.pid}
        assert stats.get("c", "m") == 2 + round_
    assert stats.shared.attach().reader.header.number("slots") == 2


def test_a_zombie_is_dead(stats: Any, python: Any) -> None:
    stats.incr("c", "m")
    child = python.start(COUNT)
    child.hear()
    os.kill(child.pid, signal.SIGKILL)
    wait_until(lambda: process_state(child.pid) == "Z")
    workers = stats.shared.attach().reader.workers
    # Its other threads may end a little later.
    wait_until(lambda: [worker.pid for worker in workers.live()] == [os.getpid()])
    child.finish(status=-signal.SIGKILL)


def test_a_stopped_process_counts_as_alive(stats: Any, python: Any) -> None:
    stats.incr("c", "m")
    child = python.start(COUNT)
    child.hear()
    child.signal(signal.SIGSTOP)
    wait_until(lambda: process_state(child.pid) == "T")
    assert len(stats.shared.attach().reader.workers.live()) == 2
    child.signal(signal.SIGCONT)
    child.tell()
    child.finish()


def test_a_process_that_reuses_a_pid_is_not_taken_for_the_dead_worker(attach: Any, shmstats: ModuleType) -> None:
    block = attach()
    impostor = block.worker._replace(slot=1, claim=99, start_time=block.worker.start_time - 1)
    block.workers._write(impostor)
    assert block.reader.workers.live() == [block.worker]
    assert not block.workers.is_live(impostor.word)
    assert attach().worker.slot == 1


def test_only_the_same_claim_owns_a_lock(attach: Any) -> None:
    block = attach()
    word = block.worker.word
    assert block.workers.is_live(word)
    for other in (word + 1, word - 1, word + (1 << 20), word + (4094 << 20), 1, 0, 0xFFFFFFFF):
        assert not block.workers.is_live(other)


def test_slots_that_were_never_used_are_not_read(attach: Any) -> None:
    """Reading would allocate a page, which shared memory may not have."""
    block = attach()
    pages = os.stat(f"/dev/shm/{block.name}").st_blocks
    assert not block.workers.is_live(4001 << 20 | 1)
    assert os.stat(f"/dev/shm/{block.name}").st_blocks == pages


def test_the_start_time_is_found_if_a_command_name_has_spaces_and_brackets(shmstats: ModuleType, python: Any) -> None:
    code = """
        from pathlib import Path
        from shmstats.block.workers import own_start_time
        before = own_start_time()
        Path("/proc/self/comm").write_text(") R 1 (x")
        assert own_start_time() == before > 0
        assert "x" in Path("/proc/self/stat").read_text()
    """
    python.run(code)


def test_only_the_process_that_took_the_slot_is_shown(attach: Any) -> None:
    worker = attach().worker
    assert worker.shown
    assert not worker._replace(pid=2**22 + 1).shown
    assert not worker._replace(start_time=worker.start_time + 1).shown


def test_more_processes_than_slots_are_refused(
    attach: Any, shmstats: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shmstats.block.workers, "WORKER_SLOTS", 3)
    for _ in range(3):
        attach()
    with pytest.raises(shmstats.BlockError, match="3 live processes count into the block"):
        attach()


def test_more_processes_than_rows_count_exactly(stats: Any, configure: Any, python: Any, core: str) -> None:
    configure(max_workers=2)
    code = """
        from shmstats import stats
        handle = stats.counter("c", "handle")
        handle.incr()
        print(stats.shared.attach().worker.row, flush=True)
        input()
        for _ in range({rounds}):
            stats.incr("c", "m")
            handle.incr()
    """.format(rounds=20000 if core == "C" else 500)
    stats.incr("c", "m")
    children = [python.start(code) for _ in range(5)]
    rows = [child.hear() for child in children]
    assert sorted(rows) == ["1", "1", "2", "2", "2"]
    for child in children:
        child.tell()
    for child in children:
        child.finish()
    rounds = 20000 if core == "C" else 500
    assert stats.snapshot() == {"c": {"m": 5 * rounds + 1, "handle": 5 * (rounds + 1)}}


def test_a_new_worker_checks_only_a_few_of_many_workers(
    stats: Any, python: Any, shmstats: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats.incr("c", "m")
    child = python.start(COUNT)
    child.hear()
    child.signal(signal.SIGKILL)
    child.finish(status=-signal.SIGKILL)
    block = stats.shared.attach()
    monkeypatch.setattr(shmstats.block.workers, "_LOOKED_AT", 1)
    asked: list[int] = []
    held = block.locks.held

    def ask(positions: Any) -> set[int]:
        found = list(positions)
        asked.extend(found)
        return held(found)

    monkeypatch.setattr(block.locks, "held", ask)
    claims = 0
    with block.locks.table():
        while child.pid in {worker.pid for worker in block.workers}:
            block.workers.release(block.workers.claim())
            claims += 1
            assert len(asked) <= claims <= 20


def test_a_dead_worker_whose_slot_is_reused_during_the_check_is_not_alive(
    stats: Any, data: Path, python: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new worker takes the slot between the read of it and the check of its lock: its values are not shown."""
    from shmstats.block.lock import RecordLocks
    from shmstats.reading.reader import read_only

    code = """
        from shmstats import stats
        stats.declare("c", "live", kind="gauge", mode="livesum")
        stats.gauge("c", "live", 5)
        print(stats.shared.attach().worker.slot, flush=True)
        input()
        """
    stats.incr("c", "m")
    dead = python.start(code)
    slot = dead.hear()
    dead.kill()
    held, came = RecordLocks.held, []

    def held_by_the_next(locks: Any, positions: Any) -> set[int]:
        asked = list(positions)
        if not came:
            came.append(python.start(COUNT.replace("worker.row", "worker.slot")))
            assert came[0].hear() == slot
        return held(locks, asked)

    with read_only(data) as reader:
        monkeypatch.setattr(RecordLocks, "held", held_by_the_next)
        snapshot = reader.read()
    values = {name.metric: value for name, value in zip(snapshot.names, snapshot.values, strict=True)}
    assert came
    assert values.get("live", 0) == 0
    came[0].tell()
    came[0].finish()
